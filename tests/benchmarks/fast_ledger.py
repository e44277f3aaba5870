"""
A ledger that is never the bottleneck: it says yes to everything and keeps no books.

A process of its own, one asyncio protocol, no framework: some tens of thousands of answers a second on one core.
Run as a program it prints its URL and serves until its input ends.
"""

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import time
import uuid

_NAMES = itertools.count()
_FAR = "2099-01-01T00:00:00Z"


def _answer(path, body):
    if path.endswith(b"/reserve"):
        return {
            "reservationId": f"res-{uuid.uuid4().hex}",
            "operation": body["operation"],
            "amount": body["amount"],
            "expiresAt": _FAR,
        }
    if path.endswith(b"/confirm-reservation"):
        return {
            "reservationId": body["reservationId"],
            "confirmed": True,
            "actualAmount": body.get("actualAmount", 1),
        }
    if path.endswith(b"/cancel-reservation"):
        return {"reservationId": body["reservationId"], "cancelled": True}
    if path.endswith(b"/deduct"):
        return {
            "transactionId": f"tx-{next(_NAMES)}",
            "newBalance": 1,
            "deductedAmount": body["amount"],
            "operation": body["operation"],
        }
    return {"balance": 10**9, "reservedBalance": 0, "availableBalance": 10**9, "totalEarned": 10**9, "totalSpent": 0}


class _Connection(asyncio.Protocol):
    """One connection; requests carry a Content-Length."""

    def __init__(self, seconds):
        self._seconds = seconds
        self._data = b""

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end]
            lowered = head.lower()
            at = lowered.index(b"content-length:") + 15
            length = int(lowered[at:].split(b"\r\n", 1)[0])
            if len(self._data) < end + 4 + length:
                return
            body = json.loads(self._data[end + 4 : end + 4 + length])
            self._data = self._data[end + 4 + length :]
            stamped = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            said = {"success": True, "data": _answer(head.split(b" ", 2)[1], body), "timestamp": stamped}
            content = json.dumps(said).encode()
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
                len(content),
                content,
            )
            if self._seconds:
                asyncio.get_running_loop().call_later(self._seconds, self._transport.write, answer)
            else:
                self._transport.write(answer)


async def _serve(seconds):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(seconds), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def fast_ledger(seconds=0.0):
    """Start one, whose every answer takes so many seconds; gives its URL."""
    command = [sys.executable, __file__, str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ledger:
        yield ledger.stdout.readline().strip()
        ledger.stdin.close()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
