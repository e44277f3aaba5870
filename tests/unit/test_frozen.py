"""The classes that nobody changes behave as frozen dataclasses with slots do, but for what the type checker holds."""

from dataclasses import field

import pytest

from countwerk_meter._flow.rows import replace
from countwerk_meter._frozen import frozen


@frozen
class Pair:
    first: int
    second: str = "b"
    unseen: str = field(default="", repr=False, compare=False)


@frozen
class Alike:
    first: int
    second: str = "b"


@frozen
class Empty:
    pass


def test_they_are_equal_where_their_class_and_fields_are():
    assert Pair(1) == Pair(1, "b", "other")
    assert hash(Pair(1)) == hash(Pair(1, "b", "other"))
    assert Pair(1) != Pair(2)
    assert Pair(1) != Alike(1)
    assert Empty() == Empty()
    assert hash(Empty()) == hash(Empty())


def test_they_show_no_more_than_they_may():
    assert repr(Pair(1, unseen="secret")) == "Pair(first=1, second='b')"
    assert repr(Empty()) == "Empty()"


def test_they_have_no_room_for_another_field():
    with pytest.raises(AttributeError):
        Pair(1).third = 3


def test_a_copy_differs_in_what_is_named():
    assert replace(Pair(1), second="c") == Pair(1, "c")
