"""Connections that fail: never made is NotSent, broken afterwards is in doubt."""

import asyncio
import contextlib
import os
import socket
import struct
import time

import httpx
import pytest

from countwerk_meter._drivers.choice import async_transport, sync_transport
from countwerk_meter._drivers.endpoint import Endpoint
from countwerk_meter._drivers.transport import AsyncHttpxTransport, HttpxTransport
from countwerk_meter._wire import requests
from countwerk_meter._wire.replies import Answer, InDoubt, NotSent
from countwerk_meter.client import AsyncCountwerkClient, CountwerkClient
from countwerk_meter.errors import LedgerUnavailableError

BALANCE = requests.balance("acct_1")


def soon():
    return time.monotonic() + 5


def reset(server, connection):
    server.read_request(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half_an_answer(server, connection):
    server.read_request(connection)
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"success": true')


def no_http(server, connection):
    server.read_request(connection)
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


def close_at_once(server, connection):
    server.requests.append(b"")


@pytest.mark.parametrize(("method", "args"), [("balance", ("acct_1",)), ("reserve", ("acct_1", "app.chat", 5))])
def test_connection_refused(call, closed_port, raises, method, args):
    """A connection that is refused carried nothing: not in doubt."""
    with raises(LedgerUnavailableError) as caught:
        call(method, *args, at=closed_port)

    assert not caught.value.in_doubt
    assert "cannot be reached" in str(caught.value)


@pytest.mark.parametrize("handle", [reset, half_an_answer, no_http, close_at_once])
def test_broken_connections(call, raw_server, raises, handle):
    """A connection that breaks once it was made leaves a reserve in doubt, sent once."""
    server = raw_server(handle)

    with raises(LedgerUnavailableError) as caught:
        call("reserve", "acct_1", "app.chat", 5, at=server.url)

    assert caught.value.in_doubt
    assert 1 == len(server.requests)


def test_what_is_sent(call, raw_server):
    """A request is one POST of JSON with the key, and asks for no compression."""

    def handle(server, connection):
        server.read_request(connection)

    server = raw_server(handle)
    with contextlib.suppress(LedgerUnavailableError):
        call("reserve", "acct_ü", "app.chat", 5, at=server.url + "/base/", key="cs_key")

    head, body = server.requests[0].split(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert b"post /base/api/credits/reserve http/1.1" == lines[0]
    assert {b"x-api-key: cs_key", b"content-type: application/json", b"accept-encoding: identity"} <= set(lines)
    assert '{"account_id":"acct_ü","operation":"app.chat","amount":5}'.encode() == body


def test_no_time_left(transport):
    """A deadline that has passed sends nothing."""
    endpoint = Endpoint.of("key", "http://127.0.0.1:9")

    async def send():
        late = async_transport(endpoint)
        return await late.send(BALANCE, time.monotonic() - 1), await late._send(BALANCE, 0.0)

    nothing = NotSent("no time left")
    late = sync_transport(endpoint)
    assert nothing == late.send(BALANCE, time.monotonic() - 1)
    late.close()
    assert (nothing, nothing) == asyncio.run(send())


def test_a_closed_client(closed_port, transport):
    """A client that was closed sends nothing, and says so as every other failure is said."""
    client = CountwerkClient("key", closed_port, max_retries=0)
    client.close()

    with pytest.raises(LedgerUnavailableError, match="the client is closed") as caught:
        client.balance("acct_1")

    assert not caught.value.in_doubt


async def test_a_closed_client_of_the_apps_own(closed_port):
    """So does one over an `httpx.AsyncClient` that the app has closed."""
    http = httpx.AsyncClient()
    await http.aclose()

    with pytest.raises(LedgerUnavailableError, match="the client is closed"):
        await AsyncCountwerkClient("key", closed_port, max_retries=0, http=http).balance("acct_1")


def canned(status=200, *, fail=None, **content):
    def handle(request):
        if fail is not None:
            raise fail
        return httpx.Response(status, **content)

    return httpx.MockTransport(handle)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.ConnectError("x"), NotSent("ConnectError")),
        (httpx.ConnectTimeout("x"), NotSent("ConnectTimeout")),
        (httpx.PoolTimeout("x"), NotSent("PoolTimeout")),
        (httpx.ProxyError("x"), NotSent("ProxyError")),
        (httpx.UnsupportedProtocol("x"), NotSent("UnsupportedProtocol")),
        (httpx.ReadError("x"), InDoubt("ReadError")),
        (httpx.ReadTimeout("x"), InDoubt("ReadTimeout")),
        (httpx.WriteError("x"), InDoubt("WriteError")),
        (httpx.WriteTimeout("x"), InDoubt("WriteTimeout")),
        (httpx.CloseError("x"), InDoubt("CloseError")),
        (httpx.RemoteProtocolError("x"), InDoubt("RemoteProtocolError")),
        (httpx.LocalProtocolError("x"), InDoubt("LocalProtocolError")),
        (httpx.DecodingError("x"), InDoubt("DecodingError")),
        (httpx.InvalidURL("x"), InDoubt("InvalidURL")),
        (httpx.StreamConsumed(), InDoubt("StreamConsumed")),
        (RuntimeError("x"), InDoubt("RuntimeError")),
        (UnicodeError("x"), InDoubt("UnicodeError")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_library_s_exception_crosses_the_line(error, expected):
    """Only a connection that was never made is NotSent; whatever else goes wrong is in doubt."""
    endpoint = Endpoint.of("key", "https://ledger.example")

    async def send():
        async with httpx.AsyncClient(transport=canned(fail=error)) as http:
            return await AsyncHttpxTransport(endpoint, http).send(BALANCE, soon())

    with httpx.Client(transport=canned(fail=error)) as http:
        assert expected == HttpxTransport(endpoint, http).send(BALANCE, soon())
    assert expected == asyncio.run(send())


def test_a_client_of_the_apps_own_stays_open():
    """An `httpx.Client` that the app passed in is the app's to close."""
    http = httpx.Client(transport=canned(json={"success": True, "data": {"balance": 3, "availableBalance": 3}}))

    with CountwerkClient("key", "https://ledger.example", http=http) as client:
        assert 3 == client.balance("acct_1").balance

    assert not http.is_closed
    http.close()


async def test_an_async_client_of_the_apps_own_stays_open():
    """So is an `httpx.AsyncClient`."""
    http = httpx.AsyncClient(transport=canned(json={"success": True, "data": {"balance": 3, "availableBalance": 3}}))

    async with AsyncCountwerkClient("key", "https://ledger.example", http=http) as client:
        assert 3 == (await client.balance("acct_1")).balance

    assert not http.is_closed
    await http.aclose()


def test_an_own_client_that_follows_redirects():
    """Even a client that the app told to follow redirects follows none with our key."""
    http = httpx.Client(transport=canned(307, headers={"location": "https://elsewhere.example"}), follow_redirects=True)

    with http:
        reply = HttpxTransport(Endpoint.of("key", "https://ledger.example"), http).send(BALANCE, soon())

    assert 307 == reply.status


@pytest.mark.parametrize(
    "unasked", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"x"], ids=["end", "answer", "byte"]
)
@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_what_comes_unasked_is_no_answer(replies, raw_server, unasked, pause):
    """A connection that was closed, or talked on, between two requests carries no other one: it would misread it."""
    data = b'{"success": true, "data": {"balance": 7, "availableBalance": 7}}'

    def handle(server, connection):
        server.read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        if pause:
            time.sleep(0.02)
        connection.sendall(unasked)
        if unasked:
            server.stop.wait(0.5)

    server = raw_server(handle)
    found = replies(server.url, times=2, pause=pause)
    answers = [reply for reply in found if isinstance(reply, Answer)]
    assert [answer.envelope.data.get("balance") for answer in answers] == [7] * len(answers)
    # What came with the answer itself, or crosses the next request, leaves that one in doubt.
    assert len(answers) == 2 or not pause


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_glued_to_an_answer_is_none(replies, raw_server, times):
    """An answer too many, in one piece with the one that was asked for, is not taken for the next one."""

    def answer(balance):
        data = b'{"success": true, "data": {"balance": %d, "availableBalance": 7}}' % balance
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data

    def handle(server, connection):
        server.read_request(connection)
        connection.sendall(answer(7) + answer(666) * times)
        server.read_request(connection)
        connection.sendall(answer(666))

    server = raw_server(handle)
    assert [7, 7, 7] == [reply.envelope.data["balance"] for reply in replies(server.url, times=3)]


def test_a_fork_opens_its_own_connections(countwerk_sandbox, control, monkeypatch):
    """A child process does not read from its parent's connections: it would read the parent's answers."""
    transport = HttpxTransport(Endpoint.of(countwerk_sandbox.api_key, countwerk_sandbox.url))
    assert isinstance(transport.send(BALANCE, soon()), Answer)
    parents = transport._lanes
    monkeypatch.setattr(os, "getpid", lambda: -1)

    assert isinstance(transport.send(BALANCE, soon()), Answer)

    assert parents is not transport._lanes
    (lane,) = parents.drain()
    assert lane._pool._kept.is_idle()
    lane.close()
    transport.close()
