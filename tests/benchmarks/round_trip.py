"""
What a metered call costs beside two bare HTTP posts to the same ledger, in one run on one machine.

The two take turns, so that whatever else the machine does falls on both. Prints the medians, and their ratio.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

import httpx

from countwerk_meter import Meter
from countwerk_meter.sandbox import SandboxControl

KEY = "cs_benchmark"


def bare(http, account):
    held = http.post("/api/credits/reserve", json={"account_id": account, "operation": "bench.call", "amount": 2})
    held.raise_for_status()
    reservation = held.json()["data"]["reservationId"]
    http.post(
        "/api/credits/confirm-reservation", json={"reservationId": reservation, "actualAmount": 1}
    ).raise_for_status()


def metered(meter, account):
    with meter.reserve(account, "bench.call", amount=2) as reservation:
        reservation.settle(1)


def timed(function, *arguments):
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def measure(url, calls):
    control = SandboxControl(url)
    control.account("acct", balance=10_000_000, ai_product_id="product")
    figures = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        httpx.Client(base_url=url, headers={"X-API-Key": KEY}) as http,
        Meter("product", api_key=KEY, base_url=url, journal=f"sqlite:///{folder}/a.db", settlement="inline") as inline,
        Meter("product", api_key=KEY, base_url=url, journal=f"sqlite:///{folder}/b.db") as behind,
    ):
        times = {"two bare posts": [], "reserve + confirm, inline": [], "critical path, settled behind": []}
        for turn in range(calls + 50):
            taken = (timed(bare, http, "acct"), timed(metered, inline, "acct"), timed(metered, behind, "acct"))
            behind.flush(5)
            if turn >= 50:
                for name, seconds in zip(times, taken, strict=True):
                    times[name].append(seconds)
        baseline = statistics.median(times["two bare posts"])
        for name, seconds in times.items():
            median = statistics.median(seconds)
            figures[name] = {"median_us": round(median * 1e6), "ratio": round(median / baseline, 2)}
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=500)
    calls = parser.parse_args().calls
    command = [sys.executable, "-m", "countwerk_meter.cli", "sandbox", "--port", "0", "--api-key", KEY, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ledger:
        try:
            url = json.loads(ledger.stdout.readline())["url"]
            print(json.dumps(measure(url, calls), indent=2))
        finally:
            ledger.terminate()


if __name__ == "__main__":
    main()
