"""Sharing rules out by an attribute's value changes how many are looked at, never which one is chosen."""

from hypothesis import given
from hypothesis import strategies as st

from countwerk_meter.pricing import PriceProfile
from countwerk_meter.pricing._candidates import candidates
from countwerk_meter.pricing._rules import RateRule

KEYS, VALUES = ["model", "tier", "region"], ["a", "b", ""]
conditions = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES) | st.lists(st.sampled_from(VALUES)))
rules = st.lists(
    st.fixed_dictionaries(
        {"dimensionKey": st.sampled_from(["d", "e"]), "attributesMatch": conditions, "priority": st.integers(-1, 1)},
        optional={"status": st.sampled_from(["active", "disabled"])},
    ),
    max_size=8,
)


def loaded(listed):
    numbered = [{"id": f"r{index}", "creditsPerUnit": 1, **rule} for index, rule in enumerate(listed)]
    return PriceProfile.load({"profileVersionId": "v", "eurPerCredit": 1, "rateRules": numbered})


@given(rules, st.dictionaries(st.sampled_from(KEYS), st.sampled_from([*VALUES, "other"])))
def test_the_rule_is_the_first_that_a_walk_through_all_meets(listed, attributes):
    """Whatever the rules ask for and whatever is given."""
    profile = loaded(listed)
    for dimension in ("d", "e"):
        ordered = sorted((rule for rule in profile.rules if rule.dimension == dimension), key=RateRule.precedence)
        walked = next((rule for rule in ordered if rule.mismatch(attributes) is None), None)
        found = candidates(profile.rules).get(dimension)
        assert walked == (None if found is None else found.first(attributes))


def test_a_thousand_models_leave_one_rule_to_look_at():
    """A call meets its model's own rule, or the fallback, however many models the profile knows."""
    own = [{"dimensionKey": "d", "attributesMatch": {"model": [f"m{n}", f"m{n}-x"]}, "priority": 1} for n in range(500)]
    found = candidates(loaded([*own, {"dimensionKey": "d"}]).rules)["d"]
    assert ("model", 1000) == (found.key, len(found.by_value))
    assert {1} == {len(listed) for listed in [*found.by_value.values(), found.otherwise]}


def test_nothing_is_kept_behind_a_rule_that_always_matches():
    """What can never be reached costs nothing at a call."""
    behind = [{"dimensionKey": "d", "attributesMatch": {"tier": "a"}, "priority": -1}] * 5
    found = candidates(loaded([{"dimensionKey": "d"}, *behind]).rules)["d"]
    assert ["r0"] == [rule.id for _, rule in found.otherwise]
    assert {"a"} == set(found.by_value)
    assert ["r0"] == [rule.id for _, rule in found.by_value["a"]]
