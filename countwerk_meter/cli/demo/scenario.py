"""
What happens in the demo: a client that knows nothing but HTTP, and writes down what each answer entitles the app to.

Each scenario has an account of its own. `least` and `most` are the credits that the client owes for what it got,
computed from the tokens it saw; they differ only where a stream was broken off, because nobody can say how far the
model had got.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from countwerk_meter.cli.demo.tariff import HOLD, SLOWLY, credits_for
from countwerk_meter.cli.demo.tokens import GATEWAY_HEADER, gateway_key, token_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import httpx

    from countwerk_meter.sandbox.remote import SandboxControl

PRODUCT: Final = "demo-product"
_QUESTION: Final = "How do I bill an AI product by credits without ever billing twice?"
_ENOUGH: Final = 100
_CHUNKS_READ: Final = 6


@dataclass(slots=True)
class Observed:
    """What one scenario's client saw, and owes for it, in credits."""

    account_id: str
    what: str
    answers: str
    least: int
    most: int
    why: str


class Client:
    """A client of the demo's app, and the hand on the sandbox that opens accounts and makes the fault."""

    def __init__(self, http: httpx.AsyncClient, control: SandboxControl) -> None:
        self.http = http
        self.control = control

    def account(self, account_id: str, balance: int, **known: str) -> dict[str, str]:
        """Open an account, and return the headers of its user."""
        self.control.account(account_id, balance, ai_product_id=PRODUCT, **known)
        return {"authorization": f"Bearer {token_for(account_id)}"}

    async def ask(self, headers: Mapping[str, str], path: str = "/chat", more: str = "") -> httpx.Response:
        """Ask the question."""
        return await self.http.post(path, json={"text": _QUESTION + more}, headers=headers)


def owed(answer: httpx.Response) -> int:
    """Return what an answer costs, by the usage that it states; nothing, if it is none."""
    return _price(answer.json()["usage"]) if answer.status_code == 200 else 0


def _price(usage: Mapping[str, Any]) -> int:
    return credits_for(usage["input_tokens"], usage["output_tokens"])


def _statuses(answers: list[httpx.Response]) -> str:
    counts = Counter(answer.status_code for answer in answers)
    if len(answers) <= 3:
        return ", ".join(str(answer.status_code) for answer in answers)
    return ", ".join(f"{number}x {status}" for status, number in sorted(counts.items()))


async def normal_call(client: Client) -> Observed:
    """One call, one answer."""
    answer = await client.ask(client.account("normal", _ENOUGH))
    price = owed(answer)
    return Observed("normal", "A call", _statuses([answer]), price, price, "what was used, not what was held")


async def streamed_call(client: Client) -> Observed:
    """One call, read to its end."""
    headers = client.account("streamed", _ENOUGH)
    usage: Mapping[str, Any] = {}
    async with client.http.stream("POST", "/chat/stream", json={"text": _QUESTION}, headers=headers) as answer:
        async for line in answer.aiter_lines():
            usage = json.loads(line).get("usage") or usage
    price = _price(usage)
    return Observed("streamed", "A streamed call", str(answer.status_code), price, price, "charged after the last byte")


async def broken_off(client: Client) -> Observed:
    """One call whose client leaves in the middle."""
    headers = client.account("broken-off", _ENOUGH)
    seen = ""
    async with client.http.stream("POST", "/chat/stream", json={"text": _QUESTION}, headers=headers) as answer:
        chunks = 0
        async for line in answer.aiter_lines():
            seen += json.loads(line).get("text", "")
            chunks += 1
            if chunks == _CHUNKS_READ:
                break
    words = len(seen.split())
    why = f"{words} words seen, and those under way"
    return Observed("broken-off", "A stream broken off", str(answer.status_code), credits_for(0, words), HOLD, why)


async def gateway_repeats(client: Client) -> Observed:
    """The same request twice, from a gateway that the app trusts."""
    headers = client.account("gateway", _ENOUGH) | _traceparent() | {GATEWAY_HEADER: gateway_key()}
    answers = [await client.ask(headers), await client.ask(headers)]
    price = owed(answers[0])
    why = "a trusted span names one charge"
    return Observed("gateway", "Sent twice by the gateway", _statuses(answers), price, price, why)


async def stranger_repeats(client: Client) -> Observed:
    """The same request twice, from somebody who would like to ride for free."""
    headers = client.account("stranger", _ENOUGH) | _traceparent()
    answers = [await client.ask(headers), await client.ask(headers)]
    price = sum(owed(answer) for answer in answers)
    why = "a stranger's traceparent is no pass"
    return Observed("stranger", "Sent twice by a stranger", _statuses(answers), price, price, why)


async def ten_on_six(client: Client) -> Observed:
    """Ten calls at once, and credits to hold for six."""
    headers = client.account("ten-on-six", 6 * HOLD)
    answers = await asyncio.gather(*(client.ask(headers, more=SLOWLY) for _ in range(10)))
    price = sum(owed(answer) for answer in answers)
    statuses = Counter(answer.status_code for answer in answers)
    why = f"{statuses[402]} were refused before they ran"
    return Observed("ten-on-six", "Ten at once, credits for six", _statuses(list(answers)), price, price, why)


async def lost_confirm(client: Client) -> Observed:
    """One call whose charge reaches the ledger, and whose acknowledgement does not come back."""
    headers = client.account("lost-confirm", _ENOUGH)
    lost = {"path": "/api/credits/confirm-reservation", "kind": "drop_after", "account_id": "lost-confirm"}
    client.control.faults([lost])
    answer = await client.ask(headers)
    price = owed(answer)
    why = "sent again, and not charged again"
    return Observed("lost-confirm", "Confirm's answer is lost", _statuses([answer]), price, price, why)


async def model_fails(client: Client) -> Observed:
    """One call whose model fails."""
    answer = await client.ask(client.account("model-fails", _ENOUGH), "/chat/failing")
    return Observed("model-fails", "The model fails", _statuses([answer]), 0, 0, "nothing used: the hold went back")


async def out_of_credits(client: Client) -> Observed:
    """One call that the account cannot pay for."""
    known = {"order_id": "demo-order", "current_tier_product_id": "STARTER_001"}
    answer = await client.ask(client.account("out-of-credits", HOLD - 1, **known))
    why = "no call was made"
    if answer.status_code == 402:
        options = [option for option in answer.json()["data"]["options"] if option["enabled"]]
        kinds = Counter(option["type"] for option in options)
        names = {"topup": "top-up"}
        offers = (f"{number} {names.get(kind, kind)}{'s' if number > 1 else ''}" for kind, number in kinds.items())
        why = "402 offers " + ", ".join(offers)
    return Observed("out-of-credits", "Out of credits", _statuses([answer]), owed(answer), owed(answer), why)


SCENARIOS: Final[tuple[Callable[[Client], Awaitable[Observed]], ...]] = (
    normal_call,
    streamed_call,
    broken_off,
    gateway_repeats,
    stranger_repeats,
    ten_on_six,
    lost_confirm,
    model_fails,
    out_of_credits,
)


def _traceparent() -> dict[str, str]:
    return {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"}
