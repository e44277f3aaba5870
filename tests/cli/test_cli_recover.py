"""`countwerk-meter recover` and `prune`: rows of dead processes, of another key, and rows that are old."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
import typer

from countwerk_meter import Meter
from countwerk_meter.cli.prune import age

DIES = """
import os
from countwerk_meter import Meter
meter = Meter.from_env()
block = meter.reserve("acct_cli", "app.open", amount=7, usage_event_id="event-1").begin()
block.settle(4)
block.checkpoint()
meter.charges()
os._exit(1)
"""


@pytest.fixture
def left(cli):
    """A process that died in the middle of a call, after a checkpoint."""
    environment = {**os.environ, **{k: v for k, v in cli.environment.items() if v is not None}}
    subprocess.run([sys.executable, "-c", DIES], env=environment, timeout=60, check=False)


def spent(cli):
    books = cli.control.books("acct_cli")
    return books["spent"], books["reserved"]


def test_nothing_is_left(cli):
    """Exit code 0."""
    cli.meter().close()
    done = cli("recover")
    assert (0, "Nothing to take over from dead processes.\n") == (done.code, done.out)


def test_what_a_dead_process_left_is_taken_over_and_settled(cli, left):
    """The checkpoint is charged, the rest of the hold is given back, and the call is named."""
    done = cli("recover")
    assert 0 == done.code
    said = " ".join(done.out.split())
    assert "Taken over from dead processes: 1 calls closed, 1 rows resumed, 0 holds in doubt" in said
    assert "event-1 acct_cli app.open 4 credits" in said
    assert (4, 0) == spent(cli)


def test_what_a_running_call_is_charged_can_be_chosen(cli, left):
    """As the app itself might have chosen."""
    done = cli("recover", "--on-crash", "cancel", "--json")
    assert (0, "lost") == (done.code, done.json["calls"][0]["state"])
    assert (0, 0) == spent(cli)
    assert 1 == cli("reconcile").code


def test_a_lost_call_is_shown_as_lost(cli, left):
    """With where to go on."""
    assert "lost: nothing charged, see reconcile" in " ".join(cli("recover", "--on-crash", "cancel").out.split())


def test_not_all_of_it_is_settled_yet(cli, left):
    """Exit code 1 while the ledger does not answer."""
    cli.control.faults([{"path": "*", "kind": "status", "status": 503, "probability": 1}])
    done = cli("recover", "--timeout", "0.3")
    assert (1, True) == (done.code, "Not all of it is settled yet: countwerk-meter settle" in done.out)


@pytest.fixture
def rotated(countwerk_sandbox, monkeypatch):
    """The ledger takes another key from now on."""
    return lambda: monkeypatch.setattr(countwerk_sandbox._app.ledger, "_api_key", b"cs_rotated")


def test_another_keys_rows_are_taken_over_by_a_persons_word(cli, left, rotated):
    """Not by themselves: nothing proves that both keys open the same accounts."""
    before = fingerprint(cli, "cs_sandbox")
    rotated()
    assert 1 == cli("settle", "--timeout", "0.3", COUNTWERK_API_KEY="cs_rotated").code
    done = cli("recover", COUNTWERK_API_KEY="cs_rotated")
    assert (0, (0, 7)) == (done.code, spent(cli))
    assert "begun under another API key" in done.out
    done = cli("recover", "--take-over-key", before, COUNTWERK_API_KEY="cs_rotated")
    assert "2 rows of the other API key are this key's now" in done.out
    assert "1 calls closed" in done.out
    assert {} == keys(cli)


def test_a_key_that_the_ledger_refuses_takes_nothing_over(cli, left):
    """Or a mistyped key would own what the right one has to settle."""
    before = fingerprint(cli, "cs_sandbox")
    done = cli("recover", "--take-over-key", before, COUNTWERK_API_KEY="cs_typo")
    assert (2, True) == (done.code, "check COUNTWERK_API_KEY" in done.err)
    assert {before: 2} == keys(cli)


def test_settling_says_that_the_key_is_refused(cli, left, rotated):
    """Not only that everything waits."""
    rotated()
    done = cli("settle", "--timeout", "3")
    assert (1, True) == (done.code, "refuses this API key" in done.out)


def fingerprint(cli, key):
    with Meter("prod_cli", api_key=key, base_url=cli.url, journal="memory:") as meter:
        return meter._engine.terms.principal


def keys(cli):
    with cli.meter() as meter:
        return meter.operations.keys()


def test_a_key_without_rows_and_the_key_in_use(cli, left, rotated):
    """The answer is no, with the keys that have rows; and wrong use."""
    theirs = fingerprint(cli, "cs_sandbox")
    assert 2 == cli("recover", "--take-over-key", theirs).code
    rotated()
    done = cli("recover", "--take-over-key", "0123456789abcdef", COUNTWERK_API_KEY="cs_rotated")
    assert (1, True) == (done.code, f"other keys that have: {theirs}" in done.err)


@pytest.mark.parametrize("command", [["recover"], ["reconcile"], ["prune", "--older-than", "9d"]])
def test_no_journal_is_an_answer(cli, command):
    """None is made by looking."""
    done = cli(*command, "--json")
    assert (1, True) == (done.code, done.json["error"]["message"].startswith("no journal at "))


def test_recover_needs_a_product_and_a_key(cli):
    """Exit code 2."""
    cli.meter().close()
    assert 2 == cli("recover", COUNTWERK_AI_PRODUCT_ID=None).code
    assert 2 == cli("recover", COUNTWERK_API_KEY=None).code


def test_prune_shrinks_what_is_old_and_has_ended(cli, monkeypatch):
    """The id met again is still no second charge; young rows stay as they are."""
    with cli.meter() as meter:
        with meter.reserve("acct_cli", "app.call", amount=5, description="a chat", usage_event_id="event-1"):
            pass
        meter.flush()
    assert {"charges": 0, "holds": 0}.items() <= cli("prune", "--older-than", "1d", "--json").json.items()
    now = __import__("time").time()
    monkeypatch.setattr("countwerk_meter._metering.operations.time.time", lambda: now + 3 * 86400)
    done = cli("prune", "--older-than", "2d", COUNTWERK_API_KEY=None)
    assert (0, "1 charges shrunk to a tombstone, 1 holds forgotten\n") == (done.code, done.out)
    charge = cli("charges", "show", "event-1", "--json").json["charge"]
    assert (None, "settled", 5) == (charge["description"], charge["state"], charge["amount"])
    with cli.meter() as meter:
        meter.deduct("acct_cli", "app.call", 5, usage_event_id="event-1")
    assert (5, 0) == spent(cli)


@pytest.mark.parametrize(("text", "days"), [("90d", 90), ("36h", 1.5), ("4w", 28)])
def test_ages(text, days):
    """Hours, days, weeks."""
    assert timedelta(days=days) == age(text)


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1.5d", "90 d", "9999999d", "999999d"])
def test_what_is_no_age(cli, text):
    """Exit code 2."""
    with pytest.raises(typer.BadParameter):
        age(text)


def test_what_is_too_young_to_be_pruned(cli):
    """Exit code 2: less than a day, and no age at all."""
    cli.meter().close()
    assert 2 == cli("prune", "--older-than", "23h").code
    assert 2 == cli("prune").code
