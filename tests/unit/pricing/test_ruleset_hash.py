"""
The hash of a ruleset, against figures that Node computed.

`vendor.js` in this folder is where they come from; it and these tests read the same `inputs.json`.
"""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from countwerk_meter.pricing import PriceProfile
from countwerk_meter.pricing._ruleset_hash import canonical

PROFILES = json.loads((Path(__file__).parent / "inputs.json").read_text(encoding="utf-8"), parse_float=Decimal)[
    "profiles"
]
HASHES = {
    "empty": "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945",
    "one plain rule": "72bf0629c64e25e3a7ddb125148c602ffaee722318753920ef8078073d405e45",
    "disabled left out": "72bf0629c64e25e3a7ddb125148c602ffaee722318753920ef8078073d405e45",
    "dates and unknown fields left out": "72bf0629c64e25e3a7ddb125148c602ffaee722318753920ef8078073d405e45",
    "small and large numbers": "c174317efc8bca472870faf06cc2d3b012966794041f8dee0f13dfd0353d1c89",
    "order of dimensions and ids": "7ed903c091f4ac48e041c2757bf59a3bca9696ee2c39c95799032db95320b9a7",
    "attributes": "0ef75604d3f3b34ee4363e801bc111ea0f28f1534c730e288d302a83135e5718",
    "letters beyond ASCII": "eaa75bfab1eb0ca8cd6537ad5b13f14deacf3d1b0c28d14954154afd1672bec2",
    "lone surrogates": "f60e383e86aeba1f58ed0468a62015fa0904733b8406060113da0c243289a9c1",
    "unknown status": "24b56d7b8ae608388a1e723eac8dd88c2ad37688398dbbb597a0d82f8eaa90b9",
    "nulls": "78a949d926337b056188ef3e75fc0e6bdfd43f4c0d7fc7eda18459556e128eae",
}


def test_every_profile_has_its_figure():
    """A profile added to the inputs needs a figure from Node."""
    assert list(HASHES) == list(PROFILES)


@pytest.mark.parametrize("name", HASHES)
def test_the_hash_is_the_vendor_s(name):
    """Byte for byte what JavaScript hashes."""
    assert HASHES[name] == PriceProfile.load(PROFILES[name]).ruleset_hash


@pytest.mark.parametrize("name", HASHES)
def test_the_order_of_the_rules_in_the_profile_is_no_matter(name):
    """The same rules in another order are the same ruleset."""
    document = PROFILES[name]
    assert HASHES[name] == PriceProfile.load({**document, "rateRules": document["rateRules"][::-1]}).ruleset_hash


def test_surrogates_that_stand_in_pairs_are_one_character():
    """A mapping made in Python may hold halves that JavaScript would never see apart."""
    rule = {"id": "\ud83d\ude00", "dimensionKey": "d", "creditsPerUnit": 1}
    halves = PriceProfile.load({"profileVersionId": "v", "eurPerCredit": 1, "rateRules": [rule]})
    assert "\U0001f600" == halves.rules[0].id
    assert '"id":"\U0001f600"' in canonical(halves.rules)


def test_the_canonical_text_can_be_read():
    """What is hashed, spelled out once."""
    rules = PriceProfile.load(PROFILES["attributes"]).rules
    assert (
        '[{"attributesMatch":{"Region":["eu","z","ä"],"empty":[],"model":["GPT-4","gpt-5","gpt-5-mini"],"tier":"pro"},'
        '"costPerUnitEur":null,"creditsPerUnit":1,"dimensionKey":"llm_input_tokens","id":"in","priority":0,"status":"active"}]'
    ) == canonical(rules)
