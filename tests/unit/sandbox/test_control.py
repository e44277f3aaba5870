"""The control API: what it does, what it refuses, and to whom it does not answer."""

import httpx
import pytest

from countwerk_meter.sandbox import SandboxControl, create_app
from countwerk_meter.sandbox.guard import is_loopback

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def control(countwerk_sandbox):
    """The control API of a fresh ledger."""
    return countwerk_sandbox.control


def test_accounts_are_opened_and_refilled(control):
    """The balance given becomes what is available; what is left out stays; null clears."""
    control.account("acct", balance=100, ai_product_id="prod", order_id="ORDER_1")
    account = control.account("acct", balance=40, ai_product_id=None)

    assert account == {
        "account_id": "acct",
        "ai_product_id": None,
        "order_id": "ORDER_1",
        "current_tier_product_id": None,
        "earned": 40,
        "available": 40,
        "reserved": 0,
        "spent": 0,
    }


def test_a_refill_leaves_what_is_held_alone(control, reserve):
    """Available becomes what was asked, whatever is reserved beside it."""
    control.account("acct", balance=100)
    reserve(amount=30)
    account = control.account("acct", balance=100)

    assert (account["available"], account["reserved"], account["earned"]) == (100, 30, 130)


def test_account_ids_may_hold_any_printable_character(control, call):
    """Slashes, spaces and umlauts arrive as they were meant."""
    name = "team/ä b?#%2F"
    control.account(name, balance=5)

    assert control.books(name)["available"] == 5
    assert call("credits/balance", account_id=name)[1]["data"]["availableBalance"] == 5


@pytest.mark.parametrize(
    ("account_id", "body", "why"),
    [
        ("acct", {"balance": -1}, "balance must be"),
        ("acct", {"balance": 1.5}, "balance must be"),
        ("acct", {"balance": True}, "balance must be"),
        ("acct", {"balence": 1}, "has no balence"),
        ("acct", {"order_id": 5}, "order_id must be"),
        ("acct", {"order_id": ""}, "order_id must be"),
        ("acct", {"order_id": "TAKEN"}, "belongs to another"),
        ("a" * 256, {"balance": 1}, "1 to 255"),
        ("a%09", {"balance": 1}, "1 to 255"),
        ("acct", [], "must be a JSON object"),
    ],
)
def test_accounts_that_make_no_sense_are_refused(control, http, account_id, body, why):
    """A 400 that says what was wrong."""
    control.account("other", order_id="TAKEN")
    response = http.put(f"/_sandbox/accounts/{account_id}", json=body)

    assert response.status_code == 400
    assert why in response.json()["error"]


@pytest.mark.parametrize(
    ("raw", "headers"),
    [
        (b"{", JSON),
        (b"", JSON),
        (b"{} {}", JSON),
        (b"[" * 50_000, JSON),
        (b"{}", {"Content-Type": "text/plain"}),
        (b"{}", {}),
    ],
)
def test_bodies_must_be_json(http, raw, headers):
    """Whatever is not JSON, or does not say so, is refused."""
    response = http.put("/_sandbox/settings", content=raw, headers=headers)

    assert (400, {"error"}) == (response.status_code, set(response.json()))


def test_settings_change_one_by_one(control, http):
    """What is left out stays; all of them can be read."""
    control.settings(ds24="missing", unmapped_orders=["A", {"order_id": "B", "times": 2}])
    control.settings(overage="allow", rate_limit={"requests": 5, "per_seconds": 1, "retry_after": 3})
    expected = {
        "ds24": "missing",
        "overage": "allow",
        "rate_limit": {"requests": 5, "per_seconds": 1, "retry_after": "3"},
        "unmapped_orders": [{"order_id": "A", "times": None}, {"order_id": "B", "times": 2}],
        "forbidden_accounts": [],
        "extra_fields": False,
        "seed": 0,
    }

    assert expected == http.get("/_sandbox/settings").json()
    assert control.settings(rate_limit=None)["rate_limit"] is None


@pytest.mark.parametrize(
    "settings",
    [
        {"ds24": "maybe"},
        {"ds24": []},
        {"overage": True},
        {"overdraft": "allow"},
        {"rate_limit": 5},
        {"rate_limit": {"requests": 1}},
        {"rate_limit": {"requests": 1.5, "per_seconds": 1}},
        {"rate_limit": {"requests": 1, "per_seconds": -1}},
        {"rate_limit": {"requests": 1, "per_seconds": 1, "burst": 2}},
        {"rate_limit": {"requests": 1, "per_seconds": 1, "retry_after": True}},
        {"unmapped_orders": "ORDER_1"},
        {"unmapped_orders": [5]},
        {"unmapped_orders": [{"order": "ORDER_1"}]},
        {"forbidden_accounts": [""]},
        {"extra_fields": "yes"},
        {"seed": "x"},
    ],
)
def test_settings_that_are_not_understood_change_nothing(control, settings):
    """All of a change or none of it."""
    with pytest.raises(ValueError):
        control.settings(seed=5, **settings) if "seed" not in settings else control.settings(**settings)

    assert control.settings()["seed"] == 0


def test_the_clock_moves_forward_only(control):
    """It goes where it is told, and not back."""
    before = control.now()
    after = control.advance(3600.5)

    assert after > before
    for advance in (-1, "1", None, True):
        with pytest.raises(ValueError, match="advance_seconds"):
            control.advance(advance)


def test_books_show_every_reservation_and_transaction(control, call, reserve):
    """A statement has the fields that auditors were promised."""
    control.account("acct", balance=100)
    call("credits/confirm-reservation", reservationId=reserve(description="Chat"), actualAmount=3)
    books = control.books("acct")

    assert {
        "account_id", "earned", "spent", "reserved", "available", "reservations", "transactions", "balanced", "now",
    } == set(books)  # fmt: skip
    assert {
        "reservation_id", "account_id", "operation", "amount", "state", "actual_amount", "expires_at", "description",
        "created_at",
    } == set(books["reservations"][0])  # fmt: skip
    assert {
        "transaction_id", "account_id", "kind", "operation", "amount", "usage_event_id", "reservation_id",
        "description", "metadata", "balance_after", "created_at",
    } == set(books["transactions"][0])  # fmt: skip
    assert [t["kind"] for t in books["transactions"]] == ["earn", "reserve", "confirm"]
    assert books["balanced"] is True


def test_the_whole_ledger_can_be_read(control, reserve):
    """Totals over all accounts, and whether everything balances."""
    control.account("acct", balance=100)
    control.account("other", balance=1)
    reserve()
    books = control.all_books(limit=1)

    assert books["totals"] == {"accounts": 2, "earned": 101, "spent": 0, "reserved": 10, "available": 91}
    assert (len(books["accounts"]), len(books["transactions"]), books["balanced"]) == (1, 1, True)


def test_requests_are_counted_and_shown_without_the_key(control, call, http):
    """Counts per path, the last ones with body and outcome, and nowhere the API key."""
    control.faults([{"path": "/api/credits/reserve", "kind": "drop_before"}])
    with pytest.raises(httpx.ReadError):
        http.post("/api/credits/reserve", json={"account_id": "acct"})
    call("credits/balance", account_id="acct")
    call("credits/balance")
    seen = control.requests(limit=2)

    assert seen["counts"] == {"/api/credits/reserve": 1, "/api/credits/balance": 2}
    assert [(entry["body"], entry["status"], entry["code"]) for entry in seen["requests"]] == [
        ({"account_id": "acct"}, 200, None),
        ({}, 400, "MISSING_ACCOUNT_ID"),
    ]
    assert tuple(control.requests()["requests"][0][k] for k in ("fault", "status")) == ("drop_before", None)
    assert "cs_sandbox" not in str(control.requests())
    control.clear_requests()
    assert control.requests() == {"counts": {}, "requests": []}


@pytest.mark.parametrize("limit", ["-1", "x", "1" * 5000, ""])
def test_a_limit_must_be_a_number(http, limit):
    """Anything else is a 400."""
    assert http.get("/_sandbox/requests", params={"limit": limit}).status_code == 400


def test_reset_begins_anew(control, call):
    """No account, no fault, no setting, no moved clock is left."""
    before = control.now()
    control.account("acct", balance=100)
    control.settings(ds24="missing")
    control.faults([{"kind": "drop_after"}])
    control.advance(10**6)
    control.reset()

    assert control.all_books()["totals"]["accounts"] == 0
    assert control.settings()["ds24"] == "ok"
    assert control.remaining_faults() == []
    assert before[:13] <= control.now() < before[:4] + "9"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/_sandbox/nothing", 404), ("GET", "/_sandbox/clock", 405)]
)
def test_calls_that_do_not_exist(http, method, path, status):
    """Unknown calls are 404, unknown methods 405."""
    assert status == http.request(method, path).status_code


REFUSED = {
    "rebound-name": {"host": "evil.example"},
    "rebound-name-with-port": {"host": "evil.example:8787"},
    "no-name": {"host": ""},
    "broken-name": {"host": "[::1"},
    "other-origin": {"origin": "https://evil.example"},
    "opaque-origin": {"origin": "null"},
    "other-port": {"origin": "http://127.0.0.1:1"},
    "cross-site": {"sec-fetch-site": "cross-site"},
    "proxy": {"x-forwarded-for": "203.0.113.5"},
    "standard-proxy": {"forwarded": "for=203.0.113.5"},
}


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("path", ["/", "/_sandbox/health", "/_sandbox/books/acct"])
def test_a_web_page_or_a_proxy_cannot_use_it(http, path, headers):
    """DNS rebinding, other origins and proxies are refused with a 403."""
    assert http.get(path, headers=headers).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.9.9.9:1", "[::1]:8787"])
def test_names_of_loopback_are_accepted(http, host):
    """Every way of naming this machine alone will do."""
    assert http.get("/_sandbox/health", headers={"host": host}).status_code == 200


def test_the_page_s_own_origin_is_accepted(countwerk_sandbox, http):
    """What the sandbox's own page sends is no other origin."""
    headers = {"origin": countwerk_sandbox.url, "sec-fetch-site": "same-origin"}

    assert http.get("/_sandbox/health", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("enabled", "client", "server"),
    [
        (False, ("127.0.0.1", 1), ("127.0.0.1", 80)),
        (True, ("192.0.2.7", 1), ("127.0.0.1", 80)),
        (True, None, ("127.0.0.1", 80)),
        (True, ("127.0.0.1", 1), ("192.0.2.7", 80)),
        (True, ("127.0.0.1", 1), None),
    ],
    ids=["switched-off", "remote-peer", "unknown-peer", "other-address", "unknown-address"],
)
@pytest.mark.parametrize("root_path", ["", "/mounted"])
async def test_only_loopback_is_answered(enabled, client, server, root_path):
    """The binding, the peer and the address each have a veto, wherever the application is mounted."""
    app = create_app(control=enabled)
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"{root_path}/_sandbox/health",
        "root_path": root_path,
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "client": client,
        "server": server,
    }
    await app(scope, None, send)
    app.close()

    assert sent[0]["status"] == 403


async def test_the_endpoints_answer_where_the_application_is_mounted():
    """Below another application the seven endpoints are found all the same, and remote peers may use them."""
    app = create_app(control=False)
    transport = httpx.ASGITransport(app, root_path="/mounted", client=("192.0.2.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://ledger.example") as client:
        response = await client.post("/mounted/api/credits/balance", json={})
    app.close()

    assert response.json()["code"] == "API_KEY_MISSING"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "example.com", "127.0.0.1.evil.example"])
def test_what_is_not_loopback(host):
    """Everything that others can reach, or that is not known."""
    assert not is_loopback(host)


def test_control_errors_say_what_the_sandbox_said(countwerk_sandbox):
    """The Python side raises ValueError with the sandbox's own words, and works as a context manager."""
    with SandboxControl(countwerk_sandbox.url) as control, pytest.raises(ValueError, match="no setting 'nope'"):
        control.settings(nope=1)
