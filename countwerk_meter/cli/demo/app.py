"""
The demo's AI product: a FastAPI app whose chat runs a LangChain chain, metered by the middleware and the handler.

This is all that metering asks of an app: the middleware with its routes, and the handler among the chain's callbacks.
The handler draws on the hold that the middleware took. `python -m countwerk_meter.cli.demo.app` serves it under uvicorn
on a free port, and says on stdout where.
"""

import json
import os
import sys
from collections.abc import AsyncGenerator
from typing import Any

import uvicorn
from countwerk_meter_langchain import CountwerkCallbackHandler
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from langchain_core.messages import AIMessageChunk
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from pydantic import BaseModel
from starlette.types import Scope

from countwerk_meter import CountwerkError, Meter
from countwerk_meter.asgi import CreditsMiddleware, Route
from countwerk_meter.cli.demo.model import DemoChatModel, chat_model
from countwerk_meter.cli.demo.tariff import HOLD, PROFILE
from countwerk_meter.cli.demo.tokens import GATEWAY_HEADER, account_of, is_gateway
from countwerk_meter.sandbox.server import bind, url_of

MODEL_VARIABLE = "COUNTWERK_DEMO_MODEL"


class Question(BaseModel):
    """What a client asks."""

    text: str


def create_app() -> FastAPI:
    """Make the app. Where the ledger is, and its key, stand in the environment."""
    meter = Meter.from_env(prices=PROFILE)
    handler = CountwerkCallbackHandler(meter, operation="demo.model")
    prompt = ChatPromptTemplate.from_messages([("system", "Answer in one or two sentences."), ("human", "{text}")])
    chain = prompt | chat_model(os.environ.get(MODEL_VARIABLE))
    failing = prompt | DemoChatModel(fails=True)

    async def answer(chain: Runnable[dict[str, str], Any], question: Question) -> dict[str, Any]:
        said = await chain.ainvoke({"text": question.text}, {"callbacks": [handler]})
        return {"text": said.text, "usage": said.usage_metadata}

    async def stream(question: Question) -> AsyncGenerator[str]:
        usage: Any = None
        async for chunk in chain.astream({"text": question.text}, {"callbacks": [handler]}):
            assert isinstance(chunk, AIMessageChunk)
            usage = chunk.usage_metadata or usage
            if chunk.text:
                yield json.dumps({"text": chunk.text}) + "\n"
        yield json.dumps({"usage": usage}) + "\n"

    app = FastAPI()

    @app.post("/chat")
    async def chat(question: Question) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction] - FastAPI calls it
        return await answer(chain, question)

    @app.post("/chat/stream")
    async def chat_stream(question: Question) -> StreamingResponse:  # pyright: ignore[reportUnusedFunction] - as above
        return StreamingResponse(stream(question), media_type="application/x-ndjson")

    @app.post("/chat/failing")
    async def chat_failing(question: Question) -> JSONResponse:  # pyright: ignore[reportUnusedFunction] - as above
        try:
            return JSONResponse(await answer(failing, question))
        except CountwerkError:
            raise
        except RuntimeError as error:
            return JSONResponse({"detail": str(error)}, 502)

    @app.post("/meter/settle")
    async def settle() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction] - as above
        handler.flush()
        settled = await meter.aflush(5.0)
        charges = [charge.to_dict() for charge in meter.charges()]
        return {"settled": settled, "charges": charges}

    app.add_middleware(
        CreditsMiddleware,
        meter=meter,
        account_id=_account_of,
        routes=[Route("POST", path, "demo.chat", amount=HOLD) for path in ("/chat", "/chat/stream", "/chat/failing")],
        trusted_callers=lambda scope: is_gateway(_header(scope, GATEWAY_HEADER)),
    )
    return app


def _account_of(scope: Scope) -> str | None:
    return account_of((_header(scope, "authorization") or "").removeprefix("Bearer "))


def _header(scope: Scope, name: str) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name.encode()), None)


class _Server(uvicorn.Server):
    """uvicorn, which says on stdout where it listens."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(json.dumps({"url": url_of(sockets[0])}) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Serve until terminated."""
    with bind("127.0.0.1", 0) as sock:
        config = uvicorn.Config(create_app(), log_level="warning", timeout_graceful_shutdown=1)
        _Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main()
