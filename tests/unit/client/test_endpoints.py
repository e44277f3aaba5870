"""The seven endpoints, sync and async, against the sandbox."""

from datetime import UTC, datetime, timedelta

from countwerk_meter.client import AsyncCountwerkClient, Balance, CountwerkClient, PurchaseLinks


def test_resolve_order(call, control):
    """An order leads to its account and product."""
    answer = call("resolve_order", "ORDER_1")

    assert ("ORDER_1", "acct_1", "prod_1") == (answer.order_id, answer.account_id, answer.ai_product_id)


def test_balance(call, control):
    """A balance has every figure of the contract."""
    answer = call("balance", "acct_1")

    expected = {
        "balance": 100,
        "reservedBalance": 0,
        "availableBalance": 100,
        "totalEarned": 100,
        "totalSpent": 0,
        "nextExpiration": None,
    }
    assert expected == answer.model_dump(by_alias=True)
    assert isinstance(answer, Balance)


def test_purchase_links(call, control):
    """Purchase links carry the account's options in the ledger's order, split into open and closed ones."""
    answer = call("purchase_links", "prod_1", "acct_1")

    assert isinstance(answer, PurchaseLinks)
    assert ("prod_1", "acct_1") == (answer.ai_product_id, answer.account_id)
    types = [option.type for option in answer.options]
    assert sorted(types, key=["upgrade", "downgrade", "topup", "manage"].index) == types
    assert answer.enabled == tuple(option for option in answer.options if option.enabled)
    assert answer.disabled == tuple(option for option in answer.options if not option.enabled)
    assert all(option.url for option in answer.enabled)
    assert [None] * len(answer.disabled) == [option.url for option in answer.disabled]
    assert all(option.disabled_reason for option in answer.disabled)


def test_purchase_links_of_older_servers(call, control):
    """The three fields that older servers want are sent under the contract's names."""
    control.clear_requests()

    call(
        "purchase_links",
        "prod_1",
        "acct_1",
        current_tier_product_id="PRO_001",
        current_order_id="ORDER_1",
        buyer_email="buyer@example.com",
    )

    assert {
        "ai_product_id": "prod_1",
        "account_id": "acct_1",
        "current_tier_product_id": "PRO_001",
        "current_order_id": "ORDER_1",
        "buyer_email": "buyer@example.com",
    } == control.requests()["requests"][0]["body"]


def test_deduct(call, control):
    """A deduct charges once under its id and repeats its answer."""
    first = call("deduct", "acct_1", "app.chat", 5, "event-1", description="A chat", metadata={"model": "m"})
    again = call("deduct", "acct_1", "app.chat", 5, "event-1")

    assert first == again
    assert (95, 5, "app.chat", "A chat") == (
        first.new_balance,
        first.deducted_amount,
        first.operation,
        first.description,
    )
    assert {"transactionId", "newBalance", "deductedAmount", "operation", "description"} == set(
        first.model_dump(by_alias=True)
    )
    assert 5 == control.books("acct_1")["spent"]


def test_reserve_and_confirm(call, control):
    """A hold is confirmed with what was used, and the rest is free again."""
    hold = call("reserve", "acct_1", "app.chat", 10, validity_minutes=15, description="A chat")
    done = call("confirm_reservation", hold.reservation_id, 4, description="Done")

    assert ("app.chat", 10, "A chat") == (hold.operation, hold.amount, hold.description)
    assert timedelta(minutes=14) < hold.expires_at - datetime.now(UTC) <= timedelta(minutes=15)
    assert {"reservationId", "operation", "amount", "expiresAt", "description"} == set(hold.model_dump(by_alias=True))
    assert {
        "reservationId": hold.reservation_id,
        "confirmed": True,
        "actualAmount": 4,
        "description": "Done",
    } == done.model_dump(by_alias=True)
    assert (4, 96) == (control.books("acct_1")["spent"], control.books("acct_1")["available"])


def test_confirm_all(call, control):
    """A confirm without an amount charges what was held."""
    hold = call("reserve", "acct_1", "app.chat", 10)

    assert 10 == call("confirm_reservation", hold.reservation_id).actual_amount


def test_cancel(call, control):
    """A cancelled hold costs nothing."""
    hold = call("reserve", "acct_1", "app.chat", 10)
    answer = call("cancel_reservation", hold.reservation_id, reason="No need")

    assert {"reservationId": hold.reservation_id, "cancelled": True, "reason": "No need"} == answer.model_dump(
        by_alias=True
    )
    assert (0, 100) == (control.books("acct_1")["spent"], control.books("acct_1")["available"])


def test_what_the_vendor_adds_later(call, control):
    """Unknown fields are kept and unknown enum values are strings."""
    control.settings(extra_fields=True)

    balance = call("balance", "acct_1")
    links = call("purchase_links", "prod_1", "acct_1")

    assert {"kept": False} == balance.model_extra["fieldFromTheFuture"]
    gift = next(option for option in links.options if option.type == "gift")
    assert ("carrier_pigeon", "at_full_moon") == (gift.link_mode, gift.expected_policy)


def test_one_client_for_many_calls(countwerk_sandbox, control):
    """A sync client keeps its connection, and is closed by hand or by its block."""
    client = CountwerkClient(countwerk_sandbox.api_key, countwerk_sandbox.url)

    assert client.balance("acct_1") == client.balance("acct_1")

    client.close()
    client.close()


async def test_one_async_client_for_many_calls(countwerk_sandbox, control):
    """An async client may be used again after it was closed: it opens new connections."""
    client = AsyncCountwerkClient(countwerk_sandbox.api_key, countwerk_sandbox.url)

    first = await client.balance("acct_1")
    await client.aclose()
    await client.aclose()

    assert first == await client.balance("acct_1")
    await client.aclose()
