"""Prices: exact sums, what is refused, and what the payloads say."""

import json
import math
import pickle
from datetime import UTC, datetime, timedelta, timezone
from decimal import Context, Decimal
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countwerk_meter.errors import PricingError
from countwerk_meter.pricing import PriceProfile
from countwerk_meter.usage import Usage

EXACT = Context(prec=5_000)
DOCUMENT = {
    "profileVersionId": "v7",
    "engineVersion": "engine-3",
    "eurPerCredit": 0.01,
    "rateRules": [
        {"id": "in", "dimensionKey": "llm_input_tokens", "creditsPerUnit": 0.0003, "costPerUnitEur": 1e-6},
        {"id": "out", "dimensionKey": "llm_output_tokens", "creditsPerUnit": 0.0015},
        {"id": "free", "dimensionKey": "active_user_day", "creditsPerUnit": 0},
    ],
}
PROFILE = PriceProfile.load(DOCUMENT)
MISSTATED = PriceProfile.load({**DOCUMENT, "rulesetHash": "0" * 64})


def refusal(profile, *args):
    with pytest.raises(PricingError) as caught:
        profile.price(*args)
    return caught.value


def test_credits_are_quantity_times_rate_summed_and_not_rounded():
    """The arithmetic that floats get wrong: 3 x 0.0003 + 1 x 0.0015."""
    price = PROFILE.price({"llm_input_tokens": 3, "llm_output_tokens": 1})
    assert Decimal("0.0024") == price.total
    assert 1 == price.credits_to_deduct
    assert ("in", "out") == price.rule_ids
    first, second = price.breakdown
    assert ("llm_input_tokens", 3, Decimal("0.0003"), Decimal("0.0009"), "in") == (
        first.dimension,
        first.quantity,
        first.credits_per_unit,
        first.credits,
        first.rule_id,
    )
    assert (Decimal("0.000001"), Decimal("0.000003")) == (first.cost_per_unit_eur, first.cost_eur)
    assert (None, None) == (second.cost_per_unit_eur, second.cost_eur)
    assert Decimal("0.000003") == price.cost_total_eur


def test_a_price_says_what_made_it():
    """Versions and the hash are what an audit asks for."""
    price = PROFILE.price({})
    assert ("v7", "engine-3", "runtime-v2", PROFILE.ruleset_hash) == (
        price.profile_version_id,
        price.profile_engine_version,
        price.runtime_engine_version,
        price.ruleset_hash,
    )
    assert (0, 0, None, (), None) == (
        price.total,
        price.credits_to_deduct,
        price.cost_total_eur,
        price.unmatched_dimensions,
        price.quarantine_reason,
    )


@pytest.mark.parametrize(
    ("quantity", "exact"),
    [(2, "2"), (Decimal("2.5"), "2.5"), (0.1, "0.1"), ("0.30", "0.30"), (" 7 ", "7"), (10**18, "1e18"), (1e-7, "1e-7")],
)
def test_a_quantity_may_be_any_number(quantity, exact):
    """Whole numbers, decimals, floats as they are written, and texts as a command line gives them."""
    assert Decimal(exact) * Decimal("0.0003") == PROFILE.price({"llm_input_tokens": quantity}).total


@pytest.mark.parametrize(
    "quantity",
    [0, -1, 0.0, -0.5, math.nan, math.inf, -math.inf, "0", "-3", "NaN", "inf", Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"), Decimal("1e-400")],
)  # fmt: skip
def test_a_quantity_not_finite_or_not_above_zero_is_passed_over(quantity):
    """In both modes, and even where the dimension has no rule."""
    for mode in ("STRICT", "RUNTIME"):
        price = PROFILE.price({"llm_input_tokens": quantity, "unknown": quantity}, mode=mode)
        assert (0, (), (), None) == (price.total, price.breakdown, price.unmatched_dimensions, price.quarantine_reason)


@pytest.mark.parametrize("quantity", [None, True, "many", "", [], Decimal("1e309"), 10**400, "1e999999"])
def test_a_quantity_that_is_no_number_is_refused(quantity):
    """A mistake must not turn into a free call."""
    error = refusal(PROFILE, {"llm_input_tokens": quantity}, None, "RUNTIME")
    assert ("INVALID_QUANTITY", "llm_input_tokens") == (error.code, error.field)


def test_strict_refuses_what_no_rule_matches():
    """All of them are named in one sentence, with what they were matched against."""
    error = refusal(PROFILE, {"llm_input_tokens": 1, "pages": 2, "images": 1}, {"model": "x"})
    assert ("UNMATCHED_DIMENSION", "pages") == (error.code, error.field)
    assert "no active rule of profile v7 matches pages, images with model=x" == str(error)
    assert "with no attributes" in str(refusal(PROFILE, {"pages": 1}))


def test_runtime_prices_the_rest_and_says_what_is_left_out():
    """The total is what could be priced, and the price is quarantined."""
    price = PROFILE.price({"pages": 2, "llm_input_tokens": 10, "images": 1}, mode="RUNTIME")
    assert (Decimal("0.003"), ("pages", "images"), "UNMATCHED_DIMENSION") == (
        price.total,
        price.unmatched_dimensions,
        price.quarantine_reason,
    )


def test_a_rule_that_costs_nothing_matches():
    """A rate of 0 is a price, unlike no rule."""
    price = PROFILE.price({"active_user_day": 3})
    assert (0, ("free",), 0) == (price.total, price.rule_ids, price.credits_to_deduct)


def test_a_misstated_hash_is_refused_or_quarantined():
    """STRICT raises, before anything else; RUNTIME prices and says so, above all else."""
    error = refusal(MISSTATED, {"pages": 1})
    assert ("RULESET_HASH_MISMATCH", "rulesetHash") == (error.code, error.field)
    assert f"profile v7 states the rulesetHash {'0' * 64}, but its rules have {PROFILE.ruleset_hash}" == str(error)

    price = MISSTATED.price({"llm_input_tokens": 10, "pages": 1}, mode="RUNTIME")
    assert ("RULESET_HASH_MISMATCH", ("pages",), Decimal("0.003"), PROFILE.ruleset_hash) == (
        price.quarantine_reason,
        price.unmatched_dimensions,
        price.total,
        price.ruleset_hash,
    )


@pytest.mark.parametrize("stated", [PROFILE.ruleset_hash, None, ""])
def test_a_hash_that_is_right_or_missing_is_sound(stated):
    """Profiles need not state their hash."""
    assert 1 == PriceProfile.load({**DOCUMENT, "rulesetHash": stated}).price({"llm_output_tokens": 1}).credits_to_deduct


def test_a_mismatch_in_rare_characters_says_that_the_order_may_be_why():
    """The order of such names is not certainly the vendor's: whoever reads the error should know."""
    rule = {"id": "ᏣᎳᎩ", "dimensionKey": "d", "creditsPerUnit": 1}
    profile = PriceProfile.load({**DOCUMENT, "rateRules": [rule], "rulesetHash": "x"})
    assert str(refusal(profile, {})).endswith(
        "some of its names are in characters whose order may differ from the vendor's"
    )


def test_an_unknown_mode_is_refused():
    """A typing mistake must not become RUNTIME."""
    assert "INVALID_MODE" == refusal(PROFILE, {}, None, "strict").code


@pytest.mark.parametrize(
    ("total", "whole"),
    [("0.000000000000000000000000000000001", 1), ("1", 1), ("1.0000", 1), ("2.5", 3), ("1e30", 10**30)],
)
def test_credits_to_deduct_is_the_ceiling(total, whole):
    """Rounded up from the exact total, however small the fraction."""
    rules = [{"id": "a", "dimensionKey": "d", "creditsPerUnit": Decimal(total)}]
    assert whole == PriceProfile.load({**DOCUMENT, "rateRules": rules}).price({"d": 1}).credits_to_deduct


rates = st.decimals(0, 10**6, allow_nan=False, allow_infinity=False, places=12)
quantities = st.one_of(
    st.integers(-5, 10**12),
    st.floats(),
    st.decimals(-5, 10**12, allow_nan=True),
    st.sampled_from([Decimal("Infinity"), Decimal("-Infinity")]),
)


@given(st.lists(st.tuples(rates, st.none() | rates, quantities), max_size=6))
def test_the_total_is_the_sum_of_the_breakdown(items):
    """Exactly, whatever the quantities, and so is the cost."""
    rules = [
        {"id": f"r{i}", "dimensionKey": f"d{i}", "creditsPerUnit": rate, "costPerUnitEur": cost}
        for i, (rate, cost, _) in enumerate(items)
    ]
    profile = PriceProfile.load({**DOCUMENT, "rateRules": rules})
    price = profile.price({f"d{i}": quantity for i, (_, _, quantity) in enumerate(items)})

    assert reduce(EXACT.add, [line.credits for line in price.breakdown], Decimal(0)) == price.total
    for line in price.breakdown:
        assert EXACT.multiply(line.quantity, line.credits_per_unit) == line.credits
    # Compared, not subtracted: a difference would be rounded to the default context's 28 digits.
    assert price.credits_to_deduct - 1 < price.total <= price.credits_to_deduct
    costs = [line.cost_eur for line in price.breakdown if line.cost_eur is not None]
    assert (reduce(EXACT.add, costs) if costs else None) == price.cost_total_eur


def test_the_extremes_of_a_double_add_up_exactly():
    """No digit is lost between the largest and the smallest quantity there is."""
    rules = [{"id": name, "dimensionKey": name, "creditsPerUnit": 1} for name in "ab"]
    price = PriceProfile.load({**DOCUMENT, "rateRules": rules}).price({"a": 1e308, "b": 5e-324})
    assert EXACT.add(Decimal("1e308"), Decimal("5e-324")) == price.total


def test_the_payload_has_the_contract_s_names():
    """Plain JSON data; a cost is there where the rule states one."""
    payload = PROFILE.price({"llm_input_tokens": 3, "llm_output_tokens": 1.5}).payload()
    assert (
        payload
        == json.loads(json.dumps(payload))
        == {
            "totalCredits": 0.00315,
            "totalCreditsToDeduct": 1,
            "breakdown": [
                {
                    "dimensionKey": "llm_input_tokens",
                    "qty": 3,
                    "creditsPerUnit": 0.0003,
                    "credits": 0.0009,
                    "costPerUnitEur": 0.000001,
                    "costEur": 0.000003,
                    "ruleId": "in",
                },
                {
                    "dimensionKey": "llm_output_tokens",
                    "qty": 1.5,
                    "creditsPerUnit": 0.0015,
                    "credits": 0.00225,
                    "ruleId": "out",
                },
            ],
            "ruleIdsUsed": ["in", "out"],
            "rulesetHash": PROFILE.ruleset_hash,
            "profileVersionId": "v7",
            "profileEngineVersion": "engine-3",
            "runtimeEngineVersion": "runtime-v2",
        }
    )


def test_the_payload_names_what_is_missing():
    """Quarantine and unmatched dimensions appear only where there are any; the ceiling only on request."""
    payload = PROFILE.price({"pages": 1}, mode="RUNTIME").payload(to_deduct=False)
    assert (["pages"], "UNMATCHED_DIMENSION") == (payload["unmatchedDimensions"], payload["quarantineReason"])
    assert "totalCreditsToDeduct" not in payload


def test_the_record_explains_the_price_exactly():
    """Rule, quantity and rate of each line, as decimals in text; the profile and its hash."""
    price = PROFILE.price({"llm_input_tokens": 3, "llm_output_tokens": Decimal("1.50")})
    record = price.record()
    assert (
        record
        == json.loads(json.dumps(record))
        == {
            "credits": "0.003150",
            "rules": ["in", "out"],
            "breakdown": [
                {
                    "dimension": "llm_input_tokens",
                    "quantity": "3",
                    "credits_per_unit": "0.0003",
                    "credits": "0.0009",
                    "rule": "in",
                },
                {
                    "dimension": "llm_output_tokens",
                    "quantity": "1.50",
                    "credits_per_unit": "0.0015",
                    "credits": "0.002250",
                    "rule": "out",
                },
            ],
            "profile": "v7",
            "ruleset_hash": PROFILE.ruleset_hash,
        }
    )


def test_the_record_says_what_is_doubtful():
    """What no rule priced, and why the price is quarantined."""
    record = MISSTATED.price({"pages": 1, "llm_input_tokens": 1}, mode="RUNTIME").record()
    assert (["pages"], "RULESET_HASH_MISMATCH") == (record["unmatched"], record["quarantine"])


def test_the_audit_adds_what_went_in():
    """Dimensions and attributes as given, the value of a credit, the cost and the time."""
    price = PROFILE.price(
        {"llm_input_tokens": Decimal("2.50"), "llm_output_tokens": "1", "x": math.nan}, {"model": "m"}
    )
    audit = price.audit(datetime(2026, 1, 2, 4, 4, 5, 678_900, tzinfo=timezone(timedelta(hours=1))))
    added = {key: audit[key] for key in audit.keys() - price.payload().keys()}
    assert added == {
        "dimensions": {"llm_input_tokens": 2.5, "llm_output_tokens": "1", "x": None},
        "attributes": {"model": "m"},
        "eurPerCredit": 0.01,
        "costTotalEur": 0.0000025,
        "timestamp": "2026-01-02T03:04:05.678Z",
    }
    assert audit == json.loads(json.dumps(audit, allow_nan=False))


def test_an_audit_s_time_is_text_or_knows_its_zone():
    """A text is passed on; a time of unknown zone would be a guess."""
    price = PROFILE.price({"llm_output_tokens": 1})
    assert "now" == price.audit("now")["timestamp"]
    assert price.audit(datetime(2026, 1, 1, tzinfo=UTC))["costTotalEur"] is None
    with pytest.raises(ValueError, match="needs a time zone"):
        price.audit(datetime(2026, 1, 1))  # noqa: DTZ001 - the point


def test_a_price_travels_and_stands_alone():
    """It pickles, and what the caller does to its mappings afterwards changes nothing."""
    dimensions, attributes = {"llm_input_tokens": 1}, {"model": "m"}
    price = PROFILE.price(dimensions, attributes)
    dimensions.clear()
    attributes.clear()
    assert ({"llm_input_tokens": 1}, {"model": "m"}) == (price.dimensions, price.attributes)
    assert price == pickle.loads(pickle.dumps(price))
    assert PROFILE.ruleset_hash == pickle.loads(pickle.dumps(PROFILE)).ruleset_hash


def test_usage_folds_into_the_dimensions_that_have_a_price():
    """How usage and profile meet: a pool without a price for this model is charged as its parent."""
    rules = [
        {"id": "in", "dimensionKey": "llm_input_tokens", "creditsPerUnit": 3},
        {"id": "out", "dimensionKey": "llm_output_tokens", "creditsPerUnit": 10},
        {"id": "read", "dimensionKey": "llm_cache_read_tokens", "creditsPerUnit": 1, "attributesMatch": {"model": "a"}},
    ]
    profile = PriceProfile.load({**DOCUMENT, "rateRules": rules})
    usage = Usage(10, 5, 100, 0, 7)

    def total(model):
        attributes = {"model": model}
        return profile.price(usage.measured(lambda name: profile.prices(name, attributes)), attributes).total

    assert 10 * 3 + 100 * 1 + 12 * 10 == total("a")
    assert 110 * 3 + 12 * 10 == total("b")
