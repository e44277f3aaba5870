"""How much output is held for: close to what is used, and rarely less."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countwerk_meter.estimating import COLD_START_TOKENS, Histories, History
from countwerk_meter.estimating.history import ACCOUNT_WEIGHT, COMMON_ENOUGH, LIMIT, OWN_ENOUGH
from countwerk_meter.estimating.sketch import RATIO, add, quantile, upper

from .traffic import generated, traced

pytestmark = pytest.mark.usefixtures("unmeasured")

WARM_UP = 200
OUTPUT_PRICE = 3
TRACE = os.environ.get("COUNTWERK_TEST_TRACE")


def replayed(calls, account=lambda number: 0):
    """Hold for each call, then learn from it; return mean hold over mean charge, and the share of overruns."""
    common, own = History(), {}
    held = used = over = counted = 0
    for number, (sent, answered) in enumerate(calls):
        histories = own.setdefault(account(number), Histories(common=common))
        bound = histories.bound(sent)
        if number >= WARM_UP:
            held += sent + OUTPUT_PRICE * bound
            used += sent + OUTPUT_PRICE * answered
            over += answered > bound
            counted += 1
        histories.learn(sent, answered)
    return held / used, over / counted


@pytest.mark.parametrize("seed", range(3))
def test_holds_stay_close_to_charges_on_generated_traffic(seed):
    """The mean hold is at most 1.40 x the mean charge, and at most 5 % of the calls overrun."""
    ratio, overruns = replayed(generated(6_000, seed))
    assert 1 < ratio <= 1.40
    assert 0 < overruns <= 0.05


def test_many_accounts_learn_from_each_other():
    """With so few calls each that nobody has a history of their own."""
    ratio, overruns = replayed(generated(6_000, 7), account=lambda number: number % 500)
    assert ratio <= 1.40
    assert overruns <= 0.055


if TRACE:

    def test_holds_stay_close_to_charges_on_a_real_trace():
        """The same bounds on the trace whose path `COUNTWERK_TEST_TRACE` gives."""
        ratio, overruns = replayed(traced(TRACE))
        print(f"mean hold / mean charge {ratio:.3f}, overruns {overruns:.2%}")
        assert ratio <= 1.40
        assert overruns <= 0.05


@given(values=st.lists(st.integers(0, 200_000), min_size=1, max_size=200), share=st.floats(0.5, 0.99))
def test_a_quantile_is_never_below_the_values_it_stands_for(values, share):
    """And, in a bucket 5 % wide, at most that much above the largest."""
    counts = {}
    for value in values:
        add(counts, value)
    bound = quantile(counts, share)
    assert share * len(values) <= sum(value <= max(bound, 1) for value in values)
    assert bound <= max(*values, 1) * RATIO


def test_the_cold_start_is_stated():
    """Without any history it is 1,024 tokens, or what the caller says."""
    assert Histories().bound(10) == COLD_START_TOKENS
    assert Histories().bound(10, cold_start=4_000) == 4_000


def test_an_accounts_own_history_comes_first():
    """From its fiftieth call on, whatever the others do."""
    common = History()
    for _ in range(LIMIT):
        common.add(100, 9_000)
    mine = Histories(common=common)
    for _ in range(OWN_ENOUGH - 1):
        mine.learn(100, 20)
    assert mine.bound(100) > 8_000
    mine.learn(100, 20)
    assert mine.bound(100) <= 20 * RATIO


def test_bounds_follow_the_length_of_the_input():
    """Short questions with short answers hold less than long ones."""
    mine = Histories()
    for _ in range(100):
        mine.learn(50, 40)
        mine.learn(5_000, 800)
    assert mine.bound(60) < 50
    assert mine.bound(4_900) >= 800


def test_old_answers_fade():
    """A model that was changed is followed, after fewer calls than the old one had."""
    mine = Histories()
    for _ in range(3 * LIMIT):
        mine.learn(100, 2_000)
    for _ in range(3 * LIMIT - 1):
        mine.learn(100, 90)
    assert mine.own.total <= LIMIT
    assert mine.bound(100) <= 90 * RATIO


@given(
    honest=st.lists(st.integers(1, 3_000), min_size=240, max_size=240),
    flood=st.lists(st.tuples(st.integers(1, 9_000), st.integers(0, 1 << 30)), max_size=40),
    times=st.integers(1, 300),
)
def test_one_account_cannot_move_anothers_hold(honest, flood, times):
    """However it floods, a newcomer's bound stays within what the others' own answers say."""
    common = History()
    others = [Histories(common=common) for _ in range(30)]
    for number, output in enumerate(honest):
        others[number % 30].learn(100, output)
    mallory = Histories(common=common)
    for _ in range(times):
        for sent, output in flood:
            mallory.learn(sent, output)
    assert mallory.own.given <= ACCOUNT_WEIGHT
    said = sorted(honest)
    bound = Histories(common=common).bound(100)
    assert said[int(0.94 * len(said))] <= bound <= said[-1] * RATIO


def test_a_flood_leaves_the_cold_start_alone():
    """Where hardly anybody else has called yet, there is nothing for it to push aside."""
    common = History()
    mallory = Histories(common=common)
    for _ in range(10_000):
        mallory.learn(100, 1 << 30)
    assert common.total <= ACCOUNT_WEIGHT < COMMON_ENOUGH
    assert Histories(common=common).bound(100) == COLD_START_TOKENS


def test_a_history_comes_back_as_it_was():
    """Counts only, a few kilobytes of JSON; anything else reads as an empty history."""
    histories = Histories()
    for sent, answered in generated(3_000, 1):
        histories.learn(sent, answered)
    again = History.load(histories.own.dump())
    assert histories.own == again
    assert len(histories.own.dump()) < 12_000
    for odd in (None, "", "[]", "nonsense", '{"cells": 3}', '{"cells": {"a": {}}}', '{"cells": {"1": {"2": null}}}'):
        assert History() == History.load(odd)


def test_the_largest_bucket_is_bounded():
    """A count that cannot be is taken for the largest that can."""
    counts = {}
    add(counts, 1 << 80)
    assert upper(max(counts)) < 1 << 42
    assert quantile({}, 0.95) == 0
