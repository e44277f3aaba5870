"""`countwerk-meter charges show` and `summary`: explaining a bill, and what shadow mode would have charged."""

import time
from pathlib import Path

import pytest

from countwerk_meter import InsufficientCreditsError, Usage

PRICES = Path(__file__).parents[2] / "examples" / "prices.json"


def flat(text):
    return " ".join(text.split())


def test_a_charge_says_how_each_dimension_was_priced(cli):
    """Rule, quantity and rate, and the profile that they come from: it may be gone by then."""
    with cli.meter(prices=PRICES) as meter:
        with meter.reserve("acct_cli", "app.call", amount=9, usage_event_id="event-1") as reservation:
            reservation.record(Usage(input_tokens=1_000, output_tokens=2_000), model="gpt-5")
        meter.flush()
        profile = meter.prices
    done = cli("charges", "show", "event-1")
    assert "2000 llm_output_tokens x 0.0014 = 2.8000 (gpt-5.output)" in flat(done.out)
    assert f"profile {profile.profile_version_id}, ruleset {profile.ruleset_hash}" in flat(done.out)
    (line,) = cli("charges", "show", "event-1", "--json").json["charge"]["lines"]
    assert ["llm_input_tokens", "llm_output_tokens"] == [part["dimension"] for part in line["breakdown"]]


def test_charges_are_added_up(cli):
    """By account, operation and model; what was refused apart."""
    with cli.meter(prices=PRICES) as meter:
        for _ in range(3):
            with meter.reserve("acct_cli", "app.call", amount=9) as reservation:
                reservation.record(Usage(output_tokens=2_000), model="gpt-5")
        meter.deduct("acct_cli", "app.export", 4)
        with pytest.raises(InsufficientCreditsError):
            meter.reserve("acct_cli", "app.call", amount=10**6).begin()
        meter.flush()
    totals = {(each["operation"], each["model"]): each for each in cli("charges", "summary", "--json").json["totals"]}
    assert {("app.call", "gpt-5"), ("app.call", ""), ("app.export", "")} == set(totals)
    assert (3, 9, 0) == tuple(totals["app.call", "gpt-5"][name] for name in ("calls", "credits", "refused"))
    assert (0, 1, 10**6) == tuple(totals["app.call", ""][name] for name in ("calls", "refused", "refused_credits"))
    shown = cli("charges", "summary").out
    assert "acct_cli app.call gpt-5 3 9 0 0 0" in flat(shown)
    assert "In all 4 13 1 1,000,000 0" in flat(shown)
    assert [] == cli("charges", "summary", "--account", "acct_other", "--json").json["totals"]
    assert 3 == len(cli("charges", "summary", "--since", "1h", "--json").json["totals"])
    assert 2 == cli("charges", "summary", "--since", "soon").code


def test_a_leg_counts_with_its_own_part(cli):
    """What lies beyond a hold is no call of its own, and not counted twice (rule 9)."""
    with cli.meter() as meter:
        with meter.reserve("acct_cli", "app.call", amount=2) as reservation:
            reservation.settle(5)
        meter.flush()
    (total,) = cli("charges", "summary", "--json").json["totals"]
    assert (1, 5) == (total["calls"], total["credits"])


def test_the_list_adds_up_and_says_what_it_leaves_out(cli):
    """A leg carries its own part; its model is its call's."""
    with cli.meter(prices=PRICES) as meter:
        for hold in (9, 1):
            with meter.reserve("acct_cli", "app.call", amount=hold) as reservation:
                reservation.record(Usage(output_tokens=2_000), model="gpt-5")
        meter.flush()
    listed = cli("charges", "--json").json
    assert (6, False) == (sum(each["share"] for each in listed["charges"]), listed["more"])
    assert [1, 2, 3] == sorted(each["share"] for each in listed["charges"])
    (total,) = cli("charges", "summary", "--json").json["totals"]
    assert ("gpt-5", 2, 6) == (total["model"], total["calls"], total["credits"])
    assert "there are more" not in cli("charges").out
    assert "The newest 2; there are more: --limit" in cli("charges", "--limit", "2").out
    assert cli("charges", "--limit", "2", "--account", "acct_cli", "--json").json["more"]


def test_shadow_mode_says_what_would_have_happened(cli):
    """And the live ledger's charges stay apart from it."""
    with cli.meter(enforcement="shadow") as meter:
        balance = cli.control.books("acct_cli")["available"]
        meter.deduct("acct_cli", "app.first", 1)
        deadline = time.monotonic() + 20
        while meter._engine._shadow_ledger._accounts["acct_cli"].left is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        meter.deduct("acct_cli", "app.export", balance + 1)
        meter.flush()
    done = cli("charges", "summary", COUNTWERK_ENFORCEMENT="shadow")
    assert done.out.startswith("Shadow mode: this is what would have happened. Nothing was charged or refused.")
    assert f"In all 1 1 1 {balance + 1:,} 0" in flat(done.out)
    assert 2 == len(cli("charges", "--enforcement", "shadow", "--json").json["charges"])
    assert [] == cli("charges", "--json").json["charges"]
    assert "No such charges" in cli("charges", "summary").out


def test_a_charge_names_its_hold_as_the_ledger_does(cli):
    """The ledger's statement knows the reservation, and how much its confirm carried: the id that leads from it here."""
    with cli.meter() as meter:
        with meter.reserve("acct_cli", "app.call", amount=9, usage_event_id="event-1") as outer:
            outer.settle(2)
            with meter.reserve("acct_cli", "app.part", amount=3, usage_event_id="event-2") as part:
                part.settle(3)
        with meter.reserve("acct_cli", "app.call", amount=2, usage_event_id="event-3") as over:
            over.settle(5)
        meter.deduct("acct_cli", "app.export", 4, usage_event_id="event-4")
        meter.flush()
    hold = cli("charges", "show", "event-2", "--json").json["hold"]
    assert hold == cli("charges", "show", "event-1", "--json").json["hold"]
    names = ("state", "lease", "held", "confirmed", "calls", "confirms", "confirms_open", "cancels")
    assert ("confirmed", False, 9, 5, 2, 1, 0, 0) == tuple(hold[name] for name in names)
    shown = flat(cli("charges", "show", "event-2").out)
    assert f"Hold reservation id {hold['reservation_id']} state confirmed" in shown
    assert "held 9 confirmed 5 calls 2" in shown
    found = cli("charges", "show", "event-3", "--json").json
    assert (2, 2, ["event-3.over"]) == (
        found["hold"]["held"], found["hold"]["confirmed"], [leg["usage_event_id"] for leg in found["legs"]]
    )  # fmt: skip
    assert cli("charges", "show", "event-4", "--json").json["hold"] is None
    assert "Hold" not in cli("charges", "show", "event-4").out
