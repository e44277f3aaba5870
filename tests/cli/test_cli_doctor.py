"""`countwerk-meter doctor`: what it finds, what it advises, and that it changes nothing."""

from pathlib import Path

import pytest

from countwerk_meter.cli.doctor.frameworks import installed_frameworks
from countwerk_meter.journal.sqlite_file import SCHEMA_VERSION

PRICES = Path(__file__).parents[2] / "examples" / "prices.json"


def finding(done, area, name=None):
    found = [each for each in done.json["findings"] if each["area"] == area and name in (None, each["name"])]
    assert found, done.out
    return found[0]


def test_all_is_well(cli):
    """Exit code 0, the ledger answers, and nothing was made: no account and no journal."""
    accounts = cli.control.all_books()["totals"]["accounts"]
    done = cli("doctor", COUNTWERK_PRICES=str(PRICES))
    assert 0 == done.code
    assert done.out.endswith("No problems.\n")
    assert "takes the key" in done.out
    assert "example-2026-01, 10 active rules, 7cf7eb0bc7c4" in done.out
    assert "not there yet; the first Meter makes it" in done.out
    assert accounts == cli.control.all_books()["totals"]["accounts"]
    assert not Path(cli.journal.removeprefix("sqlite:///")).exists()


def test_it_asks_for_a_balance_and_nothing_else(cli):
    """Of the account that is given, or of one that need not exist."""
    cli.control.clear_requests()
    cli("doctor", "acct_cli")
    assert {"/api/credits/balance": 1} == cli.control.requests()["counts"]
    assert "acct_cli" == cli.control.requests()["requests"][0]["body"]["account_id"]


def test_a_wrong_key(cli):
    """The ledger answers, the key is refused, and its value is nowhere."""
    done = cli("doctor", "--json", COUNTWERK_API_KEY="cs_very_wrong")
    assert 1 == done.code
    assert ("problem", "check COUNTWERK_API_KEY") == (
        finding(done, "ledger", "API key")["status"],
        finding(done, "ledger", "API key")["advice"],
    )
    assert "cs_very_wrong" not in done.out + done.err


def test_no_key_and_no_product(cli):
    """Which variable is missing, and that the ledger was not asked."""
    done = cli("doctor", "--json", COUNTWERK_API_KEY=None, COUNTWERK_AI_PRODUCT_ID=None)
    assert (1, False) == (done.code, done.json["ok"])
    assert "not set" == finding(done, "configuration", "COUNTWERK_API_KEY")["detail"]
    assert "note" == finding(done, "configuration", "COUNTWERK_AI_PRODUCT_ID")["status"]
    assert finding(done, "ledger")["detail"].startswith("not asked: no API key")


@pytest.mark.parametrize(
    ("variable", "value", "status"),
    [
        ("COUNTWERK_ENFORCEMENT", "off", "problem"),
        ("COUNTWERK_ENFORCEMENT", "shadow", "note"),
        ("COUNTWERK_ENFORCEMENT", None, "ok"),
        ("COUNTWERK_TRANSPORT", "slow", "problem"),
        ("COUNTWERK_TRANSPORT", "httpx", "ok"),
        ("COUNTWERK_TRANSPORT", None, "ok"),
    ],
)
def test_what_a_meter_would_refuse_or_not_charge(cli, variable, value, status):
    """Nobody goes live with a setting that no Meter starts with, or that charges nobody, unsaid."""
    done = cli("doctor", "--json", **{variable: value})
    assert status == finding(done, "configuration", variable)["status"]
    assert (status == "problem") == done.code


def test_a_profile_that_stands_in_the_variable_itself_is_not_printed(cli):
    """It may be long."""
    done = cli("doctor", COUNTWERK_PRICES=PRICES.read_text())
    assert 0 == done.code
    assert "COUNTWERK_PRICES: inline JSON" in done.out
    assert "rateRules" not in done.out
    assert "inline JSON: example-2026-01" in done.out
    assert "rateRules" not in cli("doctor", COUNTWERK_PRICES='{"rateRules": 1}').out.replace("rateRules must", "")


def test_a_url_that_may_hold_a_secret_is_not_shown(cli):
    """A base URL with a user in it is refused, and not repeated."""
    done = cli("doctor", "--base-url", "https://user:hunter2@ledger.example")
    assert 1 == done.code
    assert "hunter2" not in done.out + done.err


def test_no_ledger(cli):
    """A ledger that does not answer is a problem with advice."""
    done = cli("doctor", "--json", "--base-url", "http://127.0.0.1:9", "--timeout", "0.3")
    assert 1 == done.code
    assert "check COUNTWERK_BASE_URL and the network" == finding(done, "ledger")["advice"]


def test_a_forbidden_account_is_a_problem_of_the_key(cli):
    """403 is neither silence nor a wrong key."""
    cli.control.settings(forbidden_accounts=["acct_secret"])
    done = cli("doctor", "acct_secret", "--json")
    assert (1, "problem") == (done.code, finding(done, "ledger", "API key")["status"])


def test_a_journal_that_cannot_be_opened(cli, tmp_path):
    """A file that is something else is never touched, and a directory that cannot be written is said."""
    other = tmp_path / "other.db"
    other.write_text("not a database at all, but a text of some length " * 50)
    done = cli("doctor", "--json", "--journal", f"sqlite:///{other}")
    assert (1, "problem") == (done.code, finding(done, "journal")["status"])
    assert other.read_text().startswith("not a database")


def test_a_directory_that_cannot_be_written(cli, tmp_path):
    """The first Meter would fail there, root's too, because a file is in the way: better known now."""
    closed = tmp_path / "closed"
    closed.write_text("")
    done = cli("doctor", "--json", "--journal", f"sqlite:///{closed}/journal.db")
    assert (1, "problem") == (done.code, finding(done, "journal")["status"])


def test_what_waits_in_the_journal_is_said(cli):
    """Uncollected charges, with the command that lists them."""
    with cli.meter() as meter:
        with meter.reserve("acct_cli", "app.call", amount=60) as reservation:
            reservation.settle(150)
        meter.flush(2)
    done = cli("doctor", "--json")
    stuck = finding(done, "journal", "to decide")
    assert (0, "note", "countwerk-meter reconcile") == (done.code, stuck["status"], stuck["advice"])
    assert "1 row over 90 credits: uncollected" == stuck["detail"]
    assert f"schema version {SCHEMA_VERSION}" in finding(done, "journal")["detail"]


def test_keys_that_have_rows_left_are_named(cli):
    """By fingerprint, with the command that takes them over; not without a key to compare with."""
    with cli.meter() as meter, meter.reserve("acct_cli", "app.call", amount=5):
        theirs = meter._engine.terms.principal
        done = cli("doctor", "--json", COUNTWERK_API_KEY="cs_rotated")
        found = finding(done, "journal", "another API key")
        assert f"{theirs} has 2 rows that have not ended" == found["detail"]
        assert found["advice"].endswith(f"countwerk-meter recover --take-over-key {theirs}")
        for same in ("cs_sandbox", None):
            assert "another API key" not in cli("doctor", COUNTWERK_API_KEY=same).out


def test_a_memory_journal_is_worth_a_note(cli):
    """Charges that do not survive the process are a choice, but one to know of."""
    assert "note" == finding(cli("doctor", "--json", COUNTWERK_JOURNAL="memory:"), "journal")["status"]


def test_a_price_profile_that_is_not_what_it_says(cli, tmp_path):
    """A changed rule under the old hash, and a file that is none."""
    changed = tmp_path / "prices.json"
    changed.write_text(PRICES.read_text().replace("0.00018", "0.00019"))
    done = cli("doctor", "--json", COUNTWERK_PRICES=str(changed))
    assert (1, "problem") == (done.code, finding(done, "prices")["status"])
    done = cli("doctor", "--json", COUNTWERK_PRICES=str(tmp_path / "none.json"))
    assert (1, "problem") == (done.code, finding(done, "prices")["status"])


@pytest.mark.parametrize(
    ("installed", "name", "status"),
    [
        ({"langchain-core": "1.7.2"}, "langchain-core 1.7.2", "note"),
        ({"langchain-core": "1.7.2", "countwerk-meter-langchain": "0.1.0"}, "langchain-core 1.7.2", "ok"),
        ({"langchain-core": "2.0.0", "countwerk-meter-langchain": "0.1.0"}, "langchain-core 2.0.0", "problem"),
        (
            {"langchain-core": "1.7.2", "countwerk-meter-langchain": "0.1.0", "countwerk-meter": "0.2.0"},
            "countwerk-meter-langchain 0.1.0",
            "problem",
        ),
        ({"fastapi": "0.120"}, "fastapi 0.120", "note"),
        ({"fastapi": "0.120", "countwerk-meter-fastapi": "0.1.0"}, "fastapi 0.120", "ok"),
        (
            {"fastapi": "0.120", "countwerk-meter-fastapi": "0.1.0", "countwerk-meter": "0.2.0"},
            "countwerk-meter-fastapi 0.1.0",
            "problem",
        ),
        ({"opentelemetry-api": "1.45"}, "opentelemetry-api 1.45", "note"),
        ({"opentelemetry-sdk": "1.45"}, "opentelemetry-sdk 1.45", "ok"),
        ({"openai": "3.54"}, "openai 3.54", "note"),
        ({"langgraph": "1.1"}, "langgraph 1.1", "note"),
    ],
)
def test_traps_of_what_is_installed(monkeypatch, installed, name, status):
    """Each framework's own, and none for what is not there."""
    monkeypatch.setattr("countwerk_meter.cli.doctor.frameworks._version", installed.get)
    assert [status] == [each.status for each in installed_frameworks() if each.name == name]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:s3cret@127.0.0.1:1/db",
        "postgres://127.0.0.1:1/db?user=app&password=s3cret",
        "postgresql://app:s3cr@s3cret@127.0.0.1:port/db",
        "mysql://app:s3cret@127.0.0.1/db",
    ],
)
def test_a_databases_password_is_not_shown(cli, url):
    """Not by the configuration, nor by what it finds of the journal."""
    for done in (cli("doctor", COUNTWERK_JOURNAL=url), cli("doctor", "--json", COUNTWERK_JOURNAL=url)):
        assert 1 == done.code
        assert "s3cret" not in done.out + done.err
        assert "127.0.0.1" in done.out
    for command in ("charges", "settle", "reconcile"):
        done = cli(command, COUNTWERK_JOURNAL=url)
        assert done.code in {1, 2}
        assert "s3cret" not in done.out + done.err
