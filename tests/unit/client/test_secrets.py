"""The API key and the purchase URLs: nowhere but on the wire, and in the answer that was asked for."""

import asyncio
import gc
import logging
import os
import pickle
from pathlib import Path

import httpcore
import httpx
import pytest
from pydantic import SecretStr

from countwerk_meter._drivers import deadline, fast_async_transport, fast_transport, sockets
from countwerk_meter._drivers import transport as transports
from countwerk_meter._drivers.endpoint import Endpoint, KeyAuth, conceal
from countwerk_meter._wire import requests
from countwerk_meter.client import AsyncCountwerkClient, CountwerkClient
from countwerk_meter.errors import ConfigurationError, CountwerkError, Ds24KeyError

KEY = "cw_live_0123456789abcdef"
KEY_HEADER = b"X-API-Key"
URL = "https://www.digistore24.com/buy/4711?token=s3cret"


class Crash(BaseException):
    """What no library expects."""


def shown(error):
    """Return all that a crash reporter would: texts, and the locals of every frame that is not a test's."""
    texts, seen, links = [], set(), [error]
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        texts += [repr(link), str(link), repr(link.args), repr(vars(link))]
        links += [link.__cause__, link.__context__]
        trace = link.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            if Path(__file__).parent != Path(frame.f_code.co_filename).parent:
                texts += [f"{frame.f_code.co_name}: {name}={value!r}" for name, value in frame.f_locals.items()]
            trace = trace.tb_next
    return "\n".join(texts)


def crash(self, buffer, timeout=None):
    unsent = bytes(buffer)
    assert KEY.encode() in unsent
    raise Crash


async def acrash(self, buffer, timeout=None):  # noqa: ASYNC109 - httpcore's signature
    unsent = bytes(buffer)
    assert KEY.encode() in unsent
    await asyncio.sleep(0)
    raise Crash


@pytest.fixture
def crash_in_the_socket(monkeypatch):
    """Make every write of a request end in an exception, with the request in the frame's locals."""
    monkeypatch.setattr(deadline._Stream, "write", crash)
    monkeypatch.setattr(sockets._Stream, "write", acrash)
    monkeypatch.setattr(fast_transport.FastTransport, "_write", lambda self, sock, data, deadline: crash(sock, data))
    monkeypatch.setattr(fast_async_transport.Connection, "_write", crash)


def crashed(call, url):
    with pytest.raises(Crash) as caught:
        call("reserve", "acct_1", "app.chat", 5, at=url, key=KEY)
    return caught.value


def answer_nothing(server, connection):
    server.stop.wait(0.2)


def test_no_frame_shows_the_key(call, raw_server, crash_in_the_socket):
    """An error raised deep in a send brings no frame whose locals show the key; the frames themselves stay."""
    error = crashed(call, raw_server(answer_nothing).url)

    assert KEY not in shown(error)
    assert "self=<countwerk_meter._drivers." in shown(error)
    names, trace = [], error.__traceback__
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert {"handle_request", "handle_async_request", "_over", "ask"} & set(names)


def test_the_test_above_would_notice(call, transport, raw_server, crash_in_the_socket, monkeypatch):
    """Without the precaution an HTTP library's frames do show the key, and ours may."""
    monkeypatch.setattr(transports, "_without_locals", lambda error: None)

    assert KEY in shown(crashed(call, raw_server(answer_nothing).url)) or transport == "fast"


def test_chained_errors_show_no_key():
    """Causes and contexts are looked after too, however they are chained."""

    def fail():
        secret = KEY
        raise ValueError(len(secret))

    def wrap():
        try:
            fail()
        except ValueError as inner:
            wrapped = KEY
            raise RuntimeError(len(wrapped)) from inner

    with pytest.raises(RuntimeError) as caught:
        wrap()
    caught.value.__cause__.__context__ = caught.value

    transports._without_locals(caught.value)

    frames = []
    for error in (caught.value, caught.value.__cause__):
        trace = error.__traceback__
        while trace is not None:
            frames.append(trace.tb_frame)
            trace = trace.tb_next
    assert KEY not in repr([frame.f_locals for frame in frames if frame.f_code.co_name in {"fail", "wrap"}])


@pytest.mark.parametrize("client", [CountwerkClient, AsyncCountwerkClient])
@pytest.mark.parametrize(
    ("key", "url", "options"),
    [
        (KEY, "http://ledger.example", {}),
        (KEY, "https://user@ledger.example", {}),
        (KEY, "https://ledger.example", {"timeout": 0}),
        (KEY + "\n", "https://ledger.example", {}),
        (KEY.encode(), "https://ledger.example", {}),
    ],
)
def test_no_refused_setting_shows_the_key(client, key, url, options):
    """A client that cannot be made shows its key neither in the error nor in a frame."""
    with pytest.raises(ConfigurationError) as caught:
        client(key, url, **options)

    assert KEY not in shown(caught.value)


def test_no_repr_shows_the_key():
    """No object that holds the key shows it."""
    endpoint = Endpoint.of(KEY, "https://ledger.example")
    clients = [CountwerkClient(KEY, "https://ledger.example"), AsyncCountwerkClient(KEY, "https://ledger.example")]
    clients[0].close()

    parts = [
        endpoint,
        KeyAuth(endpoint),
        conceal(KEY),
        *clients,
        *(part for one in clients for part in vars(one).values()),
    ]

    assert KEY not in "".join(repr(part) + str(part) for part in parts)
    # Nor anything that a transport keeps of the requests that it made.
    kept = transports._Requests(endpoint)
    assert KEY == kept.made(requests.balance("acct"), httpx.Timeout(1)).headers["X-API-Key"]
    assert KEY not in repr(vars(kept))
    assert endpoint.fingerprint not in repr(endpoint)
    assert "CountwerkClient('https://ledger.example')" == repr(clients[0])
    assert "AsyncCountwerkClient('https://ledger.example')" == repr(clients[1])


def test_the_fingerprint():
    """Each key has a fingerprint of its own, and it is none of the key."""
    one, same, other = (Endpoint.of(key, "https://ledger.example") for key in (KEY, KEY, KEY + "0"))

    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint not in KEY
    assert 16 == len(one.fingerprint)


def test_a_concealed_key_is_welcome(countwerk_sandbox, control):
    """A key may be passed in as pydantic's `SecretStr`."""
    with CountwerkClient(SecretStr(countwerk_sandbox.api_key), countwerk_sandbox.url) as client:
        assert 100 == client.balance("acct_1").balance


def test_no_log_shows_the_key_or_a_url(countwerk_sandbox, control, call, transport, caplog, closed_port):
    """Not one log record of any library does, at DEBUG, in success and in failure."""
    key = countwerk_sandbox.api_key
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "httpcore.http11", "httpcore.connection", "h11", "asyncio", "countwerk_meter"):
        caplog.set_level(logging.DEBUG, logger=name)

    links = call("purchase_links", "prod_1", "acct_1")
    hold = call("reserve", "acct_1", "app.chat", 5)
    call("cancel_reservation", hold.reservation_id)
    for fault in ({"kind": "drop_after"}, {"kind": "status", "status": 400, "message": f"{key} {URL}"}):
        control.faults([fault])
        with pytest.raises(CountwerkError):
            call("reserve", "acct_1", "app.chat", 5)
    with pytest.raises(CountwerkError):
        call("reserve", "acct_1", "app.chat", 5, at=closed_port)

    assert transport == "fast" or any(record.name.startswith("httpcore") for record in caplog.records)
    said = "".join(f"{record.getMessage()} {record.args!r}" for record in caplog.records)
    assert key not in said
    for option in links.enabled:
        assert option.url not in said
    assert URL not in said


def test_what_the_ledger_quotes(call, control, countwerk_sandbox):
    """A key and a URL in the ledger's own message are taken out of text, repr, attributes and pickle."""
    key = countwerk_sandbox.api_key
    control.faults([{"kind": "status", "status": 400, "message": f"Key {key} is wrong, see {URL}"}])

    with pytest.raises(CountwerkError) as caught:
        call("balance", "acct_1")

    assert "balance: INVALID_INPUT: Key *** is wrong, see [link]" == str(caught.value)
    assert key not in shown(caught.value)
    assert key.encode() not in pickle.dumps(caught.value)


def canned(status, document):
    return httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(status, json=document)))


def links(http):
    with http, pytest.raises(CountwerkError) as caught:
        CountwerkClient(KEY, "https://ledger.example", http=http).purchase_links("prod_1", "acct_1")
    return caught.value


def test_a_refusal_is_no_way_to_buy():
    """A failed purchase-links answer that carries a URL all the same yields none, and quotes no key."""
    option = {"type": "topup", "enabled": True, "url": URL, "label": f"Your key: {KEY}"}
    document = {"success": False, "code": "DS24_KEY_REQUIRED", "data": {"options": [option], URL: [URL]}}

    error = links(canned(409, document))

    assert isinstance(error, Ds24KeyError)
    assert {"type": "topup", "enabled": True, "url": "[link]", "label": "Your key: ***"} == error.details["options"][0]
    for secret in ("digistore24", KEY):
        assert secret not in shown(error)
        assert secret.encode() not in pickle.dumps(error)


def test_an_unreadable_answer_shows_no_url():
    """A purchase-links answer that cannot be read ends in an error whose frames show none of it."""
    document = {"success": True, "data": {"options": [{"enabled": True, "url": URL}]}}

    error = links(canned(200, document))

    assert "digistore24" not in shown(error)


def test_an_app_s_own_hook_shows_no_key():
    """A hook of the app's own client that fails ends as a doubt, without the request that it was given."""

    def hook(request):
        raise ValueError(request.headers["X-API-Key"])

    error = links(httpx.Client(event_hooks={"request": [hook]}))

    assert KEY not in shown(error)
    assert "no definite answer: ValueError" in str(error)


def test_the_key_is_in_no_other_place(countwerk_sandbox, control, monkeypatch):
    """After a call the key is in no header, string or frame that the client keeps, but in its SecretStr."""
    monkeypatch.delenv("COUNTWERK_API_KEY", raising=False)
    monkeypatch.setenv("COUNTWERK_TRANSPORT", "httpx")
    with CountwerkClient(countwerk_sandbox.api_key, countwerk_sandbox.url) as client:
        client.balance("acct_1")
        gc.collect()
        requests = [each for each in gc.get_objects() if type(each) in {httpx.Request, httpcore.Request}]
        assert [] == [each for each in requests if KEY_HEADER in dict(each.headers)]
    assert "COUNTWERK_API_KEY" not in os.environ
