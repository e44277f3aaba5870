"""Faults between an app and its ledger, as data: what a network does, where a test wants it."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias

from countwerk_meter._wire.codes import STATUS_OF
from countwerk_meter._wire.replies import InDoubt, NotSent, read_reply
from countwerk_meter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from countwerk_meter._drivers.runtime import Between
    from countwerk_meter._drivers.transport import AsyncTransport, Transport
    from countwerk_meter._wire.replies import Reply
    from countwerk_meter._wire.requests import LedgerRequest
    from countwerk_meter.client import AsyncCountwerkClient, CountwerkClient
    from countwerk_meter.meter import Meter

Kind: TypeAlias = Literal["not_sent", "drop_before", "drop_after", "delay", "duplicate", "garbage", "answer"]
ENDPOINTS: Final = (
    "reserve",
    "confirm-reservation",
    "cancel-reservation",
    "deduct",
    "balance",
    "purchase-links",
    "resolve-order",
)
# What a network does by itself, as far as the books of a correct app balance at once: a reserve that is carried out and
# in doubt is held until its validity ends, and a confirm that arrives twice cannot be told from one that never did.
_BY_CHANCE: Final[tuple[Kind, ...]] = ("not_sent", "drop_before", "drop_after", "duplicate", "garbage")
_BY_CHANCE_OF: Final[Mapping[str, tuple[Kind, ...]]] = {
    "reserve": ("not_sent", "drop_before"),
    "confirm-reservation": ("not_sent", "drop_before", "drop_after", "garbage"),
}
_SENT_FIRST: Final = frozenset[Kind]({"drop_after", "garbage", "duplicate", "delay"})
_LOST: Final = InDoubt("an injected fault: no answer")


@dataclass(slots=True)
class _Fault:
    kind: Kind
    endpoint: str
    times: int
    seconds: float = 0.0
    code: str = ""
    retry_after: float | None = None


class FaultTransport:
    """
    Makes faults on every way to the ledger: sync calls, async calls, and settlement behind the app.

    `with FaultTransport(meter) as faults:`, then say what happens to the next requests of an endpoint; what nothing is
    said of passes unharmed. Faults strike in the order in which they were given.

    Args:
        target: A `Meter`, a `CountwerkClient` or an `AsyncCountwerkClient`.
        rate: The share of the other requests, 0 to 1, that a fault strikes by chance: such a fault that the books of
            a correct app balance once it has settled.
        seed: Of that chance; default: a fresh one, which `repr` shows.

    Attributes:
        injected: (endpoint, kind) of every fault that struck, in order.

    Raises:
        ConfigurationError: A rate outside 0 to 1, or an endpoint or code that the contract does not have.

    """

    def __init__(
        self, target: Meter | CountwerkClient | AsyncCountwerkClient, *, rate: float = 0.0, seed: int | None = None
    ) -> None:
        if not 0 <= rate <= 1:
            raise ConfigurationError("the rate of faults is a share, 0 to 1")
        self._rate = rate
        self._seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
        self._random = random.Random(self._seed)  # noqa: S311 - for tests, and so that they can be repeated
        self._faults: deque[_Fault] = deque()
        self._lock = threading.Lock()
        self._interpose = _seam(target)
        self._before: Between | None = None
        self.injected: list[tuple[str, Kind]] = []

    def __repr__(self) -> str:
        return f"FaultTransport(rate={self._rate}, seed={self._seed}, injected={len(self.injected)})"

    def __enter__(self) -> Self:
        self._before = self._interpose(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._interpose(self._before)

    def not_sent(self, endpoint: str, *, times: int = 1) -> None:
        """Let the connection fail: definitely nothing is carried out."""
        self._add(_Fault("not_sent", endpoint, times))

    def drop_before(self, endpoint: str, *, times: int = 1) -> None:
        """Lose the request on its way: in doubt, and not carried out."""
        self._add(_Fault("drop_before", endpoint, times))

    def drop_after(self, endpoint: str, *, times: int = 1) -> None:
        """Lose the answer on its way: in doubt, and carried out."""
        self._add(_Fault("drop_after", endpoint, times))

    def delay(self, endpoint: str, seconds: float, *, times: int = 1) -> None:
        """Hold the request up for so many seconds; beyond its deadline it is in doubt, and not carried out."""
        self._add(_Fault("delay", endpoint, times, seconds=seconds))

    def duplicate(self, endpoint: str, *, times: int = 1) -> None:
        """Deliver the request twice; the second answer is the one that is heard."""
        self._add(_Fault("duplicate", endpoint, times))

    def garbage(self, endpoint: str, *, times: int = 1) -> None:
        """Carry the request out, and answer with what is no envelope: in doubt."""
        self._add(_Fault("garbage", endpoint, times))

    def answer(self, endpoint: str, code: str, *, retry_after: float | None = None, times: int = 1) -> None:
        """Answer with one of the contract's codes; the ledger never hears of the request."""
        if code not in STATUS_OF:
            raise ConfigurationError(f"the contract has no code {code!r}")
        self._add(_Fault("answer", endpoint, times, code=code, retry_after=retry_after))

    def _add(self, fault: _Fault) -> None:
        if fault.times < 1:
            raise ConfigurationError("a fault strikes once at least")
        if fault.endpoint not in ENDPOINTS:
            raise ConfigurationError(f"no endpoint {fault.endpoint!r}; there are {', '.join(ENDPOINTS)}")
        with self._lock:
            self._faults.append(fault)

    def _next(self, endpoint: str) -> _Fault | None:
        with self._lock:
            fault = next((each for each in self._faults if each.endpoint == endpoint), None)
            if fault is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self._faults.remove(fault)
            elif self._random.random() < self._rate:
                fault = _Fault(self._random.choice(_BY_CHANCE_OF.get(endpoint, _BY_CHANCE)), endpoint, 1)
            if fault is not None:
                self.injected.append((endpoint, fault.kind))
            return fault

    def send(self, transport: Transport, request: LedgerRequest, deadline: float) -> Reply:
        """Send one request through the faults; what the package's sync driver calls."""
        fault = self._next(request.name)
        if fault is None:
            return transport.send(request, deadline)
        if fault.kind == "delay":
            time.sleep(_held_up(fault, deadline))
        if fault.kind not in _SENT_FIRST or time.monotonic() >= deadline:
            return _unsent(fault, request)
        reply = transport.send(request, deadline)
        if fault.kind == "duplicate":
            reply = _second(reply, transport.send(request, deadline))
        return _heard(fault, request, reply)

    async def asend(self, transport: AsyncTransport, request: LedgerRequest, deadline: float) -> Reply:
        """Do the same on the running event loop."""
        fault = self._next(request.name)
        if fault is None:
            return await transport.send(request, deadline)
        if fault.kind == "delay":
            await asyncio.sleep(_held_up(fault, deadline))
        if fault.kind not in _SENT_FIRST or time.monotonic() >= deadline:
            return _unsent(fault, request)
        reply = await transport.send(request, deadline)
        if fault.kind == "duplicate":
            reply = _second(reply, await transport.send(request, deadline))
        return _heard(fault, request, reply)


def _seam(target: object) -> Callable[[Between | None], Between | None]:
    engine = getattr(target, "_engine", None)
    if engine is not None:
        return engine.interpose
    runtime = getattr(target, "_runtime", None)
    if runtime is None:
        raise ConfigurationError("faults are made for a Meter, a CountwerkClient or an AsyncCountwerkClient")

    def interpose(between: Between | None) -> Between | None:
        before, runtime.between = runtime.between, between
        return before

    return interpose


def _held_up(fault: _Fault, deadline: float) -> float:
    return max(min(fault.seconds, deadline - time.monotonic()), 0.0)


def _unsent(fault: _Fault, request: LedgerRequest) -> Reply:
    if fault.kind == "not_sent":
        return NotSent("an injected fault")
    if fault.kind != "answer":
        return _LOST
    headers = {} if fault.retry_after is None else {"retry-after": str(math.ceil(fault.retry_after))}
    body = f'{{"success": false, "code": "{fault.code}"}}'.encode()
    return read_reply(request, STATUS_OF[fault.code], headers, body)


def _second(first: Reply, second: Reply) -> Reply:
    """Return what is heard of two deliveries: if the second was not sent, the first may have been carried out."""
    return _LOST if isinstance(second, NotSent) and not isinstance(first, NotSent) else second


def _heard(fault: _Fault, request: LedgerRequest, reply: Reply) -> Reply:
    if fault.kind == "drop_after":
        return _LOST
    if fault.kind == "garbage":
        return read_reply(request, 200, {}, b"<html>an injected fault</html>")
    return reply
