"""Which rule prices a dimension, and why the others do not."""

import pytest

from countwerk_meter.pricing import PriceProfile


def profile(*rules):
    """Rules of the dimension `d`, given by what sets them apart."""
    listed = [{"dimensionKey": "d", "creditsPerUnit": 1, **rule} for rule in rules]
    return PriceProfile.load({"profileVersionId": "v", "eurPerCredit": 1, "rateRules": listed})


def chosen(loaded, **attributes):
    price = loaded.price({"d": 1}, attributes, "RUNTIME")
    return price.rule_ids[0] if price.rule_ids else None


def test_the_dimension_must_be_the_same():
    """A rule for another dimension is no candidate, however alike the name."""
    assert chosen(profile({"id": "a", "dimensionKey": "D"}, {"id": "b", "dimensionKey": "d "})) is None


@pytest.mark.parametrize(
    ("match", "attributes", "matches"),
    [
        ({}, {}, True),
        ({}, {"model": "x"}, True),
        ({"model": "gpt-5"}, {"model": "gpt-5"}, True),
        ({"model": "gpt-5"}, {"model": "gpt-5", "tier": "pro"}, True),
        ({"model": "gpt-5"}, {"model": "GPT-5"}, False),
        ({"model": "gpt-5"}, {"model": "gpt-5-mini"}, False),
        ({"model": "gpt-5"}, {}, False),
        ({"model": ["gpt-5", "o3"]}, {"model": "o3"}, True),
        ({"model": ["gpt-5", "o3"]}, {"model": "o4"}, False),
        ({"model": ["gpt-5"]}, {}, False),
        ({"model": []}, {"model": "gpt-5"}, False),
        ({"model": "gpt-5", "tier": "pro"}, {"model": "gpt-5", "tier": "pro"}, True),
        ({"model": "gpt-5", "tier": "pro"}, {"model": "gpt-5"}, False),
        ({"model": "gpt-5", "tier": "pro"}, {"tier": "pro"}, False),
        ({"model": ""}, {}, False),
        ({"model": ""}, {"model": ""}, True),
    ],
)
def test_every_attribute_must_be_there_and_equal(match, attributes, matches):
    """A list is met by any of its values; a missing attribute meets nothing."""
    loaded = profile({"id": "a", "attributesMatch": match})
    assert ("a" if matches else None) == chosen(loaded, **attributes)
    assert matches is loaded.prices("d", attributes)


def test_attributes_may_be_left_out_altogether():
    """None is no attributes, which only rules without conditions match."""
    assert profile({"id": "a"}).prices("d")
    assert not profile({"id": "a", "attributesMatch": {"model": "x"}}).prices("d")


@pytest.mark.parametrize("odd", [None, 5, ["gpt-5"]])
def test_an_attribute_that_is_no_text_matches_nothing(odd):
    """Untyped callers get no match instead of a crash."""
    assert chosen(profile({"id": "a", "attributesMatch": {"model": ["gpt-5", "5"]}}), model=odd) is None


def test_a_disabled_rule_never_matches():
    """Not even where it is the only one, or has the highest priority."""
    loaded = profile({"id": "a", "status": "disabled", "priority": 9}, {"id": "b"})
    assert "b" == chosen(loaded)
    assert not profile({"id": "a", "status": "disabled"}).prices("d")


def test_an_unknown_status_counts_as_active():
    """Only `disabled` switches a rule off; the vendor may add states."""
    assert "a" == chosen(profile({"id": "a", "status": "beta"}))


RULES = [
    # the winner, the loser
    ({"id": "z", "priority": 1, "createdAt": "2020"}, {"id": "a", "createdAt": "2026"}),
    ({"id": "z"}, {"id": "a", "priority": -1}),
    ({"id": "z", "priority": 2.5}, {"id": "a", "priority": 2}),
    ({"id": "z", "priority": 0}, {"id": "a", "priority": -0.5}),
    ({"id": "z", "createdAt": "2026-01-02"}, {"id": "a", "createdAt": "2026-01-01"}),
    ({"id": "z", "createdAt": "2026-01-01T00:00:00.001Z"}, {"id": "a", "createdAt": "2026-01-01"}),
    ({"id": "z", "createdAt": "2026-01-01T00:00:00-01:00"}, {"id": "a", "createdAt": "2026-01-01T00:30:00Z"}),
    ({"id": "z", "createdAt": "1960"}, {"id": "a"}),
    ({"id": "z", "createdAt": "1960"}, {"id": "a", "createdAt": "last week"}),
    ({"id": "z", "createdAt": "1960"}, {"id": "a", "createdAt": 1_800_000_000_000}),
    ({"id": "a"}, {"id": "b"}),
    ({"id": "a", "createdAt": "soon"}, {"id": "b"}),
    ({"id": "B"}, {"id": "a"}),
    ({"id": "a", "createdAt": "2026-01-01"}, {"id": "b", "createdAt": "2026-01-01T01:00:00+01:00"}),
    # JavaScript compares by UTF-16 code unit, where a surrogate pair comes before the last of the single units.
    ({"id": "\U0001f600"}, {"id": "\uffee"}),
]


@pytest.mark.parametrize(("winner", "loser"), RULES)
def test_the_highest_then_the_newest_then_the_smallest_wins(winner, loser):
    """Priority, then creation (missing or unreadable: oldest), then id by code unit, in whatever order they are listed."""
    assert winner["id"] == chosen(profile(winner, loser)) == chosen(profile(loser, winner))


def test_a_rule_that_matches_beats_a_better_one_that_does_not():
    """Precedence is among the matches."""
    loaded = profile({"id": "model", "priority": 10, "attributesMatch": {"model": "x"}}, {"id": "fallback"})
    assert "model" == chosen(loaded, model="x")
    assert "fallback" == chosen(loaded, model="y")


def test_an_explanation_gives_each_loser_its_reason():
    """In the order of precedence, so that the next best comes first."""
    loaded = profile(
        {"id": "off", "status": "disabled", "priority": 99},
        {"id": "other", "attributesMatch": {"model": ["o3", "o4"]}, "priority": 9},
        {"id": "tiered", "attributesMatch": {"tier": "pro"}, "priority": 8},
        {"id": "nobody", "attributesMatch": {"model": []}, "priority": 7},
        {"id": "both", "attributesMatch": {"model": "gpt-5", "tier": "pro"}, "priority": 6},
        {"id": "won", "createdAt": "2026", "priority": 5},
        {"id": "xon", "createdAt": "2026", "priority": 5},
        {"id": "older", "createdAt": "2025", "priority": 5},
        {"id": "undated", "priority": 5},
        {"id": "low"},
        {"id": "elsewhere", "dimensionKey": "e"},
    )
    (explanation,) = loaded.explain({"d": 2}, {"model": "gpt-5"})
    assert ("d", 2, "won") == (explanation.dimension, explanation.quantity, explanation.rule.id)
    assert explanation.others == (
        ("off", "disabled"),
        ("other", "model is gpt-5, not o3 or o4"),
        ("tiered", "tier is missing: wants pro"),
        ("nobody", "model is gpt-5, not nothing"),
        ("both", "tier is missing: wants pro"),
        ("xon", "its id sorts after won"),
        ("older", "created before won"),
        ("undated", "created at an unknown time: counts as oldest"),
        ("low", "priority 0 is below 5"),
    )


def test_an_explanation_of_what_is_not_priced():
    """A quantity that is passed over takes no rule, an unmatched dimension has none."""
    loaded = profile({"id": "a"})
    passed_over, unmatched = loaded.explain({"d": 0, "e": 1})
    assert (None, None, (("a", "the quantity is passed over"),)) == (
        passed_over.quantity,
        passed_over.rule,
        passed_over.others,
    )
    assert (1, None, ()) == (unmatched.quantity, unmatched.rule, unmatched.others)
