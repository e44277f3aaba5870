"""Model calls inside a metered route: they draw on the route's reservation, and a denial of theirs is the 402."""

import socket
import threading
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from countwerk_meter_langchain import CountwerkCallbackHandler
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from countwerk_meter.asgi import CreditsMiddleware, Route

# One call of the fake model holds at most its estimate, and costs this much.
CALL = 6


class _Server(uvicorn.Server):
    def __init__(self, app):
        super().__init__(
            uvicorn.Config(app, lifespan="off", log_config=None, loop="asyncio", timeout_graceful_shutdown=2)
        )
        self.ready = threading.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def client_of(app):
    """Serve an app on a real socket, and be its client; leaving waits until every request has ended."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        server = _Server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        assert server.ready.wait(10)
        try:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture
def app(bench, fakes):
    """Make an app with model calls of every kind behind one metered route."""

    def make(route, **options):
        model = fakes.Chat()
        config = {"callbacks": [CountwerkCallbackHandler(bench.meter, **options)]}
        api = FastAPI()

        @api.get("/chat/sync")
        def sync():
            return [model.invoke("hello", config).content for _ in range(2)]

        @api.get("/chat/async")
        async def not_sync():
            return [(await model.ainvoke("hello", config)).content for _ in range(2)]

        @api.get("/chat/stream")
        async def stream():
            async def words():
                for _ in range(2):
                    async for part in model.astream("hello", config):
                        yield f"data: {part.content}\n\n"

            return StreamingResponse(words(), media_type="text/event-stream")

        metered = CreditsMiddleware(api, meter=bench.meter, account_id=lambda scope: "acct", routes=[route])
        metered.model = model
        return metered

    return make


@pytest.mark.parametrize("path", ["/chat/sync", "/chat/async", "/chat/stream"])
def test_model_calls_draw_on_the_route(bench, app, path):
    """Two calls in a request are two draws on one reservation, and the route charges nothing of its own."""
    with client_of(app(Route("GET", "/chat/{kind}", "app.chat", amount=100))) as client:
        assert client.get(path).status_code == 200
    assert bench.reserves() == 1
    audit = bench.audit()
    assert audit.spent == 2 * CALL
    assert audit.states == ["cancelled", "settled", "settled"]


@pytest.mark.parametrize("path", ["/chat/sync", "/chat/async", "/chat/stream"])
def test_a_flat_price_covers_the_model_calls(bench, app, path):
    """A route with a flat price costs that price, whatever its model calls use."""
    with client_of(app(Route("GET", "/chat/{kind}", "app.chat", price=5))) as client:
        assert client.get(path).status_code == 200
    assert bench.reserves() == 1
    assert bench.audit().spent == 5


@pytest.mark.parametrize("path", ["/chat/sync", "/chat/async"])
def test_a_denied_model_call_is_a_402(bench, app, path):
    """A call that the account cannot pay for is not made, and the client is told how to buy."""
    metered = app(Route("GET", "/chat/{kind}", "app.chat", amount=5), amount=5000)
    with client_of(metered) as client:
        answer = client.get(path)
    assert answer.status_code == 402
    assert answer.json()["operation"] == "llm.call"
    assert any(option["enabled"] for option in answer.json()["data"]["options"])
    assert not metered.model.calls
    assert bench.audit().spent == 0


def test_a_stream_that_runs_out_ends_with_the_payload(bench, app):
    """The first call is streamed and paid, the second is denied: the last event says so."""
    bench.sandbox.control.account("acct", balance=65, ai_product_id="prod")
    metered = app(Route("GET", "/chat/{kind}", "app.chat", amount=1), amount=60)
    with client_of(metered) as client:
        events = client.get("/chat/stream").text.removesuffix("\n\n").split("\n\n")
    assert events[0] == "data: one "
    assert events[-1].startswith("event: payment_required\ndata: {")
    assert len(metered.model.calls) == 1
    assert bench.audit().spent == CALL
