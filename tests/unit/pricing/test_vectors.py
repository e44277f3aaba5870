"""
Whole profiles against the vendor's rules as JavaScript carries them out.

`vectors.json` holds generated profiles with what Node made of them (`reference.mjs`, which shares nothing with this
code): hashes, the rules chosen, totals, errors, dates, numbers and the order of names.
"""

import json
import math
from decimal import Decimal
from pathlib import Path

import pytest

from countwerk_meter.errors import PricingError
from countwerk_meter.pricing import PriceProfile
from countwerk_meter.pricing._collation import is_exact, locale_key
from countwerk_meter.pricing._dates import parse_date
from countwerk_meter.pricing._ecmascript import code_units, number

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"), parse_float=Decimal)
PROFILES = [pytest.param(vector, id=vector["profile"]["profileVersionId"]) for vector in VECTORS["profiles"]]


def close(ours, theirs):
    """Within 1e-9 of the vendor's float, or, where it is so large that its own digits end before, of its size."""
    return math.isclose(ours, float(theirs), rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("vector", PROFILES)
def test_the_hash_is_the_vendor_s(vector):
    """Byte for byte the same canonical text."""
    assert vector["hash"] == PriceProfile.load(vector["profile"]).ruleset_hash


@pytest.mark.parametrize("vector", PROFILES)
def test_the_price_is_the_vendor_s(vector):
    """The same rules in the same order, totals within 1e-9, the same refusals and quarantines."""
    profile = PriceProfile.load(vector["profile"])
    for case in vector["cases"]:
        expected = case["expected"]
        arguments = case["dimensions"], case["attributes"], case["mode"]
        if "error" in expected:
            with pytest.raises(PricingError) as caught:
                profile.price(*arguments)
            assert expected["error"] == caught.value.code
            continue
        price = profile.price(*arguments)
        assert [line["ruleId"] for line in expected["breakdown"]] == list(price.rule_ids)
        assert expected["unmatched"] == list(price.unmatched_dimensions)
        assert expected["quarantine"] == price.quarantine_reason
        assert close(price.total, expected["totalCredits"])
        assert price.credits_to_deduct - 1 < price.total <= price.credits_to_deduct


@pytest.mark.parametrize("vector", PROFILES)
def test_the_breakdown_is_the_vendor_s(vector):
    """Under its names, with a cost where the rule states one, and numbers within 1e-9."""
    profile = PriceProfile.load(vector["profile"])
    for case in vector["cases"]:
        if "error" in case["expected"]:
            continue
        ours = profile.price(case["dimensions"], case["attributes"], case["mode"]).payload()["breakdown"]
        for line, expected in zip(ours, case["expected"]["breakdown"], strict=True):
            assert line.keys() == expected.keys()
            assert all(line[key] == expected[key] for key in ("dimensionKey", "ruleId"))
            assert all(close(line[key], expected[key]) for key in line.keys() - {"dimensionKey", "ruleId"})


def test_the_vectors_meet_every_outcome():
    """A generator that only made easy profiles would show little."""
    outcomes = [case["expected"] for vector in VECTORS["profiles"] for case in vector["cases"]]
    refused = {outcome.get("error") for outcome in outcomes}
    quarantined = {outcome.get("quarantine") for outcome in outcomes}
    assert {None, "RULESET_HASH_MISMATCH", "UNMATCHED_DIMENSION"} == refused == quarantined
    assert 100 < sum(len(outcome.get("breakdown", ())) for outcome in outcomes)


@pytest.mark.parametrize(("text", "expected"), VECTORS["dates"])
def test_dates_are_read_as_node_does(text, expected):
    """ISO, the lenient forms, and what looks like either and is neither."""
    assert expected == parse_date(text)


@pytest.mark.parametrize(("text", "expected"), VECTORS["numbers"])
def test_numbers_are_written_as_node_does(text, expected):
    """Doubles of every size, in JavaScript's shortest form."""
    assert expected == number(Decimal(text))


def test_names_are_ordered_as_node_does():
    """Words, punctuation, mixed case and accents, apart or joined."""
    assert VECTORS["names"] == in_order(VECTORS["names"])


@pytest.mark.parametrize(("script", "names"), VECTORS["scripts"])
def test_names_of_every_script_are_ordered_as_node_does(script, names):
    """Letters, vowel signs and accents of today's languages, and signs."""
    assert all(is_exact(name) for name in names)
    assert names == in_order(names)


def in_order(names):
    """Those that compare as equal stand in the order of their code units, in both lists."""
    return sorted(names, key=lambda name: (locale_key(name), code_units(name)))
