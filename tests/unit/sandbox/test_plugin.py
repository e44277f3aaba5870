"""The pytest plugin, and that the sandbox stands on its own feet."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import countwerk_meter.sandbox

SANDBOX = Path(countwerk_meter.sandbox.__file__).parent


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_gets_a_fresh_ledger(countwerk_sandbox, turn):
    """What one test did, the next does not see."""
    assert countwerk_sandbox.control.all_books()["totals"]["accounts"] == 0
    assert countwerk_sandbox.control.requests()["counts"] == {}
    countwerk_sandbox.control.account("acct", balance=turn)
    countwerk_sandbox.control.faults([{"kind": "drop_before", "times": None}])


def test_the_fixture_serves_with_its_key(countwerk_sandbox, call):
    """URL and key are ready to be used."""
    status, _ = call("credits/balance", account_id="acct")

    assert status == 200


def test_a_fresh_ledger_is_cheap(countwerk_sandbox):
    """Emptying the ledger is what a test pays."""
    begun = time.perf_counter()
    for _ in range(10):
        countwerk_sandbox.control.account("acct", balance=1)
        countwerk_sandbox.control.reset()

    assert (time.perf_counter() - begun) / 10 < 0.2


def test_the_plugin_costs_nothing_until_it_is_used():
    """Loading it imports neither the sandbox nor what the sandbox needs."""
    code = (
        "import sys, countwerk_meter\nbefore = set(sys.modules)\nimport countwerk_meter.testing.plugin\n"
        "print([name for name in set(sys.modules) - before if name.startswith(('starlette', 'uvicorn', "
        "'countwerk_meter.')) and not name.startswith('countwerk_meter.testing')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", sorted(SANDBOX.glob("*.py")), ids=lambda path: path.name)
def test_the_sandbox_shares_no_code_with_the_meter(module):
    """An auditor that imported the meter would repeat its mistakes."""
    names = []
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]

    assert [
        name for name in names if name.startswith("countwerk_meter") and not name.startswith("countwerk_meter.sandbox")
    ] == []
