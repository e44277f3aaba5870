"""Prune and keys: what is old and has ended shrinks, an id is never forgotten, and a key's rows move by one word."""

from dataclasses import replace

import pytest

from countwerk_meter._flow.prune import Prune, Pruned
from countwerk_meter._flow.recover import Keys, Recovered, TakeKey
from countwerk_meter._flow.states import ENDED, OVER, ChargeState, ReservationState
from countwerk_meter.errors import ChargeAlreadySettledError
from countwerk_meter.journal import SqliteJournal

DAY = 86400.0


@pytest.fixture(params=["memory", "sqlite"])
def world(request, make_world, tmp_path):
    """Both stores."""
    world = make_world()
    if request.param == "sqlite":
        world.use(SqliteJournal(tmp_path / "journal.db"))
    yield world
    world.journal.close()


def prune(world, days=30, limit=500):
    """All of it, step by step; the steps."""
    steps, after = [], 0.0
    while after is not None:
        step = world.journal.run(Prune(world.terms.ledger, world.wall - days * DAY, after, limit))
        steps.append(step)
        after = step.after
        assert len(steps) < 100, "it never ends"
    return steps


def grow_old(world, days=40):
    world.pass_time(days * DAY)


def settled(world, id="e1", **more):
    gate = world.call(id, 5, 3, description="a chat", **more)
    world.settle(gate)
    world.save(replace(world.charge(id), metadata="{}", lines="[]"))
    assert "settled" == world.state(id)
    return gate


def test_what_has_ended_shrinks_to_a_tombstone(world):
    """It keeps id, account, operation, state, amount and times; the hold is gone."""
    gate = settled(world)
    before = world.charge()
    grow_old(world)
    assert [Pruned(1, 1)] == prune(world)
    assert replace(before, description=None, metadata=None, lines=None) == world.charge()
    assert world.hold(gate) is None


def test_pruned_once_is_pruned(world):
    """There is nothing more to shrink."""
    settled(world)
    grow_old(world)
    prune(world)
    assert [Pruned()] == prune(world)


def test_an_id_met_again_is_still_no_second_charge(world):
    """The tombstone answers (I2)."""
    settled(world)
    grow_old(world)
    prune(world)
    with pytest.raises(ChargeAlreadySettledError):
        world.reserve("e1")
    world.terms = replace(world.terms, on_replay="run")
    assert world.reserve("e1").replayed
    assert 3 == world.spent()


def test_the_id_of_a_pruned_hold_stays_known(world, say):
    """An answer that names it is in doubt (rule 1)."""
    gate = settled(world)
    name = world.hold(gate).reservation_id
    grow_old(world)
    prune(world)
    world.then(say.data({"reservationId": name, "operation": "app.chat", "amount": 5}))
    with pytest.raises(Exception, match="definite answer"):
        world.reserve("e2")


def test_what_is_young_stays(world):
    """By when it was begun."""
    settled(world)
    grow_old(world, 29)
    assert [Pruned()] == prune(world)
    assert "a chat" == world.charge().description


def test_another_ledgers_rows_stay(world):
    """A journal may serve several."""
    settled(world)
    grow_old(world)
    assert Pruned() == world.journal.run(Prune("https://other.test", world.wall))


@pytest.mark.parametrize("state", sorted(set(ChargeState) - ENDED))
def test_a_charge_that_has_not_ended_stays(world, state):
    """What runs, waits, or is listed: a person may still need what it says."""
    world.save(world.charge_row("c", description="d", state=state, amount=3))
    grow_old(world)
    assert [Pruned()] == prune(world)
    assert "d" == world.charge("c").description


@pytest.mark.parametrize("state", sorted(set(ReservationState) - OVER))
def test_a_hold_that_has_not_ended_stays(world, state):
    """It may be held, or confirmed late."""
    row = world.hold_row(state=state)
    world.save(row)
    grow_old(world)
    assert [Pruned()] == prune(world)
    assert row == world.hold(row.key)


def test_many_rows_take_many_short_steps(world):
    """No transaction holds up a call for long, and none is left over."""
    for number in range(7):
        settled(world, f"e{number}")
    grow_old(world)
    steps = prune(world, limit=2)
    assert (7, 7) == (sum(step.charges for step in steps), sum(step.reservations for step in steps))
    assert all(step.charges <= 2 and step.reservations <= 2 for step in steps)
    assert all(row.description is None for row in world.all_charges())
    assert [] == world.all_holds()


def test_rows_begun_at_one_moment_do_not_stop_it(world):
    """The cursor stands still while there are more of them than a step takes."""
    for number in range(5):
        world.save(replace(world.charge_row(f"c{number}", description="d", state=ChargeState.DENIED), created_at=1.0))
    grow_old(world)
    assert 5 == sum(step.charges for step in prune(world, limit=2))


def test_what_a_person_decided_stays(world):
    """The note is why nobody asks again."""
    world.save(
        world.charge_row(
            "c", description="d", state=ChargeState.CLOSED, closed_as="charged", note="asked", closed_at=world.wall
        )
    )
    grow_old(world)
    prune(world)
    assert (None, "charged", "asked") == (
        world.charge("c").description,
        world.charge("c").closed_as,
        world.charge("c").note,
    )


def test_a_late_success_settles_a_tombstone(world):
    """Whatever is known by then is true."""
    from countwerk_meter._flow.deducted import Deducted
    from countwerk_meter._flow.rows import DEDUCT

    row = world.charge_row("c", description="d", state=ChargeState.CLOSED, amount=3, share=3, via=DEDUCT)
    world.save(row)
    grow_old(world)
    prune(world)
    world.journal.run(Deducted(world.terms.ledger, "c", ChargeState.SETTLED, world.wall))
    assert "settled" == world.state("c")


# Keys.


def test_another_keys_rows_are_left_alone_until_somebody_says_so(world):
    """Then recovery takes them like its own, and settles them under the new key."""
    world.call("e1", 5, 3)
    world.reserve("e2")
    world.terms = replace(world.terms, principal="new")
    assert Recovered() == world.adopt("me", "heir")
    assert {"p": 4} == world.journal.run(Keys(world.terms.ledger))
    assert 4 == world.journal.run(TakeKey(world.terms.ledger, "p", "new"))
    assert {"new": 4} == world.journal.run(Keys(world.terms.ledger))
    assert Recovered(closed=1, resumed=3) == world.adopt("me", "heir")
    world.settle_until_quiet()
    assert (3, 0) == (world.spent(), world.held())


def test_taken_over_twice_moves_nothing_twice(world):
    """And one that has no rows moves none."""
    world.call("e1", 5, 3)
    take = TakeKey(world.terms.ledger, "p", "new")
    assert [2, 0] == [world.journal.run(take), world.journal.run(take)]
    assert 0 == world.journal.run(TakeKey(world.terms.ledger, "nobody", "new"))


def test_a_debt_moves_with_its_key(world):
    """A reserve under the new key still meets it (rule 14)."""
    world.ledger.available["acct"] = 5
    world.knows_time()
    world.settle(world.call("e1", 5, 8))
    world.deduct("e1.over")
    assert "uncollected" == world.state("e1.over")
    world.journal.run(TakeKey(world.terms.ledger, "p", "new"))
    world.terms = replace(world.terms, principal="new")
    world.ledger.available["acct"] = 2
    with pytest.raises(Exception, match="needs"):
        world.reserve("e2", 1)


def test_a_process_that_lives_goes_on_with_its_rows(world):
    """Only the key's name changes: its own settlement finds them as before."""
    gate = world.call("e1", 5, 3)
    world.journal.run(TakeKey(world.terms.ledger, "p", "new"))
    world.settle(gate)
    assert ("settled", 3) == (world.state(), world.spent())
