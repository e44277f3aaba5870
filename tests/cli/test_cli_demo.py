"""`countwerk-meter demo`: once as a user runs it, and its auditor on books that are wrong on purpose."""

import math

import pytest

from countwerk_meter.cli.demo.audit import booked_again, judge
from countwerk_meter.cli.demo.scenario import Observed
from countwerk_meter.cli.demo.tariff import PROFILE, credits_for
from countwerk_meter.pricing import PriceProfile


@pytest.fixture(scope="module")
def shown():
    """The demo itself, two processes and all."""
    from countwerk_meter.cli.demo.run import run

    class Watcher:
        def phase(self, text):
            pass

        def saw(self, observed):
            pass

    return run(None, Watcher())


def test_the_demo_charges_nothing_twice_and_loses_nothing(shown):
    """By the sandbox's books: 13 charges, 5 denials, and no credit astray."""
    verdict = shown.verdict
    assert (13, 5, 0, 0, 0, True) == (
        verdict.charges,
        verdict.denied,
        verdict.double_charged,
        verdict.lost,
        verdict.leaked_holds,
        verdict.books_balance,
    )
    assert shown.seconds < 60


def test_the_demo_s_scenarios(shown):
    """What each client saw, and what its account was charged."""
    price = shown.observed[0].most
    assert {
        "normal": ("200", price),
        "streamed": ("200", price),
        "gateway": ("200, 409", price),
        "stranger": ("200, 200", 2 * price),
        "ten-on-six": ("6x 200, 4x 402", 6 * price),
        "lost-confirm": ("200", price),
        "model-fails": ("502", 0),
        "out-of-credits": ("402", 0),
    } == {
        seen.account_id: (seen.answers, shown.books[seen.account_id]["spent"])
        for seen in shown.observed
        if seen.account_id != "broken-off"
    }
    assert 0 < shown.books["broken-off"]["spent"] < price
    assert "402 offers 3 upgrades, 3 top-ups" == shown.observed[-1].why


def test_the_demo_on_a_terminal(shown, capsys):
    """One line for each scenario, the books beside the meter's, the verdict; none of it wider than 100."""
    from countwerk_meter.cli.demo import show

    capsys.readouterr()
    show.show(shown, None)
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(seen.what) for line in lines) for seen in shown.observed)
    assert 10 == sum(line.rstrip().endswith("same") for line in lines)
    assert lines[-1].startswith(
        "13 charges, 5 denied; credits charged twice: 0, lost: 0, still held: 0; the books balance"
    )


def test_the_command_prints_one_object(shown, cli, monkeypatch):
    """And its exit code is the verdict's."""
    monkeypatch.setattr("countwerk_meter.cli.demo.run.run", lambda *_: shown)
    done = cli("demo", "--json")
    assert (0, "") == (done.code, done.err)
    assert (13, 5, 0, 0, 0, True) == tuple(
        done.json[name] for name in ("charges", "denied", "double_charged", "lost", "leaked_holds", "books_balance")
    )
    assert 9 == len(done.json["scenarios"])
    assert 0 == cli("demo").code
    shown.books["normal"]["spent"] += 1
    try:
        wrong = type(shown)(
            shown.observed, shown.books, shown.charges, judge(shown.observed, shown.books, []), shown.seconds
        )
    finally:
        shown.books["normal"]["spent"] -= 1
    monkeypatch.setattr("countwerk_meter.cli.demo.run.run", lambda *_: wrong)
    done = cli("demo", "--json")
    assert (1, 1, False) == (done.code, done.json["double_charged"], done.json["books_balance"])


def test_a_real_model_needs_its_packages(cli, monkeypatch):
    """One line that says what to install, LangChain itself or the provider's package; nothing is started."""
    done = cli("demo", "--model", "mistralai:mistral-large")
    assert (2, True) == (done.code, "pip install langchain-mistralai" in done.err)
    monkeypatch.setattr("countwerk_meter.cli.demo.find_spec", lambda name: name != "langchain" or None)
    done = cli("demo", "--model", "openai:gpt-5-mini")
    assert 2 == done.code
    assert "pip install" in done.err
    assert "langchain-openai" in done.err
    assert (2, True) == (cli("demo", "--model", "gpt-5").code, "PROVIDER:NAME" in cli("demo", "--model", "gpt-5").err)


def test_the_tariff_and_the_profile_agree():
    """The auditor computes with two numbers, the meter with a profile made of them."""
    price = PriceProfile.load(PROFILE).price({"llm_input_tokens": 23, "llm_output_tokens": 34})
    assert 4 == credits_for(23, 34) == math.ceil(price.total)


def books(spent, *entries, reserved=0, earned=100):
    return {
        "earned": earned,
        "available": earned - reserved - spent,
        "reserved": reserved,
        "spent": spent,
        "balanced": True,
        "reservations": [],
        "transactions": list(entries),
    }


def booked(amount, name, kind="confirm", reservation="r1"):
    return {
        "kind": kind,
        "amount": amount,
        "transaction_id": "t",
        "usage_event_id": name if kind == "deduct" else None,
        "reservation_id": reservation if kind == "confirm" else None,
        "description": f"Chat [{name}]" if kind == "confirm" else None,
    }


SEEN = Observed("ada", "A call", "200", 4, 5, "")


def test_too_much_is_double_charged():
    """More than the client owes."""
    verdict = judge([SEEN], {"ada": books(8, booked(8, "a"))}, [])
    assert (3, 0, False) == (verdict.double_charged, verdict.lost, verdict.good)


def test_the_same_charge_twice_is_double_charged_even_if_the_sum_fits():
    """Under its own id, or on its own reservation."""
    twice = books(5, booked(2, "a"), booked(3, "a", "deduct"))
    assert (3, 3) == (booked_again(twice), judge([SEEN], {"ada": twice}, []).double_charged)
    assert 3 == booked_again(books(5, booked(2, "a"), booked(3, "b")))
    assert 0 == booked_again(books(5, booked(2, "a"), booked(3, "b", reservation="r2")))


def test_too_little_is_lost():
    """Less than the client owes."""
    assert (0, 1) == (
        judge([SEEN], {"ada": books(3, booked(3, "a"))}, []).double_charged,
        judge([SEEN], {"ada": books(3, booked(3, "a"))}, []).lost,
    )


def test_a_hold_that_stays_is_leaked():
    """Credits that nobody gives back."""
    assert 7 == judge([SEEN], {"ada": books(4, booked(4, "a"), reserved=7)}, []).leaked_holds


def test_books_that_do_not_add_up():
    """Conservation is computed here, not believed."""
    wrong = books(4, booked(4, "a")) | {"available": 97}
    assert not judge([SEEN], {"ada": wrong}, []).books_balance


def test_denials_are_the_ledger_s():
    """Counted from what it answered to a reserve."""
    asked = [
        {"path": "/api/credits/reserve", "code": "INSUFFICIENT_CREDITS"},
        {"path": "/api/credits/reserve", "code": None},
        {"path": "/api/credits/deduct", "code": "INSUFFICIENT_CREDITS"},
    ]
    assert 1 == judge([SEEN], {"ada": books(4, booked(4, "a"))}, asked).denied
