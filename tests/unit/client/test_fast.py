"""What is particular to the transports of `countwerk-meter[fast]`: their own HTTP, their own connections."""

import asyncio
import gc
import gzip
import os
import socket
import ssl
import threading
import time
import warnings

import pytest

from countwerk_meter._drivers import choice, fast_transport, lanes
from countwerk_meter._drivers import transport as transports
from countwerk_meter._drivers.choice import async_transport, sync_transport
from countwerk_meter._drivers.endpoint import Endpoint
from countwerk_meter._drivers.fast_async_transport import AsyncFastTransport
from countwerk_meter._drivers.fast_transport import FastTransport
from countwerk_meter._drivers.http_exchange import MAX_HEAD_BYTES, Address, Exchange, GarbledError
from countwerk_meter._drivers.transport import AsyncHttpxTransport, HttpxTransport
from countwerk_meter._wire import requests
from countwerk_meter._wire.replies import MAX_BODY_BYTES, Answer, InDoubt, NotSent
from countwerk_meter.errors import ConfigurationError

BALANCE = requests.balance("acct_1")
BODY = b'{"success": true, "data": {"balance": 3}}'
WHOLE = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def soon():
    return time.monotonic() + 5


def fed(data, pieces=1):
    exchange = Exchange()
    for at in range(0, len(data), pieces):
        exchange.feed(data[at : at + pieces])
    return exchange


@pytest.mark.parametrize("pieces", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("data", "reusable"),
    [
        (WHOLE, True),
        (WHOLE.replace(b"Date: x", b"Connection: close"), False),
        (WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + WHOLE, True),
        (WHOLE + b"HTTP/1.1 200 OK\r\n", False),
        (WHOLE + b"\0 no HTTP", False),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"%x\r\n%b\r\n0\r\nRetry-After: 9\r\n\r\n" % (len(BODY), BODY),
            True,
        ),
    ],
)
def test_answers(data, reusable, pieces):
    """However an answer is cut into pieces it is read alike; a connection with something behind it is not kept."""
    exchange = fed(data, pieces)

    assert (True, 200, BODY, reusable) == (exchange.done, exchange.status, exchange.body(), exchange.reusable)
    assert "retry-after" not in exchange.headers
    assert "link" not in exchange.headers


def test_an_answer_that_ends_with_its_connection():
    """Without a length the end of the connection is the end of the answer, and only then."""
    exchange = fed(b"HTTP/1.1 200 OK\r\n\r\n" + BODY)
    assert not exchange.done
    assert exchange.ended()
    assert not exchange.reusable
    for cut in (WHOLE[:-1], WHOLE[:20], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{"):
        assert not fed(cut).ended()


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES,
        b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_HEAD_BYTES,
    ],
    ids=range(6),
)
def test_answers_that_are_none(data):
    """What is no HTTP, or has no end, is no answer."""
    with pytest.raises(GarbledError):
        fed(data, 1000)


def test_a_body_that_has_no_end():
    """A body is read no further than the limit."""
    exchange = fed(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (MAX_BODY_BYTES + 1), 65536)

    assert exchange.done
    assert not exchange.reusable
    assert MAX_BODY_BYTES < len(exchange.body()) < MAX_BODY_BYTES + 65536


def test_a_body_that_something_compressed():
    """It is read all the same, to the limit."""
    for content, expected in ((BODY, BODY), (b" " * 10_000_000, b" " * (MAX_BODY_BYTES + 1))):
        packed = gzip.compress(content)
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        assert expected == fed(head + packed, 10_000).body()
    assert b"" == fed(WHOLE.replace(b"Date: x", b"Content-Encoding: gzip")).body()


def test_headers_that_come_twice():
    """They are one, as in every HTTP library."""
    assert "x, y" == fed(WHOLE.replace(b"Date: x", b"Date: x\r\ndate: y")).headers["date"]


def test_the_address():
    """The host is named as httpx names it, and the path keeps the base URL's."""
    address = Address(Endpoint.of("key", "https://[::1]:8443/base"))
    assert ("::1", 8443, True) == (address.host, address.port, address.tls)
    lines = address.written(BALANCE).split(b"\r\n")
    assert b"POST /base/api/credits/balance HTTP/1.1" == lines[0]
    assert {b"Host: [::1]:8443", b"X-API-Key: key"} <= set(lines)
    assert 443 == Address(Endpoint.of("key", "https://ledger.example")).port
    assert 80 == Address(Endpoint.of("key", "http://localhost")).port
    assert "xn--bcher-kva.example" == Address(Endpoint.of("key", "https://bücher.example")).host


def test_the_choice(monkeypatch, transport):
    """The fast ones where they are installed and nothing else is wished, httpx else."""
    endpoint = Endpoint.of("key", "http://127.0.0.1:9")

    async def chosen():
        return type(sync_transport(endpoint)), type(async_transport(endpoint))

    httpx_s, fast_s = (HttpxTransport, AsyncHttpxTransport), (FastTransport, AsyncFastTransport)
    assert {"httpx": httpx_s, "fast": fast_s}[transport] == asyncio.run(chosen())
    monkeypatch.delenv("COUNTWERK_TRANSPORT")
    assert fast_s == asyncio.run(chosen())
    monkeypatch.setattr(choice, "_installed", lambda: False)
    assert httpx_s == asyncio.run(chosen())
    for wrong in ("fast", "curl"):
        monkeypatch.setenv("COUNTWERK_TRANSPORT", wrong)
        with pytest.raises(ConfigurationError):
            sync_transport(endpoint)


class Both:
    """Sends over one fast transport, sync or async, one request after another."""

    def __init__(self, kind, url):
        endpoint = Endpoint.of("key", url)
        self._runner = asyncio.Runner()
        self._async = kind == "async"
        self._transport = self._runner.run(self._made(endpoint)) if self._async else FastTransport(endpoint)

    @staticmethod
    async def _made(endpoint):
        return AsyncFastTransport(endpoint)

    def send(self, deadline=None):
        sent = self._transport.send(BALANCE, deadline or soon())
        return self._runner.run(sent) if self._async else sent

    def wait(self, seconds):
        """Let time pass, in which the loop runs if there is one."""
        self._runner.run(asyncio.sleep(seconds)) if self._async else time.sleep(seconds)

    def close(self):
        if self._async:
            self._runner.run(self._transport.aclose())
        else:
            self._transport.close()
        self._runner.close()


@pytest.fixture(params=["sync", "async", "async that looks late"])
def over(request):
    """Make a sender; the last kind has a loop that does not run between two requests."""
    made = []

    def make(url):
        made.append(Both(request.param.split(" ")[0], url))
        if "late" in request.param:
            made[-1].wait = time.sleep
        return made[-1]

    yield make
    for sender in made:
        sender.close()


def answer_for_ever(server, connection):
    while True:
        server.read_request(connection)
        connection.sendall(WHOLE)


def count_connections(handle):
    def counting(server, connection):
        server.connections = getattr(server, "connections", 0) + 1
        handle(server, connection)

    return counting


def test_a_connection_is_kept(raw_server, over):
    """Requests follow one another over one connection."""
    server = raw_server(count_connections(answer_for_ever))
    sender = over(server.url)

    assert [3] * 5 == [sender.send().envelope.data["balance"] for _ in range(5)]
    assert 1 == server.connections


@pytest.mark.parametrize("afterwards", [b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
def test_a_connection_that_was_closed_meanwhile(over, raw_server, afterwards):
    """A server that hung up on an idle connection, with or without a word, gets the next request over a new one."""

    def once(server, connection):
        server.read_request(connection)
        connection.sendall(WHOLE)
        time.sleep(0.05)
        connection.sendall(afterwards)

    server = raw_server(count_connections(once))
    sender = over(server.url)
    for _ in range(3):
        assert isinstance(sender.send(), Answer)
        sender.wait(0.15)

    assert 3 == server.connections


def test_a_connection_that_was_idle_for_long(over, raw_server, monkeypatch):
    """It is not used again: the ledger may be closing it just now."""
    server = raw_server(count_connections(answer_for_ever))
    sender = over(server.url)
    sender.send()
    monkeypatch.setattr(lanes, "KEEPALIVE_SECONDS", -1.0)

    assert isinstance(sender.send(), Answer)
    assert isinstance(sender.send(), Answer)
    assert 3 == server.connections


def test_a_connection_that_breaks_is_not_used_again(over, raw_server):
    """After a doubt the next request begins anew."""

    def twice(server, connection):
        server.read_request(connection)
        connection.sendall(WHOLE if len(server.requests) > 1 else b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")

    sender = over(raw_server(twice).url)

    assert InDoubt("RemoteProtocolError") == sender.send()
    assert isinstance(sender.send(), Answer)


def test_an_early_refusal_and_a_closed_transport(over, raw_server):
    """A transport that was closed sends nothing."""
    server = raw_server(answer_for_ever)
    sender = over(server.url)
    sender.send()
    sender.close()
    sender._runner = asyncio.Runner()

    assert NotSent("the client is closed") == sender.send()
    assert 1 == len(server.requests)


def test_a_crowd(raw_server, monkeypatch):
    """More threads than connections: each waits for its place, and one whose turn never comes was never sent."""
    monkeypatch.setattr(transports, "CONNECTIONS", 2)
    gate = threading.Event()

    def slow(server, connection):
        while True:
            server.read_request(connection)
            gate.wait(5)
            connection.sendall(WHOLE)

    transport = FastTransport(Endpoint.of("key", raw_server(slow).url))
    found = []
    threads = [threading.Thread(target=lambda: found.append(transport.send(BALANCE, soon()))) for _ in range(6)]
    for thread in threads:
        thread.start()
    while transport._pool.places.qsize():
        time.sleep(0.005)
    assert NotSent("PoolTimeout") == transport.send(BALANCE, time.monotonic() + 0.05)
    gate.set()
    for thread in threads:
        thread.join()

    assert [True] * 6 == [isinstance(reply, Answer) for reply in found]
    transport.close()


def test_a_transport_that_was_never_closed(countwerk_sandbox, control):
    """One that is dropped leaves no connection behind (warnings are errors)."""
    transport = FastTransport(Endpoint.of(countwerk_sandbox.api_key, countwerk_sandbox.url))
    assert isinstance(transport.send(BALANCE, soon()), Answer)
    sock = transport._pool._idle[0].sock

    del transport
    gc.collect()

    assert -1 == sock.fileno()


def test_a_fork(countwerk_sandbox, control, monkeypatch):
    """A child process does not read from its parent's connections: it would read the parent's answers."""
    transport = FastTransport(Endpoint.of(countwerk_sandbox.api_key, countwerk_sandbox.url))
    assert isinstance(transport.send(BALANCE, soon()), Answer)
    parents = transport._pool
    monkeypatch.setattr(os, "getpid", lambda: -1)

    assert isinstance(transport.send(BALANCE, soon()), Answer)

    assert parents is not transport._pool
    transport.close()


def test_a_fork_for_real(raw_server):
    """Parent and child go on over connections of their own."""
    server = raw_server(count_connections(answer_for_ever))
    transport = FastTransport(Endpoint.of("key", server.url))
    transport.send(BALANCE, soon())
    with warnings.catch_warnings():
        # Python 3.12 warns of threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(0 if isinstance(transport.send(BALANCE, soon()), Answer) else 1)
    assert (child, 0) == os.waitpid(child, 0)
    assert isinstance(transport.send(BALANCE, soon()), Answer)

    assert 2 == server.connections
    transport.close()


def test_every_address_has_its_part(monkeypatch, raw_server):
    """A name with several addresses does not multiply the budget, and the first that answers is used."""
    server = raw_server(answer_for_ever)
    port = int(server.url.rsplit(":", 1)[1])
    found = [(None, None, None, "", (address, port)) for address in ("192.0.2.1", "192.0.2.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    tried = []

    def watched(address, timeout):
        tried.append((address[0], timeout))
        if address[0] != "127.0.0.1":
            raise TimeoutError
        connection = socket.socket()
        connection.settimeout(timeout)
        connection.connect(address)
        return connection

    monkeypatch.setattr(socket, "create_connection", watched)
    transport = FastTransport(Endpoint.of("key", f"http://localhost:{port}"))

    assert isinstance(transport.send(BALANCE, time.monotonic() + 30), Answer)
    assert [("192.0.2.1", 10), ("192.0.2.2", 15), ("127.0.0.1", 30)] == [(host, round(part)) for host, part in tried]
    transport.close()
    found.pop()
    assert NotSent("ConnectTimeout") == FastTransport(Endpoint.of("key", "http://localhost")).send(BALANCE, soon())


async def test_every_address_has_its_part_in_async_code(monkeypatch, raw_server):
    """So it is there."""
    server = raw_server(answer_for_ever)
    port = int(server.url.rsplit(":", 1)[1])
    loop = asyncio.get_running_loop()
    connect, tried = loop.create_connection, []

    async def resolve(*args, **kwargs):
        return [(None, None, None, "", (address, port)) for address in ("192.0.2.1", "192.0.2.2", "127.0.0.1")]

    async def watched(factory, host, *args, **kwargs):
        tried.append(host)
        if host == "192.0.2.1":
            await asyncio.sleep(60)
        if host == "192.0.2.2":
            raise ConnectionRefusedError
        return await connect(factory, host, *args, **kwargs)

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    monkeypatch.setattr(loop, "create_connection", watched)
    transport = AsyncFastTransport(Endpoint.of("key", f"http://localhost:{port}"))

    assert isinstance(await transport.send(BALANCE, time.monotonic() + 2), Answer)
    assert ["192.0.2.1", "192.0.2.2", "127.0.0.1"] == tried
    await transport.aclose()


def test_a_stranger_s_certificate(over, raw_server):
    """A server that cannot prove who it is gets no request: the connection was never made."""

    def no_tls(server, connection):
        connection.recv(65536)
        connection.sendall(b"\x15\x03\x01\x00\x02\x02\x28")

    server = raw_server(no_tls)

    assert NotSent("ConnectError") == over(server.url.replace("http:", "https:")).send()
    context = transports.tls()
    assert (ssl.CERT_REQUIRED, True) == (context.verify_mode, context.check_hostname)


def test_what_a_socket_fails_with(raw_server, monkeypatch):
    """Whatever goes wrong once a connection was made is a doubt, by name alone."""
    server = raw_server(answer_for_ever)
    for error, reason in ((BrokenPipeError("x"), "ReadError"), (RuntimeError("x"), "RuntimeError")):

        def fail(*args, error=error):
            raise error

        monkeypatch.setattr(fast_transport.FastTransport, "_write", fail)
        assert InDoubt(reason) == FastTransport(Endpoint.of("key", server.url)).send(BALANCE, soon())
