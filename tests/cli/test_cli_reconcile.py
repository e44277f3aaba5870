"""`countwerk-meter reconcile`: what is left, with what speaks for what, and closing it by a person's word."""

import re

import pytest

from countwerk_meter import CountwerkClient, LedgerUnavailableError


def vanish(cli, meter, id="event-1"):
    """A charge whose hold somebody else gave back: its first confirm is answered by a 404."""
    with CountwerkClient("cs_sandbox", cli.url) as client:
        with meter.reserve("acct_cli", "app.call", amount=5, usage_event_id=id) as reservation:
            reservation.settle(3)
            client.cancel_reservation(reservation.reservation_id)
    meter.flush()
    return reservation.reservation_id


@pytest.fixture
def vanished(cli):
    with cli.meter() as meter:
        return vanish(cli, meter)


def close(cli, *args, id="event-1", note="read in the vendor's dashboard", **environment):
    return cli("reconcile", "close", id, "--note", note, *args, **environment)


def flat(text):
    return " ".join(text.split())


def test_nothing_is_left(cli):
    """Exit code 0, and one line."""
    cli.meter().close()
    done = cli("reconcile", COUNTWERK_API_KEY=None)
    assert (0, True) == (done.code, done.out.startswith("Nothing is left to decide for http://127.0.0.1"))
    assert [] == cli("reconcile", "--json").json["listed"]


@pytest.mark.parametrize("columns", ["80", "120"])
def test_what_is_left_with_its_evidence(cli, vanished, columns):
    """Id, account, operation, credits, why, hold, attempts, and the command that closes it, in any window."""
    done = cli("reconcile", COUNTWERK_API_KEY=None, COLUMNS=columns)
    assert 1 == done.code
    said = flat(done.out)
    assert "what 3 credits of acct_cli for app.call, begun 20" in said
    assert "why vanished: the first confirm was answered RESERVATION_NOT_FOUND" in said
    assert "sent 1 confirm, 0 of them without a definite answer" in said
    assert re.search(rf"hold {vanished}, 5 credits, ends 20.* UTC by the ledger's clock", said)
    assert "\n  countwerk-meter reconcile close event-1 --as FINDING --note 'who found out what'\n" in done.out
    assert "not-charged the ledger does not have it; with --deduct it is charged now, once, under ID.late" in said
    assert said.endswith("1 vanished. To decide: 3 credits.")


def test_what_is_left_as_json(cli, vanished):
    """The same for scripts, with every way to close it."""
    (row,) = cli("reconcile", "--json").json["listed"]
    assert ("event-1", "vanished", 3, vanished) == (row["id"], row["kind"], row["credits"], row["reservation_id"])
    assert (1, 0, True, "vanished") == (row["confirms"], row["confirms_open"], row["decidable"], row["reason"])
    assert 4 == len(row["ways"])
    assert [] == cli("reconcile", "--json", "--account", "acct_other").json["listed"]


def test_a_hold_in_doubt_is_shown_and_ends_by_itself(cli):
    """Nothing is to decide: exit code 0."""
    cli.control.faults([{"path": "/api/credits/reserve", "kind": "drop_after", "times": 1}])
    with cli.meter() as meter, pytest.raises(LedgerUnavailableError):
        meter.reserve("acct_cli", "app.call", amount=5).begin()
    done = cli("reconcile")
    assert 0 == done.code
    assert "why orphan hold: its reserve got no definite answer" in flat(done.out)
    assert re.search(r"hold never named, 5 credits, ends 20.* by its validity", flat(done.out))
    assert "reconcile close" not in done.out


def test_closing_is_audited(cli, vanished):
    """What was found, when and the note stay with the charge; nothing was sent."""
    cli.control.clear_requests()
    done = close(cli, "--as", "written-off", COUNTWERK_API_KEY=None)
    assert (0, "event-1 is closed as written-off: forgiven, or nobody will find out.\nNothing was sent.\n") == (
        done.code,
        done.out,
    )
    assert {} == cli.control.requests()["counts"]
    charge = cli("charges", "show", "event-1", "--json").json["charge"]
    assert ("closed", "written-off", "read in the vendor's dashboard") == (
        charge["state"], charge["closed_as"], charge["note"],
    )  # fmt: skip
    assert charge["closed_at"] > charge["created_at"]
    shown = flat(cli("charges", "show", "event-1").out)
    assert "closed as written-off" in shown
    assert "note read in the vendor's dashboard" in shown
    assert 0 == cli("reconcile").code


def test_the_same_words_again_are_done_already(cli, vanished):
    """Other words are refused: exit code 1."""
    close(cli, "--as", "charged")
    done = close(cli, "--as", "charged")
    assert (0, True) == (done.code, "is closed before, with the same words as charged" in done.out)
    done = close(cli, "--as", "written-off")
    assert (1, "event-1 is closed already: charged") == (done.code, done.err.strip().partition("close: ")[2])


def test_what_was_not_charged_is_charged_now(cli, vanished):
    """Once, under an id of its own, after the hold has expired on the ledger's clock."""
    refused = close(cli, "--as", "not-charged", "--deduct", "--json")
    assert (1, True) == (refused.code, "may still be confirmed" in refused.json["error"]["message"])
    cli.control.advance(3600)
    done = close(cli, "--as", "not-charged", "--deduct")
    assert 0 == done.code
    assert "event-1.late: 3 credits, settled." in done.out
    again = close(cli, "--as", "not-charged", "--deduct", "--json")
    assert (0, True, "settled") == (again.code, again.json["again"], again.json["deduct"]["state"])
    assert 3 == cli.control.books("acct_cli")["spent"]
    legs = cli("charges", "show", "event-1", "--json").json["legs"]
    assert ["read in the vendor's dashboard"] == [leg["note"] for leg in legs]


def test_a_deduct_needs_the_key_of_the_charge(cli, vanished):
    """Another key may see other accounts."""
    cli.control.advance(3600)
    done = close(cli, "--as", "not-charged", "--deduct", COUNTWERK_API_KEY="cs_other")
    assert 1 == done.code
    assert 0 == cli.control.books("acct_cli")["spent"]
    assert 2 == close(cli, "--as", "not-charged", "--deduct", COUNTWERK_AI_PRODUCT_ID=None).code
    assert 2 == close(cli, "--as", "not-charged", "--deduct", COUNTWERK_API_KEY=None).code


@pytest.mark.parametrize("note", ["", "   ", "two\nlines", "bell\a", "\x1b[31mred", "x" * 501, "\u202ereversed"])
def test_a_note_is_one_line_that_can_be_read(cli, vanished, note):
    """Exit code 2, and nothing is closed."""
    assert 2 == close(cli, "--as", "charged", note=note).code
    assert 1 == cli("reconcile").code


def test_wrong_use(cli, vanished):
    """Exit code 2: no note, no finding, another finding, options in front of the command."""
    assert 2 == cli("reconcile", "close", "event-1", "--as", "charged").code
    assert 2 == cli("reconcile", "close", "event-1", "--note", "n").code
    assert 2 == close(cli, "--as", "lost").code
    assert 2 == cli("reconcile", "--account", "a", "close", "event-1", "--as", "charged", "--note", "n").code
    assert 1 == close(cli, "--as", "charged", id="event-none").code


def test_a_running_call_is_not_closed(cli):
    """It is somebody's business: exit code 1."""
    with cli.meter() as meter, meter.reserve("acct_cli", "app.call", amount=5, usage_event_id="event-1"):
        done = close(cli, "--as", "written-off")
        assert (1, True) == (done.code, "event-1 is open, and waits for nobody's word" in done.err)


def test_markup_in_what_others_wrote_is_shown_as_it_is(cli):
    """An account id is no markup."""
    cli.control.account("acct_[red]x", balance=10, ai_product_id="prod_cli")
    with cli.meter() as meter:
        with meter.reserve("acct_[red]x", "app.call", amount=5) as reservation:
            reservation.settle(50)
        meter.flush(2)
    assert "45 credits of acct_[red]x for app.call" in flat(cli("reconcile").out)
