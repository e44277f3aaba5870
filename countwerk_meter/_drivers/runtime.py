"""
Running flows, in sync and in async code.

The flow decides, the driver does: it sends, commits, sleeps and reads the clocks, and gives back what came of it. A
flow that is cut short from outside, wherever it stands, is told so as `Interrupted`, so that the journal learns of the
doubt and nothing stays open that nobody will end. A commit that fails is raised inside the flow.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from countwerk_meter._drivers.landings import landed
from countwerk_meter._flow.commands import Emit, Interrupted, Journal, Now, Send, Sleep
from countwerk_meter._frozen import frozen
from countwerk_meter.errors import CountwerkError, JournalError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

    from countwerk_meter._drivers.clock import Clock
    from countwerk_meter._drivers.loops import LoopTransports
    from countwerk_meter._drivers.transport import AsyncTransport, Transport
    from countwerk_meter._flow.books import Operation
    from countwerk_meter._flow.commands import Command, Flow, Moment
    from countwerk_meter._wire.replies import Reply
    from countwerk_meter._wire.requests import LedgerRequest

T = TypeVar("T")

# An async caller that is being cancelled waits this long for its commit, in seconds, and no longer.
CANCELLED_COMMIT_SECONDS = 0.1


class Submits(Protocol):
    """A journal, as the drivers need it."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def submit(self, operation: Operation[T]) -> Future[T]:
        """Queue one operation; the future has its result once it is committed."""
        ...


class Between(Protocol):
    """Whoever stands between the drivers and their ledger: a test that makes faults, say."""

    def send(self, transport: Transport, request: LedgerRequest, deadline: float) -> Reply:
        """Send by this transport, or do not; answer by `deadline` (monotonic seconds)."""
        ...

    async def asend(self, transport: AsyncTransport, request: LedgerRequest, deadline: float) -> Reply:
        """Do the same on the running event loop."""
        ...


class Listens(Protocol):
    """Whoever is told what happened."""

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """One event of a flow."""
        ...

    def latency(self, endpoint: str, seconds: float, outcome: str) -> None:
        """One request to the ledger."""
        ...


@frozen
class Ran(Generic[T]):
    """A flow is over, and this is its result."""

    result: T


class Runtime:
    """What flows run on: transports, journal, clocks, and whoever listens."""

    def __init__(
        self,
        journal: Submits | None,
        transport: Transport | None,
        loops: LoopTransports,
        clock: Clock,
        listener: Listens,
    ) -> None:
        self._journal = journal
        self._transport = transport
        self._loops = loops
        self._clock = clock
        self._listener = listener
        self.between: Between | None = None
        self._random = random.SystemRandom()

    def run(self, flow: Flow[T], *, within: float | None = None) -> T:
        """
        Run a flow on the calling thread.

        `within`: seconds after which it no longer waits for the journal (I6); what it began is given up then.
        """
        until = _until(within)
        reply: Any = None
        failure: Exception | None = None
        while True:
            try:
                command = flow.send(reply) if failure is None else flow.throw(failure)
            except StopIteration as stop:
                return stop.value
            reply = failure = None
            try:
                if isinstance(command, Send):
                    sent = self._clock.now()
                    reply = self._send(command)
                    self._heard(command, reply, sent)
                elif isinstance(command, Journal):
                    future = self._submit(command)
                    reply = future.result(_left(until)) if command.waits else None
                elif isinstance(command, Sleep):
                    self._clock.sleep(self._pause(command))
                else:
                    reply = self._quick(command)
            except JournalError as error:
                failure = error
            except TimeoutError:
                raise self._interrupt(flow) or self._too_slow() from None
            except BaseException:
                self._interrupt(flow)
                raise

    def started(self, flow: Flow[T]) -> Command | Ran[T]:
        """Run a flow as far as it goes without waiting: return its result, or the command that it waits for."""
        reply: Any = None
        while True:
            try:
                command = flow.send(reply)
            except StopIteration as stop:
                return Ran(stop.value)
            reply = None
            try:
                if isinstance(command, Journal) and not command.waits:
                    self._submit(command)
                elif isinstance(command, Now | Emit):
                    reply = self._quick(command)
                else:
                    return command
            except BaseException:
                self._interrupt(flow)
                raise

    async def arun(self, flow: Flow[T], *, within: float | None = None, command: Command | None = None) -> T:
        """Run a flow on the running event loop; `within` as in `run`. `command`: it has started, and waits for this."""
        until = _until(within)
        reply: Any = None
        failure: Exception | None = None
        while True:
            if command is None:
                try:
                    command = flow.send(reply) if failure is None else flow.throw(failure)
                except StopIteration as stop:
                    return stop.value
            reply = failure = None
            try:
                if isinstance(command, Send):
                    sent = self._clock.now()
                    reply = await self._asend(command)
                    self._heard(command, reply, sent)
                elif isinstance(command, Journal):
                    future = self._submit(command)
                    if future.done():
                        reply = future.result() if command.waits else None
                    elif command.waits and until is None:
                        reply = await committed(future)
                    elif command.waits:
                        async with asyncio.timeout(_left(until)):
                            reply = await committed(future)
                elif isinstance(command, Sleep):
                    await self._clock.asleep(self._pause(command))
                else:
                    reply = self._quick(command)
            except JournalError as error:
                failure = error
            except TimeoutError:
                raise self._interrupt(flow) or self._too_slow() from None
            except BaseException:
                self._interrupt(flow)
                raise
            command = None

    def _send(self, command: Send) -> Reply:
        assert self._transport is not None
        if self.between is not None:
            return self.between.send(self._transport, command.request, command.deadline)
        return self._transport.send(command.request, command.deadline)

    async def _asend(self, command: Send) -> Reply:
        transport = await self._loops.here()
        if self.between is not None:
            return await self.between.asend(transport, command.request, command.deadline)
        return await transport.send(command.request, command.deadline)

    def _too_slow(self) -> JournalError:
        name = "" if self._journal is None else f" {self._journal.name}"
        return JournalError(f"the journal{name} did not answer in time: another process locks it, or its disk hangs")

    def _submit(self, command: Journal) -> Future[Any]:
        assert self._journal is not None
        return self._journal.submit(command.operation)

    def _interrupt(self, flow: Flow[Any]) -> CountwerkError | None:
        """
        Let the flow write down its doubt: commits are queued and waited for briefly, nothing is sent any more.

        Returns the flow's own word for why it ended, if it has one: of use where it was only out of time. Whatever else
        goes wrong, the caller hears of what cut the flow short, not of this.
        """
        reply: Any = None
        interrupted: BaseException | None = Interrupted()
        try:
            while True:
                command = flow.throw(interrupted) if interrupted is not None else flow.send(reply)
                interrupted = None
                if isinstance(command, Journal):
                    reply = wait_briefly(self._submit(command))
                elif isinstance(command, Send | Sleep):
                    flow.close()
                    return None
                else:
                    reply = self._quick(command)
        except CountwerkError as error:
            flow.close()
            return error
        except (Exception, Interrupted):  # noqa: BLE001 - see above
            flow.close()
        return None

    def _quick(self, command: Command) -> Any:
        if isinstance(command, Now):
            return self._clock.now()
        assert isinstance(command, Emit)
        self._listener.event(command.event, command.fields)
        return None

    def _pause(self, command: Sleep) -> float:
        return self._random.uniform(0, command.seconds) if command.jitter else command.seconds

    def _heard(self, command: Send, reply: Reply, sent: Moment) -> None:
        self._clock.heard(getattr(reply, "server_time", None), sent)
        seconds = self._clock.now().monotonic - sent.monotonic
        self._listener.latency(command.request.name, seconds, type(reply).__name__)


def _until(within: float | None) -> float | None:
    return None if within is None else time.monotonic() + within


def _left(until: float | None) -> float | None:
    return None if until is None else max(until - time.monotonic(), 0.0)


def wait_briefly(future: Future[T]) -> T | None:
    """Wait for a commit at most 100 ms, without an `await`: cleanups run where none is possible."""
    try:
        return future.result(CANCELLED_COMMIT_SECONDS)
    except TimeoutError:
        return None


async def committed(future: Future[T]) -> T:
    """Await a commit; a caller that is being cancelled waits for it at most 100 ms more."""
    try:
        return await landed(future)
    except asyncio.CancelledError:
        # The operation is queued and will be written whatever happens here.
        with contextlib.suppress(Exception):  # a commit that failed must not hide the cancellation
            wait_briefly(future)
        raise
