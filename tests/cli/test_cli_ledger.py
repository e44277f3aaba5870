"""Commands that ask the ledger: balance, resolve-order, purchase-links."""

import pytest

URL = "https://www.digistore24.com/sandbox/"


def test_balance_shows_the_credits(cli):
    """A person reads names and numbers."""
    done = cli("balance", "acct_cli")
    assert (0, "") == (done.code, done.err)
    assert ["Available", "100"] in [line.split() for line in done.out.splitlines()]


def test_balance_as_json(cli):
    """A script reads the ledger's fields, in Python's names."""
    data = cli("balance", "acct_cli", "--json").json
    assert ("acct_cli", 100, 100, 0) == (
        data["account_id"],
        data["balance"],
        data["available_balance"],
        data["reserved_balance"],
    )


def test_a_hold_is_shown_with_its_expiration(cli):
    """Credits in use are not gone, and the ledger says until when."""
    with cli.meter() as meter, meter.reserve("acct_cli", "app.call", amount=40):
        done = cli("balance", "acct_cli")
    assert ["Reserved", "40"] in [line.split() for line in done.out.splitlines()]
    assert "Next expiration 20" in done.out


def test_resolve_order(cli):
    """The account and the product behind an order."""
    assert "Order order_cli belongs to account acct_cli (product prod_cli)\n" == cli("resolve-order", "order_cli").out
    assert {"order_id": "order_cli", "account_id": "acct_cli", "ai_product_id": "prod_cli"} == cli(
        "resolve-order", "order_cli", "--json"
    ).json


def test_an_order_that_is_not_there_is_no(cli):
    """Exit code 1, one line on stderr, and with --json the error as data too."""
    done = cli("resolve-order", "order_none", "--json")
    assert 1 == done.code
    assert "countwerk-meter resolve-order: ORDER_NOT_FOUND: there is no such order\n" == done.err
    assert ("ORDER_NOT_FOUND", 404, "NotFoundError") == tuple(
        done.json["error"][name] for name in ("code", "status", "type")
    )


def test_an_order_that_is_not_mapped_yet_is_waited_for(cli):
    """Without --wait it is no; with it, asked for again."""
    cli.control.settings(unmapped_orders=[{"order_id": "order_cli", "times": 2}])
    done = cli("resolve-order", "order_cli")
    assert (1, "") == (done.code, done.out)
    assert "ORDER_NOT_MAPPED_YET" in done.err
    assert 0 == cli("resolve-order", "order_cli", "--wait", "10").code


def test_purchase_links_are_printed_whole(cli):
    """On stdout, in the ledger's order, each in a line of its own that no terminal width cuts."""
    done = cli("purchase-links", "acct_cli", COLUMNS="20")
    assert (0, "") == (done.code, done.err)
    lines = done.out.splitlines()
    assert "upgrade: Pro" == lines[0]
    assert lines[1].startswith(f"  {URL}upgrade/")
    assert any(line.startswith("manage: ") and "(not now: " in line for line in lines)


def test_purchase_links_as_json_are_what_the_ledger_sent(cli):
    """The contract's own names, for a front end that knows them."""
    data = cli("purchase-links", "acct_cli", "--json").json
    assert ("prod_cli", "acct_cli", "order_cli") == tuple(
        data[name] for name in ("ai_product_id", "account_id", "current_order_id")
    )
    assert {"linkMode", "enabled", "url"} <= set(data["options"][0])


def test_no_ds24_key_is_an_answer_without_a_url(cli):
    """The vendor's problem surfaces as itself, and never as a link."""
    cli.control.settings(ds24="missing")
    done = cli("purchase-links", "acct_cli", "--json")
    assert 1 == done.code
    assert "DS24_KEY_REQUIRED" == done.json["error"]["code"]
    assert "://" not in done.out + done.err


def test_purchase_links_need_a_product(cli):
    """A missing identifier is never guessed."""
    done = cli("purchase-links", "acct_cli", COUNTWERK_AI_PRODUCT_ID=None)
    assert 2 == done.code
    assert "no AI product: pass --product or set COUNTWERK_AI_PRODUCT_ID" in done.err
    assert 0 == cli("purchase-links", "acct_cli", "--product", "prod_cli", COUNTWERK_AI_PRODUCT_ID=None).code


@pytest.mark.parametrize("command", [("balance", "a"), ("resolve-order", "o"), ("purchase-links", "a")])
def test_no_key_a_wrong_key_and_no_ledger(cli, command):
    """Configuration is exit code 2, a ledger that is not there 1; one line each, and never the key."""
    done = cli(*command, COUNTWERK_API_KEY=None)
    assert (2, 1) == (done.code, done.err.count("\n"))
    assert "no API key" in done.err
    done = cli(*command, COUNTWERK_API_KEY="cs_very_wrong")
    assert (2, 1) == (done.code, done.err.count("\n"))
    assert "(check COUNTWERK_API_KEY)" in done.err
    assert "cs_very_wrong" not in done.err + done.out
    done = cli(*command, "--base-url", "http://127.0.0.1:9", "--timeout", "0.3")
    assert (1, 1) == (done.code, done.err.count("\n"))
    assert "cannot be reached" in done.err
