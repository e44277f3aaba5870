"""What a look over a price profile finds, each thing by the smallest profile that has it."""

import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countwerk_meter.errors import PricingError
from countwerk_meter.pricing import PriceProfile, lint
from countwerk_meter.pricing._lint import PARENTS
from countwerk_meter.usage import Usage

SOUND = [
    {"id": "in", "dimensionKey": "llm_input_tokens"},
    {"id": "out", "dimensionKey": "llm_output_tokens"},
    {"id": "read", "dimensionKey": "llm_cache_read_tokens"},
    {"id": "write", "dimensionKey": "llm_cache_write_tokens"},
    {"id": "think", "dimensionKey": "llm_reasoning_tokens"},
]


def document(*rules, **changes):
    listed = [{"creditsPerUnit": 1, **rule} for rule in rules]
    return {"profileVersionId": "v7", "eurPerCredit": 1, "rateRules": listed, **changes}


def pages(*rules):
    """Rules of one dimension that no framework reports."""
    return document(*({"dimensionKey": "pages", **rule} for rule in rules))


def kinds(source):
    return [(finding.kind, *finding.rule_ids) for finding in lint(source)]


def messages(source):
    return [finding.message for finding in lint(source)]


def test_the_example_profile_is_clean():
    """From its path, and so is a loaded one."""
    path = Path(__file__).parents[3] / "examples" / "prices.json"
    assert () == lint(path) == lint(PriceProfile.load(path))


def test_a_rule_that_another_always_beats_is_shadowed():
    """With the reason: by priority, by date or by id."""
    source = pages(
        {"id": "new", "createdAt": "2026"}, {"id": "old", "createdAt": "2025"}, {"id": "low", "priority": -1}
    )
    assert [("shadowed", "old", "new"), ("shadowed", "low", "new")] == kinds(source)
    assert (
        "rule old is never chosen: where it matches, it loses to new (created before new)",
        "rule low is never chosen: where it matches, it loses to new (priority -1 is below 0)",
    ) == tuple(messages(source))


@pytest.mark.parametrize(
    ("winner", "loser", "shadowed"),
    [
        ({}, {"model": "a"}, True),
        ({"model": "a"}, {"model": "a"}, True),
        ({"model": ["a", "b"]}, {"model": "a"}, True),
        ({"model": "a"}, {"model": "a", "tier": "pro"}, True),
        ({"model": "a"}, {}, False),
        ({"model": "a"}, {"model": ["a", "b"]}, False),
        ({"model": "a"}, {"tier": "pro"}, False),
        ({"model": "a", "tier": "pro"}, {"model": "a"}, False),
    ],
)
def test_a_rule_is_shadowed_where_the_better_one_asks_for_no_more(winner, loser, shadowed):
    """A rule that asks for a further attribute leaves those without it."""
    source = pages(
        {"id": "w", "attributesMatch": winner, "priority": 1},
        {"id": "l", "attributesMatch": loser},
        {"id": "zz", "priority": -9},
    )
    assert shadowed is (("shadowed", "l", "w") in kinds(source))


def test_several_rules_may_shadow_one_together():
    """Each takes some of its values, and nothing is left."""
    better = [{"id": f"b{value}", "attributesMatch": {"model": value}, "priority": 1} for value in "ab"]
    both = {"id": "both", "attributesMatch": {"model": ["a", "b"]}}
    rest = {"id": "rest", "priority": -1}
    assert [("shadowed", "both", "ba", "bb")] == kinds(pages(*better, both, rest))
    assert "ba (priority 0 is below 1) or bb (priority 0 is below 1)" in messages(pages(*better, both, rest))[0]
    assert [] == kinds(pages(better[0], both, rest))


conditions = st.dictionaries(
    st.sampled_from(["model", "tier"]), st.lists(st.sampled_from("ab"), min_size=1, unique=True), max_size=2
)


@given(st.lists(st.tuples(conditions, st.integers(0, 2)), min_size=1, max_size=5))
def test_a_rule_is_shadowed_exactly_when_no_attributes_choose_it(listed):
    """Against every combination of the values there are, one that no rule names, and none."""
    rules = [
        {"id": f"r{n}", "attributesMatch": match, "priority": priority} for n, (match, priority) in enumerate(listed)
    ]
    profile = PriceProfile.load(pages(*rules))
    chosen = set()
    for model, tier in product(["a", "b", "other", None], repeat=2):
        attributes = {key: value for key, value in (("model", model), ("tier", tier)) if value is not None}
        chosen.update(profile.price({"pages": 1}, attributes, "RUNTIME").rule_ids)
    shadowed = {finding.rule_ids[0] for finding in lint(profile) if finding.kind == "shadowed"}
    assert {rule.id for rule in profile.rules} - chosen == shadowed


def test_a_rule_that_nothing_matches_is_unreachable():
    """An empty list of values is met by none."""
    source = pages({"id": "never", "attributesMatch": {"model": []}}, {"id": "pages"})
    assert [("unreachable", "never")] == kinds(source)
    assert ["rule never is never chosen: its list of values for model is empty, and nothing matches it"] == messages(
        source
    )


def test_a_disabled_rule_is_nobody_s_rival():
    """It neither shadows nor is shadowed."""
    assert [] == kinds(pages({"id": "off", "status": "disabled", "priority": 9}, {"id": "on"}))
    assert [] == kinds(pages({"id": "off", "status": "disabled"}, {"id": "on", "priority": 9}))


def test_two_rules_of_one_id_are_named():
    """Pricing refuses such a profile at the first; here the rest is looked over too."""
    source = document(*SOUND, {"id": "in", "dimensionKey": "pages", "attributesMatch": {"model": "a"}})
    assert [("duplicate-id", "in"), ("only-some-attributes", "in")] == kinds(source)
    with pytest.raises(PricingError):
        PriceProfile.load(source)


def test_a_hash_that_is_not_the_rules_is_named():
    """With both hashes, so that one can be put right."""
    source = document(*SOUND, rulesetHash="0" * 64)
    right = PriceProfile.load(source).ruleset_hash
    assert [f"profile v7 states the rulesetHash {'0' * 64}, but its rules have {right}"] == messages(source)
    assert [] == messages({**source, "rulesetHash": right})


def test_what_every_model_call_reports_must_have_a_rule():
    """Input and output; without a rule for any pool of tokens the profile is not about models."""
    assert [("no-rule",)] == kinds(document(*(rule for rule in SOUND if rule["id"] != "out")))
    assert ["llm_output_tokens: no active rule, and every model call reports it"] == messages(
        document(*({**rule, "status": "disabled" if rule["id"] == "out" else "active"} for rule in SOUND))
    )
    assert [] == kinds(pages({"id": "p"})) == kinds(document())


def test_a_pool_without_a_rule_is_charged_as_its_parent():
    """One may mean that, so it is a note."""
    findings = lint(document(*SOUND[:2]))
    assert [False, False, False] == [finding.is_problem for finding in findings]
    assert "llm_reasoning_tokens: no active rule; the meter charges it as llm_output_tokens" == findings[2].message
    # Where the parent has no rule either, that is the finding.
    assert ["no-rule"] == [finding.kind for finding in lint(document(SOUND[0], SOUND[2], SOUND[3]))]


def test_the_parents_are_those_that_usage_folds_into():
    """Pools and profiles know nothing of each other; what the one folds, the other must say."""
    folded = {
        name: next(iter(Usage(**{pool: 7}).measured(lambda _: False)))
        for pool, name in [(name.removeprefix("llm_"), name) for name in PARENTS]
    }
    assert folded == {name: parent or name for name, parent in PARENTS.items()}


def test_a_dimension_that_only_some_attributes_price_is_named():
    """A model that the vendor has not met has no price; for pools with a parent the parent answers."""
    some = [{**rule, "attributesMatch": {"model": "a"}} for rule in SOUND]
    assert [("only-some-attributes", "in"), ("only-some-attributes", "out")] == kinds(document(*some))
    assert (
        "llm_input_tokens: every rule asks for model, so that any other value has no price"
        == messages(document(*some))[0]
    )
    assert [] == kinds(document(*SOUND, *({**rule, "id": rule["id"] + "2", "priority": 1} for rule in some)))


def test_a_model_that_is_priced_in_part_is_named():
    """Input has a price for it, output has none."""
    rules = [
        {**SOUND[0], "attributesMatch": {"model": ["a", "b", "c", "d", "e"]}},
        {**SOUND[1], "attributesMatch": {"model": "a"}},
        *SOUND[2:],
    ]
    found = [finding for finding in lint(document(*rules)) if finding.kind == "priced-in-part"]
    assert [
        "llm_output_tokens: no rule for model=b, model=c, model=d and 1 more, which llm_input_tokens has a rule for"
    ] == [finding.message for finding in found]


def test_a_dimension_that_looks_mistyped_is_noted():
    """With the name that is probably meant; a dimension of one's own is nothing to remark."""
    source = document(*SOUND, {"id": "x", "dimensionKey": "llm_inputs_tokens"}, {"id": "y", "dimensionKey": "LLMx"})
    assert [
        "llm_inputs_tokens: not reported by any framework; llm_input_tokens is meant?",
        "LLMx: not reported by any framework",
    ] == messages(source)
    assert [] == messages(
        document(*SOUND, {"id": "r", "dimensionKey": "llm_requests"}, {"id": "p", "dimensionKey": "p"})
    )


def test_a_date_that_cannot_be_read_is_noted():
    """Because the rule then counts as the oldest."""
    source = document({**SOUND[0], "createdAt": "next week"}, *SOUND[1:])
    assert ["rule in: createdAt 'next week' cannot be read and counts as oldest"] == messages(source)


def test_problems_come_before_notes():
    """So that the first line is what matters."""
    source = document(SOUND[0], {**SOUND[1], "createdAt": "soon"}, rulesetHash="x")
    assert [True, False, False, False, False] == [finding.is_problem for finding in lint(source)]


def test_a_malformed_field_is_the_only_finding():
    """Nothing more can be said; where there is no profile at all, that is an error."""
    assert [("malformed", "in")] == kinds(document({**SOUND[0], "priority": "high"}))
    assert [("malformed",)] == kinds(json.dumps(document(eurPerCredit=0)))
    assert ["the price profile: eurPerCredit must be a number above 0, but is 0"] == messages(document(eurPerCredit=0))
    for nothing in ("{", "none.json", "[1]"):
        with pytest.raises(PricingError):
            lint(nothing)
