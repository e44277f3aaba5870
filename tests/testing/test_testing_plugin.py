"""The fixtures and the assertion, as a user's own tests have them."""

import subprocess
import sys
from pathlib import Path

import pytest

from countwerk_meter import Meter, testing
from countwerk_meter.testing import assert_books_balance

pytest_plugins = ["pytester"]


def test_the_plugin_has_a_ledger_a_meter_and_an_auditor(pytester):
    """Without a conftest: the plugin comes with the package."""
    pytester.makepyfile(
        """
        from countwerk_meter.testing import FaultTransport

        def test_a_reply_costs_three(countwerk_sandbox, meter, assert_books_balance):
            with meter.reserve("acct_test", "app.chat.reply", amount=5) as reservation:
                reservation.settle(3)
            with FaultTransport(meter) as faults:
                faults.drop_after("deduct")
                meter.deduct("acct_test", "app.export", 2)
            assert_books_balance(meter)
            assert 5 == countwerk_sandbox.control.books("acct_test")["spent"]

        def test_books_that_do_not_balance(countwerk_sandbox, meter, assert_books_balance):
            from countwerk_meter import CountwerkClient
            with CountwerkClient(countwerk_sandbox.api_key, countwerk_sandbox.url) as other:
                other.deduct("acct_test", "app.other", 7, "other-1")
            assert_books_balance(meter)
        """
    )
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(["*acct_test: the meters say 0 credits are settled, and the ledger charged 7*"])


def test_the_plugin_loads_neither_ledger_nor_kit(tmp_path):
    """Every run of pytest pays for what it imports."""
    code = (
        "import sys, countwerk_meter.testing.plugin\n"
        "heavy = ('starlette', 'uvicorn', 'countwerk_meter.sandbox', 'countwerk_meter.testing.')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert "['countwerk_meter.testing.plugin']\n" == done.stdout, done.stdout + done.stderr


@pytest.fixture
def rich(countwerk_sandbox):
    countwerk_sandbox.control.account("acct_1", balance=100, ai_product_id="prod_1")
    return countwerk_sandbox


def test_a_hold_that_is_left_is_named(rich, meter):
    """With its account."""
    reservation = meter.reserve("acct_1", "app.chat", amount=5).begin()
    with pytest.raises(AssertionError, match="acct_1: 5 credits are still held"):
        assert_books_balance(rich, meter, timeout=0.2)
    reservation.finish_now()


def test_credits_that_the_ledger_does_not_know_are_named(rich):
    """A journal that says settled, on a ledger that began anew."""
    with Meter("prod_1", api_key=rich.api_key, base_url=rich.url, journal="memory:") as meter:
        meter.deduct("acct_1", "app.export", 3)
        rich.control.reset()
        with pytest.raises(AssertionError, match="acct_1: 3 credits are settled, and the ledger does not know it"):
            assert_books_balance(rich, meter)


def test_a_meter_that_cannot_settle_is_named(rich):
    """What is on its way is no balance."""
    with Meter("prod_1", api_key=rich.api_key, base_url=rich.url, journal="memory:") as meter:
        rich.control.faults([{"path": "/api/credits/confirm-reservation", "kind": "drop_before", "times": 99}])
        with meter.reserve("acct_1", "app.chat", amount=5):
            pass
        with pytest.raises(AssertionError, match=r"has not settled everything within 0\.2 s"):
            assert_books_balance(rich, meter, timeout=0.2)
        rich.control.faults([])
        assert meter.flush(20)
        assert_books_balance(rich, meter)


def test_only_what_is_public_is_there():
    """By name, and imported when it is first used."""
    assert ["FaultTransport", "JournalConformance", "assert_books_balance"] == testing.__all__
    assert all(getattr(testing, name) for name in testing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        testing.Nothing  # noqa: B018


def test_the_readmes_tests_pass(pytester):
    """As they stand there."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    section = readme.split("<!-- testing -->\n```python\n", 1)[1].split("```", 1)[0]
    pytester.makepyfile(section)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)
