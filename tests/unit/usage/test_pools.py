import copy
import dataclasses
import pickle
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countwerk_meter.errors import ConfigurationError
from countwerk_meter.usage import Usage

POOLS = [field.name for field in dataclasses.fields(Usage) if field.compare and field.name != "dimensions"]
NAMES = {
    "input_tokens": "llm_input_tokens",
    "output_tokens": "llm_output_tokens",
    "cache_read_tokens": "llm_cache_read_tokens",
    "cache_write_tokens": "llm_cache_write_tokens",
    "reasoning_tokens": "llm_reasoning_tokens",
    "requests": "llm_requests",
}

counts = st.integers(min_value=0, max_value=10**9)
usages = st.builds(
    Usage,
    counts,
    counts,
    counts,
    counts,
    counts,
    counts,
    st.dictionaries(
        st.sampled_from(["pages", "images", "seconds"]), counts | st.decimals(0, 10**6, allow_nan=False, places=3)
    ),
)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None, Decimal(1)])
def test_a_pool_is_a_whole_number_of_at_least_zero(pool, value):
    """What is no count is refused, and the message names the pool."""
    with pytest.raises(ConfigurationError, match=rf"Usage\.{pool} must be a whole number"):
        Usage(**{pool: value})


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ({"": 1}, "name must be a text"),
        ({3: 1}, "name must be a text"),
        ({"pages": -1}, "at least 0"),
        ({"pages": Decimal("NaN")}, "finite"),
        ({"pages": Decimal("Infinity")}, "finite"),
        ({"pages": 1.5}, r'Decimal\("1\.5"\)'),
        ({"pages": True}, "a Decimal or a whole number"),
        ({"pages": "2"}, "a Decimal or a whole number"),
        ({"llm_input_tokens": 5}, "set that instead"),
    ],
)
def test_an_extra_dimension_is_checked(dimensions, message):
    """Names and quantities that would price wrongly later are refused at once."""
    with pytest.raises(ConfigurationError, match=message):
        Usage(dimensions=dimensions)


def test_the_first_line_of_the_docstring_says_disjoint():
    """The convention that all readers must follow is the first thing that help() shows."""
    first = (Usage.__doc__ or "").strip().splitlines()[0]
    assert "Disjoint pools: input without what was cached, output without reasoning." == first


def test_a_usage_is_frozen_and_keeps_its_own_dimensions():
    """What the caller does to its dict afterwards changes nothing."""
    dimensions = {"pages": 2}
    usage = Usage(dimensions=dimensions)
    dimensions["pages"] = 9

    assert {"pages": 2} == usage.dimensions
    with pytest.raises(dataclasses.FrozenInstanceError):
        usage.input_tokens = 1


def test_usages_travel():
    """A usage pickles, copies, hashes and turns into a dict."""
    usage = Usage(1, 2, 3, 4, 5, 6, {"pages": Decimal("1.5")})

    assert usage == pickle.loads(pickle.dumps(usage)) == copy.deepcopy(usage)
    assert {usage: 1} == {copy.copy(usage): 1}
    assert {"pages": Decimal("1.5")} == dataclasses.asdict(usage)["dimensions"]


def test_the_representation_leaves_zeros_out():
    """Only what was used is shown."""
    assert "Usage(input_tokens=3, dimensions={'pages': 1})" == repr(Usage(3, dimensions={"pages": 1}))
    assert "Usage()" == repr(Usage())


@given(usages, usages, usages)
def test_addition_is_associative_commutative_and_has_a_zero(a, b, c):
    """The order in which calls are recorded does not matter."""
    assert (a + b) + c == a + (b + c) == sum([c, b, a])
    assert a == a + Usage()


@given(usages, usages)
def test_addition_adds_every_pool(a, b):
    """The total of a sum is the sum of the totals."""
    assert a.total_tokens + b.total_tokens == (a + b).total_tokens
    assert [getattr(a, name) + getattr(b, name) for name in POOLS] == [getattr(a + b, name) for name in POOLS]


def test_only_usages_can_be_added():
    """Adding a number is a mistake, not a token."""
    with pytest.raises(TypeError):
        Usage() + 1
    with pytest.raises(TypeError):
        1 + Usage()


@pytest.mark.parametrize(("pool", "dimension"), NAMES.items())
def test_each_pool_is_measured_under_its_dimension(pool, dimension):
    """The dimension names are the documented ones."""
    assert {dimension: 7} == Usage(**{pool: 7}).measured()


def test_zero_quantities_are_left_out():
    """Nothing used needs no price."""
    assert {} == Usage(dimensions={"pages": 0, "seconds": Decimal(0)}).measured()


def test_extra_dimensions_are_measured_with_the_pools():
    """Extras stay what they are, priced or not."""
    usage = Usage(1, dimensions={"pages": 2})
    assert {"llm_input_tokens": 1, "pages": 2} == usage.measured(lambda _: False)


@pytest.mark.parametrize(
    ("unpriced", "expected"),
    [
        (
            set(),
            {"input": 1, "output": 2, "cache_read": 4, "cache_write": 8, "reasoning": 16},
        ),
        ({"cache_read"}, {"input": 5, "output": 2, "cache_write": 8, "reasoning": 16}),
        ({"cache_write"}, {"input": 9, "output": 2, "cache_read": 4, "reasoning": 16}),
        ({"reasoning"}, {"input": 1, "output": 18, "cache_read": 4, "cache_write": 8}),
        ({"cache_read", "cache_write", "reasoning"}, {"input": 13, "output": 18}),
        ({"input", "output"}, {"input": 1, "output": 2, "cache_read": 4, "cache_write": 8, "reasoning": 16}),
    ],
)
def test_a_pool_without_a_price_folds_into_its_parent(unpriced, expected):
    """Cached tokens are then charged as input, reasoning as output; a parent never folds."""
    usage = Usage(1, 2, 4, 8, 16)
    measured = usage.measured(lambda dimension: dimension not in {f"llm_{name}_tokens" for name in unpriced})
    assert {f"llm_{name}_tokens": count for name, count in expected.items()} == measured


def test_requests_without_a_price_are_left_out():
    """A count of requests has no parent to fold into and is rarely priced."""
    assert {} == Usage(requests=3).measured(lambda _: False)
    assert {"llm_requests": 3} == Usage(requests=3).measured(lambda _: True)


@given(usages, st.sets(st.sampled_from(list(NAMES.values()))))
def test_folding_loses_no_token(usage, priced):
    """However pools fold, their sum stays."""
    measured = usage.measured(priced.__contains__)
    tokens = [measured.get(name, 0) for name in NAMES.values() if name != "llm_requests"]
    assert usage.total_tokens == sum(tokens)


def test_of_a_usage_is_that_usage():
    """Reading what is already read changes nothing, not even a known zero."""
    usage = Usage()
    assert usage is Usage.of(usage)
