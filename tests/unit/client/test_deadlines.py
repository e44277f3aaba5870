"""The wall-clock budget, on real sockets: nothing that a server does makes a call longer than its timeout."""

import socket
import time

import httpcore
import httpx
import pytest

from countwerk_meter._drivers.deadline import Deadline, DeadlineBackend
from countwerk_meter.client import CountwerkClient
from countwerk_meter.errors import LedgerUnavailableError

BUDGET = {"timeout": 0.25}
# Far below what any of these servers takes, far above what a busy machine adds.
BOUND = 2.0


def drip_headers(server, connection):
    server.read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    server.drip(connection, b"X-Padding: a\r\n")


def drip_body(server, connection):
    server.read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    server.drip(connection, b" ")


def drip_chunks(server, connection):
    server.read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    server.drip(connection, b"1\r\n \r\n")


def say_nothing(server, connection):
    server.read_request(connection)
    server.stop.wait()


def read_slowly(server, connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    while not server.stop.wait(0.02):
        connection.recv(16384)


def read_nothing(server, connection):
    server.stop.wait()


@pytest.mark.parametrize("handle", [drip_headers, drip_body, drip_chunks, say_nothing])
@pytest.mark.parametrize(("method", "args"), [("balance", ("acct_1",)), ("reserve", ("acct_1", "app.chat", 5))])
def test_slow_answers(call, raw_server, raises, handle, method, args):
    """Headers and bodies that drip, and a server that says nothing, end with the budget: in doubt."""
    server = raw_server(handle)
    begun = time.monotonic()

    with raises(LedgerUnavailableError) as caught:
        call(method, *args, at=server.url, options=BUDGET)

    assert time.monotonic() - begun < BOUND
    assert caught.value.in_doubt
    # On a busy machine the budget may end with the body still on its way: its head is there, or comes at once.
    while not server.heads and time.monotonic() - begun < BOUND:
        time.sleep(0.01)
    assert 1 == server.heads


@pytest.mark.parametrize("handle", [read_slowly, read_nothing])
def test_slow_readers(call, raw_server, raises, handle):
    """A server that takes a large request in small pieces ends with the budget too: every piece counts against it."""
    server = raw_server(handle)
    metadata = {"text": "x" * 30_000_000}
    begun = time.monotonic()

    with raises(LedgerUnavailableError) as caught:
        call("deduct", "acct_1", "app.chat", 5, "event-1", metadata=metadata, at=server.url, options=BUDGET)

    assert time.monotonic() - begun < BOUND
    assert caught.value.in_doubt


def test_a_client_of_the_apps_own(raw_server, raises):
    """With an app's own `httpx.Client` the deadline still holds between the pieces of an answer."""
    server = raw_server(drip_body)
    begun = time.monotonic()

    with httpx.Client() as http, raises(LedgerUnavailableError) as caught:
        CountwerkClient("key", server.url, timeout=0.25, http=http).reserve("acct_1", "app.chat", 5)

    assert time.monotonic() - begun < BOUND
    assert "no answer in time" in str(caught.value)


class FakeStream(httpcore.NetworkStream):
    """Accepts TLS, and notes the time it was given."""

    def __init__(self):
        self.timeouts = []

    def get_extra_info(self, info):
        return self

    def settimeout(self, timeout):
        raise AssertionError("reached the socket")

    def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        self.timeouts.append(timeout)
        return self


class FakeNetwork(httpcore.NetworkBackend):
    """Connects to none of the addresses but the last, and notes what each was given."""

    def __init__(self, works=()):
        self.tried, self.stream, self._works = [], FakeStream(), works

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        self.tried.append((host, timeout))
        if host not in self._works:
            raise httpcore.ConnectTimeout
        return self.stream


@pytest.fixture
def addresses(monkeypatch):
    """A name with three addresses, one of them listed twice."""
    found = [(None, None, None, "", (address, 443)) for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)


def test_every_address_has_its_part(addresses):
    """A name with several addresses does not multiply the budget: each is given its part of what is left."""
    deadline, network = Deadline(), FakeNetwork()

    with deadline.until(time.monotonic() + 30), pytest.raises(httpcore.ConnectTimeout):
        DeadlineBackend(deadline, network).connect_tcp("ledger.example", 443, 100.0)

    assert ["192.0.2.1", "192.0.2.2", "192.0.2.3"] == [address for address, _ in network.tried]
    parts = [part for _, part in network.tried]
    assert [10, 15, 30] == [round(part) for part in parts]


def test_an_address_that_answers(addresses):
    """The first address that answers is used, and TLS is given what is left."""
    deadline, network = Deadline(), FakeNetwork(works={"192.0.2.2"})

    with deadline.until(time.monotonic() + 30):
        stream = DeadlineBackend(deadline, network).connect_tcp("ledger.example", 443, 100.0)
        stream.start_tls(None, "ledger.example", 100.0)

    assert 2 == len(network.tried)
    assert 30 == round(network.stream.timeouts[0])


def test_no_time_to_connect(addresses):
    """After the deadline no connection is begun, no TLS, and nothing is read or written."""
    deadline, network = Deadline(), FakeNetwork(works={"192.0.2.1"})
    backend = DeadlineBackend(deadline, network)
    stream = backend.connect_tcp("ledger.example", 443)
    assert [("192.0.2.1", None)] == network.tried

    with deadline.until(time.monotonic()):
        for operation, kind in [
            (lambda: backend.connect_tcp("ledger.example", 443), httpcore.ConnectTimeout),
            (lambda: stream.start_tls(None), httpcore.ConnectTimeout),
            (lambda: stream.read(1), httpcore.ReadTimeout),
            (lambda: (stream.write(b"x"), stream.read(1)), httpcore.WriteTimeout),
        ]:
            with pytest.raises(kind):
                operation()


class FakeSocket(FakeStream):
    """Takes one byte at a time, until it fails."""

    def __init__(self, error):
        super().__init__()
        self.taken, self._error = [], error

    def settimeout(self, timeout):
        self.timeouts.append(timeout)

    def send(self, data):
        if len(self.taken) == 2:
            raise self._error
        self.taken.append(bytes(data[:1]))
        return 1

    def read(self, max_bytes, timeout=None):
        return b"answer"


def test_a_write_that_takes_too_long(addresses):
    """What was written leaves when an answer is read; every piece of it is given what is left by then."""
    deadline, network = Deadline(), FakeNetwork(works={"192.0.2.1"})
    network.stream = FakeSocket(TimeoutError())
    stream = DeadlineBackend(deadline, network).connect_tcp("ledger.example", 443)

    with deadline.until(time.monotonic() + 30):
        stream.write(b"ab", 100.0)
        stream.write(b"c", 100.0)
        assert [] == network.stream.taken
        with pytest.raises(httpcore.WriteTimeout):
            stream.read(1, 100.0)

    assert [b"a", b"b"] == network.stream.taken
    assert [30, 30, 30] == [round(timeout) for timeout in network.stream.timeouts]
    assert sorted(network.stream.timeouts, reverse=True) == network.stream.timeouts


def test_whoever_takes_no_more_may_have_answered(addresses):
    """A ledger that refuses a request before it has read all of it is heard all the same."""
    deadline, network = Deadline(), FakeNetwork(works={"192.0.2.1"})
    network.stream = FakeSocket(BrokenPipeError())
    stream = DeadlineBackend(deadline, network).connect_tcp("ledger.example", 443)

    with deadline.until(time.monotonic() + 30):
        stream.write(b"abc", 100.0)
        assert b"answer" == stream.read(100, 100.0)

    assert [b"a", b"b"] == network.stream.taken


def test_what_came_since_the_connection_was_taken(addresses):
    """A connection that carried a request before, and has something to read, carries no further one: nothing left."""
    deadline, network = Deadline(), FakeNetwork(works={"192.0.2.1"})
    network.stream = FakeSocket(None)
    network.stream.send = lambda data: len(network.stream.taken.append(bytes(data)) or data)
    stream = DeadlineBackend(deadline, network).connect_tcp("ledger.example", 443)

    stream.write(b"first")
    assert b"answer" == stream.read(100, 100.0)
    stream.write(b"second")
    with pytest.raises(httpcore.ConnectError):
        stream.read(100, 100.0)

    assert [b"first"] == network.stream.taken


def test_a_name_that_does_not_resolve(call, monkeypatch, raises):
    """A name without an address is a connection that was never made."""

    def fail(*args, **kwargs):
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    with raises(LedgerUnavailableError) as caught:
        call("balance", "acct_1", at="https://ledger.example", options={"timeout": 0.2})

    assert not caught.value.in_doubt
