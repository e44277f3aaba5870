"""Where the ledger is and which key opens it. The key never leaves this module but as a header."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from countwerk_meter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator

DEFAULT_BASE_URL: Final = "https://app.countwerk.com"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked base URL and its key; `repr` shows neither key nor fingerprint."""

    base_url: str
    key: SecretStr

    @classmethod
    def of(cls, api_key: str | None, base_url: str | None, *, allow_http: bool = False) -> Endpoint:
        """
        Check both, taking what is None from `COUNTWERK_API_KEY` and `COUNTWERK_BASE_URL`.

        Raises:
            ConfigurationError: No key, a key that is no header value, or a URL in the clear that is not loopback.

        """
        key = api_key if api_key is not None else os.environ.get("COUNTWERK_API_KEY", "")
        url = base_url if base_url is not None else os.environ.get("COUNTWERK_BASE_URL") or DEFAULT_BASE_URL
        if not isinstance(key, str) or not key.strip():  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
            raise ConfigurationError("no API key: pass api_key or set COUNTWERK_API_KEY")
        if not key.isascii() or not key.isprintable() or key != key.strip():
            raise ConfigurationError("the API key has characters that no HTTP header carries")
        return cls(_checked_url(url, allow_http=allow_http), SecretStr(key))

    @property
    def fingerprint(self) -> str:
        """A name for the key's owner in the journal, from which the key cannot be found again."""
        digest = hashlib.sha256(b"countwerk-meter principal\0" + self.key.get_secret_value().encode())
        return digest.hexdigest()[:16]


class KeyAuth(httpx.Auth):
    """Puts the key on a request as it leaves, so that no client, frame or repr carries it before."""

    __slots__ = ("_endpoint",)

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["X-API-Key"] = self._endpoint.key.get_secret_value()
        yield request


def _checked_url(url: object, *, allow_http: bool) -> str:
    if not isinstance(url, str) or not url.strip():
        raise ConfigurationError("the base URL must be a non-empty string")
    parts = urlsplit(url.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError("the base URL must look like https://host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError("the base URL must not carry a user, a query or a fragment")
    if parts.scheme == "http" and not allow_http and not _is_loopback(parts.hostname):
        raise ConfigurationError(
            "the base URL is not https, and the API key would travel in the clear; "
            "use https, a loopback address, or allow_http=True"
        )
    return url.strip().rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
