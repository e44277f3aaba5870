"""Whatever an app records, the answer goes back and something sensible is charged (money rules 7 and 13)."""

import decimal
import enum
import uuid

import pytest

from countwerk_meter import Usage

USED = Usage(input_tokens=1000, output_tokens=1000)  # 4 credits


class Model(enum.Enum):
    """An app's own list of models."""

    READER = "reader"


class Text(str, enum.Enum):  # noqa: UP042 - as many apps write it; its text is "Text.READER"
    """The same, as text."""

    READER = "reader"


@pytest.mark.parametrize("model", [Model.READER, Text.READER, "reader"])
def test_a_member_of_an_enumeration_is_its_value(bench, meter, style, model):
    """So price rules match it."""
    style.block(
        meter.reserve(bench.account, "app.chat", amount=9),
        lambda reservation: reservation.record(None, model=model, dimensions={"pages": 3}),
    )
    assert 3 == bench.settled(meter)
    assert "reader" == meter.charges()[0].lines[0]["attributes"]["model"]


@pytest.mark.parametrize("value", [uuid.uuid4(), b"bytes", 5, object(), None])
def test_attributes_of_any_type_lose_no_charge(bench, meter, value):
    """They are text from here on."""
    with meter.reserve(bench.account, "app.chat", amount=9) as reservation:
        reservation.record(USED, attributes={"request": value})
    assert 4 == bench.settled(meter)
    assert meter.close(5)


@pytest.mark.parametrize(
    ("usage", "more"),
    [
        ({"input_tokens": 5}, {}),
        ("five", {}),
        (None, {"dimensions": ["pages"]}),
        (USED, {"attributes": "reader"}),
    ],
    ids=["a dict", "a text", "a list of dimensions", "attributes that are none"],
)
def test_what_cannot_be_read_is_unknown(bench, meter, usage, more):
    """And costs what was held."""
    with meter.reserve(bench.account, "app.chat", amount=9) as reservation:
        reservation.record(usage, **more)
    assert 9 == bench.settled(meter)
    assert ["reserved"] == [each.basis for each in meter.charges()]


def test_an_unknown_call_is_not_free_though_the_app_fails_behind_it(bench, meter):
    """It was recorded: the model had answered."""
    with pytest.raises(KeyError), meter.reserve(bench.account, "app.chat", amount=9) as reservation:
        reservation.record(None)
        raise KeyError("the app")
    assert 9 == bench.settled(meter)


@pytest.mark.parametrize("rounding", ["ceil", "carry"])
def test_an_apps_own_decimal_context_changes_no_amount(bench, rounding):
    """Neither its precision nor its traps."""
    meter = bench.meter(rounding=rounding)
    with decimal.localcontext() as context:
        context.prec = 2
        context.traps[decimal.Inexact] = True
        for _ in range(2):
            with meter.reserve(bench.account, "app.chat", amount=9) as reservation:
                reservation.record(Usage(input_tokens=12345))
                reservation.record(Usage(input_tokens=1))
    assert {"ceil": 26, "carry": 24}[rounding] == bench.settled(meter)
