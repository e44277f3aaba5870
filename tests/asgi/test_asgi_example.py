"""The FastAPI example runs as a user would run it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_app.py"


@pytest.mark.parametrize("starts", [True, False], ids=["own sandbox", "given ledger"])
def test_it_runs(countwerk_sandbox, starts):
    """It serves itself, shows a summary, a stream and a 402, and accounts for every credit."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("COUNTWERK_")}
    if not starts:
        env |= {"COUNTWERK_BASE_URL": countwerk_sandbox.url, "COUNTWERK_API_KEY": countwerk_sandbox.api_key}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "stream:  Hello from 7\n" in done.stdout
    assert "film:    402 app.film needs 1000000 credits\n" in done.stdout
    assert "balance: 100 before, 95 after\n" in done.stdout


def test_it_can_be_served(countwerk_sandbox, monkeypatch, tmp_path):
    """`app` is made from the environment when a server asks for it."""
    monkeypatch.setenv("COUNTWERK_BASE_URL", countwerk_sandbox.url)
    monkeypatch.setenv("COUNTWERK_API_KEY", countwerk_sandbox.api_key)
    monkeypatch.setenv("COUNTWERK_AI_PRODUCT_ID", "prod_1")
    monkeypatch.setenv("COUNTWERK_JOURNAL", f"sqlite:///{tmp_path}/journal.db")
    spec = importlib.util.spec_from_file_location("fastapi_app_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = module.app
    app.user_middleware[0].kwargs["meter"].close()
    assert app.title == "Credits"
    assert not hasattr(module, "no_such_name")
