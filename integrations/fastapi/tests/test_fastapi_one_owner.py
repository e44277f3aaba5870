"""Middleware, dependency, LangChain handler and `@metered` on one request: one owner, one charge for each call."""

import pytest
from countwerk_meter_fastapi import Credits, Reservation, add_credits
from countwerk_meter_langchain import CountwerkCallbackHandler
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from countwerk_meter import Usage
from countwerk_meter.asgi import Route

CALL = 6  # credits: the fake model's output tokens, each a credit, and its input's part of one, rounded up
REPORTED = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


def answer(*_):
    return AIMessage("hello", usage_metadata=REPORTED)


@pytest.fixture
def make(meter):
    """Make an app with one metered route per way of calling, each metered in every way at once."""

    def make(tariff, routes=()):
        app = FastAPI()
        add_credits(app, meter=meter, account_id=lambda scope: "acct", routes=routes, close_meter=False)
        handler = CountwerkCallbackHandler(meter, account_id="acct", operation="llm.call", amount=20)
        config = {"callbacks": [handler]}
        model = GenericFakeChatModel(messages=iter(map(answer, range(100))))

        @meter.metered("app.call", account_id="acct", amount=20, usage=Usage.of)
        def call():
            return model.invoke("hello", config)

        @meter.metered("app.call", account_id="acct", amount=20, usage=Usage.of)
        async def acall():
            return await model.ainvoke("hello", config)

        @app.get("/handler/sync")
        def handler_sync(reservation: Reservation = Credits("app.chat", **tariff)):  # noqa: B008 - as FastAPI has it
            return [model.invoke("hello", config).content for _ in range(2)]

        @app.get("/handler/async")
        async def handler_async(reservation: Reservation = Credits("app.chat", **tariff)):  # noqa: B008 - likewise
            return [(await model.ainvoke("hello", config)).content for _ in range(2)]

        @app.get("/handler/stream")
        async def stream(reservation: Reservation = Credits("app.chat", **tariff)):  # noqa: B008 - likewise
            async def words():
                for _ in range(2):
                    yield (await model.ainvoke("hello", config)).content

            return StreamingResponse(words())

        @app.get("/metered/sync")
        def metered_sync(reservation: Reservation = Credits("app.chat", **tariff)):  # noqa: B008 - likewise
            return [call().content for _ in range(2)]

        @app.get("/metered/async")
        async def metered_async(reservation: Reservation = Credits("app.chat", **tariff)):  # noqa: B008 - likewise
            return [(await acall()).content for _ in range(2)]

        return app

    return make


PATHS = ["/handler/sync", "/handler/async", "/handler/stream", "/metered/sync", "/metered/async"]


@pytest.mark.parametrize("listed", [False, True], ids=["dependency", "and middleware"])
def test_two_model_calls_are_two_draws(make, serve, control, meter, spent, listed):
    """Both draw on the request's one hold, each is charged once, and the request adds nothing of its own."""
    routes = [Route("GET", "/{rest:path}", "app.listed", amount=60)] if listed else ()
    control.account("acct", balance=1000)
    control.clear_requests()
    client = serve(make({"amount": 60}, routes))
    for path in PATHS:
        before = {charge.usage_event_id for charge in meter.charges()}
        assert client.get(path).status_code == 200
        charges = [charge for charge in meter.charges() if charge.usage_event_id not in before and charge.amount]
        assert [charge.amount for charge in charges] == [CALL, CALL], path
    serve.stop()
    assert spent() == 2 * CALL * len(PATHS)
    assert control.requests()["counts"]["/api/credits/reserve"] == len(PATHS)


@pytest.mark.parametrize("listed", [False, True], ids=["dependency", "and middleware"])
def test_a_flat_price_is_the_whole_price(make, serve, control, spent, listed):
    """Whatever is used inside, by whom ever it is seen."""
    routes = [Route("GET", "/{rest:path}", "app.listed", price=7)] if listed else ()
    control.account("acct", balance=1000)
    control.clear_requests()
    client = serve(make({"price": 7}, routes))
    for path in PATHS:
        assert client.get(path).status_code == 200
    serve.stop()
    assert spent() == 7 * len(PATHS)
    assert control.requests()["counts"]["/api/credits/reserve"] == len(PATHS)
