"""What the client's tests share: one way to call both clients, and servers that misbehave below HTTP."""

import asyncio
import socket
import threading
import time
from contextlib import contextmanager

import pytest

from countwerk_meter._drivers.choice import async_transport, sync_transport
from countwerk_meter._drivers.endpoint import Endpoint
from countwerk_meter._wire import requests
from countwerk_meter.client import AsyncCountwerkClient, CountwerkClient

BALANCE = requests.balance("acct_1")


def _run(kind, key, url, *, method, args, kwargs, options):
    if kind == "sync":
        with CountwerkClient(key, url, **options) as client:
            return getattr(client, method)(*args, **kwargs)

    async def run():
        async with AsyncCountwerkClient(key, url, **options) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(run())


@pytest.fixture(params=["httpx", "fast"])
def transport(request, monkeypatch):
    """Have both transports chosen, one after the other."""
    monkeypatch.setenv("COUNTWERK_TRANSPORT", request.param)
    return request.param


@pytest.fixture(params=["sync", "async"])
def call(request, transport, countwerk_sandbox):
    """Call a method of a fresh client, sync or async, at the sandbox or at another URL."""

    def run(method, *args, at=None, key=None, options=None, **kwargs):
        url, key = at or countwerk_sandbox.url, key or countwerk_sandbox.api_key
        return _run(request.param, key, url, method=method, args=args, kwargs=kwargs, options=options or {})

    run.kind = request.param
    return run


@pytest.fixture(params=["sync", "async"])
def replies(request, transport):
    """Ask for a balance over one transport, so many times one after the other; return what came of each."""

    def send(url, times=1, pause=0.0, within=5.0):
        endpoint = Endpoint.of("key", url)
        if request.param == "sync":
            sender = sync_transport(endpoint, None)
            try:
                return [(time.sleep(pause), sender.send(BALANCE, time.monotonic() + within))[1] for _ in range(times)]
            finally:
                sender.close()

        async def run():
            sender = async_transport(endpoint)
            found = []
            for _ in range(times):
                await asyncio.sleep(pause)
                found.append(await sender.send(BALANCE, time.monotonic() + within))
            await sender.aclose()
            return found

        return asyncio.run(run())

    return send


@pytest.fixture
def control(countwerk_sandbox):
    """The sandbox's control API, with one account that has 100 credits."""
    countwerk_sandbox.control.account(
        "acct_1", balance=100, ai_product_id="prod_1", order_id="ORDER_1", current_tier_product_id="STARTER_001"
    )
    return countwerk_sandbox.control


@pytest.fixture
def sent(control):
    """Count the requests that the sandbox got since the test began."""
    control.clear_requests()
    return lambda: sum(control.requests()["counts"].values())


class RawServer:
    """A listening socket whose connections are given to `handle(connection, stop)`, one thread each."""

    def __init__(self, handle):
        self.stop = threading.Event()
        self.requests = []
        self.heads = 0
        self._handle = handle
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.05)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self):
        while not self.stop.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            connection.settimeout(5)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection):
        with connection:
            try:
                self._handle(self, connection)
            except OSError:
                return

    def read_request(self, connection):
        """Read one whole request, and remember it."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                raise ConnectionError
            data += piece
        self.heads += 1
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l"))
        while len(body) < length:
            piece = connection.recv(65536)
            if not piece:
                raise ConnectionError
            body += piece
        self.requests.append(head + b"\r\n\r\n" + body)

    def drip(self, connection, data):
        """Send a byte every 10 ms, for ever."""
        while True:
            for at in range(len(data)):
                if self.stop.wait(0.01):
                    return
                connection.sendall(data[at : at + 1])

    def close(self):
        self.stop.set()
        for thread in self._threads:
            thread.join(5)
        self._socket.close()


@pytest.fixture
def raw_server():
    """Make servers out of plain sockets: `raw_server(handle)` with `handle(server, connection)`."""
    servers = []

    def make(handle):
        servers.append(RawServer(handle))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def closed_port():
    """A loopback URL at which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def raises():
    """`pytest.raises` for exactly one class, not its children."""

    @contextmanager
    def exactly(kind):
        with pytest.raises(kind) as caught:
            yield caught
        assert kind is caught.type

    return exactly
