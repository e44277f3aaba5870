"""
One request and its response, as they pass between the app and its client.

The rules: a chunk of a response costs a few attribute checks, nothing of it is buffered, and whoever awaits `send`
waits as long as the server makes it wait. Of a request, only what a size's callable asked for is read ahead.

With one exception: a response of status 500 or more is held back while it may still become a 402. An app that is
wrapped from the outside answers an exception itself with a whole 500 (`ServerErrorMiddleware`) and raises it only then.
So such a response goes out when it turns out to stream, when the app waits for its client, or when the app returns.
Other frameworks (Django, Litestar), and middleware that catches everything, make a 500 of an exception and never raise
it: where the gate or a metered call inside was refused and none was let through after it, its answer goes out instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from countwerk_meter._metering import scope as surroundings
from countwerk_meter.asgi.request import ClientLeftError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from countwerk_meter.asgi.problems import Problem
    from countwerk_meter.asgi.protocol import Message, Receive, Send
    from countwerk_meter.asgi.receipt import Receipt

# How a send ends that its client does not take: it is gone, or so slow that the app waits for it no longer.
_NOT_TAKEN: Final = (OSError, asyncio.CancelledError)
# Seconds before which nobody gives up waiting: a send that is cancelled earlier was cancelled for another reason.
_STALLED: Final = 0.25
# Seconds that an end is kept open while somebody still waits for the client to go.
_PATIENCE: Final = 0.2
_BLANK_LINES: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Exchange:
    """
    The app's two callables, wrapped.

    Attributes:
        status: Of the app's response, once it is known.
        started: The response has begun: it can't be another one any more.
        yielded: Bytes of its body were handed to the server.
        complete: So was its end: the client got everything, for all that the app can know.
        deadline: While the gate is passed, when it must be: by the monotonic clock, in seconds.
        instead: Says how to answer in the app's place, where it answers 500 and a call inside was refused.
        answered: So it was.
        held: What is held back of the response, for as long as it may become another.
        receipt: What the client is told of its charge, if anything.
        left: The client was seen to leave, or to take nothing more; before the response ended, unless it is complete.

    """

    __slots__ = (
        "_ahead",
        "_around",
        "_late",
        "_method",
        "_open_end",
        "_receive",
        "_send",
        "_tail",
        "_waiting",
        "answered",
        "complete",
        "deadline",
        "event_stream",
        "held",
        "instead",
        "left",
        "receipt",
        "started",
        "status",
        "yielded",
    )

    def __init__(self, receive: Receive, send: Send, method: str = "GET") -> None:
        self._method = method
        self._receive = receive
        self._send = send
        # A server starts the next request of a connection in the context that its `send` or `receive` was called in:
        # so it is called in the one that it called us in.
        self._around = surroundings.surroundings()
        self._ahead: deque[Message] = deque()
        self.held: list[Message] = []
        self._tail: bytes | memoryview = b""
        self._open_end = False
        self._late: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self._waiting = 0
        self.status: int | None = None
        self.started = False
        self.yielded = False
        self.complete = False
        self.left = False
        self.event_stream = False
        self.deadline: float | None = None
        self.receipt: Receipt | None = None
        self.answered = False
        self.instead: Callable[[], Awaitable[Problem | None]] | None = None

    async def receive(self) -> Message:
        """Pass a message on to the app, and notice when the client leaves."""
        if self.held:
            await self.release()
        if self._open_end:
            # Whoever asks after the end of the response waits for its client to go, who would wait for that end.
            await self.conclude(known=False)
        return self._ahead.popleft() if self._ahead else await self._next()

    async def read_ahead(self, limit: int) -> bytes | None:
        """
        Return the request's body before the app reads it, and keep it for the app; None: it is longer than `limit`.

        Raises:
            ClientLeftError: The client left before its body had ended.

        """
        if self._ahead:
            # Read before, and found too long.
            return None
        parts: list[bytes] = []
        length = 0
        while True:
            message = await self._next()
            self._ahead.append(message)
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            parts.append(message.get("body") or b"")
            length += len(parts[-1])
            if length > limit:
                return None
            if not message.get("more_body"):
                return b"".join(parts)

    async def _next(self) -> Message:
        self._waiting += 1
        try:
            inside = surroundings.exchanged(self._around)
            try:
                message = await self._receive()
            finally:
                surroundings.put_back(inside)
        finally:
            self._waiting -= 1
        if message["type"] == "http.disconnect":
            self.left = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a message on to the server."""
        if not message.get("more_body") or self.held:
            await self._send_first_or_last(message)
            return
        if self.yielded:
            if self.event_stream:
                self._tail = message.get("body") or self._tail
        elif self.started and message["type"] == "http.response.body":
            self._note(message)
        else:
            await self._send_first_or_last(message)
            return
        await self._hand_over(message, amid=True)

    async def _send_first_or_last(self, message: Message) -> None:
        begins = message["type"] == "http.response.start"
        if begins:
            if not isinstance(message.get("headers", ()), list | tuple):
                # Any iterable will do, one too that can be read only once.
                message = {**message, "headers": list(message["headers"])}
            if not self.started and message["status"] >= 500:
                if not await self._is_answered(message["status"]):
                    self.status = message["status"]
                    self.held.append(message)
                return
        elif self.held and self._ends_whole(message):
            self.held.append(message)
            return
        if self.held:
            await self.release()
        if begins and self.started:
            # A second response is the server's to refuse, and says nothing of the first.
            await self._hand_over(message)
            return
        await self._hand_over(self._noted(message))
        if self._open_end and self._waiting:
            # Frameworks let go now of who waits for the client; for one that does not, the end is not kept open.
            self._late = asyncio.get_running_loop().call_later(_PATIENCE, self._conclude_late)

    async def _is_answered(self, status: int) -> bool:
        """Answer in the place of an app that made a 500 of a refused call; whatever it sends after is dropped."""
        problem = await self.instead() if status == 500 and self.instead is not None else None
        if problem is None:
            return False
        await self.answer(problem)
        self.instead, self.answered, self._send = None, True, _drop
        return True

    async def release(self) -> None:
        """Let go what is held back. That its client is gone already is no error of the app's."""
        while self.held:
            message = self._noted(self.held.pop(0))
            with contextlib.suppress(OSError):
                await self._hand_over(message)

    def _noted(self, message: Message) -> Message:
        """Note a message, and return it with its part of the receipt: its head says one, its end stays open for one."""
        self._note(message)
        receipt = self.receipt
        if receipt is None:
            return message
        if message["type"] == "http.response.start":
            return receipt.announced(message, event_stream=self.event_stream)
        if self.complete:
            self._open_end = receipt.ends_events or receipt.trails
            return {**message, "more_body": True} if receipt.ends_events else message
        return message

    def _conclude_late(self) -> None:
        if self._open_end and self._waiting:
            self._late = asyncio.get_running_loop().create_task(self.conclude(known=False))

    async def conclude(self, *, known: bool = True) -> None:
        """End a response whose end was kept open; `known`: and say what was charged."""
        if not self._open_end or self.receipt is None:
            return
        self._open_end = False
        if isinstance(self._late, asyncio.TimerHandle):
            self._late.cancel()
        with contextlib.suppress(OSError):
            if self.receipt.ends_events:
                event = self.receipt.event() if known else b""
                await self._hand_over(self._last(event))
            else:
                await self._hand_over(self.receipt.trailer())

    def _last(self, event: bytes) -> Message:
        tail = bytes(self._tail[-4:])
        gap = b"" if not event or not tail or tail.endswith(_BLANK_LINES) else b"\n\n"
        return {"type": "http.response.body", "body": gap + event, "more_body": False}

    async def answer(self, problem: Problem) -> bool:
        """Answer in the app's place, or end its event stream; False: too late for either."""
        with contextlib.suppress(OSError):
            if not self.started:
                self.held.clear()
                for message in problem.messages():
                    self._note(message)
                    await self._hand_over(message)
                return True
            if self.event_stream and not self.complete:
                self.complete = True
                await self._hand_over(self._last(problem.event()))
                return True
            return False
        return True

    async def _hand_over(self, message: Message, *, amid: bool = False) -> None:
        # No request begins at the head of another's response or amid it, so nothing need be put back around those.
        within = amid or message["type"] == "http.response.start"
        inside = None if within else surroundings.exchanged(self._around)
        since = time.monotonic()
        try:
            await self._send(message)
        except _NOT_TAKEN as error:
            self._not_taken(error, since)
            raise
        finally:
            if inside is not None:
                surroundings.put_back(inside)

    def _not_taken(self, error: BaseException, since: float) -> None:
        # A task of the app's that fails cancels the one that sends, and says nothing of the client.
        self.left = self.left or isinstance(error, OSError) or time.monotonic() - since >= _STALLED

    def _ends_whole(self, message: Message) -> bool:
        """Whether a response that is held back ends here, and nobody waits for its client, who goes only then."""
        return message["type"] == "http.response.body" and not message.get("more_body") and not self._waiting

    def _note(self, message: Message) -> None:
        kind: str = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            self.started = True
            # Nothing is added to a response that has no body.
            bodiless = self._method == "HEAD" or self.status in {204, 304}
            self.event_stream = not bodiless and _is_event_stream(message.get("headers", ()))
        elif kind in {"http.response.body", "http.response.zerocopysend", "http.response.pathsend"}:
            self._tail = message.get("body") or self._tail
            self.yielded = bool(self._tail) or kind != "http.response.body"
            self.complete = not message.get("more_body")


async def _drop(message: Message) -> None:
    """Send nothing."""


def _is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether plain events may be added: not to what is compressed, or of a length that was announced."""
    kind = b""
    for name, value in headers:
        known = name.lower()
        if known in {b"content-encoding", b"content-length"}:
            return False
        if known == b"content-type":
            kind = value
    return kind.lower().startswith(b"text/event-stream")
