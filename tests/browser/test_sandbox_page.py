"""
The sandbox's page in a real Chromium: its script runs under its policy, and what it shows keeps up.

Runs where COUNTWERK_TEST_CHROMIUM names the binary; tests/unit/sandbox/test_page.py reads the page everywhere.
"""

import os
import re

import pytest

from countwerk_meter.sandbox import SandboxServer

CHROMIUM = os.environ.get("COUNTWERK_TEST_CHROMIUM")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="COUNTWERK_TEST_CHROMIUM names no Chromium")

EVIL = "<script>document.title='broken in'</script>"


@pytest.fixture
def render(chromium):
    """Load a page, let its timers run for some virtual seconds, and give (DOM, what the console said)."""
    return lambda url, seconds: chromium(url, f"--virtual-time-budget={seconds * 1000:.0f}", "--dump-dom")


def test_the_page_runs_its_script_and_nobody_else_s(render):
    """The button appears, an account's name stays text, and the policy has nothing to complain of."""
    with SandboxServer() as server:
        server.control.account(EVIL, balance=100)
        dom, console = render(server.url, 0.5)

    assert console == ""
    assert "<title>CountWerk sandbox</title>" in dom
    assert re.search(r'<button type="button" id="pause">Pause updates</button>', dom)


def test_the_page_keeps_up_with_the_ledger(render):
    """Each look at the clock is a minute later, so a page that was refreshed shows a later minute."""
    looks = iter(range(10_000))
    with SandboxServer(now=lambda: 1_700_000_000 // 3600 * 3600 + 60 * next(looks)) as server:
        server.control.account("acct", balance=100)
        first_look = next(looks) + 1
        dom, console = render(server.url, 7)
    shown = re.search(r'id="clock" data-live="">\s*<time datetime="[\d-]+T\d\d:(\d\d)', dom)

    assert console == ""
    assert int(shown[1]) > first_look
    assert "acct" in dom
