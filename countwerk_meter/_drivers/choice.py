"""
Which transport is used: an `httpx` client of the app's own where it passed one, else the fastest that is installed.

`countwerk-meter[fast]` installs `httptools`, and the transports over it are then taken by themselves.
`COUNTWERK_TRANSPORT=httpx` keeps httpx all the same: for what instruments or replaces it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Final

from countwerk_meter.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx

    from countwerk_meter._drivers.endpoint import Endpoint
    from countwerk_meter._drivers.transport import AsyncTransport, Transport


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("httptools") is not None


def _fast() -> bool:
    wanted = os.environ.get("COUNTWERK_TRANSPORT", "")
    if wanted not in {"", "httpx", "fast"}:
        raise ConfigurationError("COUNTWERK_TRANSPORT must be httpx or fast")
    if wanted == "fast" and not _installed():
        raise ConfigurationError("COUNTWERK_TRANSPORT=fast needs: pip install 'countwerk-meter[fast]'")
    return _installed() and wanted != "httpx"


def transport_chosen() -> str:
    """
    Return `fast` or `httpx`: what requests go over where the app passes no client of its own.

    Raises:
        ConfigurationError: `COUNTWERK_TRANSPORT` names what is not there.

    """
    return "fast" if _fast() else "httpx"


def sync_transport(endpoint: Endpoint, http: httpx.Client | None = None) -> Transport:
    """
    Return a sync transport.

    Raises:
        ConfigurationError: `COUNTWERK_TRANSPORT` names what is not there.

    """
    if http is None and _fast():
        from countwerk_meter._drivers.fast_transport import FastTransport

        return FastTransport(endpoint)
    # Here, so that an app that has the fast ones does not import the others.
    from countwerk_meter._drivers.transport import HttpxTransport

    return HttpxTransport(endpoint, http)


def async_transport(endpoint: Endpoint, http: httpx.AsyncClient | None = None) -> AsyncTransport:
    """Return an async transport for the running event loop; raises as `sync_transport` does."""
    if http is None and _fast():
        from countwerk_meter._drivers.fast_async_transport import AsyncFastTransport

        return AsyncFastTransport(endpoint)
    from countwerk_meter._drivers.transport import AsyncHttpxTransport

    return AsyncHttpxTransport(endpoint, http)


# What a first connection by name, or over TLS, imports, and with httpx a first lock.
_AT_FIRST_USE: Final = ("encodings.idna", "concurrent.futures.thread", "ssl", "certifi")
_OF_HTTPX: Final = ("anyio.lowlevel", "anyio._backends._asyncio")


def import_all() -> None:
    """
    Import what transports would import at their first use, on a thread behind the app.

    A fork in the middle of an import leaves the child a module that nobody finishes: it could settle nothing any more.
    """
    fast = _fast()
    importlib.import_module(f"countwerk_meter._drivers.{'fast_async_transport' if fast else 'transport'}")
    for name in _AT_FIRST_USE if fast else _AT_FIRST_USE + _OF_HTTPX:
        # They are others', and may be gone.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
