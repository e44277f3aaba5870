"""What a request costs, by how it ended: every line of the table in `countwerk_meter.asgi.outcome`, for all sizes."""

import asyncio
import gc

import pytest

from countwerk_meter import Usage, current_reservation
from countwerk_meter.asgi import Route
from countwerk_meter.asgi.exchange import Exchange
from countwerk_meter.asgi.frame import Frame

pytestmark = pytest.mark.usefixtures("unmeasured")

HOLD = 5
RECORDED = 3
START = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK = {"type": "http.response.body", "body": b"x", "more_body": True}
END = {"type": "http.response.body", "body": b"", "more_body": False}


def start(status):
    return START | {"status": status}


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """An app that gives up on its client sooner than others."""
    monkeypatch.setattr("countwerk_meter.asgi.exchange._STALLED", 0.05)


class AppError(Exception):
    """The app's own failure."""


# How each request ends: the messages that go out, then what happens.
ENDINGS = {
    "normal": ([START, CHUNK, END], None),
    "no body": ([START, END], None),
    "redirect": ([start(303), END], None),
    "slash redirect": ([start(307), END], None),
    "permanent redirect": ([start(308), CHUNK, END], None),
    "404": ([start(404), END], None),
    "422 that streams": ([start(422), CHUNK, END], None),
    "500": ([start(500), CHUNK, END], None),
    "whole 500": ([start(500), END], None),
    "failed after the end": ([START, CHUNK, END], "raise"),
    "failed before the start": ([], "raise"),
    "failed before the body": ([START], "raise"),
    "failed in the body": ([START, CHUNK], "raise"),
    "failed after a 404": ([start(404), END], "raise"),
    "left before the start": ([], "leave"),
    "left before the body": ([START], "leave"),
    "left in the body": ([START, CHUNK], "leave"),
    "left in a 404": ([start(404), CHUNK], "leave"),
    "returned in the body": ([START, CHUNK], "return"),
    "returned before the start": ([], "return"),
    "cancelled before the start": ([], "cancel"),
    "cancelled before the body": ([START], "cancel"),
    "cancelled in the body": ([START, CHUNK], "cancel"),
    "cancelled after the end": ([START, CHUNK, END], "cancel"),
    "left, then failed": ([START, CHUNK], "leave and raise"),
    "a second response after bytes": ([START, CHUNK, start(500), END], None),
    "failed, and a second response": ([START, CHUNK, start(500), END], "raise"),
    "left, and a second response": ([START, CHUNK, start(500)], "leave"),
    "failed beside a send": ([START, CHUNK], "cancel a send and raise"),
    "stalled before the body": ([START], "stall and raise"),
    "stalled in the body": ([START, CHUNK], "stall and raise"),
    "stalled at the start": ([], "stall and raise"),
    "sending the first bytes failed": ([START], "broken pipe"),
    "sending further bytes failed": ([START, CHUNK], "broken pipe"),
}

# With nothing recorded: (flat price, amount or estimate).
COSTS = {
    "normal": (HOLD, HOLD),
    "no body": (HOLD, HOLD),
    "redirect": (HOLD, HOLD),
    "slash redirect": (0, 0),
    "permanent redirect": (0, 0),
    "404": (0, 0),
    "422 that streams": (0, 0),
    "500": (0, 0),
    "whole 500": (0, 0),
    "failed after the end": (HOLD, HOLD),
    "failed before the start": (0, 0),
    "failed before the body": (0, 0),
    "failed in the body": (0, HOLD),
    "failed after a 404": (0, 0),
    "left before the start": (0, 0),
    "left before the body": (HOLD, 0),
    "left in the body": (HOLD, HOLD),
    "left in a 404": (0, 0),
    "returned in the body": (HOLD, HOLD),
    "returned before the start": (0, 0),
    "cancelled before the start": (0, 0),
    "cancelled before the body": (HOLD, 0),
    "cancelled in the body": (HOLD, HOLD),
    "cancelled after the end": (HOLD, HOLD),
    "left, then failed": (HOLD, HOLD),
    "a second response after bytes": (HOLD, HOLD),
    "failed, and a second response": (HOLD, HOLD),
    "left, and a second response": (HOLD, HOLD),
    "failed beside a send": (0, HOLD),
    "stalled before the body": (HOLD, HOLD),
    "stalled in the body": (HOLD, HOLD),
    "stalled at the start": (HOLD, 0),
    "sending the first bytes failed": (HOLD, HOLD),
    "sending further bytes failed": (HOLD, HOLD),
}


def app_that(ending, *, records):
    messages, then = ENDINGS[ending]

    async def app(scope, receive, send):
        await receive()
        if records is not None:
            current_reservation().record(records)
        for message in messages:
            await send(dict(message))
        if then in {"leave", "leave and raise"}:
            scope["client"].gone.set()
            assert await receive() == {"type": "http.disconnect"}
        if then == "stall and raise":
            scope["client"].stalls = True
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.08):
                    await send(dict(CHUNK if messages else START))
        if then == "cancel a send and raise":
            scope["client"].stalls = True
            sending = asyncio.ensure_future(send(dict(CHUNK)))
            await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait([sending])
        if then in {"raise", "leave and raise", "stall and raise", "cancel a send and raise"}:
            raise AppError
        if then == "cancel":
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        if then == "broken pipe":
            await send(dict(CHUNK))

    return app


@pytest.mark.parametrize("size", ["price", "amount", "estimate"])
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_cost(wrap, request_to, tokens, spent, ending, recorded, size):
    """The request costs what the table says, and leaves no hold."""
    hold = tokens(HOLD) if size == "estimate" else HOLD
    app = app_that(ending, records=tokens(RECORDED) if recorded else None)
    fails_from = len(ENDINGS[ending][0]) if "sending" in ending else None
    request = request_to(wrap(app, Route("POST", "/chat", "app.chat", **{size: hold})), fails_from=fails_from)
    request.scope["client"] = request
    task = asyncio.ensure_future(request.run())
    await asyncio.wait([task])

    then = ENDINGS[ending][1]
    failed = OSError if then == "broken pipe" else AppError if then and then.endswith("raise") else None
    assert task.cancelled() == (then == "cancel")
    assert then == "cancel" or (type(task.exception()) if failed else task.exception()) == failed
    flat, measured = COSTS[ending]
    if recorded:
        flat, measured = HOLD, RECORDED
    assert (flat if size == "price" else measured) == spent()


def test_every_ending_has_a_cost():
    """No line of the table is left out."""
    assert set(ENDINGS) == set(COSTS)


async def test_nested_charges_stay(meter, wrap, request_to, spent):
    """A 404 after a nested draw charges the draw, and nothing of its own."""

    async def app(scope, receive, send):
        async with meter.reserve("acct_1", "app.inner", amount=2):
            pass
        await send(start(404))
        await send(END)

    await request_to(wrap(app, Route("POST", "/chat", "app.chat", amount=HOLD))).run()
    assert spent() == 2


async def test_nested_usage_is_not_added_to_a_flat_price(meter, wrap, request_to, spent):
    """A flat price is the whole price, whatever is used inside."""

    async def app(scope, receive, send):
        async with meter.reserve("acct_1", "app.inner", amount=50) as inner:
            inner.record(Usage(output_tokens=40))
        await send(START)
        await send(END)

    await request_to(wrap(app, Route("POST", "/chat", "app.chat", price=HOLD))).run()
    assert spent() == HOLD


@pytest.mark.parametrize(("sets", "costs"), [(0, 0), (7, 7)])
async def test_a_set_amount_wins(wrap, request_to, spent, sets, costs):
    """What the app sets is what an `amount` route costs."""

    async def app(scope, receive, send):
        current_reservation().settle(sets)
        await send(START)
        await send(END)

    await request_to(wrap(app, Route("POST", "/chat", "app.chat", amount=HOLD))).run()
    assert costs == spent()


async def test_background_work_after_the_last_byte_may_record(wrap, request_to, tokens, spent):
    """Usage that is recorded after the response ended is charged."""

    async def app(scope, receive, send):
        await send(START)
        await send(END)
        current_reservation().record(tokens(4))

    await request_to(wrap(app, Route("POST", "/chat", "app.chat", amount=HOLD))).run()
    assert spent() == 4


async def test_the_last_byte_does_not_wait_for_the_commit(wrap, request_to, spent):
    """The client has everything while the app is still busy, so before the charge is committed."""
    seen = []

    async def app(scope, receive, send):
        await send(START)
        await send(END)
        seen.append(current_reservation().settlement.state)
        seen.append(request.complete.is_set())

    request = request_to(wrap(app, Route("POST", "/chat", "app.chat", amount=HOLD)))
    await request.run()
    assert seen == ["open", True]
    assert spent() == HOLD


@pytest.mark.parametrize("kind", ["http.response.pathsend", "http.response.zerocopysend"])
async def test_files_sent_by_the_server_are_bodies(wrap, request_to, spent, kind):
    """A body that the server reads from a file is delivered like any other."""

    async def app(scope, receive, send):
        await send(START)
        await send({"type": kind, "path": "/a/file"})
        raise AppError

    with pytest.raises(AppError):
        await request_to(wrap(app, Route("POST", "/chat", "app.chat", price=HOLD))).run()
    assert spent() == HOLD


@pytest.mark.parametrize("path", ["/chat", "/elsewhere"])
async def test_backpressure_is_kept(wrap, request_to, scope_of, path):
    """The app has sent no more than the server took: it waits as long as its server does."""
    made, taken = [], asyncio.Semaphore(0)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(5):
            made.append(number)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    request = request_to(wrap(app, Route("POST", "/chat", "app.chat", amount=HOLD)), scope_of(path=path))
    hand_over = request.send

    async def send(message):
        if message.get("body"):
            await taken.acquire()
        await hand_over(message)

    request.send = send
    running = asyncio.ensure_future(request.run())
    for count in range(1, 6):
        while len(made) < count:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(made) == count
        taken.release()
    await running
    assert request.body == b"xxxxx"


@pytest.mark.parametrize("path", ["/chat", "/elsewhere"])
async def test_a_request_leaves_no_garbage(wrap, request_to, scope_of, path):
    """What a request needed is let go when it ends, without the garbage collector."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    request = request_to(wrap(app, Route("POST", "/chat", "app.chat", amount=HOLD)), scope_of(path=path))
    gc.collect()
    gc.disable()
    try:
        before = _count()
        await request.run()
        assert _count() == before
    finally:
        gc.enable()


def _count():
    return sum(type(one) in {Exchange, Frame} for one in gc.get_objects())


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("status", [200, 500])
async def test_headers_that_can_be_read_once(wrap, request_to, told, status):
    """ASGI lets an app give its headers as any iterable: all of them go out."""

    async def app(scope, receive, send):
        headers = ((name, b"1") for name in (b"x-first", b"x-last"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(END)

    route = Route("POST", "/chat", "app.chat", price=HOLD)
    request = await request_to(wrap(app, route, answer_headers=told)).run()
    assert {b"x-first", b"x-last"} <= {*request.headers}
