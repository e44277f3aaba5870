"""The gate in sync code: its critical path, its inline settlement, and the CPU of all of it."""

import httpx
from frame import KEY, Figure, cpu, folder, per_call, turns

from countwerk_meter import Meter

RESERVE = {"account_id": "acct", "operation": "bench.call", "amount": 2}
# Of the critical path, of both ends inline, and of the CPU.
AIMS = {"httpx": ("1.5 x", "1.3 x", "1.3 x"), "fast": ("0.9 x", "0.9 x", "0.9 x")}


def bare_reserve(http):
    answer = http.post("/api/credits/reserve", json=RESERVE)
    answer.raise_for_status()
    return answer.json()["data"]["reservationId"]


def bare_pair(http):
    held = bare_reserve(http)
    body = {"reservationId": held, "actualAmount": 1}
    http.post("/api/credits/confirm-reservation", json=body).raise_for_status()


def metered(meter):
    with meter.reserve("acct", "bench.call", amount=2) as reservation:
        reservation.settle(1)


def measure(url, transport, rounds):
    """Three figures; the meter that settles behind is drained between the turns."""
    with (
        folder() as path,
        httpx.Client(base_url=url, headers={"X-API-Key": KEY}) as http,
        Meter("product", api_key=KEY, base_url=url, journal=f"sqlite:///{path}/a.db", settlement="inline") as inline,
        Meter("product", api_key=KEY, base_url=url, journal=f"sqlite:///{path}/b.db") as behind,
    ):
        one, pair, critical, both = turns(
            rounds,
            lambda: bare_reserve(http),
            lambda: bare_pair(http),
            lambda: metered(behind),
            lambda: metered(inline),
            between=lambda: behind.flush(5),
        )

        def drained():
            metered(behind)
            behind.flush(5)

        used, base = [], []
        for _ in range(5):
            base.append(per_call(lambda: bare_pair(http), rounds // 5, cpu))
            started = cpu()
            for _ in range(rounds // 5):
                metered(behind)
            behind.flush(30)
            used.append((cpu() - started) / (rounds // 5))
    micro = 1e6
    aims = AIMS[transport]
    return [
        Figure(
            "critical path, settled behind", transport, "one bare POST", one * micro, critical * micro, "µs", aims[0]
        ),
        Figure("reserve + confirm, inline", transport, "two bare POSTs", pair * micro, both * micro, "µs", aims[1]),
        Figure(
            "CPU per metered call, settlement included",
            transport,
            "CPU of two bare POSTs",
            sorted(base)[2] * micro,
            sorted(used)[2] * micro,
            "µs",
            aims[2],
        ),
    ]
