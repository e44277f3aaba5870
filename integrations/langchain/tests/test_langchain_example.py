"""The example and the README's code run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from countwerk_meter_langchain import CountwerkCallbackHandler

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[2] / "examples" / "langchain_chain.py"


def run(**environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COUNTWERK_")}
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_example_on_a_sandbox_of_its_own():
    """It starts a ledger, prints what was charged, and ends with 0."""
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("charged:") == 4
    assert "denied:" in done.stdout
    assert "7 spent, 0 held, 93 left" in done.stdout


def test_example_on_a_given_ledger(countwerk_sandbox):
    """With COUNTWERK_BASE_URL it uses that ledger."""
    countwerk_sandbox.control.account("acct_123", balance=50, ai_product_id="prod_demo")
    done = run(
        COUNTWERK_BASE_URL=countwerk_sandbox.url,
        COUNTWERK_API_KEY=countwerk_sandbox.api_key,
        COUNTWERK_AI_PRODUCT_ID="prod_demo",
        COUNTWERK_JOURNAL="memory:",
    )
    assert done.returncode == 0, done.stderr
    books = countwerk_sandbox.control.books("acct_123")
    assert (books["spent"], books["reserved"]) == (7, 0)


def blocks():
    return re.findall(r"```python\n(.*?)```", (HERE.parent / "README.md").read_text(), re.DOTALL)


def test_readme_on_agents(bench, fakes):
    """The README's agent is metered."""
    bench.sandbox.control.account("acct_123", balance=100)
    _, code = blocks()
    given = {"model": fakes.Chat(), "tools": [], "meter": bench.meter}
    exec(compile(code, "README.md", "exec"), given)
    given["agent"].invoke({"messages": [("human", "x")]})
    assert bench.audit("acct_123").spent == 6


@pytest.mark.parametrize("balance", [100, 0])
def test_readme(bench, fakes, capsys, monkeypatch, balance):
    """The README's code meters a model, or prints the payload of the denial."""
    bench.sandbox.control.account("acct_123", balance=balance)
    monkeypatch.setattr("countwerk_meter.Meter.from_env", lambda: bench.meter)
    model = fakes.Chat()
    exec(compile(blocks()[0], "README.md", "exec"), {"model": model})
    assert len(model.calls) == (1 if balance else 0)
    assert ("not enough credits" in capsys.readouterr().out) is not bool(balance)
    assert bench.audit("acct_123").spent == (6 if balance else 0)


def test_langchain_core_is_enough():
    """Neither langchain nor langgraph is imported by the handler, and the middleware says what it needs."""
    source = """
import sys
import countwerk_meter_langchain
assert not {"langchain", "langgraph"} & set(sys.modules), "imported"
sys.modules["langchain"] = sys.modules["langchain.agents"] = None
try:
    from countwerk_meter_langchain import CountwerkAgentMiddleware
except ImportError as error:
    assert "countwerk-meter-langchain[agents]" in str(error), error
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_signature():
    """The names that users type."""
    import inspect

    names = list(inspect.signature(CountwerkCallbackHandler).parameters)
    assert names[:6] == ["meter", "account_id", "operation", "amount", "price", "account_from_metadata"]
