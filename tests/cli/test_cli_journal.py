"""Commands that work on the journal: charges, and settle."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from countwerk_meter import Usage

DIES = """
import os, sys
from countwerk_meter import Meter
meter = Meter.from_env()
meter._engine.settlement._probing = "held back"
with meter.reserve("acct_cli", "app.done", amount=5) as reservation:
    reservation.settle(3)
meter.reserve("acct_cli", "app.open", amount=7).begin()
os._exit(1)
"""


def leave_behind(cli):
    """A process that charged something and settled nothing, killed in the middle of a call."""
    environment = {**os.environ, **{k: v for k, v in cli.environment.items() if v is not None}}
    subprocess.run([sys.executable, "-c", DIES], env=environment, timeout=60, check=False)


def test_charges_lists_the_newest_first(cli):
    """State, credits, basis and id, without a key and without the ledger."""
    with cli.meter() as meter:
        meter.deduct("acct_cli", "app.first", 2, usage_event_id="event-1")
        with meter.reserve("acct_cli", "app.second", amount=5):
            pass
        meter.flush()
    done = cli("charges", COUNTWERK_API_KEY=None)
    lines = [line.split() for line in done.out.splitlines()]
    assert 0 == done.code
    assert ["app.second", "settled", "5", "reserved"] == lines[1][3:7]
    assert ["app.first", "settled", "2", "price", "event-1"] == lines[2][3:8]


def test_charges_can_be_chosen(cli):
    """By state, by account, and so many."""
    with cli.meter() as meter:
        for number in range(3):
            meter.deduct("acct_cli", "app.call", 1, usage_event_id=f"event-{number}")
        meter.reserve("acct_cli", "app.call", amount=1, usage_event_id="event-open").begin()

        def ids(*args):
            return {each["usage_event_id"] for each in cli("charges", "--json", *args).json["charges"]}

        assert {"event-0", "event-1", "event-2"} == ids("--state", "settled")
        assert {"event-open"} == ids("-s", "open")
        assert 4 == len(ids("--state", "settled", "--state", "open", "--account", "acct_cli"))
        assert set() == ids("--account", "acct_other")
        assert 2 == len(ids("--limit", "2"))


def test_a_block_is_not_told_as_undone(cli):
    """What it cost stands in the rows of its calls; scripts read the state as it is."""
    with cli.meter() as meter:
        with meter.reserve("acct_cli", "app.block", amount=5) as block:
            with meter.reserve("acct_cli", "app.call", amount=1, usage_event_id="event-call") as call:
                call.settle(1)
        meter.flush()
    (line,) = [line for line in cli("charges").out.splitlines() if "app.block" in line]
    assert "in its calls" in line
    found = {each["usage_event_id"]: each["state"] for each in cli("charges", "--json").json["charges"]}
    assert found[block.usage_event_id] == "cancelled"


def test_one_charge_in_full(cli):
    """What was measured, what rule priced it, and the leg beyond its hold."""
    prices = Path(__file__).parents[2] / "examples" / "prices.json"
    with cli.meter(prices=prices) as meter:
        with meter.reserve("acct_cli", "app.call", amount=1, usage_event_id="event-over") as reservation:
            reservation.record(Usage(output_tokens=2_000), model="gpt-5")
        meter.flush()
    done = cli("charges", "show", "event-over")
    assert 0 == done.code
    assert "llm_output_tokens=2000 model=gpt-5 -> 2.8000 credits by gpt-5.output" in done.out
    data = cli("charges", "show", "event-over", "--json").json
    assert (3, ["event-over.over"]) == (data["charge"]["amount"], [leg["usage_event_id"] for leg in data["legs"]])


def test_an_id_is_whole_in_any_window(cli, monkeypatch):
    """One that is folded can be neither copied nor searched for."""
    name = "an-id-as-long-as-they-get-" + "x" * 33
    with cli.meter() as meter:
        meter.deduct("acct_cli", "app.call", 1, usage_event_id=name)
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    assert name in cli("charges", COLUMNS="40").out


def test_a_charge_that_is_not_there_is_no(cli):
    """Exit code 1."""
    cli.meter().close()
    done = cli("charges", "show", "event-none")
    assert 1 == done.code
    assert "no charge event-none of http://127.0.0.1" in done.err


@pytest.mark.parametrize("command", ["charges", "settle"])
def test_no_journal_is_an_answer_and_none_is_made(cli, command):
    """A command that looks must not leave an empty journal behind."""
    path = cli.journal.removeprefix("sqlite:///")
    done = cli(command, "--json")
    assert 1 == done.code
    assert f"no journal at {path}" == done.json["error"]["message"]
    assert not Path(path).exists()
    assert 2 == cli(command, "--journal", "memory:").code
    assert 2 == cli(command, "--journal", "mysql://nowhere").code


def test_charges_of_another_ledger_are_not_shown(cli):
    """A journal may serve several ledgers; each has its own rows."""
    with cli.meter() as meter:
        meter.deduct("acct_cli", "app.call", 1, usage_event_id="event-1")
    done = cli("charges", "--base-url", "https://other.example")
    assert (0, True) == (done.code, done.out.startswith("No such charges of https://other.example in "))
    assert 2 == cli("charges", "--base-url", "no url").code
    assert 2 == cli("charges", "--state", "no-such-state").code


def test_settle_takes_over_what_a_dead_process_left(cli):
    """What was committed is charged, what was open is given back, and the books agree."""
    leave_behind(cli)
    assert 12 == cli.control.books("acct_cli")["reserved"]
    done = cli("settle", "--json")
    assert {"charges": 1, "credits": 3} == done.json["settled"]
    assert 1 == done.json["taken_over"]["closed"]
    books = cli.control.books("acct_cli")
    assert (3, 0) == (books["spent"], books["reserved"])
    # The call that was running: nobody knows what it used, and somebody has to say that it is forgiven.
    assert (1, 1) == (done.code, done.json["left"]["lost"])
    (lost,) = cli("reconcile", "--json").json["listed"]
    assert ("lost", 7, "app.open") == (lost["kind"], lost["credits"], lost["operation"])
    assert 0 == cli("reconcile", "close", lost["id"], "--as", "written-off", "--note", "a crash").code
    done = cli("settle")
    assert (0, "Settled: 0 charges, 0 credits") == (done.code, done.out.partition("\n")[0])
    assert done.out.partition("\n")[2].startswith("Nothing is left in ")


def test_settle_says_what_is_left(cli):
    """Exit code 1 while the ledger does not answer; nothing is lost by asking."""
    leave_behind(cli)
    cli.control.faults([{"path": "*", "kind": "status", "status": 503, "probability": 1}])
    done = cli("settle", "--timeout", "0.5")
    assert 1 == done.code
    assert "Taken over from dead processes: 1 calls closed" in done.out
    assert "1 committed " in " ".join(done.out.split())
    cli.control.faults([])
    left = cli("settle", "--json").json["left"]
    assert {"lost": 1} == {name: number for name, number in left.items() if number}
    assert 3 == cli.control.books("acct_cli")["spent"]


def test_settle_leaves_living_processes_alone(cli):
    """A call that runs elsewhere is counted, not closed."""
    with cli.meter() as meter, meter.reserve("acct_cli", "app.call", amount=5) as reservation:
        done = cli("settle", "--json")
        assert (0, 1) == (done.code, done.json["left"]["running"])
        reservation.settle(2)
    assert 2 == cli.control.books("acct_cli")["spent"]


def test_settle_needs_a_product_and_a_key(cli):
    """Exit code 2, one line."""
    cli.meter().close()
    assert 2 == cli("settle", COUNTWERK_AI_PRODUCT_ID=None).code
    assert 2 == cli("settle", COUNTWERK_API_KEY=None).code
