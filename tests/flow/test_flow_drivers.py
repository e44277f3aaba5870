"""The drivers and the clock: how real flows are run, cut short, and told the time."""

import asyncio
import threading
import time
from concurrent.futures import Future

import pytest

from countwerk_meter._drivers import clock as clock_module
from countwerk_meter._drivers import runtime as runtime_module
from countwerk_meter._drivers.clock import Clock
from countwerk_meter._drivers.runtime import Runtime, committed, wait_briefly
from countwerk_meter._flow.commands import Emit, Interrupted, Journal, Moment, Now, Send, Sleep
from countwerk_meter._wire import requests
from countwerk_meter._wire.replies import Answer, Envelope
from countwerk_meter.errors import JournalError

REQUEST = requests.balance("acct")
SAID = Answer(Envelope(200, None, {}), server_time=1234.0)


class Listener:
    def __init__(self):
        self.events, self.latencies = [], []

    def event(self, name, fields):
        self.events.append((name, dict(fields)))

    def latency(self, endpoint, seconds, outcome):
        self.latencies.append((endpoint, outcome))


class Transports:
    """A sync transport, an async one, and the loops' registry in one."""

    def __init__(self):
        self.raises = None
        self.sent = []
        self.entered = asyncio.Event()

    def send(self, request, deadline):
        self.sent.append((request, deadline))
        if self.raises is not None:
            raise self.raises
        return SAID

    async def here(self):
        return self

    async def hang(self, request, deadline):
        self.entered.set()
        await asyncio.Event().wait()


class AsyncTransports(Transports):
    async def send(self, request, deadline):
        return super().send(request, deadline)


class Queue:
    """A journal whose commits end when the test says so, or with what it says."""

    def __init__(self):
        self.submitted = []
        self.answers = []
        self.hangs = threading.Event()

    def submit(self, operation):
        self.submitted.append(operation)
        future = Future()
        answer = self.answers.pop(0) if self.answers else f"done {operation}"
        if answer is None:
            return future
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return future


@pytest.fixture(params=["run", "arun"])
def drive(request):
    """Run a flow with either driver; `drive.queue`, `.transport`, `.listener`, `.clock` are its surroundings."""
    queue, listener, clock = Queue(), Listener(), Clock()
    transport = Transports() if request.param == "run" else AsyncTransports()
    runtime = Runtime(queue, transport, transport, clock, listener)

    def run(flow):
        return runtime.run(flow) if request.param == "run" else asyncio.run(runtime.arun(flow))

    run.queue, run.transport, run.listener, run.clock, run.kind = queue, transport, listener, clock, request.param
    run.runtime = runtime
    return run


def test_every_command_is_answered(drive, monkeypatch):
    """Send, Journal, Now, Emit and Sleep."""
    slept = []
    monkeypatch.setattr(clock_module.time, "sleep", slept.append)
    real = asyncio.sleep
    monkeypatch.setattr(clock_module.asyncio, "sleep", lambda seconds: (slept.append(seconds), real(0))[1])

    def flow():
        seen = [(yield Journal("step"))]
        seen.append((yield Send(REQUEST, 5.0)))
        seen.append((yield Sleep(2.0)))
        seen.append((yield Sleep(2.0, jitter=True)))
        seen.append((yield Emit("told", {"amount": 1})))
        seen.append((yield Now()).ledger)
        return seen

    done = drive(flow())
    assert ["done step", SAID, None, None, None] == done[:5]
    assert 1234.0 == pytest.approx(done[5], abs=1)
    assert [(REQUEST, 5.0)] == drive.transport.sent
    assert (2.0, True) == (slept[0], 0 <= slept[1] <= 2)
    assert ([("told", {"amount": 1})], [("balance", "Answer")]) == (drive.listener.events, drive.listener.latencies)


def test_a_commit_that_fails_is_raised_inside_the_flow(drive):
    """Which may do something about it."""
    drive.queue.answers = [JournalError("full")]

    def flow():
        try:
            yield Journal("first")
        except JournalError:
            return (yield Journal("second"))

    assert "done second" == drive(flow())


def test_a_commit_that_fails_is_raised_to_the_caller_if_the_flow_does_nothing_about_it(drive):
    """As it is."""
    drive.queue.answers = [JournalError("full")]

    def flow():
        yield Journal("first")

    with pytest.raises(JournalError, match="full"):
        drive(flow())


def interruptible(log):
    """A flow that writes down its doubt, and would send on if it could."""
    try:
        yield Send(REQUEST, 5.0)
    except Interrupted:
        moment = yield Now()
        log.append((yield Journal("doubt")))
        yield Emit("told", {"at": isinstance(moment, Moment)})
        raise


def test_a_send_that_is_cut_short_is_told_to_the_flow(drive):
    """The journal learns of the doubt; the caller sees what cut it short."""
    drive.transport.raises = KeyboardInterrupt()
    log = []
    with pytest.raises(KeyboardInterrupt):
        drive(interruptible(log))
    assert (["done doubt"], ["doubt"]) == (log, drive.queue.submitted)
    assert [("told", {"at": True})] == drive.listener.events


def test_a_commit_or_a_sleep_that_is_cut_short_is_told_too(drive, monkeypatch):
    """Wherever the flow stands, nothing stays open that nobody will end."""

    def flow(command, log):
        try:
            yield command
        except Interrupted:
            log.append((yield Journal("taken back")))
            raise

    log = []
    drive.queue.answers = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        drive(flow(Journal("step"), log))

    def cut(real):
        here = threading.current_thread()

        def sleep(seconds):
            if threading.current_thread() is here:
                raise KeyboardInterrupt
            return real(seconds)  # another thread's, such as a server's

        return sleep

    monkeypatch.setattr(clock_module.time, "sleep", cut(time.sleep))
    monkeypatch.setattr(clock_module.asyncio, "sleep", cut(asyncio.sleep))
    with pytest.raises(KeyboardInterrupt):
        drive(flow(Sleep(9), log))
    assert ["done taken back"] * 2 == log


@pytest.mark.parametrize("then", [Send(REQUEST, 1.0), Sleep(1.0)])
def test_nothing_is_sent_or_waited_for_after_an_interruption(drive, then):
    """A flow that would is closed."""
    drive.transport.raises = KeyboardInterrupt()
    closed = []

    def flow():
        try:
            yield Send(REQUEST, 5.0)
        except Interrupted:
            try:
                yield then
            finally:
                closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        drive(flow())
    assert ([True], 1) == (closed, len(drive.transport.sent))


@pytest.mark.parametrize("failure", [JournalError("full"), ValueError("odd")])
def test_a_doubt_that_cannot_be_written_does_not_hide_what_cut_the_flow_short(drive, failure):
    """A cancelled task must end as cancelled."""
    drive.transport.raises = KeyboardInterrupt()
    drive.queue.answers = [failure]
    with pytest.raises(KeyboardInterrupt):
        drive(interruptible([]))


def test_a_flow_that_swallows_its_interruption_ends(drive):
    """The caller's exception goes on all the same."""
    drive.transport.raises = KeyboardInterrupt()

    def flow():
        try:
            yield Send(REQUEST, 5.0)
        except Interrupted:
            return "fine"

    with pytest.raises(KeyboardInterrupt):
        drive(flow())


async def test_a_cancelled_task_has_its_doubt_written():
    """`CancelledError` is what cut it short."""
    queue, transport = Queue(), AsyncTransports()
    transport.send = transport.hang
    runtime = Runtime(queue, None, transport, Clock(), Listener())
    task = asyncio.ensure_future(runtime.arun(interruptible([])))
    await transport.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ["doubt"] == queue.submitted


async def test_a_cancelled_caller_waits_for_its_commit_briefly_and_it_is_carried_out(monkeypatch):
    """100 ms at most, so that no cleanup needs an `await` to be safe."""
    monkeypatch.setattr(runtime_module, "CANCELLED_COMMIT_SECONDS", 0.01)
    future = Future()
    task = asyncio.ensure_future(committed(future))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not future.cancelled()
    future.set_exception(JournalError("full"))
    await asyncio.sleep(0)
    assert wait_briefly(Future()) is None


async def test_a_commit_that_is_done_is_not_awaited_for():
    """Its result, or its error, at once."""
    future = Future()
    future.set_result(3)
    assert 3 == await committed(future)
    later = Future()
    waiting = asyncio.ensure_future(committed(later))
    await asyncio.sleep(0)
    later.set_result(4)
    assert 4 == await waiting


@pytest.mark.parametrize("failed", [True, False])
async def test_a_commit_that_failed_does_not_hide_the_cancellation(failed):
    """A task that was cancelled ends as cancelled, whatever became of its commit."""
    future = Future()
    task = asyncio.ensure_future(committed(future))
    await asyncio.sleep(0)
    task.cancel()
    if failed:
        future.set_exception(JournalError("full"))
    else:
        future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)


# The clock.


@pytest.fixture
def times(monkeypatch):
    """This machine's two clocks, driven."""

    class Times:
        monotonic_now, wall_now = 1000.0, 50_000.0

        def monotonic(self):
            return self.monotonic_now

        def time(self):
            return self.wall_now

        def go(self, seconds, *, asleep=0.0):
            self.monotonic_now += seconds
            self.wall_now += seconds + asleep

    times = Times()
    monkeypatch.setattr(clock_module, "time", times)
    return times


def test_the_ledgers_time_is_unknown_until_it_is_heard(times):
    """An answer without a time says nothing."""
    clock = Clock()
    clock.heard(None, clock.now())
    assert Moment(1000.0, 50_000.0, None) == clock.now()


def test_the_ledgers_time_is_carried_on_from_when_the_request_left(times):
    """Never behind the ledger, so a hold is never thought alive for longer than it is."""
    clock = Clock()
    sent = clock.now()
    times.go(3)
    clock.heard(7000.0, sent)
    assert 7003.0 == clock.now().ledger
    times.go(57)
    assert 7060.0 == clock.now().ledger


def test_a_time_older_than_a_minute_is_no_time(times):
    """Rule 6."""
    clock = Clock()
    clock.heard(7000.0, clock.now())
    times.go(60.001)
    assert clock.now().ledger is None


def test_the_latest_request_counts_not_the_latest_answer(times):
    """Answers overtake each other."""
    clock = Clock()
    first = clock.now()
    times.go(2)
    second = clock.now()
    clock.heard(7002.0, second)
    clock.heard(6000.0, first)
    assert 7002.0 == clock.now().ledger
    clock.heard(7002.5, second)
    assert 7002.5 == clock.now().ledger


@pytest.mark.parametrize("asleep", [20.0, -20.0])
def test_a_machine_that_slept_does_not_know_the_ledgers_time(times, asleep):
    """Its monotonic clock may have stood still: a hold would be thought alive that is over (rule 6)."""
    clock = Clock()
    clock.heard(7000.0, clock.now())
    times.go(1, asleep=asleep)
    assert clock.now().ledger is None


def test_a_machine_that_slept_while_a_request_was_out_does_not_either(times):
    """The answer waited in the buffer."""
    clock = Clock()
    sent = clock.now()
    times.go(1, asleep=600.0)
    clock.heard(7000.0, sent)
    assert clock.now().ledger is None
