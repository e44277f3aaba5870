"""Who calls the demo's app: bearer tokens that only the demo can sign, and the key of its trusted gateway."""

from __future__ import annotations

import hashlib
import hmac
import os

SECRET_VARIABLE = "COUNTWERK_DEMO_SECRET"  # noqa: S105 - a variable's name
GATEWAY_HEADER = "x-gateway-key"


def _signature(text: str) -> str:
    return hmac.new(os.environ[SECRET_VARIABLE].encode(), text.encode(), hashlib.sha256).hexdigest()


def token_for(account_id: str) -> str:
    """Return an account's bearer token."""
    return f"{account_id}:{_signature(account_id)}"


def account_of(token: str) -> str | None:
    """Return the account of a token that we signed, else None."""
    account_id, _, signature = token.rpartition(":")
    return account_id if hmac.compare_digest(signature, _signature(account_id)) else None


def gateway_key() -> str:
    """Return what the trusted gateway shows."""
    return _signature("gateway")


def is_gateway(key: str | None) -> bool:
    """Say whether a request comes from the trusted gateway."""
    return key is not None and hmac.compare_digest(key, gateway_key())
