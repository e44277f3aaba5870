"""Messages that come at odd times, and odd messages: none is lost, and none that could become a 402 goes out before."""

import asyncio

import pytest

from countwerk_meter import InsufficientCreditsError
from countwerk_meter.asgi import Route

CHAT = Route("POST", "/chat", "app.chat", amount=5)
START = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK = {"type": "http.response.body", "body": b"x", "more_body": True}
END = {"type": "http.response.body", "body": b"done"}


async def test_a_503_that_a_task_sends_while_the_request_is_charged_goes_out(
    wrap, meter, request_to, spent, monkeypatch
):
    """The app has returned, and its answer comes from a task of its own."""
    charging, sent = asyncio.Event(), asyncio.Event()
    tasks = []

    async def app(scope, receive, send):
        async def answer():
            await charging.wait()
            await send(START | {"status": 503})
            await send(END)
            sent.set()

        tasks.append(asyncio.create_task(answer()))

    real = type(meter.reserve("acct_1", "app.chat", amount=1)).afinish

    async def slowly(reservation, *values, **options):
        charging.set()
        await sent.wait()
        await real(reservation, *values, **options)

    monkeypatch.setattr("countwerk_meter._metering.reservation.Reservation.afinish", slowly)
    request = await request_to(wrap(app, CHAT)).run()
    assert (request.status, request.body) == (503, b"done")
    assert spent() == 0


@pytest.mark.parametrize("routes", [(CHAT,), ()], ids=["listed", "unlisted"])
async def test_a_head_that_says_more_body_is_a_head_all_the_same(wrap, request_to, routes):
    denied = InsufficientCreditsError(account_id="acct_1", operation="app.chat", required=5)

    async def app(scope, receive, send):
        await send(START | {"status": 500, "more_body": True})
        raise denied

    assert (await request_to(wrap(app, *routes)).run()).status == 402

    async def answers(scope, receive, send):
        await send(START | {"headers": iter([(b"x", b"y")]), "more_body": True})
        await send(CHUNK)
        await send(END)

    request = await request_to(wrap(answers, *routes)).run()
    assert (request.headers, request.body) == ({b"x": b"y"}, b"xdone")


@pytest.mark.parametrize(
    ("kinds", "ends"),
    [
        ((b"text/plain", b"text/event-stream; charset=utf-8"), True),
        ((b"text/event-stream", b"text/plain"), False),
    ],
)
async def test_of_two_content_types_the_last_one_counts(wrap, request_to, kinds, ends):
    denied = InsufficientCreditsError(account_id="acct_1", operation="app.chat", required=5)

    async def app(scope, receive, send):
        await send(START | {"headers": [(b"Content-Type", kind) for kind in kinds]})
        await send(CHUNK)
        raise denied

    request = request_to(wrap(app))
    if ends:
        await request.run()
    else:
        with pytest.raises(InsufficientCreditsError):
            await request.run()
    assert (b"payment_required" in request.body) is ends
