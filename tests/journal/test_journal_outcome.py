"""The future of a journal's step: whoever waits, however, and whatever strikes them."""

import asyncio
import logging
import signal
import threading
import time
from concurrent.futures import InvalidStateError, as_completed, wait

import pytest

from countwerk_meter.journal.outcome import Outcome


def later(seconds, step, *values):
    timer = threading.Timer(seconds, step, values)
    timer.start()
    return timer


def test_everybody_who_waits_has_the_result():
    outcome = Outcome()
    found = []
    threads = [threading.Thread(target=lambda: found.append(outcome.result(10))) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.02)
    assert not outcome.done()
    assert outcome.running()
    outcome.set_result(3)
    for thread in threads:
        thread.join(10)
    assert [3] * 8 == found
    assert outcome.done()
    assert 3 == outcome.result() == outcome.result(0)
    assert outcome.exception() is None


def test_an_error_is_raised_and_told():
    outcome = Outcome()
    later(0.01, outcome.set_exception, ValueError("no"))
    assert "no" == str(outcome.exception(10))
    with pytest.raises(ValueError, match="no"):
        outcome.result()


@pytest.mark.parametrize("seconds", [0, -1, 0.01])
def test_nobody_waits_longer_than_he_said(seconds):
    outcome = Outcome()
    with pytest.raises(TimeoutError):
        outcome.result(seconds)
    with pytest.raises(TimeoutError):
        outcome.exception(seconds)
    outcome.set_result(1)
    assert 1 == outcome.result(seconds)


def test_a_year_is_no_error():
    outcome = Outcome()
    later(0.01, outcome.set_result, 1)
    assert 1 == outcome.result(10**12)


def test_it_has_one_result_and_cannot_be_cancelled():
    outcome = Outcome()
    assert not outcome.cancel()
    outcome.set_result(1)
    with pytest.raises(InvalidStateError):
        outcome.set_result(2)
    assert not outcome.cancel()
    assert not outcome.cancelled()
    assert 1 == outcome.result()


def test_each_callback_is_called_once_and_one_that_fails_hinders_none(caplog):
    outcome, called = Outcome(), []

    def fails(_):
        raise ValueError("a secret")

    outcome.add_done_callback(called.append)
    outcome.add_done_callback(fails)
    outcome.add_done_callback(called.append)
    with caplog.at_level(logging.ERROR):
        outcome.set_result(1)
        outcome.add_done_callback(called.append)
    assert [outcome] * 3 == called
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_callbacks_that_are_added_while_it_ends_are_each_called_once():
    for _ in range(300):
        outcome, called = Outcome(), []
        begin = threading.Barrier(3)

        def add(outcome=outcome, called=called, begin=begin):
            begin.wait()
            for _ in range(20):
                outcome.add_done_callback(called.append)

        threads = [threading.Thread(target=add) for _ in range(2)]
        for thread in threads:
            thread.start()
        begin.wait()
        outcome.set_result(1)
        for thread in threads:
            thread.join()
        assert 40 == len(called)


def test_the_standard_library_takes_it_for_a_future():
    first, second = Outcome(), Outcome()
    later(0.01, first.set_result, 1)
    done, left = wait([first, second], 10, "FIRST_COMPLETED")
    assert ({first}, {second}) == (done, left)
    later(0.01, second.set_exception, ValueError())
    assert [first, second] == sorted(as_completed([first, second], 10), key=[first, second].index)
    assert "finished" in repr(first)

    async def awaited():
        outcome = Outcome()
        later(0.01, outcome.set_result, 5)
        return await asyncio.wrap_future(outcome)

    assert 5 == asyncio.run(awaited())


def test_ctrl_c_leaves_it_open_for_everybody_else():
    """Time and again, wherever it strikes who waits."""

    def strike(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, strike)
    try:
        struck = 0
        for at in range(400):
            outcome = Outcome()
            others = [threading.Thread(target=outcome.result, args=(10,)) for _ in range(2)]
            for other in others:
                other.start()
            teller = later(0.001, outcome.set_result, at)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0004 + at * 4e-6)
                outcome.result(10)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                struck += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            teller.join()
            for other in others:
                other.join(5)
                assert not other.is_alive(), at
            assert at == outcome.result(5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert struck
