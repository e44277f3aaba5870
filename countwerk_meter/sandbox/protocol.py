"""
The way from a request down to its socket.

ASGI has no word for cutting a connection, and a fault worth the name must cut it. So uvicorn's own HTTP/1.1 protocol
(the pure Python one, which is always there) leaves its transport in the request's state, and nothing else changes.
"""

import asyncio
import contextlib
import socket
import struct
from typing import Any, Final

from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

_STATE: Final = "countwerk_sandbox.transport"
# On, with zero seconds: closing sends a reset at once instead of a polite end.
_RESET: Final = struct.pack("ii", 1, 0)


class SandboxProtocol(H11Protocol):
    """uvicorn's h11 protocol, with the transport within reach of the app."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        state: dict[str, Any] = {**self.app_state, _STATE: transport}
        self.app_state = state


def transport_of(scope: Scope) -> asyncio.Transport | None:
    """Return the connection that a request came over, or None: it did not come through the sandbox's own server."""
    return scope.get("state", {}).get(_STATE)


def cut(transport: asyncio.Transport) -> None:
    """Reset the connection: what was not sent yet never is."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
