"""What needs no round trip: a nested draw, a LangChain callback, an ASGI route, with a ledger that costs nothing."""

import asyncio
import contextvars
import itertools
import time
import uuid

from countwerk_meter_langchain import CountwerkCallbackHandler
from frame import KEY, Figure, folder, turns
from langchain_core.language_models import FakeListChatModel

from countwerk_meter import Meter
from countwerk_meter._wire.replies import Answer, Envelope
from countwerk_meter.asgi import CreditsMiddleware, Route

_URL = "http://127.0.0.1:9"


class NullLedger:
    """Stands between a meter and its ledger, and answers at once."""

    def __init__(self):
        self._name, self._numbers = uuid.uuid4().hex, itertools.count()

    def _answer(self, request):
        data = dict(request.body)
        if request.name == "reserve":
            data |= {"reservationId": f"{self._name}-{next(self._numbers)}", "expiresAt": "2099-01-01T00:00:00Z"}
        data |= {"confirmed": True, "cancelled": True, "balance": 10**9, "availableBalance": 10**9}
        return Answer(Envelope(200, None, data), time.time())

    def send(self, transport, request, deadline):
        return self._answer(request)

    async def asend(self, transport, request, deadline):
        return self._answer(request)


def null_meter(journal, **options):
    meter = Meter("product", api_key=KEY, base_url=_URL, journal=journal, **options)
    meter._engine.interpose(NullLedger())
    return meter


_VARIABLE = contextvars.ContextVar("variable")


def empty():
    token = _VARIABLE.set(1)
    _VARIABLE.reset(token)


def leased(rounds):
    """A call on a lease, its renewals and settlement behind it included, against an empty `with`."""
    with folder() as path, null_meter(f"sqlite:///{path}/a.db", leases=True) as meter:
        own, on_a_lease = 0, 0

        def call():
            nonlocal own, on_a_lease
            with meter.reserve("acct", "bench.call", amount=1) as reservation:
                reservation.settle(1)
            own, on_a_lease = own + (reservation.lease is None), on_a_lease + (reservation.lease is not None)

        while on_a_lease < 600:
            call()
        # The first leases are small.
        own = 0
        base, subject = turns(rounds, empty, call)
        assert own < on_a_lease / 100, f"{own} of {own + on_a_lease} calls had to reserve for themselves"
    return added("a call on a lease", "an empty with", base, subject, "+ 100 µs and one commit")


def draws(rounds):
    """A call that draws on an open block, with a journal in SQLite, against an empty `with`."""
    with (
        folder() as path,
        null_meter(f"sqlite:///{path}/a.db") as meter,
        meter.reserve("acct", "bench.block", amount=10**6),
    ):

        def draw():
            with meter.reserve("acct", "bench.call", amount=1) as reservation:
                reservation.settle(1)

        base, subject = turns(rounds, empty, draw)
    return added("a call that draws on an open block", "an empty with", base, subject, "+ 60 µs and one commit")


def added(figure, baseline, base, subject, aim):
    """A figure of which the difference matters."""
    return Figure(figure, "", baseline, base * 1e6, subject * 1e6, "µs", aim)


def langchain(rounds):
    """`invoke` with the handler against without."""
    model = FakeListChatModel(responses=["hello"])
    with null_meter("memory:") as meter:
        handler = CountwerkCallbackHandler(meter, account_id="acct", operation="bench.call", amount=2)
        base, subject = turns(
            rounds,
            lambda: model.invoke("hi"),
            lambda: model.invoke("hi", config={"callbacks": [handler]}),
            between=lambda: meter.flush(5),
        )
    return added("LangChain invoke with the handler", "without", base, subject, "+ 120 µs")


async def _app(scope, receive, send):
    chunks = int(scope["query_string"] or 1)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(chunks):
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


_AT_ONCE = 100


def asgi(rounds):
    """
    An unlisted route, a listed one, and a chunk of a stream, each against the bare app.

    A turn is a hundred requests one after another, as a server makes them on its loop: to enter a loop for each would take
    ten times as long as what is measured.
    """
    with null_meter("memory:") as meter, asyncio.Runner() as runner:
        route = Route(("POST",), "/chat", "bench.call", amount=2)
        wrapped = CreditsMiddleware(_app, meter=meter, account_id=lambda scope: "acct", routes=[route])

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            pass

        async def requests(app, path, chunks, times):
            for _ in range(times):
                scope = {
                    "type": "http",
                    "method": "POST",
                    "path": path,
                    "headers": [],
                    "query_string": str(chunks).encode(),
                    "root_path": "",
                }
                await app(scope, receive, send)

        def call(app, path, chunks=1, times=_AT_ONCE):
            return lambda: runner.run(requests(app, path, chunks, times))

        base, unlisted, listed, long_base, long = turns(
            rounds,
            call(_app, "/other"),
            call(wrapped, "/other"),
            call(wrapped, "/chat"),
            call(_app, "/chat", 1000, 1),
            call(wrapped, "/chat", 1000, 1),
            between=lambda: meter.flush(5),
        )
    base, unlisted, listed = base / _AT_ONCE, unlisted / _AT_ONCE, listed / _AT_ONCE
    # What the gate of a stream costs is in the listed route's own figure.
    chunk, chunk_base = (long - (listed - base)) / 1000, long_base / 1000
    return [
        added("ASGI, an unlisted route", "bare app", base, unlisted, "+ 5 µs"),
        added("ASGI, a listed route", "bare app", base, listed, "+ 150 µs"),
        added("ASGI, a streamed chunk", "bare app", chunk_base, chunk, "+ 1 µs"),
    ]


def measure(url, transport, rounds):
    return [draws(rounds), leased(rounds), langchain(rounds), *asgi(rounds)]
