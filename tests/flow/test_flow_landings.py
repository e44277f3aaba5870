"""Futures of another thread, awaited on an event loop: who is woken, how often, and what is never forgotten."""

import asyncio
import gc
import threading
import weakref
from concurrent.futures import Future

import pytest

from countwerk_meter._drivers import landings as module
from countwerk_meter._drivers.landings import landed


@pytest.fixture
def calls(monkeypatch):
    """How often the loop was called from another thread: each is a write to its socket."""
    made = []
    real = asyncio.base_events.BaseEventLoop.call_soon_threadsafe

    def call(loop, callback, *values, **more):
        if callback.__name__ == "pick_up":
            made.append(callback)
        return real(loop, callback, *values, **more)

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "call_soon_threadsafe", call)
    return made


@pytest.fixture
async def said():
    """What the loop was told of errors in its callbacks."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context["exception"]))
    return errors


def elsewhere(step):
    thread = threading.Thread(target=step)
    thread.start()
    thread.join()


async def test_those_that_land_together_wake_the_loop_once(calls):
    futures = [Future() for _ in range(50)]
    waiting = asyncio.gather(*map(landed, futures))
    await asyncio.sleep(0)
    # The loop stands still meanwhile.
    elsewhere(lambda: [future.set_result(at) for at, future in enumerate(futures)])
    assert list(range(50)) == await waiting
    assert 1 == len(calls)


async def test_those_that_land_later_wake_it_again(calls):
    for at in range(3):
        future = Future()
        waiting = asyncio.ensure_future(landed(future))
        await asyncio.sleep(0)
        elsewhere(lambda future=future, at=at: future.set_result(at))
        assert at == await waiting
    assert 3 == len(calls)


async def test_what_lands_while_others_are_picked_up_is_not_forgotten():
    """A hundred thousand, from two threads, while the loop picks up: none waits for ever."""
    total, futures = 20_000, [[], []]
    for mine in futures:
        mine.extend(Future() for _ in range(total // 2))

    def land(mine):
        for future in mine:
            future.set_result(1)

    waiting = asyncio.gather(*(landed(future) for mine in futures for future in mine))
    await asyncio.sleep(0)
    threads = [threading.Thread(target=land, args=(mine,)) for mine in futures]
    for thread in threads:
        thread.start()
    assert total == sum(await asyncio.wait_for(waiting, 30))
    for thread in threads:
        thread.join()


async def test_who_is_cancelled_leaves_the_future_as_it_is(said):
    future = Future()
    waiting = asyncio.ensure_future(landed(future))
    beside = asyncio.ensure_future(landed(future))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    assert waiting.cancelled()
    assert not future.done()
    elsewhere(lambda: future.set_result(7))
    assert 7 == await beside
    assert [] == said


async def test_an_error_is_raised_where_it_is_awaited():
    future = Future()
    waiting = asyncio.ensure_future(landed(future))
    await asyncio.sleep(0)
    elsewhere(lambda: future.set_exception(ValueError("no")))
    with pytest.raises(ValueError, match="no"):
        await waiting


def test_what_lands_after_the_loop_was_closed_wakes_nobody(caplog):
    future = Future()

    async def leave():
        asyncio.ensure_future(landed(future))  # noqa: RUF006 - left
        await asyncio.sleep(0)

    asyncio.run(leave())
    elsewhere(lambda: future.set_result(1))
    assert not caplog.records
    # The same thread's next loop has landings of its own.
    later = Future()

    async def await_it():
        threading.Timer(0.01, later.set_result, [2]).start()
        return await landed(later)

    assert 2 == asyncio.run(await_it())


async def test_an_interrupt_in_the_middle_of_it_forgets_nobody(monkeypatch, said):
    """Ctrl-C may strike a loop's callback: those that were not picked up yet are, once it runs again."""
    futures = [Future() for _ in range(3)]
    waiting = [asyncio.ensure_future(landed(future)) for future in futures]
    await asyncio.sleep(0)
    struck = []

    class Strikes(module.deque):
        def popleft(self):
            waiter = super().popleft()
            if not struck:
                struck.append(waiter)
                self.append(waiter)
                raise RuntimeError
            return waiter

    found = module._landings(asyncio.get_running_loop())
    monkeypatch.setattr(found, "_landed", Strikes())
    elsewhere(lambda: [future.set_result(1) for future in futures])
    assert [1, 1, 1] == await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert [RuntimeError] == list(map(type, said))


def test_a_loop_is_not_kept_alive():
    async def once():
        future = Future()
        threading.Timer(0.01, future.set_result, [2]).start()
        await landed(future)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(once())
    loop.close()
    gone = weakref.ref(loop)
    del loop
    while threading.active_count() > 1 and any(isinstance(each, threading.Timer) for each in threading.enumerate()):
        threading.Event().wait(0.01)
    gc.collect()
    assert gone() is None


async def test_a_call_that_never_came_is_made_again(monkeypatch):
    """Ctrl-C may strike a loop between two callbacks, and take the next one with it: that one is lost, no other is."""
    loop = asyncio.get_running_loop()
    future, lost = Future(), Future()
    waiting = asyncio.ensure_future(landed(lost))
    await asyncio.sleep(0)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_soon_threadsafe", lambda callback: None)
        elsewhere(lambda: lost.set_result(1))
    # Whoever comes next finds it.
    beside = asyncio.ensure_future(landed(future))
    assert 1 == await asyncio.wait_for(waiting, 10)
    elsewhere(lambda: future.set_result(2))
    assert 2 == await asyncio.wait_for(beside, 10)


async def test_a_call_that_never_came_is_made_again_for_who_waited_before(monkeypatch):
    loop = asyncio.get_running_loop()
    lost, later = Future(), Future()
    waiting = asyncio.gather(landed(lost), landed(later))
    await asyncio.sleep(0)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_soon_threadsafe", lambda callback: None)
        elsewhere(lambda: lost.set_result(1))
    await asyncio.sleep(2 * module._AGAIN)
    elsewhere(lambda: later.set_result(2))
    assert [1, 2] == await asyncio.wait_for(waiting, 10)
