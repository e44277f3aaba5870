"""Who pays, and for which charge: accounts, trusted callers, and clients that try to ride for free."""

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from countwerk_meter import account, current_reservation
from countwerk_meter._metering.scope import current_account
from countwerk_meter.asgi import Route
from countwerk_meter.errors import ConfigurationError

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
KEY = (b"idempotency-key", b"order 7")
ROUTE = Route(["GET", "POST"], "/chat/{id}", "app.chat", price=5)


class Chat:
    """An app that counts how often it ran, and keeps the charges' ids."""

    def __init__(self, status=200):
        self.ids = []
        self.status = status

    async def __call__(self, scope, receive, send):
        self.ids.append(current_reservation().usage_event_id)
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def chat():
    return Chat()


@pytest.fixture
def ask(request_to, scope_of):
    """Send requests with given headers, one after another; gives the answers' statuses."""

    async def send(app, *each, path="/chat/1", method="POST"):
        requests = [request_to(app, scope_of(method, path, headers)) for headers in each]
        return [(await request.run()).status for request in requests]

    return send


@pytest.mark.parametrize("headers", [[PARENT], [KEY], [KEY, PARENT]])
async def test_a_trusted_request_sent_again_is_one_charge(wrap, ask, chat, spent, headers):
    """The second one is refused with 409 and never runs for free."""
    assert await ask(wrap(chat, ROUTE, trusted_callers=True), headers, headers) == [200, 409]
    assert len(chat.ids) == 1
    assert spent() == 5


async def test_the_trace_names_the_charge(wrap, ask, chat):
    """The trace id of a trusted caller is the first part of the charge's id."""
    await ask(wrap(chat, ROUTE, trusted_callers=True), [PARENT])
    assert chat.ids[0].startswith(f"cw.{TRACE}.")


async def test_the_key_wins(wrap, ask, chat, spent):
    """With a key, another trace is still the same request, and another key in one trace another."""
    other = (b"traceparent", f"00-{TRACE[::-1]}-{SPAN}-01".encode())
    app = wrap(chat, ROUTE, trusted_callers=True)
    assert await ask(app, [KEY, PARENT], [KEY, other], [(KEY[0], b"order 8"), PARENT]) == [200, 409, 200]
    assert spent() == 10


@pytest.mark.parametrize("headers", [[PARENT], [KEY], [KEY, PARENT]])
@pytest.mark.parametrize("trusted", [False, lambda scope: False])
async def test_an_untrusted_request_pays_every_time(wrap, ask, chat, spent, headers, trusted):
    """A client that sends one identity for ever pays for ever."""
    app = wrap(chat, ROUTE, trusted_callers=trusted)
    assert await ask(app, headers, headers, headers) == [200, 200, 200]
    assert len(set(chat.ids)) == 3
    assert not any(TRACE in name for name in chat.ids)
    assert spent() == 15


async def test_an_instrumented_app_pays_every_time(wrap, ask, chat, spent):
    """A server span below an untrusted remote parent shares its trace, and is still another charge each time."""
    tracer = TracerProvider().get_tracer("test")
    inner = wrap(chat, ROUTE)

    async def instrumented(scope, receive, send):
        parent = TraceContextTextMapPropagator().extract({"traceparent": PARENT[1].decode()})
        with tracer.start_as_current_span("POST /chat", parent):
            await inner(scope, receive, send)

    assert await ask(instrumented, [PARENT], [PARENT]) == [200, 200]
    assert len(set(chat.ids)) == 2
    assert all(name.startswith(f"cw.{TRACE}.") for name in chat.ids)
    assert spent() == 10


async def test_a_remote_context_made_current_names_nothing(wrap, ask, chat, spent):
    """A propagator that makes the client's span current does not give the client the choice of the id."""
    inner = wrap(chat, ROUTE)

    async def propagated(scope, receive, send):
        parent = TraceContextTextMapPropagator().extract({"traceparent": PARENT[1].decode()})
        with trace.use_span(trace.get_current_span(parent)):
            await inner(scope, receive, send)

    assert await ask(propagated, [PARENT], [PARENT]) == [200, 200]
    assert spent() == 10


async def test_the_remote_context_is_not_made_current(wrap, ask):
    """Below the middleware no remote span is current, not even a trusted one."""
    seen = []

    async def app(scope, receive, send):
        seen.append(trace.get_current_span().get_span_context().is_valid)
        await Chat()(scope, receive, send)

    await ask(wrap(app, ROUTE, trusted_callers=True), [PARENT])
    assert seen == [False]


async def trusts_gateway(scope):
    return (b"x-gateway", b"secret") in scope["headers"]


async def test_trust_may_depend_on_the_request(wrap, ask, chat, spent):
    """Only the caller that the app trusts may name its charges."""
    gateway = [PARENT, (b"x-gateway", b"secret")]
    app = wrap(chat, ROUTE, trusted_callers=trusts_gateway)
    assert await ask(app, gateway, gateway, [PARENT], [PARENT]) == [200, 409, 200, 200]
    assert spent() == 15


@pytest.mark.parametrize(
    "headers",
    [
        [(b"traceparent", b"nonsense")],
        [(b"traceparent", f"00-{'0' * 32}-{SPAN}-01".encode())],
        [(b"traceparent", f"ff-{TRACE}-{SPAN}-01".encode())],
        [(b"traceparent", b"\xff\xfe")],
        [PARENT, (b"traceparent", f"00-{TRACE}-{SPAN[::-1]}-01".encode())],
        [(KEY[0], b"")],
        [(KEY[0], b"a"), (KEY[0], b"b")],
        [],
    ],
)
async def test_what_names_nothing(wrap, ask, chat, spent, headers):
    """Malformed or contradictory headers of a trusted caller are ignored: each request is a charge."""
    assert await ask(wrap(chat, ROUTE, trusted_callers=True), headers, headers) == [200, 200]
    assert spent() == 10


@pytest.mark.parametrize("headers", [[PARENT], [KEY]])
async def test_identity_is_of_one_place(wrap, ask, chat, spent, headers):
    """The same key or span at another path or method is another charge."""
    app = wrap(chat, ROUTE, trusted_callers=True)
    assert await ask(app, headers) == [200]
    assert await ask(app, headers, path="/chat/2") == [200]
    assert await ask(app, headers, method="GET") == [200]
    assert spent() == 15


@pytest.mark.parametrize("header", [PARENT, KEY])
async def test_identity_is_of_one_account(wrap, request_to, scope_of, chat, control, spent, header):
    """Two accounts that send the same key or span pay each for itself."""
    control.account("acct_2", balance=100, ai_product_id="prod_1")
    app = wrap(chat, ROUTE, trusted_callers=True)
    for name in (b"acct_1", b"acct_2"):
        scope = scope_of(path="/chat/1") | {"headers": [(b"x-account", name), header]}
        assert (await request_to(app, scope).run()).status == 200
    assert (spent("acct_1"), spent("acct_2")) == (5, 5)


async def test_a_request_that_still_runs_is_refused(wrap, request_to, scope_of, spent):
    """A trusted caller that sends again what is being carried out gets 409, and the first one is charged."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope, receive, send):
        entered.set()
        await go_on.wait()
        await Chat()(scope, receive, send)

    metered = wrap(app, ROUTE, trusted_callers=True)
    first = request_to(metered, scope_of(path="/chat/1", headers=[KEY]))
    running = asyncio.ensure_future(first.run())
    await entered.wait()
    second = await request_to(metered, scope_of(path="/chat/1", headers=[KEY])).run()
    go_on.set()
    await running
    assert (first.status, second.status) == (200, 409)
    assert second.headers[b"content-type"] == b"application/problem+json"
    assert second.headers[b"cache-control"] == b"no-store"
    assert second.json == {
        "type": "about:blank",
        "title": "In progress",
        "status": 409,
        "detail": "This very request is being carried out.",
        "success": False,
        "code": "CHARGE_IN_PROGRESS",
        "usage_event_id": second.json["usage_event_id"],
    }
    assert spent() == 5


async def test_what_was_not_charged_may_be_tried_again(wrap, ask, spent):
    """A trusted request that failed cost nothing, so the same key runs again."""
    chat = Chat(status=500)
    app = wrap(chat, ROUTE, trusted_callers=True)
    assert await ask(app, [KEY]) == [500]
    chat.status = 200
    assert await ask(app, [KEY], [KEY]) == [200, 409]
    assert spent() == 5


async def test_without_an_account_nothing_is_held(meter, wrap, request_to, scope_of, control):
    """The app runs, and a metered call below that names no account is refused, whatever an outer app had set."""
    seen = []

    @meter.metered("app.inner", price=1)
    async def call():
        raise AssertionError("not reached")

    async def app(scope, receive, send):
        assert current_reservation() is None
        with pytest.raises(ConfigurationError, match="no account"):
            await call()
        seen.append(True)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    scope = scope_of(path="/chat/1") | {"headers": []}
    with account("acct_1"):
        async with meter.reserve("acct_1", "app.outer", amount=1) as outer:
            before = control.requests()["counts"]
            await request_to(wrap(app, ROUTE), scope).run()
            assert control.requests()["counts"] == before
            assert current_reservation() is outer
            outer.cancel()
    assert seen


async def test_the_account_may_be_looked_up(wrap, request_to, scope_of, chat, spent):
    """`account_id` may be async."""

    async def looked_up(scope):
        await asyncio.sleep(0)
        return "acct_1"

    scope = scope_of(path="/chat/1") | {"headers": []}
    await request_to(wrap(chat, ROUTE, account_id=looked_up), scope).run()
    assert spent() == 5


async def test_metered_calls_below_are_the_accounts(meter, wrap, request_to, scope_of, spent):
    """A metered function below draws on the request's reservation: one owner."""

    @meter.metered("app.inner", amount=2)
    async def call():
        pass

    async def app(scope, receive, send):
        await call()
        await call()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    route = Route("POST", "/chat/{id}", "app.chat", amount=10)
    await request_to(wrap(app, route), scope_of(path="/chat/1")).run()
    assert spent() == 4


@pytest.mark.parametrize("size", ["price", "amount"])
@pytest.mark.parametrize("headers", [[], [(b"idempotency-key", b"k")]], ids=["", "with a key"])
async def test_the_first_middleware_owns_the_request(wrap, request_to, scope_of, spent, size, headers):
    """A route that two middlewares list is charged once, by the outer one's price; a key names that one charge."""
    outer, inner = (Route("POST", "/chat/{id}", "app.chat", **{size: credits_}) for credits_ in (5, 3))
    app = wrap(wrap(Plain(), inner, trusted_callers=True), outer, trusted_callers=True)
    assert (await request_to(app, scope_of(path="/chat/1", headers=headers)).run()).status == 200
    assert spent() == 5


async def test_an_inner_middleware_of_another_account_has_its_own(wrap, request_to, scope_of, control, spent):
    """What is another account's is charged to that one, beside the outer one's."""
    control.account("acct_2", balance=10, ai_product_id="prod_1")
    inner = wrap(Plain(), Route("POST", "/chat/{id}", "app.chat", price=3), account_id=lambda scope: "acct_2")
    assert (await request_to(wrap(inner, ROUTE), scope_of(path="/chat/1")).run()).status == 200
    assert (spent(), spent("acct_2")) == (5, 3)


class Plain(Chat):
    """The same, without an id: a call that is counted elsewhere has none."""

    async def __call__(self, scope, receive, send):
        assert current_reservation() is not None
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


async def test_the_account_is_the_requests(wrap, request_to, scope_of):
    """What outlives the request's reservation is still charged to its account, whatever an outer app had set."""
    seen = []

    async def app(scope, receive, send):
        seen.append(current_account())
        await Chat()(scope, receive, send)

    with account("outer"):
        await request_to(wrap(app, ROUTE), scope_of(path="/chat/1")).run()
    assert seen == ["acct_1"]


@pytest.mark.parametrize("answer", ["", "  "])
async def test_an_empty_account_is_none(wrap, request_to, scope_of, chat, control, answer):
    """An account that is no account is the app's fault: raised, and nothing reaches the ledger."""
    control.clear_requests()
    with pytest.raises(Exception, match="account_id"):
        await request_to(wrap(chat, ROUTE, account_id=lambda scope: answer), scope_of(path="/chat/1")).run()
    assert not control.requests()["counts"]
    assert not chat.ids
