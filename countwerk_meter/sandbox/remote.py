"""
The control API from Python: what a test holds in its hand.

The rule: it is a plain HTTP client of the calls in control.py, so it drives a sandbox in another process just as well.
It takes no proxy from the environment: the sandbox is on this machine.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx


class SandboxControl:
    """Opens accounts, makes faults, moves the clock and reads the books of the sandbox at `url`."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=30)

    def account(self, account_id: str, balance: int | None = None, **known: str | None) -> dict[str, Any]:
        """
        Open or refill an account: its available credits become `balance`.

        `known`: `ai_product_id`, `order_id`, `current_tier_product_id`. What is left out stays as it was.
        """
        body = {**known, **({} if balance is None else {"balance": balance})}
        return self._call("PUT", f"/accounts/{quote(account_id, safe='')}", body)

    def settings(self, **settings: object) -> dict[str, Any]:
        """Change settings; what is left out stays. Returns all of them."""
        return self._call("PUT", "/settings", settings)

    def faults(self, faults: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Replace the fault plan."""
        return self._call("PUT", "/faults", list(faults))

    def remaining_faults(self) -> list[dict[str, Any]]:
        """Return the faults that have not struck yet."""
        return self._call("GET", "/faults")["faults"]

    def advance(self, seconds: float) -> str:
        """Move the ledger's clock forward. Returns the time it shows now."""
        return self._call("POST", "/clock", {"advance_seconds": seconds})["now"]

    def now(self) -> str:
        """Return the time on the ledger's clock, ISO 8601."""
        return self._call("GET", "/health")["now"]

    def books(self, account_id: str) -> dict[str, Any]:
        """Return one account's statement: the truth, for auditors."""
        return self._call("GET", f"/books/{quote(account_id, safe='')}")

    def all_books(self, limit: int = 200) -> dict[str, Any]:
        """Return the whole ledger's totals, and whether they balance."""
        return self._call("GET", f"/books?limit={limit}")

    def requests(self, limit: int = 200) -> dict[str, Any]:
        """Return how often each path was called (`counts`) and the last `limit` requests, oldest first."""
        return self._call("GET", f"/requests?limit={limit}")

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._call("DELETE", "/requests")

    def reset(self) -> None:
        """Begin anew: no accounts, no faults, default settings, real time. Ends every delay in progress."""
        self._call("POST", "/reset")

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        response = (
            self._http.request(method, f"/_sandbox{path}", json=body)
            if body is not None
            else (self._http.request(method, f"/_sandbox{path}"))
        )
        answer: dict[str, Any] = response.json()
        if response.is_error:
            raise ValueError(answer.get("error", f"the sandbox answered {response.status_code}"))
        return answer
