"""The seven endpoints, where nothing goes wrong."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def control(countwerk_sandbox):
    """The control API, with an account of 100 credits opened."""
    countwerk_sandbox.control.account("acct", balance=100, ai_product_id="prod", order_id="ORDER_1")
    return countwerk_sandbox.control


def test_success_envelope_has_data_and_timestamp_alone(control, call):
    """A success is {success, data, timestamp}, the timestamp in ISO 8601 with milliseconds and Z."""
    status, answer = call("credits/balance", account_id="acct")

    assert status == 200
    assert {"success", "data", "timestamp"} == set(answer)
    assert answer["success"] is True
    assert ISO.fullmatch(answer["timestamp"])


def test_error_envelope_has_a_code_and_a_message(control, call):
    """A refusal is {success: false, code, message}."""
    _, answer = call("credits/balance")

    assert answer == {"success": False, "code": "MISSING_ACCOUNT_ID", "message": "account_id is required"}


def test_date_header_and_timestamp_are_on_the_sandbox_clock(control, http):
    """Both ways of telling the time follow the clock when it is moved."""
    control.advance(86_400)
    response = http.post("/api/credits/balance", json={"account_id": "acct"})
    date = parsedate_to_datetime(response.headers["date"])

    assert 86_000 < (date - datetime.now(UTC)).total_seconds() < 86_500
    assert response.json()["timestamp"][:16] == date.strftime("%Y-%m-%dT%H:%M")
    assert len(response.headers.get_list("date")) == 1


def test_balance_names_every_field(control, call, reserve):
    """Balance answers all six fields, with the earliest expiry of what is held."""
    reserve(amount=30, validityMinutes=30)
    reserve(amount=10, validityMinutes=10)
    _, first = call("credits/reserve", account_id="acct", operation="app.chat", amount=5, validityMinutes=1)
    _, answer = call("credits/balance", account_id="acct")

    assert {
        "balance": 100,
        "reservedBalance": 45,
        "availableBalance": 55,
        "totalEarned": 100,
        "totalSpent": 0,
        "nextExpiration": first["data"]["expiresAt"],
    } == answer["data"]


def test_unknown_account_has_nothing(control, call):
    """An account that was never opened has zeros and cannot reserve."""
    _, answer = call("credits/balance", account_id="nobody")
    status, refused = call("credits/reserve", account_id="nobody", operation="app.chat", amount=1)

    assert answer["data"]["balance"] == 0
    assert answer["data"]["nextExpiration"] is None
    assert (status, refused["data"]) == (402, {"required": 1, "available": 0})


def test_reserve_answers_what_was_asked_and_holds_for_an_hour(control, call):
    """Reserve echoes its request and expires after 60 minutes unless told otherwise."""
    _, answer = call("credits/reserve", account_id="acct", operation="app.chat", amount=7, description="Chat")
    data = answer["data"]
    held = datetime.fromisoformat(data["expiresAt"]) - datetime.fromisoformat(answer["timestamp"])

    assert {"reservationId", "operation", "amount", "expiresAt", "description"} == set(data)
    assert (data["operation"], data["amount"], data["description"]) == ("app.chat", 7, "Chat")
    assert held.total_seconds() == 3600


def test_reserve_is_not_idempotent(control, reserve):
    """Two equal requests are two reservations."""
    assert reserve(amount=4) != reserve(amount=4)
    assert control.books("acct")["reserved"] == 8


@pytest.mark.parametrize(("actual", "charged"), [({}, 10), ({"actualAmount": None}, 10), ({"actualAmount": 3}, 3)])
def test_confirm_charges_and_gives_the_rest_back(control, call, reserve, actual, charged):
    """Confirm charges the actual amount, or the reserved one, and frees what is left."""
    reservation_id = reserve(amount=10)
    status, answer = call("credits/confirm-reservation", reservationId=reservation_id, **actual)
    books = control.books("acct")

    assert status == 200
    assert {
        "reservationId": reservation_id,
        "confirmed": True,
        "actualAmount": charged,
        "description": None,
    } == answer["data"]
    assert (100, charged, 0, 100 - charged) == tuple(books[k] for k in ("earned", "spent", "reserved", "available"))


def test_confirm_keeps_the_reservation_s_description(control, call, reserve):
    """Without a description of its own, a confirm carries the reservation's."""
    _, kept = call("credits/confirm-reservation", reservationId=reserve(description="first"))
    _, replaced = call("credits/confirm-reservation", reservationId=reserve(description="a"), description="b")

    assert (kept["data"]["description"], replaced["data"]["description"]) == ("first", "b")


def test_cancel_gives_everything_back(control, call, reserve):
    """Cancel frees the whole hold and echoes the reason."""
    reservation_id = reserve(amount=10)
    _, answer = call("credits/cancel-reservation", reservationId=reservation_id, reason="nothing used")

    assert {"reservationId": reservation_id, "cancelled": True, "reason": "nothing used"} == answer["data"]
    assert control.books("acct")["available"] == 100


@pytest.mark.parametrize("ending", ["confirm-reservation", "cancel-reservation"])
@pytest.mark.parametrize("again", ["confirm-reservation", "cancel-reservation"])
def test_a_reservation_ends_once(control, call, reserve, ending, again):
    """Whatever ended a reservation, a second end is RESERVATION_NOT_FOUND and moves nothing."""
    reservation_id = reserve()
    call(f"credits/{ending}", reservationId=reservation_id)
    before = control.books("acct")["transactions"]
    status, answer = call(f"credits/{again}", reservationId=reservation_id)

    assert (status, answer["code"]) == (404, "RESERVATION_NOT_FOUND")
    assert before == control.books("acct")["transactions"]


def test_reservation_expires_on_the_sandbox_clock(control, call, reserve):
    """At its expiry, not before, a hold goes back to what is available."""
    reservation_id = reserve(amount=10, validityMinutes=15)
    control.advance(15 * 60 - 30)
    held = control.books("acct")
    control.advance(31)
    books = control.books("acct")
    status, answer = call("credits/confirm-reservation", reservationId=reservation_id)

    assert held["reserved"] == 10
    assert (books["reserved"], books["available"], books["reservations"][0]["state"]) == (0, 100, "expired")
    assert (status, answer["code"]) == (404, "RESERVATION_NOT_FOUND")


def test_deduct_answers_the_contract_s_fields(control, call):
    """Deduct names its transaction, the new balance and what was taken; metadata is kept."""
    status, answer = call(
        "credits/deduct",
        account_id="acct",
        operation="app.chat",
        amount=5,
        usage_event_id="turn-1",
        description="Chat reply",
        metadata={"model": "gpt-5", "n": [1, 2]},
    )
    booked = control.books("acct")["transactions"][-1]

    assert status == 200
    assert {
        "transactionId": booked["transaction_id"],
        "newBalance": 95,
        "deductedAmount": 5,
        "operation": "app.chat",
        "description": "Chat reply",
    } == answer["data"]
    assert (
        booked["kind"],
        booked["metadata"],
        booked["usage_event_id"],
    ) == ("deduct", {"model": "gpt-5", "n": [1, 2]}, "turn-1")


def test_deduct_repeats_its_first_success(control, call):
    """The same usage event again is no second charge, also with another amount, and answers as the first time."""
    body = {"account_id": "acct", "operation": "app.chat", "usage_event_id": "turn-1"}
    _, first = call("credits/deduct", **body, amount=5)
    call("credits/deduct", **{**body, "usage_event_id": "turn-2"}, amount=20)
    _, again = call("credits/deduct", **body, amount=50)

    assert first["data"] == again["data"]
    assert control.books("acct")["spent"] == 25


def test_deduct_is_keyed_per_account(control, call):
    """Two accounts may use the same usage event id."""
    control.account("other", balance=10)
    for account_id in ("acct", "other"):
        call("credits/deduct", account_id=account_id, operation="app.chat", amount=5, usage_event_id="turn-1")

    assert (control.books("acct")["spent"], control.books("other")["spent"]) == (5, 5)


def test_deduct_does_not_remember_a_refusal(control, call):
    """What was refused for want of credits goes through once they are there."""
    body = {"account_id": "acct", "operation": "app.chat", "amount": 150, "usage_event_id": "turn-1"}
    refused, answer = call("credits/deduct", **body)
    control.account("acct", balance=150)
    status, _ = call("credits/deduct", **body)

    assert (refused, answer["data"]) == (402, {"required": 150, "available": 100})
    assert status == 200


def test_deduct_does_not_touch_what_is_held(control, call, reserve):
    """Reserved credits are not available to a deduct."""
    reserve(amount=60)
    status, answer = call("credits/deduct", account_id="acct", operation="app.chat", amount=50, usage_event_id="turn-1")

    assert (status, answer["data"]) == (402, {"required": 50, "available": 40})


def test_resolve_order_finds_the_account(control, call):
    """An order leads to its account and product."""
    _, answer = call("credits/resolve-order", order_id="ORDER_1")

    assert answer["data"] == {"order_id": "ORDER_1", "account_id": "acct", "ai_product_id": "prod"}


def links(call, **more):
    return call("purchase-links", ai_product_id="prod", account_id="acct", **more)


def test_purchase_links_come_in_the_contract_s_order(control, call):
    """Upgrades and downgrades by tier rank, then top-ups, most credits first, then a manage option."""
    control.account("acct", current_tier_product_id="PRO_001")
    _, answer = links(call)
    options = answer["data"]["options"]

    assert [(option["type"], option.get("toProductId")) for option in options] == [
        ("upgrade", "BUSINESS_001"),
        ("upgrade", "SCALE_001"),
        ("downgrade", "STARTER_001"),
        ("topup", "TOPUP_5000"),
        ("topup", "TOPUP_1000"),
        ("topup", "TOPUP_100"),
        ("manage", None),
    ]
    assert (answer["data"]["current_order_id"], answer["data"]["current_tier_product_id"]) == ("ORDER_1", "PRO_001")
    assert {"PRO_001"} == {
        option["fromProductId"]
        for option in options
        if option["linkMode"] == "ds_upgrade_url" and "fromProductId" in option
    }


def test_disabled_options_have_a_reason_and_no_url(control, call):
    """Each answer has a disabled option; whatever is disabled says why and leads nowhere, the rest is on https."""
    _, answer = links(call)
    disabled = [option for option in answer["data"]["options"] if not option["enabled"]]
    enabled = [option for option in answer["data"]["options"] if option["enabled"]]

    assert disabled
    assert all(option["url"] is None and option["disabledReason"] for option in disabled)
    assert all(option["url"].startswith("https://") and option["disabledReason"] is None for option in enabled)


def test_urls_are_fresh_in_every_answer(control, call):
    """No URL comes twice, so one that was cached gives itself away."""
    urls = [option["url"] for _ in range(2) for option in links(call)[1]["data"]["options"] if option["url"]]

    assert len(urls) == len(set(urls))


def test_without_an_order_tiers_cannot_be_changed(control, call):
    """An upgrade needs a current order: the request's own will do, none disables it."""
    control.account("acct", order_id=None)
    _, without = links(call)
    _, given = links(call, current_order_id="ORDER_9", current_tier_product_id="SCALE_001", buyer_email="a@b.example")

    assert {False} == {o["enabled"] for o in without["data"]["options"] if o["type"] == "upgrade"}
    assert {True} == {o["enabled"] for o in given["data"]["options"] if o["type"] == "downgrade"}
    assert given["data"]["current_order_id"] == "ORDER_9"


def test_answers_may_carry_fields_and_kinds_from_the_future(control, call):
    """With extra_fields, readers meet an unknown field and an unknown option type."""
    control.settings(extra_fields=True)
    _, answer = links(call)

    assert "fieldFromTheFuture" in answer["data"]
    assert "gift" in {option["type"] for option in answer["data"]["options"]}
