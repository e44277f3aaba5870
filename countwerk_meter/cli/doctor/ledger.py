"""
Whether the ledger answers, and whether it takes the key.

The rule: it asks for a balance and nothing else, so nothing is made or changed. Any definite answer is an answer: the
account need not exist.
"""

from __future__ import annotations

import time
from typing import Final

from countwerk_meter.cli.doctor.finding import Finding
from countwerk_meter.client import CountwerkClient
from countwerk_meter.errors import (
    ApiError,
    AuthenticationError,
    ConfigurationError,
    CountwerkError,
    InvalidRequestError,
    LedgerUnavailableError,
    PermissionDeniedError,
)

DEFAULT_ACCOUNT: Final = "countwerk-meter-doctor"


def reachability(base_url: str | None, account_id: str, timeout: float) -> list[Finding]:
    """Ask for one balance."""
    try:
        client = CountwerkClient(base_url=base_url, timeout=timeout)
    except ConfigurationError as error:
        return [Finding("ledger", "reachable", "problem", f"not asked: {error}")]
    where = client.endpoint.base_url
    started = time.monotonic()
    with client:
        try:
            client.balance(account_id)
        except AuthenticationError as error:
            return [
                Finding("ledger", where, "ok", "answers"),
                Finding("ledger", "API key", "problem", f"refused: {error}", "check COUNTWERK_API_KEY"),
            ]
        except PermissionDeniedError as error:
            return [
                Finding("ledger", where, "ok", "answers"),
                Finding("ledger", "API key", "problem", f"may not read {account_id}: {error}"),
            ]
        except LedgerUnavailableError as error:
            detail, _, advice = str(error).partition("; ")
            return [Finding("ledger", where, "problem", detail, advice or "check COUNTWERK_BASE_URL and the network")]
        except InvalidRequestError as error:
            return [Finding("ledger", where, "problem", str(error))]
        except ApiError as error:
            # A definite answer about this account: the ledger is there and took the key.
            return [Finding("ledger", where, "ok", f"answers ({error.code or error.status}), and takes the key")]
        except CountwerkError as error:
            return [Finding("ledger", where, "problem", str(error))]
    milliseconds = (time.monotonic() - started) * 1000
    return [Finding("ledger", where, "ok", f"answers in {milliseconds:.0f} ms, and takes the key")]
