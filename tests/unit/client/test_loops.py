"""Event loops: each has its own connections, and closes them; a cancelled request gives its place back."""

import asyncio
import gc
import threading
import time

import httpcore
import pytest

from countwerk_meter._drivers import lanes, sockets
from countwerk_meter._drivers.choice import async_transport
from countwerk_meter._drivers.endpoint import Endpoint
from countwerk_meter._drivers.loops import LoopTransports
from countwerk_meter._drivers.transport import AsyncHttpxTransport
from countwerk_meter._wire import requests
from countwerk_meter._wire.replies import Answer, InDoubt, NotSent
from countwerk_meter.client import AsyncCountwerkClient

BALANCE = requests.balance("acct_1")


class FakeTransport:
    """Counts how often it was closed."""

    def __init__(self):
        self.closed = 0

    async def aclose(self):
        self.closed += 1


@pytest.fixture
def fakes():
    """A `LoopTransports` over transports that do nothing, and the list of those it made."""
    made = []

    def make():
        made.append(FakeTransport())
        return made[-1]

    return LoopTransports(make), made


async def test_one_transport_per_loop(fakes):
    """All tasks of a loop share one transport."""
    loops, made = fakes

    found = await asyncio.gather(*(loops.here() for _ in range(5)))

    assert [made[0]] * 5 == found
    await loops.aclose()


def test_a_loop_closes_its_transport(fakes):
    """When a loop shuts down its transport is closed, and nothing of it is kept."""
    loops, made = fakes

    asyncio.run(loops.here())
    asyncio.run(loops.here())

    assert [1, 1] == [transport.closed for transport in made]
    assert 0 == len(loops._of)


async def test_closed_by_hand(fakes):
    """Closed by hand a transport is closed once, is forgotten, and the next call gets another."""
    loops, made = fakes
    await loops.here()

    await asyncio.gather(loops.aclose(), loops.aclose())

    assert [1] == [transport.closed for transport in made]
    assert made[0] is not await loops.here()
    await loops.aclose()
    assert 0 == len(loops._of)


async def test_a_forgotten_client():
    """A client that is dropped without being closed has its connections closed by the loop."""
    transport = FakeTransport()
    loops = LoopTransports(lambda: transport)
    await loops.here()

    del loops
    gc.collect()
    await asyncio.sleep(0.01)

    assert 1 == transport.closed


def test_a_loop_without_shutdown(fakes):
    """A loop that was closed without its shutdown is forgotten when the next one comes."""
    loops, made = fakes
    loop = asyncio.new_event_loop()
    loop.run_until_complete(loops.here())
    loop.close()
    assert 1 == len(loops._of)

    asyncio.run(loops.here())

    assert 2 == len(made)
    assert 0 == len(loops._of)


def test_a_forgotten_client_of_a_closed_loop():
    """A client that is dropped after its loop was closed has nobody to close its connections, and says nothing."""
    transport = FakeTransport()
    loops = LoopTransports(lambda: transport)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(loops.here())
    loop.close()

    del loops
    gc.collect()

    assert 0 == transport.closed


def test_one_client_in_many_loops(countwerk_sandbox, control, transport):
    """One client serves one loop after another, and none leaves a connection behind (warnings are errors)."""
    client = AsyncCountwerkClient(countwerk_sandbox.api_key, countwerk_sandbox.url)

    assert [100] * 3 == [asyncio.run(client.balance("acct_1")).balance for _ in range(3)]

    gc.collect()
    assert 0 == len(client._loops._of)


def test_one_client_in_many_threads(countwerk_sandbox, control, transport):
    """One client serves the loops of several threads at once."""
    client = AsyncCountwerkClient(countwerk_sandbox.api_key, countwerk_sandbox.url)
    found = []
    together = threading.Barrier(4)

    async def ask():
        together.wait()
        answers = await asyncio.gather(*(client.balance("acct_1") for _ in range(5)))
        found.extend(answer.balance for answer in answers)

    threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [100] * 20 == found
    gc.collect()
    assert 0 == len(client._loops._of)


async def test_a_client_that_was_never_closed(countwerk_sandbox, control, transport):
    """A client that is dropped in mid-life leaves no connection either."""
    client = AsyncCountwerkClient(countwerk_sandbox.api_key, countwerk_sandbox.url)
    await client.balance("acct_1")

    del client
    gc.collect()
    await asyncio.sleep(0.05)
    gc.collect()


def transport_with(sandbox, slots):
    transport = async_transport(Endpoint.of(sandbox.api_key, sandbox.url))
    transport._slots = asyncio.Semaphore(slots)
    return transport


async def test_cancelled_in_mid_request(countwerk_sandbox, control, transport):
    """A request that is cancelled while it waits for its answer gives its place and its connection back."""
    control.faults([{"kind": "delay", "seconds": 30}])
    transport = transport_with(countwerk_sandbox, 1)
    task = asyncio.create_task(transport.send(BALANCE, time.monotonic() + 20))
    for _ in range(1000):
        await asyncio.sleep(0.005)
        if (await asyncio.to_thread(control.requests))["requests"]:
            break

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert 1 == transport._slots._value
    assert isinstance(await transport.send(BALANCE, time.monotonic() + 5), Answer)
    assert 1 == transport._slots._value
    await transport.aclose()


async def test_cancelled_while_waiting_for_a_place(countwerk_sandbox, control, transport):
    """So does one that is cancelled before its turn came; one whose turn never comes was never sent."""
    control.faults([{"kind": "delay", "seconds": 0.3}])
    transport = transport_with(countwerk_sandbox, 1)
    first = asyncio.create_task(transport.send(BALANCE, time.monotonic() + 20))
    await asyncio.sleep(0)
    second = asyncio.create_task(transport.send(BALANCE, time.monotonic() + 20))
    await asyncio.sleep(0)

    assert NotSent("no time left") == await transport.send(BALANCE, time.monotonic() + 0.05)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second

    assert isinstance(await first, Answer)
    assert 1 == transport._slots._value
    await transport.aclose()


async def test_an_answer_that_is_too_late(countwerk_sandbox, control, transport):
    """An answer that does not come in time leaves the request in doubt, and gives its place back."""
    control.faults([{"kind": "delay", "seconds": 30}])
    transport = transport_with(countwerk_sandbox, 1)

    assert InDoubt("no answer in time") == await transport.send(BALANCE, time.monotonic() + 0.1)

    assert 1 == transport._slots._value
    await transport.aclose()


async def test_lanes_of_httpx(countwerk_sandbox, control, monkeypatch):
    """A request has a connection of its own, the last one that was free; one that was free for too long is closed."""
    transport = AsyncHttpxTransport(Endpoint.of(countwerk_sandbox.api_key, countwerk_sandbox.url))

    async def ask(times):
        sent = [transport.send(BALANCE, time.monotonic() + 5) for _ in range(times)]
        assert all(isinstance(reply, Answer) for reply in await asyncio.gather(*sent))

    await ask(3)
    await ask(1)
    assert (3, 3) == (len(transport._lanes._free), len(transport._lanes._made))
    monkeypatch.setattr(lanes, "KEEPALIVE_SECONDS", -1.0)
    await ask(1)
    assert (2, 2) == (len(transport._lanes._free), len(transport._lanes._made))
    await transport.aclose()
    assert not transport._lanes._made


async def test_more_requests_than_places(countwerk_sandbox, control, transport):
    """Requests beyond the limit wait for their turn, and all are answered."""
    async with AsyncCountwerkClient(countwerk_sandbox.api_key, countwerk_sandbox.url) as client:
        answers = await asyncio.gather(*(client.balance("acct_1") for _ in range(100)))

    assert {100} == {answer.balance for answer in answers}


@pytest.fixture(params=["httpx", "fast"])
def either(request, monkeypatch):
    monkeypatch.setenv("COUNTWERK_TRANSPORT", request.param)
    return lambda url: async_transport(Endpoint.of("key", url, allow_http=True))


@pytest.mark.parametrize("piece", [b"1\r\n \r\n", b"HTTP/1.1 103 E\r\n\r\n"], ids=["chunks", "interim"])
async def test_whoever_talks_without_end_has_not_the_loop_for_himself(either, raw_server, piece):
    """Thousands of tiny pieces are read in turns with everybody else, and no longer than until the deadline."""

    def flood(server, connection):
        server.read_request(connection)
        if piece.startswith(b"1"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not server.stop.is_set():
            connection.sendall(piece * 10_000)

    transport, turns = either(raw_server(flood).url), []

    async def turn():
        while True:
            turns.append(time.monotonic())
            await asyncio.sleep(0.001)

    others = asyncio.create_task(turn())
    started = time.monotonic()
    reply = await transport.send(BALANCE, started + 0.5)
    others.cancel()
    await transport.aclose()
    assert isinstance(reply, InDoubt)
    took = time.monotonic() - started
    assert took < 3
    assert len(turns) > 1 or took < 0.25  # refused at once


async def test_a_transport_that_is_closed_while_it_connects_sends_nothing(either, raw_server, monkeypatch):
    """And leaves no socket open."""
    server = raw_server(lambda server, connection: server.read_request(connection))
    looked_up = asyncio.Event()

    async def slowly(host, port, **more):
        await looked_up.wait()
        return [(None, None, None, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", slowly)
    transport = either(server.url.replace("127.0.0.1", "ledger.example"))
    sending = asyncio.create_task(transport.send(BALANCE, time.monotonic() + 5))
    await asyncio.sleep(0.02)
    closing = asyncio.create_task(transport.aclose())
    await asyncio.sleep(0.02)
    looked_up.set()
    await closing
    assert isinstance(await sending, NotSent)
    await asyncio.sleep(0.05)
    assert not server.requests


async def test_a_name_that_takes_too_long_is_sent_nothing(either, monkeypatch):
    async def never(host, port, **more):
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    transport = either("http://ledger.example:1")
    assert isinstance(await transport.send(BALANCE, time.monotonic() + 0.3), NotSent)
    await transport.aclose()


class Reading(asyncio.Transport):
    """Notes whether it reads."""

    reads = True

    def __init__(self):
        super().__init__()
        self.sent = []

    def get_extra_info(self, name, default=None):
        return self

    def fileno(self):
        return -1

    def is_closing(self):
        return False

    def write(self, data):
        self.sent.append(data)

    def pause_reading(self):
        self.reads = False

    def resume_reading(self):
        self.reads = True


async def test_what_came_since_the_connection_was_taken(monkeypatch):
    """A connection that carried a request before, and was talked to since, carries no further one: nothing left."""
    monkeypatch.setattr(sockets, "readable", lambda number: False)
    pipe, transport = sockets._Pipe(), Reading()
    pipe.connection_made(transport)
    stream = sockets._Stream(pipe, sockets.SocketBackend(), 0.0)
    await stream.write(b"first")
    pipe.data_received(b"answer")
    assert await stream.read(100) == b"answer"
    pipe.data_received(b"unasked")
    await stream.write(b"second")
    with pytest.raises(httpcore.ConnectError):
        await stream.read(100)
    assert transport.sent == [b"first"]


async def test_what_comes_in_masses_is_handed_over_in_pieces():
    """So much at most is kept, and everybody else has a turn between two pieces."""
    pipe, transport, turns = sockets._Pipe(), Reading(), []
    pipe.connection_made(transport)
    pipe.data_received(b"x" * 50_000)
    assert transport.reads
    pipe.data_received(b"x" * 50_000)
    assert not transport.reads

    async def turn():
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    others = asyncio.create_task(turn())
    pieces = [await pipe.read(65_536) for _ in range(7)]
    others.cancel()
    assert [16_384] * 6 + [100_000 - 6 * 16_384] == [len(piece) for piece in pieces]
    assert transport.reads
    assert len(turns) >= 7
