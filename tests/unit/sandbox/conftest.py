"""Calling the sandbox over its real socket, as an app would."""

from collections.abc import Callable, Iterator

import httpx
import pytest

Call = Callable[..., tuple[int, dict]]


@pytest.fixture
def http(countwerk_sandbox) -> Iterator[httpx.Client]:
    """A plain HTTP client with the sandbox's key."""
    headers = {"X-API-Key": countwerk_sandbox.api_key}
    with httpx.Client(
        base_url=countwerk_sandbox.url, headers=headers, trust_env=False, verify=False, timeout=10
    ) as client:
        yield client


@pytest.fixture
def call(http) -> Call:
    """Post a body to an endpoint: `call("credits/reserve", account_id=...)` gives (status, envelope)."""

    def call(endpoint: str, /, **body: object) -> tuple[int, dict]:
        response = http.post(f"/api/{endpoint}", json=body)
        return response.status_code, response.json()

    return call


@pytest.fixture
def reserve(call) -> Callable[..., str]:
    """Hold credits and give the reservation id."""

    def reserve(account_id: str = "acct", amount: int = 10, **more: object) -> str:
        status, answer = call("credits/reserve", account_id=account_id, operation="app.chat", amount=amount, **more)
        assert status == 200, answer
        return answer["data"]["reservationId"]

    return reserve
