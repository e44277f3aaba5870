"""A fork while a thread behind the app imports something leaves the child half a module: so none of them imports."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading
imported = []
def hear(event, values):
    if event == "import" and threading.current_thread() is not threading.main_thread():
        imported.append((threading.current_thread().name, values[0]))
from countwerk_meter import Meter
url, key, path = sys.argv[1:]
meter = Meter("product_1", api_key=key, base_url=url, journal=f"sqlite:///{path}")
sys.addaudithook(hear)
with meter.reserve("acct_1", "app.chat", amount=2):
    pass
with meter.reserve("acct_1", "app.chat", amount=2) as given_back:
    given_back.cancel()
assert meter.flush(10)
meter.close()
assert not imported, imported
"""


@pytest.mark.parametrize("transport", ["httpx", "fast"])
def test_no_thread_behind_the_app_imports_anything(bench, transport, monkeypatch):
    """Found under load: the child's settlement failed with ImportError, and its charge waited for another process."""
    monkeypatch.setenv("COUNTWERK_TRANSPORT", transport)
    url = bench.sandbox.url.replace("127.0.0.1", "localhost")
    command = [sys.executable, "-c", SCRIPT, url, bench.sandbox.api_key, str(bench.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    assert 2 == bench.books()["spent"]
