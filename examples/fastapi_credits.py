"""
FastAPI routes that cost credits by a dependency: `Credits` stands where `Depends` does.

Try it, against a local sandbox that it starts by itself:

    python examples/fastapi_credits.py
"""

import contextlib
import socket
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any

import httpx
import uvicorn
from countwerk_meter_fastapi import Credits, Reservation, add_credits
from fastapi import FastAPI, Request

from countwerk_meter import Meter, Usage
from countwerk_meter.asgi import Scope

PRODUCT = "prod_example"
PRICES = Path(__file__).with_name("prices.json")
ACCOUNT = "acct_fastapi_credits_example"


def account_of_token(scope: Scope) -> str | None:
    """Authenticate. None: nobody, and routes with `Credits` answer 401."""
    sent = dict(scope["headers"]).get(b"authorization", b"")
    return ACCOUNT if sent == b"Bearer token-of-ada" else None


async def by_words(request: Request) -> int:
    """Price a request: a credit for each word of its text."""
    body = await request.json()
    # What is no object FastAPI refuses by itself, with a 422: nothing is charged then.
    return max(len(str(body.get("text", "")).split()), 1) if isinstance(body, dict) else 1


def create_app(meter: Meter) -> FastAPI:
    app = FastAPI(title="Credits")
    add_credits(app, meter=meter, account_id=account_of_token)

    @app.post("/summaries", dependencies=[Credits("app.summary", price=by_words)])
    def summarise(body: dict[str, str]) -> str:
        return body["text"][:20] + "..."

    @app.get("/chat")
    async def chat(reservation: Annotated[Reservation, Credits("app.chat.reply", amount=5)]) -> str:
        # What the provider reported: 1.842 credits by prices.json, so 2 of the 5 that are held.
        reservation.record(Usage(input_tokens=900, output_tokens=1200), model="gpt-5")
        return "Hello"

    @app.get("/films", dependencies=[Credits("app.film", price=1_000_000)])
    def film() -> str:
        raise AssertionError("nobody can pay for this, so it is never called")

    return app


@contextlib.contextmanager
def served(app: FastAPI) -> Generator[str]:
    """Serve an app on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def main() -> None:
    from countwerk_meter.sandbox import SandboxControl, SandboxServer

    with tempfile.TemporaryDirectory() as folder, SandboxServer() as sandbox, SandboxControl(sandbox.url) as control:
        control.account(ACCOUNT, balance=100, ai_product_id=PRODUCT)
        options: dict[str, Any] = {"journal": f"sqlite:///{folder}/journal.db", "prices": PRICES}
        meter = Meter(PRODUCT, api_key=sandbox.api_key, base_url=sandbox.url, **options)
        headers = {"Authorization": "Bearer token-of-ada"}
        with served(create_app(meter)) as url, httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
            print("summary: ", client.post("/summaries", json={"text": "A long text about credits"}).json())
            print("chat:    ", client.get("/chat").json())
            print("film:    ", client.get("/films").json()["detail"])
            print("stranger:", client.get("/chat", headers={"Authorization": ""}).status_code)
        # The app has shut down, and its meter is closed: everything is settled.
        books = control.books(ACCOUNT)
        print("spent:   ", books["spent"])
        assert (books["spent"], books["reserved"]) == (5 + 2, 0)


if __name__ == "__main__":
    main()
