"""Money rules 3 and 14, "Met again", and gates that are cut short or die: what a reserve leaves behind in every case."""

from dataclasses import replace

import pytest

from countwerk_meter._flow.begin import Begin, Deny, Draw, Fail, Forsake, MarkHeld
from countwerk_meter._flow.commands import Sleep
from countwerk_meter._flow.states import ChargeState, ReservationState
from countwerk_meter._flow.verdict import Verdict
from countwerk_meter.errors import (
    ChargeAlreadySettledError,
    ChargeInProgressError,
    ConfigurationError,
    InsufficientCreditsError,
    JournalError,
    LedgerUnavailableError,
)


def only_hold(world):
    (row,) = world.all_holds()
    return row


def test_a_reserve_that_is_interrupted_is_a_possible_orphan(world, say):
    """The request was out: it is journaled, surfaced, and never sent again (rule 3)."""
    world.then(say.cut)
    world.cut(world.reserve)
    assert ("orphaned", "orphan_possible") == (world.state(), only_hold(world).state)
    assert 1 == len(world.told("orphan_possible"))
    assert ["reserve"] == world.names()


def test_a_reserve_that_is_interrupted_between_attempts_made_no_hold(world, say):
    """What was never sent is no doubt."""
    world.then(say.not_sent)
    world.cut_at = Sleep
    world.cut(world.reserve)
    assert ("cancelled", "refused", []) == (world.state(), only_hold(world).state, world.told("orphan_possible"))


def test_a_reserve_that_is_interrupted_while_it_begins_leaves_nothing_open(world):
    """The commit was queued: it is taken back, and nothing is sent."""
    world.cut_at = Begin
    world.cut(world.reserve)
    assert ("cancelled", "refused", []) == (world.state(), only_hold(world).state, world.sent)


def test_a_reserve_that_is_interrupted_when_its_hold_has_landed_gives_it_back(world):
    """A known hold vanishes (I4)."""
    world.cut_at = MarkHeld
    world.cut(world.reserve)
    assert ("cancelled", "closing") == (world.state(), only_hold(world).state)
    world.settle_until_quiet()
    assert (0, "cancelled") == (world.held(), only_hold(world).state)


def test_an_interruption_leaves_somebody_elses_charge_of_the_same_id_alone(world):
    """The id alone does not say whose charge it is."""
    world.reserve("e1")
    world.cut_at = Begin
    world.cut(world.reserve, "e1")
    assert ("open", 1) == (world.state(), len(world.all_holds()))


def test_an_interruption_while_asking_for_links_changes_nothing(world, say):
    """The denial is journaled by then."""
    world.then(say.carried, say.cut)
    world.cut(world.reserve, amount=101)
    assert "denied" == world.state()


def test_a_deferred_gate_that_is_interrupted_is_released(world, say):
    """The call never ran, so nothing will be deducted."""
    from countwerk_meter._flow.begin import Defer

    world.terms = replace(world.terms, on_unavailable="defer", debt_limit=10)
    world.then(say.lost)
    world.cut_at = Defer
    world.cut(world.reserve)
    assert "cancelled" == world.state()


def test_a_draw_that_is_interrupted_frees_its_part_of_the_hold(world):
    """Or the block's hold would never close."""
    gate = world.reserve("e1", 10)
    world.cut_at = Draw
    world.cut(world.draw, "e2", 4, gate)
    row = world.hold(gate)
    assert ("cancelled", 0, 1, False) == (world.state("e2"), row.promised, row.open_charges, row.sealed)


def test_an_interrupted_draw_leaves_somebody_elses_charge_alone(world):
    """It met an id that is being charged."""
    gate = world.reserve("e1", 10)
    world.draw("e2", 4, gate)
    world.cut_at = Draw
    world.cut(world.draw, "e2", 4, gate)
    assert "open" == world.state("e2")


def test_a_gate_that_dies_without_a_word_becomes_a_possible_orphan(world, monkeypatch):
    """A journal that failed just then must not leave a row that nobody ends (I8)."""
    real = MarkHeld.apply

    def broken(self, books):
        raise JournalError("disk full")

    monkeypatch.setattr(MarkHeld, "apply", broken)
    with pytest.raises(JournalError):
        world.reserve()
    monkeypatch.setattr(MarkHeld, "apply", real)
    assert ("open", "requested") == (world.state(), only_hold(world).state)
    assert Verdict.LATER is world.settle(only_hold(world).key).verdict
    assert "requested" == only_hold(world).state
    world.settle_until_quiet()
    assert ("orphaned", "expired", 0) == (world.state(), only_hold(world).state, world.held())
    assert 1 == len(world.told("orphan_possible"))


def test_forsaking_a_reserve_that_has_landed_meanwhile_does_nothing(world):
    """The gate was slow, not dead."""
    gate = world.reserve()
    row = world.hold(gate)
    assert world.journal.run(Forsake(row.key, world.wall)) is None
    assert "held" == world.hold(gate).state


def test_a_pass_that_finds_the_gate_back_again_does_nothing(world):
    """Between reading and forsaking the answer came."""
    gate = world.reserve()
    row = world.hold(gate)
    world.save(replace(row, state=ReservationState.REQUESTED, due_at=world.wall))
    run = world.do

    def land(command):
        if type(getattr(command, "operation", None)) is Forsake:
            world.save(row)
        return run(command)

    world.do = land
    assert Verdict.LATER is world.settle(gate).verdict
    assert ("held", "open") == (world.hold(gate).state, world.state())


def test_an_answer_for_a_reserve_that_was_given_up_has_its_hold_cancelled(world, say):
    """Recovery thought its owner dead; the hold has a name now, and vanishes (I4)."""
    world.then(say.meanwhile(lambda: world.adopt("me", "heir"), say.carried))
    with pytest.raises(LedgerUnavailableError) as caught:
        world.reserve()
    assert caught.value.in_doubt
    assert ("orphaned", "closing", "res_1") == (world.state(), only_hold(world).state, only_hold(world).reservation_id)
    world.settle_until_quiet()
    assert (0, "cancelled") == (world.held(), only_hold(world).state)


def test_an_answer_for_a_row_that_has_ended_changes_nothing(world):
    """Neither a hold nor a failure is recorded on it."""
    gate = world.call()
    world.settle(gate)
    row = world.hold(gate)
    assert world.journal.run(MarkHeld(row.key, "res_new", 5, None, 0.0, 0.0)) is None
    assert world.journal.run(MarkHeld("nobody", "res_new", 5, None, 0.0, 0.0)) is None
    world.journal.run(Fail(row, ChargeState.CANCELLED, "late", 0.0))
    assert row == world.hold(gate)


def test_an_orphan_ends_a_minute_after_its_validity(world, say):
    """Whatever it held is given back by then (I4)."""
    world.then(say.unheard)
    with pytest.raises(LedgerUnavailableError):
        world.reserve()
    key = only_hold(world).key
    assert (5, Verdict.LATER) == (world.held(), world.settle(key).verdict)
    world.pass_time(961)
    assert Verdict.ENDED is world.settle(key).verdict
    assert ("expired", 0) == (only_hold(world).state, world.held())


def test_an_orphan_that_ended_meanwhile_is_not_ended_again(world, say):
    """Two workers, one end."""
    from countwerk_meter._flow.attempts import ExpireOrphan

    gate = world.reserve()
    assert world.journal.run(ExpireOrphan(gate.hold.key)) is None
    assert Verdict.ENDED is world.settle("nobody").verdict


# Met again.


@pytest.mark.parametrize("state", ["denied", "cancelled", "orphaned"])
def test_met_again_denied_cancelled_or_orphaned_is_a_new_attempt(world, say, state):
    """What was never charged may be tried again under its id."""
    if state == "denied":
        world.ledger.available["acct"] = 0
    elif state == "orphaned":
        world.then(say.lost)
    if state == "cancelled":
        world.release(world.reserve())
    else:
        with pytest.raises((InsufficientCreditsError, LedgerUnavailableError)):
            world.reserve()
    assert state == world.state()
    world.ledger.available["acct"] = 100
    gate = world.reserve()
    assert ("open", 1) == (world.state(), gate.charge.epoch)


def test_met_again_open_is_in_progress(world):
    """Someone is at it."""
    world.reserve()
    with pytest.raises(ChargeInProgressError) as caught:
        world.reserve()
    assert ("e1", "open", 1) == (caught.value.usage_event_id, caught.value.state, len(world.all_holds()))


@pytest.mark.parametrize("state", ["committed", "settled", "uncollected", "unresolved"])
@pytest.mark.parametrize("on_replay", ["refuse", "run"])
def test_met_again_charged_is_refused_or_runs_without_a_further_charge(world, say, state, on_replay):
    """The same step is never charged twice; durable steps go on (Met again)."""
    gate = world.call("e1", 5, 3)
    if state == "settled":
        world.settle(gate)
    elif state != "committed":
        world.save(replace(world.charge(), state=ChargeState(state), share=0))
    world.terms = replace(world.terms, on_replay=on_replay)
    requests = len(world.sent)
    if on_replay == "run":
        again = world.reserve()
        assert (True, None, "e1") == (again.replayed, again.hold, again.charge.id)
    else:
        with pytest.raises(ChargeAlreadySettledError) as caught:
            world.reserve()
        assert state == caught.value.state
    assert requests == len(world.sent)


@pytest.mark.parametrize("other", [{"account": "other"}, {"operation": "app.other"}])
@pytest.mark.parametrize("ended", [True, False])
def test_met_again_with_another_account_or_operation_is_refused(world, other, ended):
    """An id names one usage of one account, whatever became of it."""
    gate = world.reserve()
    if ended:
        world.release(gate)
    with pytest.raises(ConfigurationError):
        world.reserve(**other)


# Debt (rule 14).


@pytest.fixture
def owing(world):
    """An account with 0 credits that owes 2 uncollected ones."""
    gate = world.call("e1", 5, 7)
    world.settle(gate)
    world.ledger.available["acct"] = 0
    world.deduct("e1.over")
    assert "uncollected" == world.state("e1.over")
    return world


def test_uncollected_debt_is_collected_before_anything_is_held(owing):
    """With credits again, the debt goes first, then the call runs."""
    owing.ledger.available["acct"] = 10
    owing.reserve("e2")
    assert ["deduct", "reserve"] == owing.names()[-2:]
    assert ("settled", "open", 3) == (owing.state("e1.over"), owing.state("e2"), owing.ledger.available["acct"])


def test_uncollected_debt_refuses_with_debt_plus_amount(owing):
    """Without credits: a 402 that says what is needed in all, and a tombstone."""
    with pytest.raises(InsufficientCreditsError) as caught:
        owing.reserve("e2", 5)
    assert 7 == caught.value.required
    assert ["deduct", "purchase-links"] == owing.names()[-2:]
    assert ("denied", "debt", 1) == (owing.state("e2"), owing.charge("e2").reason, len(owing.all_holds()))


def test_a_denial_for_debt_again_leaves_the_tombstone_again(owing):
    """The id was denied before: it begins anew, and is denied anew."""
    for epoch in (0, 1):
        with pytest.raises(InsufficientCreditsError):
            owing.reserve("e2", 5)
        assert ("denied", epoch) == (owing.state("e2"), owing.charge("e2").epoch)


def test_a_denial_for_debt_leaves_a_charge_alone_that_somebody_else_began(world):
    """Two gates, one id: the slower one must not end the quicker one's charge."""
    world.reserve("e1")
    world.journal.run(Deny(world.charge_row("e1"), "debt"))
    assert "open" == world.state("e1")


def test_collecting_takes_at_most_half_of_the_budget(owing, say):
    """A ledger that hangs must not keep the call from its answer (rule 2)."""
    row = owing.charge("e1.over")
    owing.save(replace(row, id="e0.over", parent="e0"))
    owing.then(say.after(2.5, say.lost))
    before, sent = owing.monotonic, len(owing.sent)
    with pytest.raises(InsufficientCreditsError):
        owing.reserve("e2")
    assert (2.5, ["deduct", "purchase-links"]) == (owing.monotonic - before, owing.names()[sent:])


def test_collecting_stops_when_its_time_is_up(owing, say):
    """Each debt is asked for only while there is time."""
    row = owing.charge("e1.over")
    owing.save(replace(row, id="e0.over", parent="e0"))
    owing.ledger.available["acct"] = 100
    owing.then(say.after(2.6, say.carried))
    before = len(owing.sent)
    with pytest.raises(InsufficientCreditsError):
        owing.reserve("e2")
    assert ["deduct", "purchase-links"] == owing.names()[before:]


@pytest.fixture
def deferring(world, say):
    """`on_unavailable="defer"` with a limit of 10, and a deferred call of 5 that cost 4."""
    world.terms = replace(world.terms, on_unavailable="defer", debt_limit=10)
    world.then(say.lost)
    gate = world.reserve("d1", 5)
    world.commit(gate, 4)
    return world


def test_open_deferred_calls_count_at_their_estimate_and_ended_ones_at_their_amount(deferring, say):
    """4 owed, 5 running: 2 more do not fit under 10."""
    deferring.then(say.not_sent, say.lost)
    deferring.reserve("d2", 5)
    deferring.then(say.not_sent, say.lost)
    with pytest.raises(InsufficientCreditsError) as caught:
        deferring.reserve("d3", 2)
    assert 11 == caught.value.required
    assert "orphaned" == deferring.state("d3")
    deferring.then(say.not_sent, say.lost)
    deferring.reserve("d4", 1)


def test_deferred_debt_below_the_limit_is_collected_first_too(deferring):
    """When the ledger is back, the debt goes before the new hold."""
    deferring.reserve("e2")
    assert (["deduct", "reserve"], "settled") == (deferring.names()[-2:], deferring.state("d1"))


def test_deferred_debt_above_the_limit_refuses(deferring, say):
    """A call that cost more than it was thought to may lift the debt above the limit."""
    deferring.then(say.not_sent, say.lost)
    deferring.commit(deferring.reserve("d2", 5), 50)
    deferring.then(say.not_sent)
    with pytest.raises(InsufficientCreditsError) as caught:
        deferring.reserve("e2", 5)
    assert 59 == caught.value.required


def test_nothing_is_deferred_beside_uncollected_debt(owing, say):
    """Uncollected debt has a limit of 0."""
    owing.terms = replace(owing.terms, on_unavailable="defer", debt_limit=100)
    row = owing.charge("e1.over")
    owing.save(replace(row, state=ChargeState.SETTLED))
    owing.then(say.meanwhile(lambda: owing.save(row), say.lost))
    with pytest.raises(InsufficientCreditsError) as caught:
        owing.reserve("e2", 5)
    assert 7 == caught.value.required


def test_a_call_is_not_deferred_over_one_that_began_anew_under_its_id(world, say):
    """Between the failure and the deferral somebody else took the id: this gate fails as it would have."""
    from countwerk_meter._flow.begin import Defer

    world.terms = replace(world.terms, on_unavailable="defer", debt_limit=10)
    run = world.do

    def race(command):
        if type(getattr(command, "operation", None)) is Defer:
            world.do = run
            world.reserve("e1")
        return run(command)

    world.do = race
    world.then(say.lost)
    with pytest.raises(LedgerUnavailableError):
        world.reserve("e1")
    assert ("open", 1, None) == (world.state(), world.charge().epoch, world.charge().reason)


def test_an_uncollected_debt_that_is_rejected_stops_being_one(owing, say):
    """It is unresolved then, and listed: the account is not barred for ever."""
    owing.ledger.available["acct"] = 10
    owing.then(say.code("INVALID_OPERATION"))
    owing.reserve("e2")
    assert ("unresolved", "open") == (owing.state("e1.over"), owing.state("e2"))
