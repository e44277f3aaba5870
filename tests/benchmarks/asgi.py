"""
What the middleware costs beside the bare app, in one run on one machine, the two taking turns.

Added latency of an unlisted route and of a listed one (with a ledger that answers at once, in process), each chunk of a
stream, the first byte of a stream of one second over a real socket, and the memory of a stream of 100 MB. The ledger's
own round trip is what `round_trip.py` measures. A thousand streams at once, half of them broken off, with exact books:
COUNTWERK_TEST_DEEP=1 and `tests/asgi/test_asgi_crowd.py`.
"""

import argparse
import asyncio
import itertools
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import uvicorn

from countwerk_meter import Meter
from countwerk_meter._wire.replies import Answer, Envelope
from countwerk_meter.asgi import CreditsMiddleware, Route

ROUTES = [Route("GET", "/listed", "bench.call", price=1)]
MEGABYTE = b"x" * 65_536 * 16


class NullLedger:
    """Stands between the meter and its ledger, and answers everything at once."""

    def __init__(self):
        self.numbers = itertools.count(1)

    def send(self, transport, request, deadline):
        body, now = request.body, time.time()
        data = {
            "reserve": {
                "reservationId": f"res_{next(self.numbers)}",
                "operation": body.get("operation"),
                "amount": body.get("amount"),
                "expiresAt": datetime.fromtimestamp(now + 900, UTC).isoformat(),
            },
            "confirm-reservation": {
                "reservationId": body.get("reservationId"),
                "confirmed": True,
                "actualAmount": body.get("actualAmount"),
            },
            "balance": {"balance": 1, "availableBalance": 1},
        }[request.path.rsplit("/", 1)[-1]]
        return Answer(Envelope(200, None, data), now)

    async def asend(self, transport, request, deadline):
        return self.send(transport, request, deadline)


def scope_of(path):
    return {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"", "asgi": {}}


async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message):
    pass


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


def streaming(chunks):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        message = {"type": "http.response.body", "body": b"x" * 64, "more_body": True}
        for _ in range(chunks):
            await send(message)
        await send({"type": "http.response.body", "body": b""})

    return app


async def second(scope, receive, send):
    """A stream of one second: its first chunk at once."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(20):
        await send({"type": "http.response.body", "body": b"x" * 64, "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b""})


async def large(scope, receive, send):
    """A stream of 100 MB."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(100):
        await send({"type": "http.response.body", "body": MEGABYTE, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def metered(app, meter):
    return CreditsMiddleware(app, meter=meter, account_id=lambda scope: "acct", routes=ROUTES, close_meter=False)


async def timed(app, path, times):
    scope, started = scope_of(path), time.perf_counter()
    for _ in range(times):
        await app(scope, receive, send)
    return (time.perf_counter() - started) / times


async def beside(bare, ours, path, times, turns):
    """Return both medians, in microseconds for one request, the two taking turns."""
    taken = {"bare": [], "metered": []}
    for _ in range(turns):
        taken["bare"].append(await timed(bare, path, times))
        taken["metered"].append(await timed(ours, path, times))
    # The least is what the code costs; the rest is what else the machine does.
    least = {name: round(min(seconds) * 1e6, 2) for name, seconds in taken.items()}
    medians = {name: round(statistics.median(seconds) * 1e6, 2) for name, seconds in taken.items()}
    return {"least_us": least, "median_us": medians, "added_median_us": round(medians["metered"] - medians["bare"], 2)}


class Served:
    """An app behind uvicorn on a real socket."""

    def __init__(self, app):
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
        self.thread = threading.Thread(target=asyncio.run, args=(self.server.serve(sockets=[self.listening]),))

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.listening.getsockname()[1]}/listed"

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
        self.listening.close()


def first_byte(url, http):
    started = time.perf_counter()
    with http.stream("GET", url) as answer:
        next(answer.iter_raw())
        return time.perf_counter() - started


def first_bytes(apps, turns):
    taken = {name: [] for name in apps}
    with Served(apps["bare"]) as bare, Served(apps["metered"]) as ours, httpx.Client(trust_env=False) as http:
        for _ in range(turns):
            taken["bare"].append(first_byte(bare, http))
            taken["metered"].append(first_byte(ours, http))
    return {name: round(statistics.median(seconds) * 1e3, 2) for name, seconds in taken.items()}


def memory(name):
    """Stream 100 MB in a process of its own, and say by how many MB it grew at most."""
    done = subprocess.run([sys.executable, __file__, "--memory", name], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def grown(app):
    with Served(app) as url, httpx.Client(trust_env=False) as http:
        # The peak that the kernel remembers begins anew: a child inherits its parent's.
        Path("/proc/self/clear_refs").write_text("5")
        before = peak()
        with http.stream("GET", url) as answer:
            size = sum(map(len, answer.iter_raw()))
        assert size == 100 * len(MEGABYTE)
        after = peak()
    return round(after - before, 1)


def peak():
    """Return the most memory that this process had, in MB. Linux."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def null_meter(journal):
    """Return a meter whose ledger answers at once."""
    meter = Meter("product", api_key="cs_benchmark", base_url="http://127.0.0.1:9", journal=journal)
    meter._engine.interpose(NullLedger())
    return meter


async def requests_of(meter, path, times, turns):
    return await beside(hello, metered(hello, meter), path, times, turns)


async def chunks(meter, turns):
    count = 20_000
    app = streaming(count)
    whole = await beside(app, metered(app, meter), "/listed", 1, turns)
    added = whole["least_us"]["metered"] - whole["least_us"]["bare"]
    return {"added_us": round(added / count, 3), "bare_us": round(whole["least_us"]["bare"] / count, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--memory", choices=["bare", "metered"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, null_meter("memory:") as meter:
        if given.memory:
            print(json.dumps(grown(large if given.memory == "bare" else metered(large, meter))))
            return
        figures = {
            "unlisted route": asyncio.run(requests_of(meter, "/unlisted", 2000, given.turns)),
            "listed route, null ledger": asyncio.run(requests_of(meter, "/listed", 50, given.turns)),
            "each chunk of a stream": asyncio.run(chunks(meter, given.turns)),
        }
        with null_meter(f"sqlite:///{folder}/journal.db") as durable:
            figures["the same, journal on disk"] = asyncio.run(requests_of(durable, "/listed", 50, given.turns))
        apps = {"bare": second, "metered": metered(second, meter)}
        figures["first byte of a one-second stream, ms"] = first_bytes(apps, 10)
    figures["memory of a 100 MB stream, MB"] = {name: memory(name) for name in ("bare", "metered")}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
