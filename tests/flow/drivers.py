"""
Three drivers behind one call: the simulator, and the package's own two over the same fake surroundings.

What a flow asks for reaches the world's clocks, script, ledger and journal, whoever runs it.
"""

import asyncio
import threading

import pytest

from countwerk_meter._drivers.runtime import Runtime
from countwerk_meter._flow.commands import Interrupted, Send, Sleep
from countwerk_meter.errors import JournalError


class Cut(BaseException):
    """The caller is cancelled right here."""


class Simulated:
    """Runs flows as the package's drivers do, without threads, loops or chance."""

    def __init__(self, world):
        self.world = world

    def run(self, flow):
        reply, failure = None, None
        while True:
            try:
                command = flow.send(reply) if failure is None else flow.throw(failure)
            except StopIteration as stop:
                return stop.value
            reply = failure = None
            try:
                reply = self.world.do(command)
            except JournalError as error:
                failure = error
            except Cut:
                self._interrupt(flow)
                raise

    def _interrupt(self, flow):
        if self.world.dies:
            return
        failure, reply = Interrupted(), None
        try:
            while True:
                command = flow.throw(failure) if failure is not None else flow.send(reply)
                failure = None
                assert not isinstance(command, Send | Sleep), "nothing is sent after an interruption"
                reply = self.world.do(command)
        except (Interrupted, StopIteration):
            return

    def close(self):
        pass


class Surroundings:
    """What a `Runtime` needs, all of it the world's: journal, transports, clock, listener."""

    name = "the world's"

    def __init__(self, world):
        self.world = world
        self.submit, self.now, self.heard = world.submit, world.now, world.hears
        self.event = world.event
        self.latencies = []

    def latency(self, endpoint, seconds, outcome):
        self.latencies.append((endpoint, outcome))

    def send(self, request, deadline):
        return self.world.send(request, deadline)

    def sleep(self, seconds):
        self.world.sleep(seconds)


class AsyncSurroundings(Surroundings):
    """The same for the async driver; whoever is cut is a cancelled task."""

    async def here(self):
        return self

    async def send(self, request, deadline):
        try:
            return self.world.send(request, deadline)
        except Cut:
            return await self._cancelled()

    async def asleep(self, seconds):
        try:
            self.world.sleep(seconds)
        except Cut:
            await self._cancelled()

    async def _cancelled(self):
        asyncio.current_task().cancel()
        await asyncio.sleep(0)


class Sync:
    """The sync driver."""

    def __init__(self, world):
        around = Surroundings(world)
        self._runtime = Runtime(around, around, None, around, around)

    def run(self, flow):
        return self._runtime.run(flow)

    def close(self):
        pass


class Async:
    """The async driver; a flow inside a flow, which is another worker's, runs on a thread and a loop of its own."""

    def __init__(self, world):
        around = AsyncSurroundings(world)
        self._runtime = Runtime(around, None, around, around, around)
        self._runner = asyncio.Runner()
        self._busy = False

    def run(self, flow):
        if self._busy:
            return self._beside(flow)
        self._busy = True
        try:
            return self._runner.run(self._runtime.arun(flow))
        except asyncio.CancelledError:
            raise Cut from None
        finally:
            self._busy = False

    def _beside(self, flow):
        told = []

        def other():
            try:
                told.append((asyncio.run(self._runtime.arun(flow)), None))
            except asyncio.CancelledError:
                told.append((None, Cut()))
            except BaseException as error:
                told.append((None, error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        value, error = told[0]
        if error is not None:
            raise error
        return value

    def close(self):
        self._runner.close()


DRIVERS = {"simulated": Simulated, "sync": Sync, "async": Async}


def cut(run, *args, **kwargs):
    """Run something whose caller is cancelled in the middle."""
    with pytest.raises(Cut):
        run(*args, **kwargs)
