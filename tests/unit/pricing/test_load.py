"""Reading a profile: from where, with which types, and what is said when it will not do."""

import copy
import json
from decimal import Decimal
from pathlib import Path

import pytest

from countwerk_meter.errors import PricingError
from countwerk_meter.pricing import PriceProfile

RULE = {"id": "in", "dimensionKey": "llm_input_tokens", "creditsPerUnit": 0.00023}
PROFILE = {"profileVersionId": "v7", "eurPerCredit": 0.01, "rateRules": [RULE]}


def profile(**changes):
    return {**PROFILE, **changes}


def with_rule(**changes):
    return profile(rateRules=[{**RULE, **changes}])


def without(field):
    return {key: value for key, value in PROFILE.items() if key != field}


def refusal(source):
    with pytest.raises(PricingError) as caught:
        PriceProfile.load(source)
    assert "INVALID_PROFILE" == caught.value.code
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_a_profile_is_read_from_path_text_and_mapping(tmp_path, bom):
    """The four ways to hand a profile over give the same one, with or without a byte order mark."""
    text = bom + json.dumps(PROFILE)
    path = tmp_path / "prices.json"
    path.write_text(text, encoding="utf-8")

    hashes = {PriceProfile.load(source).ruleset_hash for source in (path, str(path), text, f" \n{text}", PROFILE)}
    assert 1 == len(hashes)
    loaded = PriceProfile.load(path)
    assert ("v7", Decimal("0.01"), None) == (loaded.profile_version_id, loaded.eur_per_credit, loaded.engine_version)
    assert "PriceProfile('v7', 1 rules, 72bf0629c64e)" == repr(loaded)


def test_numbers_are_exactly_as_written():
    """Digits that no double holds survive; a float in a mapping counts as its shortest form."""
    text = (
        '{"profileVersionId":"v","eurPerCredit":0.010,"rateRules":[{"id":"a","dimensionKey":"d","creditsPerUnit":%s}]}'
    )
    exact = "0.1234567890123456789012345"
    assert Decimal(exact) == PriceProfile.load(text % exact).rules[0].credits_per_unit
    assert Decimal("3E-7") == PriceProfile.load(text % "3e-7").rules[0].credits_per_unit
    assert Decimal("0.1") == PriceProfile.load(with_rule(creditsPerUnit=0.1)).rules[0].credits_per_unit


def test_unknown_fields_are_passed_over():
    """The vendor adds fields."""
    loaded = PriceProfile.load(profile(currency={"x": 1}, metadata=[1], rateRules=[{**RULE, "tags": None}]))
    assert "in" == loaded.rules[0].id


def test_optional_fields_may_be_null():
    """Null says the same as leaving a field out."""
    nulls = dict.fromkeys(["costPerUnitEur", "attributesMatch", "priority", "status", "createdAt"])
    rule = PriceProfile.load({**with_rule(**nulls), "rulesetHash": None, "engineVersion": None}).rules[0]
    assert (None, (), 0, "active", None) == (
        rule.cost_per_unit_eur,
        rule.attributes_match,
        rule.priority,
        rule.status,
        rule.created_at,
    )


def test_every_field_of_a_rule_is_read():
    """A full rule keeps all that it says."""
    full = with_rule(
        costPerUnitEur=1.5e-6,
        attributesMatch={"model": ["a", "b"], "tier": "pro"},
        priority=-2,
        status="disabled",
        createdAt="2026-01-01",
    )
    rule = PriceProfile.load({**full, "engineVersion": "e1"}).rules[0]
    assert Decimal("0.0000015") == rule.cost_per_unit_eur
    assert (("model", ("a", "b")), ("tier", "pro")) == rule.attributes_match
    assert (-2, "disabled", True, "2026-01-01") == (rule.priority, rule.status, rule.disabled, rule.created_at)


def test_no_rules_is_a_profile_that_prices_nothing():
    """An empty list is odd but sound."""
    assert not PriceProfile.load(profile(rateRules=[])).prices("llm_input_tokens")


@pytest.mark.parametrize(
    ("source", "field", "message"),
    [
        (without("profileVersionId"), "profileVersionId", "must be a non-empty text, but is missing"),
        (profile(profileVersionId=7), "profileVersionId", "must be a non-empty text, but is 7"),
        (profile(profileVersionId=""), "profileVersionId", 'must be a non-empty text, but is ""'),
        (without("eurPerCredit"), "eurPerCredit", "must be a number above 0, but is missing"),
        (profile(eurPerCredit=0), "eurPerCredit", "must be a number above 0, but is 0"),
        (profile(eurPerCredit=-1), "eurPerCredit", "must be a number above 0, but is -1"),
        (profile(eurPerCredit="0.01"), "eurPerCredit", 'must be a number above 0, but is "0.01"'),
        (profile(eurPerCredit=True), "eurPerCredit", "must be a number above 0, but is true"),
        (profile(eurPerCredit=float("nan")), "eurPerCredit", "must be a number above 0, but is nan"),
        (without("rateRules"), "rateRules", "must be a list, but is missing"),
        (profile(rateRules={}), "rateRules", "must be a list, but is an object"),
        (profile(rateRules=None), "rateRules", "must be a list, but is null"),
        (profile(engineVersion=2), "engineVersion", "must be a text, but is 2"),
        (profile(rulesetHash=[]), "rulesetHash", "must be a text, but is a list"),
        (profile(rateRules=[RULE, 5]), "rateRules", r"rateRules\[1\] must be an object, but is 5"),
        (profile(rateRules=[None]), "rateRules", r"rateRules\[0\] must be an object, but is null"),
        (profile(rateRules=[{**RULE, "id": None}]), "id", r"rateRules\[0\]: id must be a non-empty text, but is null"),
    ],
)
def test_a_wrong_field_of_the_profile_is_named(source, field, message):
    """One sentence says which field, what it must be and what it is."""
    error = refusal(source)
    assert field == error.field
    assert error.rule_id is None
    error_text = str(error)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error_text)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"dimensionKey": 3}, "dimensionKey", "must be a non-empty text, but is 3"),
        ({"dimensionKey": ""}, "dimensionKey", 'must be a non-empty text, but is ""'),
        ({"creditsPerUnit": None}, "creditsPerUnit", "must be a number of at least 0, but is null"),
        ({"creditsPerUnit": "1"}, "creditsPerUnit", 'must be a number of at least 0, but is "1"'),
        ({"creditsPerUnit": False}, "creditsPerUnit", "must be a number of at least 0, but is false"),
        ({"creditsPerUnit": -0.1}, "creditsPerUnit", "must be a number of at least 0, but is -0.1"),
        ({"creditsPerUnit": float("inf")}, "creditsPerUnit", "must be a number of at least 0, but is inf"),
        ({"creditsPerUnit": Decimal("1e400")}, "creditsPerUnit", "must be a number of at least 0, but is 1E+400"),
        ({"creditsPerUnit": Decimal("1e-400")}, "creditsPerUnit", "must be a number of at least 0, but is 1E-400"),
        ({"creditsPerUnit": 10**400}, "creditsPerUnit", "must be a number of at least 0, but is 1000000"),
        ({"creditsPerUnit": Decimal("1." + "1" * 200)}, "creditsPerUnit", "must be a number of at least 0"),
        ({"costPerUnitEur": -1}, "costPerUnitEur", "must be a number of at least 0, but is -1"),
        ({"costPerUnitEur": {}}, "costPerUnitEur", "must be a number of at least 0, but is an object"),
        ({"priority": "high"}, "priority", 'must be a number, but is "high"'),
        ({"status": 1}, "status", "must be a text, but is 1"),
        ({"attributesMatch": []}, "attributesMatch", "must be an object whose values are texts or lists of texts"),
        ({"attributesMatch": {"model": 5}}, "attributesMatch", "must be an object whose values are"),
        ({"attributesMatch": {"model": ["a", 5]}}, "attributesMatch", "must be an object whose values are"),
        ({"attributesMatch": {"model": None}}, "attributesMatch", "must be an object whose values are"),
    ],
)
def test_a_wrong_field_of_a_rule_is_named_with_the_rule(changes, field, message):
    """The rule's id comes first, so that it can be found among fifty."""
    error = refusal(with_rule(**changes))
    assert ("in", field) == (error.rule_id, error.field)
    assert f"rule in: {field} {message}" in str(error)


def test_two_rules_with_one_id_are_refused():
    """Which of them was used could not be told; a disabled one counts too."""
    error = refusal(profile(rateRules=[RULE, {**RULE, "status": "disabled"}]))
    assert ("in", "id") == (error.rule_id, error.field)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_python_s_own_json_constants_are_refused(constant):
    """JSON has no such numbers, whatever Python's reader thinks."""
    text = json.dumps(PROFILE).replace("0.01", constant)
    assert f"the price profile is not readable JSON: {constant} is not a number" == str(refusal(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the price profile is not readable JSON: Expecting property name"),
        ('{"a": }', "the price profile is not readable JSON: Expecting value"),
        ("[1]", "the price profile must hold a JSON object, not a list"),
        ('{"a":' + "[" * 200_000, "the price profile is nested too deeply"),
    ],
)
def test_text_that_is_no_profile_is_refused(text, message):
    """What begins with a brace or a bracket is JSON, not a path."""
    assert message in str(refusal(text))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    """A missing file, a folder and a binary file each say so, with the path."""
    missing, binary = tmp_path / "none.json", tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")

    assert f"the price profile {missing} cannot be read: No such file or directory" == str(refusal(missing))
    assert f"the price profile {tmp_path} cannot be read: Is a directory" == str(refusal(str(tmp_path)))
    assert f"the price profile {binary} cannot be read: 'utf-8' codec" in str(refusal(binary))
    assert "cannot be read" in str(refusal(""))
    assert "cannot be read" in str(refusal("no\0path"))


def test_a_file_that_holds_no_object_is_named(tmp_path):
    """The path is in the message, because a project may have several profiles."""
    path = tmp_path / "prices.json"
    path.write_text('"prices"', encoding="utf-8")
    assert f'the price profile {path} must hold a JSON object, not "prices"' == str(refusal(path))


def test_a_long_value_is_cut_in_the_message():
    """A sentence stays a sentence."""
    assert len(str(refusal(profile(eurPerCredit="x" * 5000)))) < 200


def test_loading_leaves_the_mapping_alone():
    """The caller's document is not changed."""
    source = with_rule(attributesMatch={"model": ["b", "a"]})
    before = copy.deepcopy(source)
    PriceProfile.load(source)
    assert before == source


def test_the_example_profile_states_its_own_hash():
    """The profile that examples use is sound: its stated hash was computed by Node."""
    example = PriceProfile.load(Path(__file__).parents[3] / "examples" / "prices.json")
    assert example.stated_hash == example.ruleset_hash
    assert (
        Decimal("0.83") == example.price({"llm_input_tokens": 1500, "llm_output_tokens": 400}, {"model": "gpt-5"}).total
    )
