"""
Many streams at once, half of them broken off at a random moment: the books are exact.

A hundred of them; COUNTWERK_TEST_DEEP=1 makes it a thousand.
"""

import asyncio
import contextlib
import os
import random

from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route as StarletteRoute

from countwerk_meter import current_reservation
from countwerk_meter.asgi import Route

STREAMS = 1000 if os.environ.get("COUNTWERK_TEST_DEEP") else 100
CHUNKS = 12


class Tally:
    """What the app itself knows of what it gave: responses begun at a flat price, and tokens recorded."""

    def __init__(self, app):
        self.app = app
        self.begun = 0
        self.tokens = 0
        self.running = 0

    async def __call__(self, scope, receive, send):
        flat = scope["path"] == "/flat"

        async def counted(message):
            if message["type"] == "http.response.start":
                self.begun += flat
            await send(message)

        self.running += 1
        try:
            await self.app(scope, receive, counted)
        finally:
            self.running -= 1


def app_of(tally, tokens):
    async def words(flat):
        for _ in range(CHUNKS):
            if not flat:
                current_reservation().record(tokens(1))
                tally().tokens += 1
            yield b"x" * 1000
            await asyncio.sleep(0.02)

    async def flat(request):
        return StreamingResponse(words(True))

    async def counted(request):
        return StreamingResponse(words(False))

    return Starlette(routes=[StarletteRoute("/flat", flat), StarletteRoute("/counted", counted)])


async def read(port, number, chance):
    """Read one stream: to its end, or break it off after a random number of bytes, perhaps before the first."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path = "/flat" if number % 4 < 2 else "/counted"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nx-account: acct_1\r\nConnection: close\r\n\r\n".encode())
    if number % 2:
        await writer.drain()
        stop = chance.choice([0, chance.randrange(1, CHUNKS * 1000)])
        if stop:
            with contextlib.suppress(asyncio.IncompleteReadError):
                await reader.readexactly(stop)
        else:
            await asyncio.sleep(chance.random())
        writer.transport.abort()
        return None
    body = await reader.read()
    writer.close()
    return body


async def crowd(port):
    chance = random.Random(20261127)
    return await asyncio.gather(*(read(port, number, chance) for number in range(STREAMS)))


def test_a_crowd_that_leaves(make_meter, wrap, serve, control, tokens):
    """Every response that began at a flat price is paid in full, every token that was recorded is, and no hold stays."""
    control.account("acct_1", balance=STREAMS * 20)
    rule = {"id": "out", "dimensionKey": "llm_output_tokens", "creditsPerUnit": 1}
    meter = make_meter(
        prices={"profileVersionId": "test", "eurPerCredit": 1, "rateRules": [rule]}, reserve_timeout=100.0
    )
    tally = Tally(None)
    tally.app = app_of(lambda: tally, tokens)
    routes = [Route("GET", "/flat", "app.flat", price=5), Route("GET", "/counted", "app.counted", amount=CHUNKS)]
    client = serve(wrap(tally, *routes, meter=meter), timeout_graceful_shutdown=60)
    answers = asyncio.run(crowd(client.base_url.port))
    serve.stop()
    assert tally.running == 0
    whole = [answer for answer in answers if answer is not None]
    assert len(whole) == STREAMS // 2
    assert all(answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"0\r\n\r\n") for answer in whole)
    assert meter.flush(100)
    books = control.books("acct_1")
    assert (books["spent"], books["reserved"]) == (5 * tally.begun + tally.tokens, 0)
    assert books["balanced"]
    assert tally.begun <= STREAMS // 2
