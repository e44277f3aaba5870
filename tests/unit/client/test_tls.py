"""A ledger that speaks TLS, with each transport, sync and async: who it is is always checked."""

import json
import ssl
import time

import pytest
import trustme

from countwerk_meter._drivers import transport as transports
from countwerk_meter._wire.replies import Answer, InDoubt, NotSent

DATA = {"balance": 7, "reservedBalance": 0, "availableBalance": 7, "totalEarned": 7, "totalSpent": 0}


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def trusted(authority, monkeypatch):
    """Trust that authority, and nobody else."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    monkeypatch.setattr(transports, "tls", lambda: context)
    return context


@pytest.fixture
def ledger(raw_server, authority):
    """A ledger with a certificate for one name or address; `answers` requests on each connection, then it closes it."""

    def make(name="127.0.0.1", answers=100, version=None, body=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        if version is not None:
            context.maximum_version = version
        data = json.dumps({"success": True, "data": DATA}).encode() if body is None else body

        def handle(server, connection):
            with context.wrap_socket(connection, server_side=True) as secure:
                for _ in range(answers):
                    server.read_request(secure)
                    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                    secure.sendall(head % len(data) + data)

        server = raw_server(handle)
        server.url = server.url.replace("http:", "https:")
        return server

    return make


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_answers_come_over_one_connection(replies, ledger, trusted, version):
    server = ledger(version=version)
    found = replies(server.url, times=5)
    assert [Answer] * 5 == [type(reply) for reply in found]
    assert found[0].envelope.data == DATA
    assert server.heads == 5
    assert len(server._threads) == 2  # one that accepts, one that serves


def test_a_connection_that_the_ledger_closed_is_not_used_again(replies, ledger, trusted):
    server = ledger(answers=2)
    assert [Answer] * 6 == [type(reply) for reply in replies(server.url, times=6, pause=0.05)]
    assert server.heads == 6


def test_a_large_answer_is_read_whole_or_not_at_all(replies, ledger, trusted):
    """What is larger than an answer may be is in doubt, however fast it comes."""
    padded = json.dumps({"success": True, "data": DATA | {"more": "x" * 700_000}}).encode()
    (reply,) = replies(ledger(body=padded).url)
    assert isinstance(reply, Answer) if len(padded) <= transports.MAX_BODY_BYTES else isinstance(reply, InDoubt)
    (reply,) = replies(ledger(body=b"x" * (transports.MAX_BODY_BYTES * 3)).url)
    assert isinstance(reply, InDoubt)


@pytest.mark.parametrize("scheme", ["https", "HTTPS"])
def test_a_stranger_is_sent_nothing(replies, ledger, scheme):
    """A certificate that nobody trusted has signed, however the scheme is written."""
    server = ledger()
    assert [NotSent("ConnectError")] == replies(server.url.replace("https", scheme))
    assert server.heads == 0


def test_another_is_sent_nothing(replies, ledger, trusted):
    """A certificate for another name."""
    server = ledger("ledger.example")
    assert [NotSent("ConnectError")] == replies(server.url)
    assert server.heads == 0


def test_who_never_speaks_tls_is_sent_nothing(replies, raw_server, trusted):
    """The handshake has its part of the budget, and no byte of the request has left by then."""
    server = raw_server(lambda server, connection: server.stop.wait(10))
    server.url = server.url.replace("http:", "https:")
    started = time.monotonic()
    (reply,) = replies(server.url, within=0.5)
    assert isinstance(reply, NotSent)
    assert time.monotonic() - started < 2


def test_who_speaks_no_tls_is_sent_nothing(replies, raw_server, trusted):
    server = raw_server(lambda server, connection: connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n"))
    assert [NotSent("ConnectError")] == replies(server.url.replace("http:", "https:"))
