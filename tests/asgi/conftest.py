"""What the ASGI tests share: a meter on a sandbox, uvicorn on a real socket, and an ASGI client driven by hand."""

import asyncio
import json
import socket
import threading
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.test import override_settings

from countwerk_meter import Meter, Usage
from countwerk_meter.asgi import CreditsMiddleware

ACCOUNT = "acct_1"


@pytest.fixture
def control(countwerk_sandbox):
    """The sandbox's control API, with one account that has 100 credits."""
    countwerk_sandbox.control.account(
        ACCOUNT, balance=100, ai_product_id="prod_1", order_id="ORDER_1", current_tier_product_id="STARTER_001"
    )
    return countwerk_sandbox.control


@pytest.fixture
def make_meter(countwerk_sandbox, control, tmp_path):
    """Make meters on the sandbox, each closed after the test."""
    meters = []

    def make(**options):
        options.setdefault("journal", f"sqlite:///{tmp_path}/journal-{len(meters)}.db")
        meters.append(Meter("prod_1", api_key=countwerk_sandbox.api_key, base_url=countwerk_sandbox.url, **options))
        return meters[-1]

    yield make
    for meter in meters:
        meter.close()


@pytest.fixture
def meter(make_meter):
    """A meter with one price: a credit for each output token."""
    rule = {"id": "out", "dimensionKey": "llm_output_tokens", "creditsPerUnit": 1}
    return make_meter(prices={"profileVersionId": "test", "eurPerCredit": 1, "rateRules": [rule]})


@pytest.fixture
def wrap(meter):
    """Wrap an app, its account taken from the header `x-account`."""

    def wrapped(app, *routes, **options):
        options = {"meter": meter, "account_id": account_of, "close_meter": False} | options
        return CreditsMiddleware(app, routes=routes, **options)

    return wrapped


def account_of(scope):
    """Stand in for an app's authentication."""
    return dict(scope["headers"]).get(b"x-account", b"").decode() or None


@pytest.fixture
def spent(meter, control):
    """Settle everything, check that the books are clean, and say what the account was charged."""

    def charged(account=ACCOUNT):
        assert meter.flush()
        books = control.books(account)
        assert books["reserved"] == 0
        assert books["balanced"]
        return books["spent"]

    return charged


@pytest.fixture
def tokens():
    """Make usage that costs so many credits."""
    return lambda count: Usage(output_tokens=count)


@pytest.fixture
def scope_of():
    """Make an HTTP scope as a server does."""
    return _scope


def _scope(method="POST", path="/chat", headers=(), **more):
    sent = [(b"x-account", ACCOUNT.encode()), *headers]
    return {"type": "http", "method": method, "path": path, "headers": sent, "asgi": {"version": "3.0"}} | more


@pytest.fixture
def request_to():
    """Make a request by hand: `await request_to(app, scope)` runs it, and its client may leave."""
    return Client


class Client:
    """Drives one HTTP request by hand, and may leave at a chosen moment."""

    def __init__(self, app, scope=None, *, fails_from=None):
        self.app = app
        self.scope = scope or _scope()
        self.sent = []
        self.gone = asyncio.Event()
        self.complete = asyncio.Event()
        self.asked = False
        self.stalls = False
        self._fails_from = fails_from

    async def receive(self):
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        ended = [asyncio.ensure_future(event.wait()) for event in (self.gone, self.complete)]
        try:
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ended:
                task.cancel()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if self._fails_from is not None and len(self.sent) >= self._fails_from:
            raise OSError("the client has gone")
        if self.stalls:
            await self.gone.wait()
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.complete.set()

    async def run(self):
        await self.app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def headers(self):
        return dict(self.sent[0]["headers"])

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def json(self):
        return json.loads(self.body)


@pytest.fixture
def django_app():
    """Make Django's ASGI app of URL patterns, with settings that hold until the test ends."""
    with ExitStack() as stack:

        def make(*patterns, **options):
            if not settings.configured:
                settings.configure(ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, SECRET_KEY="x", MIDDLEWARE=[])
            stack.enter_context(override_settings(ROOT_URLCONF=patterns, **options))
            return get_asgi_application()

        yield make


@contextmanager
def serving(app, **options):
    """Serve an app with uvicorn on a real socket; gives its URL and what was logged as the server's own failure."""
    # The protocol is named: asyncio sends without delay only where it is.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        options = {"lifespan": "off", "log_config": None, "loop": "asyncio", "timeout_graceful_shutdown": 2} | options
        server = _Server(uvicorn.Config(app, **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        assert server.ready.wait(10)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


class _Server(uvicorn.Server):
    def __init__(self, config):
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture
def serve():
    """Serve an app for the length of a test, and give an HTTP client on it that is `ACCOUNT`."""
    opened = []

    def start(app, account=ACCOUNT, **options):
        server = serving(app, **options)
        headers = {} if account is None else {"x-account": account}
        client = httpx.Client(base_url=server.__enter__(), headers=headers, trust_env=False, timeout=20)
        opened.append((client, server))
        return client

    def stop():
        while opened:
            client, server = opened.pop()
            client.close()
            server.__exit__(None, None, None)

    start.stop = stop
    yield start
    stop()
