"""Every example runs as a user would run it: by itself, against a sandbox of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def run(script, **environment):
    own = {key: value for key, value in os.environ.items() if not key.startswith("COUNTWERK_")}
    return subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env=own | environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_all_seven_are_there():
    """So that none is lost, and each of them is run below."""
    assert {
        "custom_call",
        "fastapi_app",
        "fastapi_credits",
        "langchain_chain",
        "langgraph_topup",
        "purchase_links",
        "streaming",
    } <= {script.stem for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_it_runs(script):
    """Exit code 0, something to read, no traceback (LangChain logs a denial), and no purchase URL."""
    done = run(script)
    assert 0 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) > 3
    assert "://" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["custom_call", "purchase_links", "streaming"])
def test_it_runs_against_a_ledger_that_is_given(name, countwerk_sandbox, tmp_path):
    """With COUNTWERK_BASE_URL it charges the account that the environment names, and leaves nothing held."""
    control = countwerk_sandbox.control
    control.account("acct_given", balance=100, ai_product_id="prod_given", order_id="order_given")
    done = run(
        EXAMPLES / f"{name}.py",
        COUNTWERK_BASE_URL=countwerk_sandbox.url,
        COUNTWERK_API_KEY=countwerk_sandbox.api_key,
        COUNTWERK_AI_PRODUCT_ID="prod_given",
        COUNTWERK_EXAMPLE_ACCOUNT="acct_given",
        COUNTWERK_EXAMPLE_ORDER="order_given",
        COUNTWERK_JOURNAL=f"sqlite:///{tmp_path}/journal.db",
    )
    assert 0 == done.returncode, done.stderr
    books = control.books("acct_given")
    spent = {"custom_call": 9, "purchase_links": 0, "streaming": 14}[name]
    assert (spent, 0) == (books["spent"], books["reserved"])
