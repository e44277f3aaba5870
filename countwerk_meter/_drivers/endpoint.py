"""
Where the ledger is and which key opens it.

The key leaves this module only as a header, and stands in no local variable here: reports of a crash show those.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from countwerk_meter._frozen import frozen
from countwerk_meter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator

DEFAULT_BASE_URL: Final = "https://app.countwerk.com"


def conceal(api_key: str | SecretStr | None) -> SecretStr | None:
    """Return a key that no repr shows. What is no string becomes an empty key, which `Endpoint.of` refuses."""
    if api_key is None or isinstance(api_key, SecretStr):
        return api_key
    return SecretStr(api_key if isinstance(api_key, str) else "")  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types


@frozen
class Endpoint:
    """A checked base URL and its key; `repr` shows neither key nor fingerprint."""

    base_url: str
    key: SecretStr

    @classmethod
    def of(cls, api_key: str | SecretStr | None, base_url: str | None, *, allow_http: bool = False) -> Endpoint:
        """
        Check both, taking what is None from `COUNTWERK_API_KEY` and `COUNTWERK_BASE_URL`.

        Raises:
            ConfigurationError: No key, a key that is no header value, or a URL in the clear that is not loopback.

        """
        api_key = conceal(api_key)
        if api_key is None:
            api_key = SecretStr(os.environ.get("COUNTWERK_API_KEY", ""))
        url = base_url if base_url is not None else os.environ.get("COUNTWERK_BASE_URL") or DEFAULT_BASE_URL
        if not api_key.get_secret_value().strip():
            raise ConfigurationError("no API key: pass api_key or set COUNTWERK_API_KEY")
        if not _is_header_value(api_key):
            raise ConfigurationError("the API key has characters that no HTTP header carries")
        return cls(_checked_url(url, allow_http=allow_http), api_key)

    @property
    def fingerprint(self) -> str:
        """A name for the key's owner in the journal, from which the key cannot be found again."""
        digest = hashlib.sha256(b"countwerk-meter principal\0" + self.key.get_secret_value().encode())
        return digest.hexdigest()[:16]

    def redact(self, text: str) -> str:
        """Return `text` without the key."""
        return text.replace(self.key.get_secret_value(), "***")


class KeyAuth(httpx.Auth):
    """Puts the key on a request as it leaves, so that no client, frame or repr carries it before."""

    __slots__ = ("_endpoint",)

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["X-API-Key"] = self._endpoint.key.get_secret_value()
        yield request


def _is_header_value(key: SecretStr) -> bool:
    return (
        key.get_secret_value().isascii()
        and key.get_secret_value().isprintable()
        and key.get_secret_value() == key.get_secret_value().strip()
    )


def _checked_url(url: object, *, allow_http: bool) -> str:
    if not isinstance(url, str) or not url.strip():
        raise ConfigurationError("the base URL must be a non-empty string")
    url = url.strip()
    if any(char in url for char in "@?#\\") or not url.isprintable() or " " in url:
        raise ConfigurationError("the base URL must not carry a user, a query or a fragment, a space or a backslash")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        # As the resolver will: a label that is too long must not fail there.
        httpx.URL(url).raw_host.decode("ascii").encode("idna")
    except (ValueError, httpx.InvalidURL):
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in {"http", "https"} or not host or port == 0:
        raise ConfigurationError("the base URL must look like https://host")
    if parts.scheme == "http" and not allow_http and not _is_loopback(host):
        raise ConfigurationError(
            "the base URL is not https, and the API key would travel in the clear; "
            "use https, a loopback address, or allow_http=True"
        )
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
