"""Every cell of the outcome table's row `deduct`, for charges that settlement deducts, by name."""

import pytest

from countwerk_meter._flow.verdict import Verdict


@pytest.fixture
def waiting(world):
    """A leg of 2 beyond a hold of 5."""
    world.call("e1", 5, 7)
    return "e1.over"


def test_deduct_done_settles_under_its_own_id(world, waiting):
    """The plain case: the id is the key, and what explains the amount goes along."""
    done = world.deduct(waiting)
    assert (Verdict.ENDED, (waiting,)) == (done.verdict, done.charges)
    assert (2, waiting) == (world.sent[-1].body["amount"], world.sent[-1].body["usage_event_id"])
    assert {"basis": "set"} == world.sent[-1].body["metadata"]["countwerk_meter"]
    assert ("settled", None) == (world.state(waiting), world.charge(waiting).due_at)


def test_deduct_not_sent_backs_off(world, say, waiting):
    """Tried again, later and later."""
    world.then(say.not_sent, say.not_sent)
    assert (Verdict.DOUBTFUL, world.wall + 0.5) == _end(world.deduct(waiting))
    assert (Verdict.DOUBTFUL, world.wall + 1) == _end(world.deduct(waiting))
    assert ("committed", world.wall + 1) == (world.state(waiting), world.charge(waiting).due_at)


def _end(done):
    return done.verdict, done.due_at


def test_deduct_402_is_uncollected_kept_and_retried_on_a_schedule(world, say, waiting):
    """It is told once, tried again every quarter of an hour, and collected when there are credits."""
    world.then(say.code("INSUFFICIENT_CREDITS"), say.code("INSUFFICIENT_CREDITS"))
    assert (Verdict.LATER, world.wall + 900) == _end(world.deduct(waiting))
    assert ("uncollected", world.wall + 900) == (world.state(waiting), world.charge(waiting).due_at)
    world.deduct(waiting)
    assert [2] == [fields["amount"] for fields in world.told("uncollected")]
    world.deduct(waiting)
    assert "settled" == world.state(waiting)


def test_deduct_429_backs_off_as_long_as_it_is_told(world, say, waiting):
    """Not carried out (A1)."""
    world.then(say.code("RATE_LIMIT_EXCEEDED", 11))
    done = world.deduct(waiting)
    assert (Verdict.LATER, world.wall + 11, 11.0) == (*_end(done), done.wait)


def test_deduct_401_pauses(world, say, waiting):
    """The key is wrong: everything stops, and this stays."""
    world.then(say.code("INVALID_API_KEY"))
    assert Verdict.PAUSED is world.deduct(waiting).verdict
    assert "committed" == world.state(waiting)


def test_deduct_403_parks(world, say, waiting):
    """The account waits."""
    world.then(say.code("FORBIDDEN"))
    assert (Verdict.PARKED, world.wall + 300) == _end(world.deduct(waiting))


@pytest.mark.parametrize(
    "code", ["INVALID_USAGE_EVENT_ID", "DS24_KEY_REQUIRED", "RESERVATION_NOT_FOUND", "ORDER_NOT_FOUND"]
)
def test_deduct_400_404_409_and_other_4xx_is_unresolved(world, say, waiting, code):
    """A definite no that no waiting cures: listed, with an event, and not due again."""
    world.then(say.code(code))
    assert Verdict.ENDED is world.deduct(waiting).verdict
    assert ("unresolved", f"rejected: {code}", None) == (
        world.state(waiting), world.charge(waiting).reason, world.charge(waiting).due_at
    )  # fmt: skip
    assert code == world.told("unresolved")[0]["reason"]


@pytest.mark.parametrize("doubt", ["lost", "unheard", "failed"])
def test_deduct_in_doubt_is_sent_again_under_the_same_id(world, say, waiting, doubt):
    """The same id makes no second charge."""
    world.then(getattr(say, doubt))
    assert Verdict.DOUBTFUL is world.deduct(waiting).verdict
    assert "committed" == world.state(waiting)
    world.deduct(waiting)
    assert ("settled", {("acct", waiting): 2}) == (world.state(waiting), world.ledger.deducts)


def test_deduct_in_doubt_backs_off_to_five_minutes_and_is_never_given_up(world, say, waiting):
    """The wait is capped at minutes; however long it takes, it stays listed and due."""
    waits = []
    for _ in range(20):
        world.then(say.lost)
        waits.append(world.deduct(waiting).due_at - world.wall)
    assert [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] == pytest.approx(waits[:12])
    assert (300, "committed") == (max(waits), world.state(waiting))


def test_deduct_in_doubt_waits_as_long_as_a_bare_429_asks(world, say, waiting):
    """A bare 429 is in doubt, and still says how long to wait."""
    world.then(say.raw(429, b"", {"retry-after": "13"}))
    done = world.deduct(waiting)
    assert (Verdict.DOUBTFUL, world.wall + 13, 13.0) == (*_end(done), done.wait)


def test_deduct_that_names_less_leaves_the_rest_for_a_late_deduct(world, say, waiting):
    """What falls short goes under `.late`, and can be settled at once (rule 1)."""
    world.then(say.data({"deductedAmount": 1, "operation": "app.chat"}))
    assert (("charge", "e1.late"),) == world.deduct(waiting).work
    world.deduct("e1.late")
    assert ("settled", {("acct", "e1.late"): 1}) == (world.state("e1.late"), world.ledger.deducts)


def test_deduct_that_names_more_is_an_event(world, say, waiting):
    """It cannot be taken back here, and must not go unseen."""
    world.then(say.data({"deductedAmount": 6, "operation": "app.chat"}))
    world.deduct(waiting)
    assert ([6], [4]) == ([f["amount"] for f in world.told("charged")], [f["amount"] for f in world.told("excess")])


@pytest.mark.parametrize("amount", ["2", True, None])
def test_deduct_that_names_no_whole_amount_carried_out_what_was_asked(world, say, waiting, amount):
    """An amount that is none says nothing."""
    world.then(say.data({"deductedAmount": amount, "operation": "app.chat"}))
    world.deduct(waiting)
    assert ([2], []) == ([fields["amount"] for fields in world.told("charged")], world.told("excess"))


def test_a_late_success_settles_what_another_worker_called_unresolved(world, say, waiting):
    """A definite success is the truth whenever it comes."""
    refuse = lambda: (world.then(say.code("INVALID_INPUT")), world.deduct(waiting))  # noqa: E731
    world.then(say.meanwhile(refuse, say.carried))
    world.deduct(waiting)
    assert "settled" == world.state(waiting)


@pytest.mark.parametrize("late", ["not_sent", "lost", "402", "400"])
def test_a_late_answer_never_undoes_a_success(world, say, waiting, late):
    """Two workers send one id: what one of them learns late must not reopen it, nor raise."""
    reply = {"402": say.code("INSUFFICIENT_CREDITS"), "400": say.code("INVALID_INPUT")}.get(late) or getattr(say, late)
    world.then(say.meanwhile(lambda: world.deduct(waiting), reply))
    world.deduct(waiting)
    assert ("settled", None) == (world.state(waiting), world.charge(waiting).due_at)


def test_a_late_doubt_leaves_uncollected_what_is_uncollected(world, say, waiting):
    """The row keeps its state, whatever the worker had read before."""
    deny = lambda: (world.then(say.code("INSUFFICIENT_CREDITS")), world.deduct(waiting))  # noqa: E731
    world.then(say.meanwhile(deny, say.lost))
    world.deduct(waiting)
    assert ("uncollected", "insufficient credits") == (world.state(waiting), world.charge(waiting).reason)


def test_deduct_sends_nothing_for_what_does_not_wait_or_waits_for_a_confirm(world, waiting):
    """Unknown, open, settled, or carried by a confirm: nothing is sent (I2)."""
    world.reserve("open")
    before = len(world.sent)
    assert "" == world.deduct("nobody").account_id
    for name in ("e1", "open"):
        assert Verdict.ENDED is world.deduct(name).verdict
    assert before == len(world.sent)


def test_deduct_carries_metadata_lines_and_trace(world):
    """The account's statement can explain the amount."""
    from dataclasses import replace

    world.call("e1", 5, 7)
    row = replace(
        world.charge("e1.over"), metadata='{"order": 1}', lines='[{"credits": "2"}]', trace_id="ab", exact="1.5"
    )
    world.save(row)
    world.deduct("e1.over")
    meter = {"basis": "set", "exact": "1.5", "trace_id": "ab", "lines": [{"credits": "2"}]}
    assert {"order": 1, "countwerk_meter": meter} == world.sent[-1].body["metadata"]
