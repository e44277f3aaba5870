"""Ctrl-C, and closing, at a bad moment: no hold stays, no call stays open, and what was used is charged."""

import contextlib
import threading
import time

import pytest

from countwerk_meter import current_reservation
from countwerk_meter._metering import reservation as reservations
from countwerk_meter._metering import scope


def strike(monkeypatch, owner, name, *, after=False):
    """Let one call of a function be struck by Ctrl-C, before or after it ran."""
    real, struck = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        if struck:
            return real(*args, **kwargs)
        struck.append(1)
        if after:
            real(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (reservations.Reservation, "passed", True),
        (reservations.Reservation, "entered", False),
        (scope, "entered", True),
    ],
    ids=["behind the gate", "before it is current", "once it is current"],
)
def test_ctrl_c_beside_the_gate_leaves_no_hold(bench, meter, monkeypatch, owner, name, after):
    """The call never ran: nothing is charged, and the hold is given back at once."""
    strike(monkeypatch, owner, name, after=after)
    with pytest.raises(KeyboardInterrupt), meter.reserve(bench.account, "app.chat", amount=5):
        raise AssertionError("it ran")
    assert 0 == bench.settled(meter)
    assert ["cancelled"] == [each.state for each in meter.charges()]
    assert current_reservation() is None
    assert meter.close(5)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(reservations.Reservation, "_ending"), (reservations.Reservation, "_put"), (reservations.Reservation, "_leave")],
)
def test_ctrl_c_at_the_end_of_a_call_loses_no_charge(bench, meter, monkeypatch, owner, name):
    """The model had answered: what it used is charged, once."""
    with pytest.raises(KeyboardInterrupt), meter.reserve(bench.account, "app.chat", amount=5) as reservation:
        reservation.settle(4)
        strike(monkeypatch, owner, name)
    assert 4 == bench.settled(meter)
    assert meter.close(5)


def test_closing_waits_for_gates_that_are_on_their_way(bench, meter):
    """The answer to their reserve is on the wire: thrown away, its hold would stay for its whole validity."""
    bench.control.faults([{"path": "/api/credits/reserve", "kind": "delay", "seconds": 1.0, "times": 1}])

    def call():
        with contextlib.suppress(Exception), meter.reserve(bench.account, "app.chat", amount=5) as reservation:
            reservation.settle(2)

    thread = threading.Thread(target=call)
    thread.start()
    deadline = time.monotonic() + 5
    while not bench.counts().get("reserve"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert meter.close(10)
    thread.join(10)
    assert {"spent": 2, "reserved": 0, "available": 98} == bench.books()
