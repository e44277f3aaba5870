"""
A FastAPI app whose routes cost credits: a normal one, a streaming one, and what a client sees when credits run out.

Try it, against a local sandbox that it starts by itself:

    python examples/fastapi_app.py

Serve it (COUNTWERK_API_KEY, COUNTWERK_BASE_URL and COUNTWERK_AI_PRODUCT_ID say where the ledger is):

    uvicorn --app-dir examples fastapi_app:app
"""

import contextlib
import hmac
import os
import socket
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import httpx
import uvicorn
from fastapi import Body, Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from countwerk_meter import CountwerkClient, Meter, Usage, current_reservation
from countwerk_meter.asgi import CreditsMiddleware, Route, Scope

PRODUCT = os.environ.get("COUNTWERK_AI_PRODUCT_ID", "prod_example")
PRICES = Path(__file__).with_name("prices.json")

# Your user table. An account id never comes from the client by itself: the token that it proves does.
ACCOUNT = os.environ.get("COUNTWERK_EXAMPLE_ACCOUNT", "acct_123")
TOKENS = {"token-of-ada": ACCOUNT}


def account_of_token(scope: Scope) -> str | None:
    """Authenticate `Authorization: Bearer ...`; None: nobody, and nothing is held."""
    sent = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1").removeprefix("Bearer ").encode()
    return next((account for token, account in TOKENS.items() if hmac.compare_digest(token.encode(), sent)), None)


def paying() -> None:
    """Refuse whoever proved no account: the middleware lets such a request through unmetered."""
    if current_reservation() is None:
        raise HTTPException(401, "log in first")


def create_app(meter: Meter) -> FastAPI:
    """Make the app. The middleware closes the meter when the app shuts down."""
    app = FastAPI(title="Credits")
    app.add_middleware(
        CreditsMiddleware,
        meter=meter,
        account_id=account_of_token,
        routes=[
            Route("POST", "/summaries", "app.summary", price=3),
            Route("GET", "/chats/{chat}/reply", "app.chat.reply", amount=5),
            Route("POST", "/films", "app.film", price=1_000_000),
        ],
    )

    @app.post("/summaries", dependencies=[Depends(paying)])
    def summarise(text: Annotated[str, Body(embed=True)]) -> dict[str, str]:
        # A flat price: held before this line runs, charged because it ended well. A 422 or a 500 costs nothing.
        return {"summary": f"{text[:20]}..."}

    @app.get("/chats/{chat}/reply", dependencies=[Depends(paying)])
    async def reply(chat: str) -> StreamingResponse:
        return StreamingResponse(words(chat), media_type="text/event-stream")

    @app.post("/films", dependencies=[Depends(paying)])
    async def film() -> None:
        raise AssertionError("nobody can pay for this, so it is never called")

    return app


async def words(chat: str) -> AsyncIterator[str]:
    """Stream a reply as a model would. A client that leaves in the middle pays what was held, or what was recorded."""
    for word in ["Hello", "from", chat]:
        yield f"data: {word}\n\n"
    if reservation := current_reservation():
        # What the provider reported at the end of its stream: 1.842 credits by prices.json, so 2.
        reservation.record(Usage(input_tokens=900, output_tokens=1200), model="gpt-5")


def __getattr__(name: str) -> FastAPI:
    # For `uvicorn fastapi_app:app`: made when it is asked for, from the environment.
    if name == "app":
        return create_app(Meter.from_env(prices=PRICES))
    raise AttributeError(name)


def demo(meter: Meter) -> None:
    """Serve the app, be its client, and show what that cost."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(meter), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        headers = {"Authorization": "Bearer token-of-ada"}
        with httpx.Client(
            base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", headers=headers, trust_env=False
        ) as client:
            summary = client.post("/summaries", json={"text": "A long text about credits"})
            print("summary:", summary.json()["summary"])
            with client.stream("GET", "/chats/7/reply") as stream:
                print("stream: ", *(line.removeprefix("data: ") for line in stream.iter_lines() if line))
            refused = client.post("/films")
            problem = refused.json()
            print(f"film:    {refused.status_code} {problem['detail']}")
            for option in problem["data"]["options"]:
                print("         ", "buy: " + option["label"] if option["enabled"] else "not now: " + option["label"])
            assert [summary.status_code, stream.status_code, refused.status_code] == [200, 200, 402]
            assert client.post("/summaries").status_code == 422
            stranger = client.post("/summaries", json={"text": "x"}, headers={"Authorization": "Bearer none"})
            assert stranger.status_code == 401
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def main() -> None:
    from countwerk_meter.sandbox import SandboxControl, SandboxServer

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        options = {"journal": f"sqlite:///{folder}/journal.db", "prices": PRICES}
        url, key = os.environ.get("COUNTWERK_BASE_URL"), os.environ.get("COUNTWERK_API_KEY")
        if not url:
            sandbox = stack.enter_context(SandboxServer())
            url, key = sandbox.url, sandbox.api_key
        if httpx.URL(url).host in {"127.0.0.1", "localhost"}:
            # A sandbox opens the account; on a real ledger COUNTWERK_EXAMPLE_ACCOUNT must have 5 credits.
            stack.enter_context(SandboxControl(url)).account(ACCOUNT, balance=100, ai_product_id=PRODUCT)
        client = stack.enter_context(CountwerkClient(key, url))

        before = client.balance(ACCOUNT)
        demo(Meter(PRODUCT, client=client, **options))
        after = client.balance(ACCOUNT)
        print(f"balance: {before.available_balance} before, {after.available_balance} after")
        assert before.available_balance - after.available_balance == 3 + 2
        assert after.reserved_balance == before.reserved_balance


if __name__ == "__main__":
    main()
