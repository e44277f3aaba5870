"""Steps that come too late, or for rows that are not there: they change nothing, and raise nothing odd."""

from dataclasses import replace

import pytest

from countwerk_meter._flow.attempts import (
    CloseAttempt,
    Confirmed,
    Convert,
    End,
    Lapse,
    NotThere,
    OpenAttempt,
    Postpone,
)
from countwerk_meter._flow.deducted import Deducted
from countwerk_meter._flow.overview import Charges, Owners, Unsettled, Waiting
from countwerk_meter._flow.states import ChargeState, ReservationState
from countwerk_meter._flow.verdict import Verdict
from countwerk_meter.errors import JournalError


@pytest.mark.parametrize(
    "operation",
    [
        OpenAttempt("nobody", 0, "confirm", 3),
        CloseAttempt("nobody", "confirm", delivered=True, due_at=0.0),
        Postpone("nobody", 0.0),
        Confirmed("nobody", 3, 0.0),
        NotThere("nobody", alive=True, first=True, now=0.0),
        End("nobody", ReservationState.UNRESOLVED, None, 0.0),
        Convert("nobody", 0, 0.0),
        Lapse("nobody", 0.0),
        Deducted("https://ledger.test", "nobody", ChargeState.SETTLED, 0.0),
    ],
)
def test_a_step_for_a_row_that_is_not_there_does_nothing(world, operation):
    """No row is made up."""
    world.journal.run(operation)
    assert ([], []) == (world.all_holds(), world.all_charges())


def test_a_deduct_is_recorded_only_for_what_is_deducted(world):
    """A charge that a confirm carries is not settled by somebody's deduct, nor an open call."""
    world.call("e1")
    world.reserve("e2")
    for name in ("e1", "e2"):
        before = world.charge(name)
        world.journal.run(Deducted(world.terms.ledger, name, ChargeState.SETTLED, 0.0))
        assert before == world.charge(name)


def test_a_deduct_that_is_recorded_twice_is_recorded_once(world):
    """The second success of the same id adds nothing, not even a shortfall."""
    world.call("e1", 5, 7)
    for _ in range(2):
        world.journal.run(Deducted(world.terms.ledger, "e1.over", ChargeState.SETTLED, 0.0, actual=1))
    assert (1, None) == (world.charge("e1.late").share, world.charge("e1.late.late"))


def test_the_end_of_an_ended_row_only_closes_its_attempt(world, say):
    """What ended stays as it ended (I7)."""
    gate = world.call()
    world.settle(gate)
    world.journal.run(End(gate.hold.key, ReservationState.UNRESOLVED, "late", 0.0, closes="confirm"))
    assert ("confirmed", None, "settled") == (world.hold(gate).state, world.hold(gate).reason, world.state())


def test_a_row_that_ends_without_a_decision_on_its_charges_leaves_none_of_them_waiting(world):
    """Cancelled or expired without deducts: what waited on the confirm is listed (I3)."""
    gate = world.call()
    ended = world.journal.run(End(gate.hold.key, ReservationState.CANCELLED, "odd", 0.0))
    assert (("e1",), "unresolved", "odd") == (
        tuple(charge.id for charge in ended.charges), world.state(), world.charge().reason
    )  # fmt: skip


def test_no_confirm_opens_after_a_cancel_and_none_of_another_amount(world, say):
    """Asserted where it would be done, and refused where it would be written (I7)."""
    gate = world.call()
    row = replace(world.hold(gate), frozen=3)
    world.save(row)
    with pytest.raises(JournalError):
        world.journal.run(OpenAttempt(row.key, row.epoch, "confirm", 4))
    world.save(replace(row, cancels=1))
    with pytest.raises(JournalError):
        world.journal.run(OpenAttempt(row.key, row.epoch, "confirm", 3))


@pytest.mark.parametrize("broken", [{"confirms_open": 1}, {"confirm_delivered": True}])
def test_nothing_is_converted_while_a_confirm_may_have_been_applied(world, broken):
    """Rule 5, asserted."""
    gate = world.call()
    world.save(replace(world.hold(gate), **broken))
    with pytest.raises(JournalError):
        world.journal.run(Convert(gate.hold.key, world.hold(gate).epoch, 0.0))


def test_a_cancel_that_lost_the_race_sends_nothing(world):
    """Somebody else moved the row between reading and opening."""
    gate = world.reserve()
    world.release(gate)
    run = world.do

    def race(command):
        reply = run(command)
        if type(getattr(command, "operation", None)).__name__ == "Load":
            world.save(replace(world.hold(gate), epoch=world.hold(gate).epoch + 1))
        return reply

    world.do = race
    assert (Verdict.LATER, ["reserve"]) == (world.settle(gate).verdict, world.names())


def test_the_overview_reads_what_there_is(world, say):
    """Charges, what is unsettled, who owns it, and whether anything still settles by itself."""
    gate = world.call()
    world.reserve("e2")
    look = world.journal.run
    ledger = world.terms.ledger
    assert ["e2", "e1"] == [row.id for row in look(Charges(ledger))]
    assert ["e1"] == [row.id for row in look(Charges(ledger, frozenset({ChargeState.COMMITTED})))]
    assert [gate.hold.key] == [row.key for row in look(Unsettled(ledger))]
    assert {"me"} == look(Owners(ledger))
    assert (True, False) == (look(Waiting(ledger, "me")), look(Waiting(ledger, "other")))
    world.settle(gate)
    assert not look(Waiting(ledger, "me"))


def test_two_confirms_in_doubt_of_which_one_was_refused(world, say):
    """A 402 with another attempt open is read on the row as it is now (rule 5)."""
    gate = world.call()
    second = lambda: (world.then(say.lost), world.settle(gate))  # noqa: E731
    world.then(say.meanwhile(second, say.code("INSUFFICIENT_CREDITS")))
    world.settle(gate)
    assert ("unresolved", "refused in doubt", 1) == (
        world.state(),
        world.charge().reason,
        world.hold(gate).confirms_open,
    )


def test_a_pass_over_a_row_that_has_ended_sends_nothing(world):
    """A second worker comes late."""
    gate = world.call()
    world.settle(gate)
    before = len(world.sent)
    assert (Verdict.ENDED, before) == (world.settle(gate).verdict, len(world.sent))
