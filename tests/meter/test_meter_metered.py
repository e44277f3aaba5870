"""`@meter.metered` on functions, coroutines, generators and async generators."""

import asyncio
import gc
import inspect

import pytest

from countwerk_meter import ConfigurationError, InsufficientCreditsError, Usage, account, current_reservation


def per_chunk(chunks):
    """Two credits of input, and three a chunk."""
    return Usage(input_tokens=2000, output_tokens=1000 * len(chunks))


def test_a_function_is_one_charge_and_keeps_its_face(bench, meter):
    """The wrapped function looks like itself, and its arguments size the call."""

    @meter.metered("app.sum", account_id=lambda user, n: user, amount=lambda user, n: n, usage=lambda r: None)
    def total(user: str, n: int) -> int:
        """Add."""
        assert current_reservation() is not None
        return n + 1

    assert 6 == total(bench.account, n=5)
    assert ("total", "Add.") == (total.__name__, total.__doc__)
    assert ["user", "n"] == list(inspect.signature(total).parameters)
    assert 5 == bench.settled(meter)


async def test_a_coroutine_is_one_charge(bench, meter):
    """The result's usage is what is charged."""

    @meter.metered("app.ask", account_id=bench.account, amount=9, usage=lambda result: result["usage"], model="m")
    async def ask(prompt):
        await asyncio.sleep(0)
        return {"text": prompt, "usage": Usage(input_tokens=4000)}

    assert inspect.iscoroutinefunction(ask)
    assert "hi" == (await ask("hi"))["text"]
    assert 4 == await asyncio.to_thread(bench.settled, meter)


def test_a_generator_charges_its_chunks(bench, meter):
    """A stream that was read to the end is charged what its chunks report, and hands on what it returns."""

    @meter.metered("app.stream", account_id=bench.account, amount=30, usage=per_chunk)
    def stream():
        assert current_reservation() is not None
        got = yield "a"
        assert "sent" == got
        yield "b"
        return "end"

    def through():
        result = yield from stream()
        assert "end" == result

    running = through()
    assert "a" == next(running)
    assert current_reservation() is None
    assert "b" == running.send("sent")
    with pytest.raises(StopIteration):
        next(running)
    assert 8 == bench.settled(meter)


@pytest.mark.parametrize(("usage", "credits"), [(per_chunk, 5), (None, 30), (lambda chunks: None, 30)])
def test_a_stream_broken_off_charges_what_was_consumed(bench, meter, usage, credits):
    """One chunk read, then left: reported usage if there is any, else what was held (money rule 13)."""

    @meter.metered("app.stream", account_id=bench.account, amount=30, usage=usage)
    def stream():
        yield from "abcdef"

    for _ in stream():
        break
    gc.collect()
    assert credits == bench.settled(meter)


def test_a_stream_that_fails_before_its_first_chunk_costs_nothing(bench, meter):
    """Nothing was yielded, so nothing is charged."""

    @meter.metered("app.stream", account_id=bench.account, amount=30)
    def stream():
        raise ValueError("no")
        yield

    with pytest.raises(ValueError, match="no"):
        list(stream())
    assert 0 == bench.settled(meter)


def test_a_stream_whose_clean_up_fails_is_charged(bench, meter):
    """The chunks were consumed, whatever the generator does when it is closed."""

    @meter.metered("app.stream", account_id=bench.account, amount=30, usage=per_chunk)
    def stream():
        try:
            yield 1
        finally:
            raise KeyError("its clean-up failed")

    running = stream()
    next(running)
    with pytest.raises(KeyError):
        running.close()
    assert 5 == bench.settled(meter)


def test_an_exception_thrown_into_a_stream_reaches_it(bench, meter):
    """`throw` goes to the generator underneath, which may go on."""

    @meter.metered("app.stream", account_id=bench.account, amount=30, usage=per_chunk)
    def stream():
        try:
            yield 1
        except KeyError:
            yield 2

    running = stream()
    next(running)
    assert 2 == running.throw(KeyError("x"))
    assert [] == list(running)
    assert 8 == bench.settled(meter)


async def test_an_async_generator_charges_its_chunks(bench, meter):
    """Read to the end, and broken off: both are charged what was consumed."""

    @meter.metered("app.stream", account_id=bench.account, amount=30, usage=per_chunk)
    async def stream():
        for chunk in "abc":
            await asyncio.sleep(0)
            yield chunk

    assert ["a", "b", "c"] == [chunk async for chunk in stream()]
    assert 11 == await asyncio.to_thread(bench.settled, meter)
    running = stream()
    await anext(running)
    await running.aclose()
    assert 16 == await asyncio.to_thread(bench.settled, meter)


async def test_an_async_stream_can_be_thrown_into(bench, meter):
    """`athrow` goes to the generator underneath."""

    @meter.metered("app.stream", account_id=bench.account, amount=30, usage=per_chunk)
    async def stream():
        try:
            yield 1
        except KeyError:
            yield 2

    running = stream()
    await anext(running)
    assert 2 == await running.athrow(KeyError("x"))
    with pytest.raises(StopAsyncIteration):
        await anext(running)
    assert 8 == await asyncio.to_thread(bench.settled, meter)


def test_an_abandoned_async_stream_is_charged(bench, meter):
    """A consumer that breaks and forgets the iterator does not get the stream for free."""

    @meter.metered("app.stream", account_id=bench.account, amount=30, usage=per_chunk)
    async def stream():
        for chunk in "abc":
            yield chunk

    async def consume():
        async for _ in stream():
            break

    asyncio.run(consume())
    assert 5 == bench.settled(meter)


def test_a_cancelled_async_stream_is_charged(bench, meter):
    """A task that is cancelled in mid-stream is charged what it consumed."""

    @meter.metered("app.stream", account_id=bench.account, amount=30, usage=per_chunk)
    async def stream():
        yield "a"
        await asyncio.sleep(60)
        yield "b"

    async def consume():
        async for _ in stream():
            pass

    async def run():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consume(), 0.3)

    asyncio.run(run())
    assert 5 == bench.settled(meter)


def test_a_denied_function_never_runs(bench, meter):
    """Out of credits, the model is not called: in none of the four kinds."""
    ran = []
    recipe = meter.metered("app.ask", account_id=bench.account, price=500)

    @recipe
    def plain():
        ran.append(1)

    @recipe
    async def coroutine():
        ran.append(1)

    @recipe
    def generator():
        ran.append(1)
        yield 1

    @recipe
    async def async_generator():
        ran.append(1)
        yield 1

    async def consume():
        return [chunk async for chunk in async_generator()]

    for call in (plain, lambda: asyncio.run(coroutine()), lambda: list(generator()), lambda: asyncio.run(consume())):
        with pytest.raises(InsufficientCreditsError):
            call()
    assert [] == ran


def test_a_usage_that_fails_never_loses_the_answer(bench, meter):
    """The model has answered: a broken `usage` is an event, and the hold is charged (money rule 13)."""

    @meter.metered("app.ask", account_id=bench.account, amount=3, usage=lambda result: result.nothing)
    def ask():
        return 42

    assert 42 == ask()
    assert 3 == bench.settled(meter)
    assert bench.named("unpriced")


def test_the_account_comes_from_what_surrounds_the_call(bench, meter):
    """Without an argument: the enclosing reservation's account, else the account variable, else an error."""

    @meter.metered("app.ask", amount=3)
    def ask():
        return 1

    with pytest.raises(ConfigurationError):
        ask()
    with account(bench.account):
        ask()
    with meter.reserve(bench.account, "app.run", amount=5):
        ask()
    assert 6 == bench.settled(meter)


def test_an_explicit_event_id_is_charged_once(bench, meter):
    """The same id from the arguments is one charge; the second call is refused before it runs."""
    ran = []

    @meter.metered("app.ask", account_id=bench.account, amount=3, usage_event_id=lambda turn: f"turn-{turn}")
    def ask(turn):
        ran.append(turn)

    ask(1)
    with pytest.raises(RuntimeError, match="charged already"):
        ask(1)
    ask(2)
    assert [1, 2] == ran
    assert 6 == bench.settled(meter)
