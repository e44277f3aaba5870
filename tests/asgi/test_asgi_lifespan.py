"""The lifespan: it passes, and its end closes the meter."""

import os
import subprocess
import sys

import pytest

from countwerk_meter.asgi import Route
from countwerk_meter.errors import CountwerkError

DONE = {"type": "lifespan.shutdown.complete"}


class Lifespan:
    """An app with a lifespan, driven to its end."""

    def __init__(self, meter, last=DONE):
        self.meter = meter
        self.last = last
        self.sent = []

    async def __call__(self, scope, receive, send):
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        async with self.meter.reserve("acct_1", "app.last", amount=3):
            """The app's own shutdown may still be metered."""
        await send(self.last)

    async def run(self, app):
        messages = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive():
            return {"type": next(messages)}

        async def send(message):
            self.sent.append((message["type"], self.meter._engine.closed))

        await app({"type": "lifespan"}, receive, send)


@pytest.mark.parametrize("last", [DONE, {"type": "lifespan.shutdown.failed", "message": "no"}])
async def test_the_meter_is_closed_at_the_end(meter, wrap, control, last):
    """What the app charges while it shuts down is settled, then the meter is closed, then the server is told."""
    app = Lifespan(meter, last)
    await app.run(wrap(app, close_meter=True))
    assert app.sent == [("lifespan.startup.complete", False), (last["type"], True)]
    assert control.books("acct_1")["spent"] == 3


async def test_the_meter_may_outlive_the_app(meter, wrap):
    """With `close_meter=False` the lifespan only passes."""
    app = Lifespan(meter)
    await app.run(wrap(app))
    assert app.sent[-1] == ("lifespan.shutdown.complete", False)


async def test_a_meter_that_cannot_be_closed(meter, wrap, monkeypatch):
    """The shutdown goes on: the charges stand in the journal."""

    async def broken():
        raise CountwerkError("the disk is full")

    monkeypatch.setattr(meter, "aclose", broken)
    app = Lifespan(meter)
    await app.run(wrap(app, close_meter=True))
    assert app.sent[-1][0] == "lifespan.shutdown.complete"


async def test_other_scopes_pass(meter, wrap):
    """A kind of connection that we do not know is the app's."""
    seen = []

    async def app(scope, receive, send):
        seen.append((scope["type"], receive, send))

    await wrap(app, Route("GET", "/", "app.chat", price=1))({"type": "future"}, 1, 2)
    assert seen == [("future", 1, 2)]


def test_uvicorn_closes_the_meter(meter, wrap, serve, control):
    """Through a real server: the charge of the last request is settled when the server has stopped."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send(DONE)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    client = serve(wrap(app, Route("GET", "/", "app.chat", price=4), close_meter=True), lifespan="on")
    assert client.get("/").text == "ok"
    serve.stop()
    assert meter._engine.closed
    assert control.books("acct_1")["spent"] == 4
    assert control.books("acct_1")["reserved"] == 0


def test_a_process_that_runs_no_lifespan(countwerk_sandbox, control, tmp_path):
    """The meter is closed when the process ends: a charge that is on its way is waited for."""
    control.faults([{"path": "/api/credits/confirm-reservation", "kind": "delay", "seconds": 1, "times": 1}])
    environment = os.environ | {
        "COUNTWERK_BASE_URL": countwerk_sandbox.url,
        "COUNTWERK_API_KEY": countwerk_sandbox.api_key,
        "COUNTWERK_AI_PRODUCT_ID": "prod_1",
        "COUNTWERK_JOURNAL": f"sqlite:///{tmp_path}/journal.db",
    }
    done = subprocess.run([sys.executable, "-c", WITHOUT_LIFESPAN], env=environment, timeout=60, check=False)
    assert done.returncode == 0
    books = control.books("acct_1")
    assert (books["spent"], books["reserved"]) == (4, 0)


WITHOUT_LIFESPAN = """
import asyncio
from countwerk_meter import Meter
from countwerk_meter.asgi import CreditsMiddleware, Route

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})

async def send(message):
    pass

routes = [Route("GET", "/", "app.chat", price=4)]
metered = CreditsMiddleware(app, meter=Meter.from_env(), account_id=lambda scope: "acct_1", routes=routes)
asyncio.run(metered({"type": "http", "method": "GET", "path": "/", "headers": []}, None, send))
"""
