"""`countwerk-meter replay`: a small trace through the real Meter, with a ledger that behaves and one that does not."""

import random
from pathlib import Path

import pytest

PRICES = str(Path(__file__).parents[2] / "examples" / "prices.json")


@pytest.fixture
def trace(tmp_path):
    """120 calls of two minutes, the same in every run."""
    draw = random.Random(7)
    path = tmp_path / "trace.csv"
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    lines += [f"{second},{draw.randint(1, 4_000)},{draw.randint(1, 900)}" for second in range(120)]
    path.write_text("\n".join(lines))
    return path


def test_every_credit_is_accounted_for(cli, trace):
    """Each call is charged once with its own amount, as the ledger's books show."""
    done = cli("replay", trace, "--prices", PRICES, "--accounts", "4", "--json")
    assert (0, "") == (done.code, done.err)
    data, total = done.json, done.json["total"]
    assert (120, 120, 0, 0) == tuple(total[name] for name in ("calls", "charged_calls", "refused", "unavailable"))
    assert total["charged"] == total["spent"] > 0
    assert ([30] * 4, True, []) == (
        [account["calls"] for account in data["accounts"]],
        data["books_balance"],
        data["differences"],
    )


def test_carrying_fractions_costs_what_the_exact_price_is(cli, trace):
    """Within a credit for each account, where rounding up costs more."""
    args = ("replay", trace, "--prices", PRICES, "--accounts", "2", "--limit", "40", "--json")
    up, carried = cli(*args).json["total"], cli(*args, "--rounding", "carry").json["total"]
    assert up["exact"] == carried["exact"]
    assert abs(carried["charged"] - float(carried["exact"])) <= 2 < up["charged"] - float(up["exact"])


def test_a_ledger_that_misbehaves_loses_and_doubles_nothing(cli, trace):
    """One answer in five goes wrong; calls without an answer did not run, and their holds end by their validity."""
    args = ("replay", trace, "--prices", PRICES, "--fault-rate", "0.2", "--seed", "3", "--accounts", "3")
    done = cli(*args, "--json")
    total = done.json["total"]
    assert (0, []) == (done.code, done.json["differences"])
    assert 0 < total["unavailable"] < 60
    assert total["unavailable"] >= total["in_doubt_holds"] > 0
    assert 120 == total["charged_calls"] + total["unavailable"] + total["unresolved_charges"]
    assert 0 == total["reserved_at_the_end"]
    assert done.json["clock_moved_past_validity"]


def test_a_small_balance_shows_who_is_refused(cli, trace):
    """Before the call: what is held by others is not free."""
    done = cli("replay", trace, "--prices", PRICES, "--accounts", "2", "--balance", "20", "--limit", "60")
    assert 0 == done.code
    assert "calls were refused for lack of credits, before running" in done.out
    assert "The books balance to the credit" in done.out
    assert {"Account", "Calls", "Charged", "Refused", "Held", "Credits", "Books"} == set(
        done.out.splitlines()[0].split()
    )


def test_an_account_has_enough_for_calls_that_cost_more_than_they_held(cli, trace):
    """Else the question what a product's traffic costs would be answered too low."""
    path = trace.with_name("long.csv")
    path.write_text("input,output\n" + "1000,30000\n" * 10)
    done = cli("replay", path, "--prices", PRICES, "--accounts", "2", "--model", "gpt-5", "--json")
    total = done.json["total"]
    assert (0, 0, 0) == (done.code, total["refused"], total["uncollected_charges"])
    assert total["charged"] >= float(total["exact"]) > 0


def test_the_recorded_pace(cli, trace):
    """60 seconds of the trace at 100 times its speed take more than half a second."""
    done = cli("replay", trace, "--prices", PRICES, "--limit", "60", "--speed", "100", "--json")
    assert (0, True) == (done.code, done.json["seconds"] > 0.5)


def test_a_ledger_of_the_users_own(cli, trace):
    """Its accounts are charged, and compared with by their balance."""
    path = trace.with_name("own.csv")
    path.write_text("input,output,account\n" + "2000,500,acct_cli\n" * 10)
    done = cli("replay", path, "--prices", PRICES, "--base-url", cli.url, "--model", "gpt-5", "--json")
    assert 0 == done.code
    assert ("acct_cli", 20, 20) == tuple(done.json["accounts"][0][name] for name in ("account_id", "charged", "spent"))
    assert 20 == cli.control.books("acct_cli")["spent"]


def test_the_environment_never_sends_a_replay_to_a_real_ledger(cli, trace):
    """COUNTWERK_BASE_URL is where the product runs: a replay goes there only if it is told to."""
    cli.control.clear_requests()
    assert 0 == cli("replay", trace, "--prices", PRICES, "--limit", "3", "--json").code
    assert {} == cli.control.requests()["counts"]


def test_a_journal_that_is_named_is_kept(cli, trace, tmp_path):
    """So that a charge can be looked at afterwards."""
    journal = f"sqlite:///{tmp_path}/kept.db"
    assert 0 == cli("replay", trace, "--prices", PRICES, "--limit", "5", "--journal", journal, "--json").code
    assert (tmp_path / "kept.db").exists()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--fault-rate", "0.1", "--base-url", "https://ledger.example"), "are for the sandbox"),
        (("--prices", "none.json"), "none.json"),
        (("--fault-rate", "2"), "fault-rate"),
    ],
)
def test_what_cannot_be_is_usage(cli, trace, extra, said):
    """Exit code 2, before anything is started."""
    args = extra if "--prices" in extra else ("--prices", PRICES, *extra)
    done = cli("replay", trace, *args)
    assert (2, "") == (done.code, done.out)
    assert said in done.err


def test_a_row_that_has_no_price_is_named(cli, trace, tmp_path):
    """Before anything is charged."""
    prices = tmp_path / "prices.json"
    prices.write_text(
        '{"profileVersionId": "p", "eurPerCredit": 1, "rateRules": '
        '[{"id": "in", "dimensionKey": "llm_input_tokens", "creditsPerUnit": 1}]}'
    )
    done = cli("replay", trace, "--prices", prices)
    assert (2, "countwerk-meter replay: row 2: no active rule of profile p") == (done.code, done.err[:58])


def test_a_bad_row_is_one_line(cli, trace):
    """With its file, row and column."""
    trace.write_text("input,output\n1,2\nx,3\n")
    done = cli("replay", trace, "--prices", PRICES)
    assert (2, 1) == (done.code, done.err.count("\n"))
    assert "trace.csv: row 3, column input: 'x' is no whole number" in done.err


def test_speed_needs_times(cli, trace):
    """A trace without timestamps has no pace."""
    trace.write_text("input,output\n1,2\n")
    done = cli("replay", trace, "--prices", PRICES, "--speed", "1")
    assert (2, True) == (done.code, "--speed needs a timestamp" in done.err)
