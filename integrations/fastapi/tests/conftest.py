"""What the tests of the FastAPI integration share: a meter on a sandbox, and uvicorn on a real socket."""

import socket
import threading

import httpx
import pytest
import uvicorn

from countwerk_meter import Meter

ACCOUNT = "acct"
PRICES = {
    "profileVersionId": "test",
    "eurPerCredit": 1,
    "rateRules": [
        {"id": "in", "dimensionKey": "llm_input_tokens", "creditsPerUnit": 0.001},
        {"id": "out", "dimensionKey": "llm_output_tokens", "creditsPerUnit": 1},
    ],
}


@pytest.fixture
def control(countwerk_sandbox):
    """The sandbox's control API, with one account that has 100 credits."""
    countwerk_sandbox.control.account(
        ACCOUNT, balance=100, ai_product_id="prod", order_id="ORDER", current_tier_product_id="STARTER_001"
    )
    return countwerk_sandbox.control


@pytest.fixture
def meter(countwerk_sandbox, control, tmp_path):
    """A meter on the sandbox: a credit for each output token."""
    options = {"journal": f"sqlite:///{tmp_path}/journal.db", "prices": PRICES}
    with Meter("prod", api_key=countwerk_sandbox.api_key, base_url=countwerk_sandbox.url, **options) as meter:
        yield meter


@pytest.fixture
def spent(meter, control):
    """Settle everything, check that the books are clean, and say what the account was charged."""

    def charged():
        assert meter.flush()
        books = control.books(ACCOUNT)
        assert books["reserved"] == 0
        assert books["balanced"]
        return books["spent"]

    return charged


class _Server(uvicorn.Server):
    def __init__(self, app):
        options = {"lifespan": "off", "log_config": None, "loop": "asyncio", "timeout_graceful_shutdown": 2}
        super().__init__(uvicorn.Config(app, **options))
        self.ready = threading.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture
def serve():
    """Serve an app with uvicorn for the length of a test, and give an HTTP client on it that is `ACCOUNT`."""
    opened = []

    def start(app, **headers):
        listening = socket.create_server(("127.0.0.1", 0))
        server = _Server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        assert server.ready.wait(10)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        sent = {"x-account": ACCOUNT} | headers
        client = httpx.Client(base_url=url, headers=sent, trust_env=False, timeout=20)
        opened.append((client, server, thread, listening))
        return client

    def stop():
        while opened:
            client, server, thread, listening = opened.pop()
            client.close()
            server.should_exit = True
            thread.join(10)
            listening.close()
            assert not thread.is_alive()

    start.stop = stop
    yield start
    stop()
