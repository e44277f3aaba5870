"""The public surface as a user's type checker sees it. Checked, never run."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from countwerk_meter import (
    AsyncCountwerkClient,
    Charge,
    CountwerkClient,
    InsufficientCreditsError,
    Meter,
    PriceProfile,
    Reservation,
    Usage,
    account,
    current_reservation,
)
from countwerk_meter.asgi import CreditsMiddleware, Request, RequestRefusedError, Route

meter = Meter(
    "product", api_key="cs_key", base_url="https://ledger.example", prices=Path("prices.json"), rounding="carry"
)
profile: PriceProfile = PriceProfile.load("prices.json")
total: Decimal = profile.price({"llm_input_tokens": 1}, {"model": "m"}).total


def sync_block() -> int | None:
    with meter.reserve("acct", "app.chat.reply", amount=5) as reservation:
        reservation.record(Usage.of({"usage": None}), model="m")
        reservation.settle(3)
        inner: Reservation | None = current_reservation()
        assert inner is not None
    done: bool = reservation.settlement.wait(1.0)
    assert done
    return reservation.settlement.amount


async def async_block() -> None:
    async with meter.reserve("acct", "app.chat.reply", estimate=Usage(input_tokens=5), top_up=True) as reservation:
        reservation.checkpoint()
    await reservation.settlement
    charge: Charge = await meter.adeduct("acct", "app.export", 3)
    assert charge.amount == 3
    await meter.aclose()


@meter.metered("app.ask", account_id="acct", price=1)
def ask(prompt: str, *, times: int = 1) -> str:
    return prompt * times


@meter.metered("app.stream", account_id=lambda prompt: "acct", amount=1)
def stream(prompt: str) -> Iterator[str]:
    yield prompt


@meter.metered("app.stream", account_id="acct", amount=1)
async def astream(prompt: str) -> AsyncIterator[str]:
    yield prompt


answer: str = ask("hi", times=2)
pieces: list[str] = list(stream("hi"))


def client() -> None:
    with CountwerkClient() as ledger, account("acct"):
        available: int = ledger.balance("acct").available_balance
        urls: list[str | None] = [option.url for option in ledger.purchase_links("product", "acct").enabled]
        print(available, urls)


async def async_client() -> None:
    async with AsyncCountwerkClient() as ledger:
        held: str = (await ledger.reserve("acct", "app.chat.reply", 5)).reservation_id
        await ledger.confirm_reservation(held, 3)


def denied(error: InsufficientCreditsError) -> dict[str, object]:
    required: int = error.required
    assert required
    return dict(error.to_payload())


async def app(scope: object, receive: object, send: object) -> None: ...


async def by_words(request: Request) -> int:
    """A price from the request."""
    if request.header("content-type") != "application/json":
        raise RequestRefusedError("send JSON", status=415)
    return len((await request.json())["words"]) + int(request.path_params["id"])


wrapped = CreditsMiddleware(
    app,
    meter=meter,
    account_id=lambda scope: "acct",
    answer_headers=True,
    routes=[
        Route("POST", "/chat/{id}", "app.chat.reply", price=5),
        Route("POST", "/words/{id}", "app.words", price=by_words, max_body=10_000, on_unavailable="defer"),
    ],
)
left_over: int = meter.balance("acct").available_balance


def left(meter: Meter) -> None:
    """What a person does about the journal."""
    for item in meter.operations.listed():
        name: str = item.id
        again: bool = meter.operations.close(name, "charged", note="looked").again
        print(item.to_dict(), again)
    shrunk: int = meter.operations.prune(timedelta(days=90)).charges
    rows: dict[str, int] = meter.operations.keys()
    print(shrunk, rows)
