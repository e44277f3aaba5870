"""Faults, each over a real socket, and what the books say afterwards."""

import asyncio
import json
import socket
import threading
import time
from random import Random
from urllib.parse import urlsplit

import httpx
import pytest

from countwerk_meter.sandbox import create_app
from countwerk_meter.sandbox.faults import FaultPlan, usual_code
from countwerk_meter.sandbox.settings import SettingError

PATH = "/api/credits/reserve"
BODY = {"account_id": "acct", "operation": "app.chat", "amount": 5}


@pytest.fixture
def control(countwerk_sandbox):
    """The control API, with an account of 100 credits opened."""
    countwerk_sandbox.control.account("acct", balance=100)
    return countwerk_sandbox.control


@pytest.fixture
def strike(control, http):
    """Make one fault and send one reserve into it."""

    def strike(kind, **more):
        control.faults([{"path": PATH, "kind": kind, **more}])
        return http.post(PATH, json=BODY)

    return strike


def held(control) -> int:
    return control.books("acct")["reserved"]


def until(condition, seconds: float = 5.0) -> None:
    """Wait for another thread's doing, for as short as it takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


def test_status_carries_nothing_out(control, strike):
    """An error status comes in the contract's envelope with the path's own code, and no credit moves."""
    response = strike("status", status=503, retry_after=2)

    assert (
        response.status_code,
        response.json()["code"],
        response.headers["retry-after"],
    ) == (503, "RESERVATION_ERROR", "2")
    assert held(control) == 0


def test_status_may_name_its_code_and_message(control, strike):
    """Any status goes with any code, also a 200 that says success: false."""
    answer = strike("status", status=200, code="SOMETHING_NEW", message="hello").json()

    assert answer == {"success": False, "code": "SOMETHING_NEW", "message": "hello"}


@pytest.mark.parametrize("status", [500, 302, 204, 304])
def test_status_may_come_without_an_envelope(control, strike, status):
    """A bare status, a redirect and a status that allows no body have none."""
    response = strike("status", status=status, envelope=status != 500, location="https://elsewhere.example/")

    assert (status, b"") == (response.status_code, response.content)
    assert response.headers["location"] == "https://elsewhere.example/"


@pytest.mark.parametrize(("kind", "carried_out"), [("drop_before", 0), ("drop_after", 5)])
def test_dropped_connections_are_reset(control, strike, kind, carried_out):
    """The peer sees a real reset; what was carried out is in the books, and nothing else."""
    with pytest.raises(httpx.ReadError) as caught:
        strike(kind)

    assert "reset" in str(caught.value).lower()
    assert carried_out == held(control)


def test_delay_comes_before_carrying_out(control, http):
    """While the request waits nothing has moved; a reset of the sandbox ends the wait for good."""
    control.faults([{"path": PATH, "kind": "delay", "seconds": 60}])
    errors = []

    def send() -> None:
        try:
            http.post(PATH, json=BODY, timeout=30)
        except httpx.TransportError as error:
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    until(lambda: control.requests()["counts"].get(PATH) == 1)
    waiting = held(control)
    control.reset()
    thread.join(10)

    assert (waiting, len(errors)) == (0, 1)
    assert control.books("acct")["reservations"] == []


def test_delay_carries_out_in_the_end(control, strike):
    """After its seconds a delayed request is answered as any other."""
    begun = time.monotonic()
    response = strike("delay", seconds=0.05)

    assert response.status_code == 200
    assert time.monotonic() - begun >= 0.05
    assert held(control) == 5


def test_delay_after_holds_the_answer_back(control, http):
    """It is carried out at once; a client that gives up leaves a hold behind."""
    control.faults([{"path": PATH, "kind": "delay_after", "seconds": 60}])
    with pytest.raises(httpx.ReadTimeout):
        http.post(PATH, json=BODY, timeout=0.05)

    assert held(control) == 5


def test_delay_after_answers_in_the_end(strike):
    """With patience the answer comes."""
    assert strike("delay_after", seconds=0.02).status_code == 200


def test_garbage_is_carried_out_and_cannot_be_read(control, strike):
    """A 200 that says it is JSON and is not."""
    response = strike("garbage")

    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    with pytest.raises(ValueError):
        response.json()
    assert held(control) == 5


def test_html_is_a_proxy_s_page(control, strike):
    """Carried out, and a page in the answer's place."""
    response = strike("html", status=502)

    assert (response.status_code, response.headers["content-type"]) == (502, "text/html; charset=utf-8")
    assert held(control) == 5


def test_duplicate_is_carried_out_twice(control, strike):
    """Two holds, of which the answer names the second."""
    answer = strike("duplicate").json()
    holds = [r["reservation_id"] for r in control.books("acct")["reservations"]]

    assert len(holds) == 2
    assert holds[1] == answer["data"]["reservationId"]


def test_drip_outlasts_a_timeout_per_read(control, http):
    """A byte now and then: no single read times out, yet the answer takes its seconds."""
    control.faults([{"path": PATH, "kind": "drip", "seconds": 0.4}])
    begun = time.monotonic()
    response = http.post(PATH, json=BODY, timeout=0.2)

    assert response.json()["success"] is True
    assert time.monotonic() - begun >= 0.4


def drain(sock: socket.socket) -> None:
    while sock.recv(65_536):
        pass


def raw_request(url: str) -> socket.socket:
    parts = urlsplit(url)
    body = json.dumps(BODY).encode()
    sock = socket.create_connection((parts.hostname, parts.port), timeout=10)
    sock.sendall(
        b"POST /api/credits/reserve HTTP/1.1\r\nHost: localhost\r\nX-API-Key: cs_sandbox\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    return sock


def test_drip_may_begin_with_the_headers(countwerk_sandbox, control):
    """The status line itself comes in pieces, and the whole is a good answer."""
    control.faults([{"path": PATH, "kind": "drip", "seconds": 0.2, "headers": True}])
    received, pieces = b"", 0
    with raw_request(countwerk_sandbox.url) as sock:
        while piece := sock.recv(65_536):
            received, pieces = received + piece, pieces + 1
    head, _, body = received.partition(b"\r\n\r\n")

    assert pieces > 20
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body)["success"] is True
    until(lambda: control.requests()["requests"][-1]["status"] == 200)


@pytest.mark.parametrize("headers", [True, False])
def test_drip_ends_when_the_client_leaves(countwerk_sandbox, control, headers):
    """A client that hangs up in the middle costs nothing further."""
    control.faults([{"path": PATH, "kind": "drip", "seconds": 2, "headers": headers}])
    with raw_request(countwerk_sandbox.url) as sock:
        assert sock.recv(1)

    assert held(control) == 5


@pytest.mark.parametrize("headers", [True, False])
def test_drip_ends_with_the_sandbox_s_reset(countwerk_sandbox, control, headers):
    """A reset in the middle cuts the connection."""
    control.faults([{"path": PATH, "kind": "drip", "seconds": 60, "headers": headers}])
    with raw_request(countwerk_sandbox.url) as sock:
        if headers:
            assert sock.recv(1)
        else:
            assert sock.recv(20)
        control.reset()
        with pytest.raises(ConnectionResetError):
            drain(sock)


def test_oversize_is_ten_megabytes_of_json(control, strike):
    """Readable, complete and far too long; the size may be chosen."""
    response = strike("oversize")
    small = strike("oversize", bytes=10)

    assert len(response.content) > 10_000_000
    assert response.json()["success"] is True
    assert len(small.json()["padding"]) == 10


def test_a_client_that_leaves_early_harms_nobody(countwerk_sandbox, control, call):
    """Half a body, then a hang-up: the next request is answered."""
    parts = urlsplit(countwerk_sandbox.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as sock:
        sock.sendall(b"POST /api/credits/reserve HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    status, _ = call("credits/balance", account_id="acct")

    assert status == 200
    assert "/api/credits/reserve" not in control.requests()["counts"]


def test_faults_strike_in_order_and_as_often_as_told(control, http):
    """The first that matches strikes; used up, it makes room for the next."""
    control.faults(
        [
            {"path": "/api/credits/balance", "kind": "status", "status": 500},
            {"path": PATH, "kind": "status", "status": 500, "times": 2},
            {"path": "*", "kind": "status", "status": 429, "skip": 1},
        ]
    )
    seen = [http.post(PATH, json=BODY).status_code for _ in range(5)]

    assert seen == [500, 500, 200, 429, 200]
    assert [fault["path"] for fault in control.remaining_faults()] == ["/api/credits/balance"]


def test_a_fault_may_strike_one_account_alone(control, call, reserve):
    """By the account in the body, or the one whose reservation is named."""
    control.account("other", balance=100)
    mine, others = reserve("acct"), reserve("other")
    control.faults([{"path": "*", "kind": "status", "status": 500, "account_id": "other", "times": None}])

    assert call("credits/balance", account_id="other")[0] == 500
    assert call("credits/confirm-reservation", reservationId=others)[0] == 500
    assert call("credits/confirm-reservation", reservationId=mine)[0] == 200
    assert call("credits/resolve-order", order_id="ORDER_9")[0] == 404


def test_a_fault_for_an_account_passes_over_unreadable_bodies(control, http):
    """What is no JSON object belongs to nobody."""
    control.faults([{"kind": "status", "status": 500, "account_id": "acct"}])

    assert http.post(PATH, content=b"[").status_code == 400


def test_probable_faults_stay_and_are_repeatable(control, http):
    """The same seed draws the same faults; a bounded one is used up."""

    def statuses() -> list[int]:
        control.settings(seed=7)
        control.faults([{"path": "*", "kind": "status", "status": 500, "probability": 0.5}])
        return [http.post("/api/credits/balance", json={"account_id": "acct"}).status_code for _ in range(20)]

    first = statuses()
    assert {200, 500} == set(first)
    assert first == statuses()
    assert len(control.remaining_faults()) == 1


def test_a_probable_fault_may_be_bounded():
    """With times beside a probability, it is over after so many strikes."""
    plan = FaultPlan()
    plan.replace([{"kind": "drop_after", "probability": 1, "times": 2}])
    struck = [plan.take(PATH, None, Random(0)) is not None for _ in range(3)]

    assert struck == [True, True, False]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("credits/balance", 500, "BALANCE_ERROR"),
        ("credits/deduct", 500, "DEDUCTION_ERROR"),
        ("credits/reserve", 502, "RESERVATION_ERROR"),
        ("credits/confirm-reservation", 503, "CONFIRMATION_ERROR"),
        ("credits/cancel-reservation", 500, "CANCELLATION_ERROR"),
        ("credits/resolve-order", 500, "INTERNAL_ERROR"),
        ("purchase-links", 503, "DS24_TEMPORARY_ERROR"),
        ("purchase-links", 409, "DS24_KEY_REQUIRED"),
        ("credits/resolve-order", 409, "ORDER_NOT_MAPPED_YET"),
        ("credits/resolve-order", 404, "ORDER_NOT_FOUND"),
        ("credits/cancel-reservation", 404, "RESERVATION_NOT_FOUND"),
        ("credits/reserve", 400, "INVALID_INPUT"),
        ("credits/reserve", 401, "INVALID_API_KEY"),
        ("credits/reserve", 402, "INSUFFICIENT_CREDITS"),
        ("credits/reserve", 403, "FORBIDDEN"),
        ("credits/reserve", 429, "RATE_LIMIT_EXCEEDED"),
    ],
)
def test_a_status_brings_its_usual_code(path, status, code):
    """Without a code of its own, a fault answers the one the contract pairs with it."""
    assert code == usual_code(f"/api/{path}", status)


@pytest.mark.parametrize(
    "plan",
    [
        {},
        ["drop_after"],
        [{"kind": "explode"}],
        [{"kind": "status"}],
        [{"kind": "status", "status": 199}],
        [{"kind": "status", "status": 600}],
        [{"kind": "drop_after", "path": "/api/credits/resrve"}],
        [{"kind": "drop_after", "time": 2}],
        [{"kind": "drop_after", "times": 0}],
        [{"kind": "drop_after", "times": "2"}],
        [{"kind": "drop_after", "skip": -1}],
        [{"kind": "drop_after", "probability": 2}],
        [{"kind": "drop_after", "account_id": 5}],
        [{"kind": "delay", "seconds": "long"}],
        [{"kind": "drip", "headers": 1}],
        [{"kind": "status", "status": 503, "retry_after": "a\r\nb"}],
        [{"kind": "status", "status": 302, "location": "https://é.example"}],
    ],
)
def test_a_plan_that_is_not_understood_is_refused(plan):
    """A typing error in a fault is an error, not a fault that never strikes."""
    with pytest.raises(SettingError):
        FaultPlan().replace(plan)


@pytest.mark.parametrize(("kind", "more"), [("drop_after", {}), ("drip", {"seconds": 60})])
async def test_without_a_socket_a_drop_is_an_error(kind, more):
    """In process there is no connection to cut: the caller gets the error that it would have seen."""
    app = create_app()
    transport = httpx.ASGITransport(app)
    headers = {"X-API-Key": "cs_sandbox"}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
        await client.put("/_sandbox/accounts/acct", json={"balance": 100})
        await client.put("/_sandbox/faults", json=[{"kind": kind, **more}])
        request = asyncio.create_task(client.post(PATH, json=BODY))
        while kind == "drip" and not app.pauses.waiting:
            await asyncio.sleep(0)
        app.pauses.end_all()
        with pytest.raises(ConnectionResetError):
            await request
    assert app.ledger.books.account("acct").reserved == 5
    app.close()


async def test_headers_drip_in_process_falls_back_to_the_body():
    """Without a socket only the body can drip."""
    app = create_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        await client.put("/_sandbox/faults", json=[{"kind": "drip", "seconds": 0, "headers": True}])
        response = await client.post(PATH, json=BODY)
    app.close()

    assert response.json()["code"] == "API_KEY_MISSING"
