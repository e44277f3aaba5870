"""The gate in async code: metered calls per second with 64 and with 1,000 of them at once."""

import asyncio
import statistics

import httpx
from frame import KEY, Figure, at_once, folder

from countwerk_meter import Meter


async def bare_pair(http):
    body = {"account_id": "acct", "operation": "bench.call", "amount": 2}
    held = (await http.post("/api/credits/reserve", json=body)).json()["data"]["reservationId"]
    body = {"reservationId": held, "actualAmount": 1}
    (await http.post("/api/credits/confirm-reservation", json=body)).raise_for_status()


async def metered(meter):
    async with meter.reserve("acct", "bench.call", amount=2) as reservation:
        reservation.settle(1)


async def run(url, transport, rounds):
    """Settlement runs behind, is drained after each turn, and counts: a call is done when it is settled."""
    bare, few, lots = [], [], []
    with folder() as path:
        meter = Meter("product", api_key=KEY, base_url=url, journal=f"sqlite:///{path}/a.db", reserve_timeout=60)
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": KEY}, limits=limits, timeout=60) as http:

            async def settled(workers, calls):
                loop = asyncio.get_running_loop()
                started = loop.time()
                await at_once(lambda: metered(meter), calls, workers)
                await meter.aflush(60)
                return calls / (loop.time() - started)

            await settled(64, 256)
            for _ in range(rounds):
                bare.append(await at_once(lambda: bare_pair(http), 192, 64))
                few.append(await settled(64, 1024))
                lots.append(await settled(1000, 2000))
        await meter.aclose()
    at_64, at_1000 = statistics.median(few), statistics.median(lots)
    aims = {"httpx": ("2 x", "0.9 x"), "fast": ("6 x", "0.9 x")}[transport]
    return [
        Figure(
            "async, 64 at once, settled",
            transport,
            "bare httpx.AsyncClient, both POSTs",
            statistics.median(bare),
            at_64,
            "/s",
            aims[0],
            more=True,
        ),
        Figure("async, 1,000 at once, settled", transport, "64 at once", at_64, at_1000, "/s", aims[1], more=True),
    ]


def measure(url, transport, rounds):
    return asyncio.run(run(url, transport, max(rounds // 100, 3)))
