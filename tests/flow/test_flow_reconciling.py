"""Reconcile: what is listed, what closing a row does, and that no closing ever makes two charges of one (I2)."""

from dataclasses import replace
from decimal import Decimal

import pytest

from countwerk_meter._flow.ending import Commit, Measured
from countwerk_meter._flow.reconcile import Finding, Listings, close_listed
from countwerk_meter._flow.rows import DEDUCT

VALIDITY = 15 * 60


@pytest.fixture(params=["memory", "sqlite"])
def world(request, make_world, tmp_path):
    """Both stores: rows are closed in either alike."""
    from countwerk_meter.journal import SqliteJournal

    world = make_world()
    if request.param == "sqlite":
        world.use(SqliteJournal(tmp_path / "journal.db"))
    yield world
    world.journal.close()


@pytest.fixture
def vanished(world, say):
    """A charge whose first confirm was answered by a 404 before its hold expired."""
    world.knows_time()
    gate = world.call("e1", 5, 3)
    world.then(say.code("RESERVATION_NOT_FOUND"))
    world.settle(gate)
    assert "unresolved" == world.state()
    return gate


@pytest.fixture
def uncollected(world, say):
    """A charge that lies wholly beyond its hold, in an account without credits: a whole and its one leg."""
    world.knows_time()
    gate = world.reserve("e1", 5)
    inner = world.draw("e2", 5, gate)
    world.commit(inner, 5, seal=False)
    world.commit(gate, 4)
    world.ledger.available["acct"] = 0
    world.deduct("e1.over")
    assert ("uncollected", "uncollected", "committed") == tuple(map(world.state, ("e1", "e1.over", "e2")))
    return gate


def listed(world):
    return [
        (item.charge and item.charge.id, item.reservation and str(item.reservation.state))
        for item in world.journal.run(Listings(world.terms.ledger))
    ]


def close(world, name="e1", finding="charged", note="asked the vendor", **more):
    return world.run(close_listed(world.terms, name, Finding(finding), note, **more))


def expire(world):
    world.pass_time(VALIDITY + 120)
    world.knows_time()


def test_each_kind_is_listed(world, say):
    """Vanished, uncollected, lost, and a hold in doubt; what settles by itself is not."""
    world.knows_time()
    world.call("waits", 5, 3)
    world.then(say.lost)
    with pytest.raises(Exception, match="answer"):
        world.reserve("orphan")
    world.reserve("lost")
    world.adopt()
    assert {("lost", "closing"), (None, "orphan_possible")} == set(listed(world))


def test_a_vanished_charge_is_listed_with_its_hold(world, vanished):
    """The hold is the evidence."""
    assert [("e1", "unresolved")] == listed(world)


def test_a_hold_alone_is_listed_by_its_own_key(world, say):
    """Its cancel was refused: no charge waits for it."""
    world.knows_time()
    gate = world.reserve()
    world.release(gate)
    world.then(say.code("INVALID_INPUT"))
    world.settle(gate)
    assert [(None, "unresolved")] == listed(world)
    key = gate.hold.key
    assert "its hold waits, as" in close(world, "e1").refusal
    assert "a hold has no amount" in close(world, key, "not-charged", deduct=True).refusal
    done = close(world, key, "written-off", "looked")
    assert ("closed", "written-off", "looked") == (
        world.hold(key).state, world.hold(key).closed_as, world.hold(key).note,
    )  # fmt: skip
    assert (None, False) == (done.refusal, done.again)
    assert close(world, key, "written-off", "looked").again
    assert [("acct", 5, "written-off")] == [
        (told["account_id"], told["amount"], told["closed_as"]) for told in world.told("closed")
    ]
    assert "is closed already: written-off" in close(world, key, "charged", "looked").refusal
    assert [] == listed(world)


@pytest.mark.parametrize("finding", ["charged", "not-charged", "written-off"])
def test_closing_moves_no_money(world, vanished, finding):
    """Row and hold keep what was found, by whom and when; nothing is sent."""
    sent = len(world.sent)
    done = close(world, finding=finding)
    row = world.charge()
    assert ("closed", finding, "asked the vendor", world.wall) == (row.state, row.closed_as, row.note, row.closed_at)
    assert ("closed", finding) == (world.hold(vanished).state, world.hold(vanished).closed_as)
    assert (None, None, []) == (done.deduct, done.refusal, listed(world))
    world.settle_until_quiet()
    assert (sent, 0) == (len(world.sent), world.spent())
    (told,) = world.told("closed")
    assert ("e1", 3, finding) == (told["usage_event_id"], told["amount"], told["closed_as"])


def test_the_same_words_again_change_nothing(world, vanished):
    """Other words are refused: the first stand."""
    close(world)
    before = world.charge()
    world.pass_time(60)
    assert close(world).again
    assert before == world.charge()
    assert 1 == len(world.told("closed"))
    for other in ({"finding": "written-off"}, {"note": "another"}):
        assert "e1 is closed already: charged" in close(world, **other).refusal
    assert "is closed already" in close(world, finding="not-charged", deduct=True).refusal


def test_what_was_not_charged_is_deducted_once(world, vanished):
    """Under `<id>.late`, after the hold has expired; however often it is asked for."""
    expire(world)
    done = close(world, finding="not-charged", deduct=True)
    assert ("e1.late", 3, "asked the vendor", None) == (
        done.deduct.id, done.deduct.share, done.deduct.note, done.deduct.closed_as,
    )  # fmt: skip
    again = close(world, finding="not-charged", deduct=True)
    assert (True, "e1.late") == (again.again, again.deduct.id)
    assert "deducted under e1.late" in close(world, finding="not-charged").refusal
    world.settle_until_quiet()
    assert {("acct", "e1.late"): 3} == world.ledger.deducts


def test_a_hold_that_lives_may_still_be_confirmed(world, vanished):
    """By the ledger's clock, not by this machine's (rule 6)."""
    assert "may still be confirmed" in close(world, finding="not-charged", deduct=True).refusal
    assert "unresolved" == world.state()
    # This machine's clock jumps ahead; the ledger's does not.
    world.wall += VALIDITY * 2
    assert "may still be confirmed" in close(world, finding="not-charged", deduct=True).refusal


def test_the_ledger_is_asked_for_its_time(world, vanished, say):
    """Without an answer there is no deduct."""
    world.pass_time(VALIDITY + 120)
    world.then(say.lost)
    assert "does not say what time it is" in close(world, finding="not-charged", deduct=True).refusal
    assert close(world, finding="not-charged", deduct=True).deduct.id == "e1.late"
    assert "balance" == world.names()[-1]


def test_a_hold_without_a_known_end_is_waited_out(world, vanished):
    """Its whole validity, and a minute more."""
    world.save(replace(world.hold(vanished), expires_at=None))
    world.pass_time(VALIDITY + 50)
    world.knows_time()
    assert "may still be confirmed" in close(world, finding="not-charged", deduct=True).refusal
    world.pass_time(20)
    assert close(world, finding="not-charged", deduct=True).refusal is None


def test_a_deduct_needs_the_key_that_the_charge_was_begun_under(world, vanished):
    """Under another one it might charge somebody else; closing without a deduct sends nothing, and is allowed."""
    expire(world)
    world.terms = replace(world.terms, principal="other")
    assert "API key p" in close(world, finding="not-charged", deduct=True).refusal
    assert close(world, finding="not-charged").refusal is None


@pytest.mark.parametrize("finding", ["charged", "written-off"])
def test_only_what_was_not_charged_can_be_deducted(world, vanished, finding):
    """The other two say that there is nothing to make up for."""
    expire(world)
    assert "only what was not charged" in close(world, finding=finding, deduct=True).refusal


def test_only_a_confirm_can_be_made_up_for(world, say):
    """A deduct that was rejected has an id of its own: its late leg would be a second charge of it."""
    world.then(say.code("INVALID_INPUT"))
    with pytest.raises(Exception, match="INVALID_INPUT"):
        world.deduct_now()
    world.save(replace(world.charge_row("d2", 5, amount=5, share=5, via=DEDUCT), state="unresolved"))
    assert "only an unresolved confirm" in close(world, "d2", "not-charged", deduct=True).refusal


def test_rows_that_are_not_listed_are_refused(world, say):
    """Somebody's running call, what settles by itself, what has ended, and what never was."""
    gate = world.reserve("open")
    assert "open is open, and waits for nobody's word" == close(world, "open").refusal
    world.commit(gate, 3)
    assert "open is committed" in close(world, "open").refusal
    assert "is closing" in close(world, gate.hold.key).refusal
    world.settle(gate)
    assert "open is settled" in close(world, "open").refusal
    assert "no charge and no hold nobody" in close(world, "nobody").refusal
    world.then(say.lost)
    with pytest.raises(Exception, match="answer"):
        world.reserve("orphan")
    (orphan,) = [row for row in world.all_holds() if row.state == "orphan_possible"]
    assert "ends by itself" in close(world, orphan.key).refusal


def test_a_hold_is_closed_with_the_last_of_its_charges(world, say):
    """Each charge is somebody's finding."""
    world.knows_time()
    gate = world.reserve("e1", 9)
    world.commit(world.draw("e2", 4, gate), 4, seal=False)
    world.commit(gate, 5)
    world.then(say.code("RESERVATION_NOT_FOUND"))
    world.settle(gate)
    assert "charges of" in close(world, gate.hold.key).refusal
    close(world, "e1")
    assert "unresolved" == world.hold(gate).state
    close(world, "e2", "written-off")
    assert ("closed", []) == (world.hold(gate).state, listed(world))


def test_a_charge_beyond_its_hold_is_listed_once_and_closed_with_its_leg(world, uncollected):
    """Closing one half alone would leave the other to be charged after all."""
    assert ["e1.over"] == [name for name, _ in listed(world)]
    close(world, "e1", "written-off")
    assert ("closed", "closed") == (world.state("e1"), world.state("e1.over"))
    world.ledger.available["acct"] = 100
    world.settle_until_quiet()
    assert 5 == world.spent()


def test_the_leg_closes_the_whole(world, uncollected):
    """Either id will do."""
    close(world, "e1.over", "written-off")
    assert ("closed", "closed", []) == (world.state("e1"), world.state("e1.over"), listed(world))


def test_a_written_off_debt_no_longer_stands_in_the_way(world):
    """What is forgiven is not owed (rule 14)."""
    world.ledger.available["acct"] = 5
    world.knows_time()
    world.settle(world.call("e1", 5, 8))
    world.deduct("e1.over")
    close(world, "e1.over", "written-off")
    world.ledger.available["acct"] = 5
    assert world.reserve("e2").charge.state == "open"


# Truths that come after somebody closed the row.


def test_a_late_success_is_the_truth_whatever_it_was_closed_as(world, say):
    """The confirm's answer came after all, long after: settled is settled."""
    world.knows_time()
    gate = world.call("e1", 5, 3)
    world.then(say.meanwhile(lambda: unresolve(world, gate, "written-off"), say.carried))
    world.settle(gate)
    assert ("settled", "written-off", "confirmed", 3) == (
        world.state(), world.charge().closed_as, world.hold(gate).state, world.spent(),
    )  # fmt: skip


def test_a_late_success_after_a_deduct_by_hand_is_told_as_an_excess(world, say):
    """Somebody was wrong: the ledger has both, and the event says how much too much."""
    world.knows_time()
    gate = world.call("e1", 5, 3)

    def meanwhile():
        unresolve(world, gate, None)
        world.save(replace(world.hold(gate), expires_at=world.ledger_now - 60))
        world.knows_time()
        assert close(world, finding="not-charged", deduct=True).refusal is None

    world.then(say.meanwhile(meanwhile, say.carried))
    world.settle(gate)
    assert [3] == [told["amount"] for told in world.told("excess")]


def unresolve(world, gate, finding):
    """What another worker concluded, and a person after it."""
    from countwerk_meter._flow.attempts import End
    from countwerk_meter._flow.states import ReservationState

    world.journal.run(End(gate.hold.key, ReservationState.UNRESOLVED, "expired", world.wall))
    if finding:
        close(world, finding=finding)


def test_a_late_deduct_settles_what_was_written_off(world, uncollected, say):
    """It was on its way when it was closed; both halves say so."""
    world.ledger.available["acct"] = 100
    world.then(say.meanwhile(lambda: close(world, "e1", "written-off"), say.carried))
    world.deduct("e1.over")
    assert ("settled", "settled") == (world.state("e1"), world.state("e1.over"))
    assert "written-off" == world.charge("e1").closed_as


def test_a_deduct_that_finds_no_credits_again_stays_closed(world, uncollected, say):
    """Nobody collects what was written off."""
    world.then(say.meanwhile(lambda: close(world, "e1", "written-off"), say.code("INSUFFICIENT_CREDITS")))
    world.deduct("e1.over")
    assert ("closed", "closed") == (world.state("e1"), world.state("e1.over"))


@pytest.mark.parametrize("finding", ["charged", "written-off"])
def test_what_an_owner_says_after_its_lost_call_was_closed_is_only_told(world, finding):
    """Whoever closed it may have charged it elsewhere: theirs is the last word (I2)."""
    gate = world.reserve()
    world.adopt()
    close(world, finding=finding)
    operation = Commit(world.terms.ledger, "e1", gate.charge.epoch, Measured(Decimal(4), "set"), world.wall)
    assert world.journal.run(operation).superseded
    world.settle_until_quiet()
    assert 0 == world.spent()
