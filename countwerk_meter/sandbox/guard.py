"""
Who may use the control API and the page: this machine, and nobody's web page.

The rule: answered only if the server is bound to loopback, the peer is on loopback, no proxy passed the request on,
the Host header names loopback (a rebound DNS name does not) and no other origin's page sent it. Whatever is not known
is a no. The guard hangs on each route, so that it holds wherever the application is mounted.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


def is_loopback(host: str) -> bool:
    """Say whether a host name or address means this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class LoopbackOnly:
    """Refuses a route (403) unless all of the rule above holds."""

    def __init__(self, app: ASGIApp, *, enabled: bool) -> None:
        self._app = app
        self._enabled = enabled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = _objection(scope) if self._enabled else "the control API is off: this sandbox is not bound to loopback"
        if reason is None:
            await self._app(scope, receive, send)
        else:
            await JSONResponse({"error": reason}, 403)(scope, receive, send)


def _objection(scope: Scope) -> str | None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    sent = {name: [value.decode("latin-1") for key, value in headers if key == name] for name, _ in headers}
    client: tuple[str, int] | None = scope.get("client")
    server: tuple[str, int | None] | None = scope.get("server")
    if client is None or not is_loopback(client[0]):
        return "the control API answers loopback peers only"
    if server is None or not is_loopback(server[0]):
        return "the control API answers on a loopback address only"
    hosts = sent.get(b"host", [])
    if len(hosts) != 1 or not _names_loopback(f"//{hosts[0]}"):
        return "the Host header must name loopback"
    if any(name in {b"forwarded", b"via", b"x-real-ip"} or name.startswith(b"x-forwarded-") for name in sent):
        return "the control API does not answer through a proxy"
    origins = sent.get(b"origin", [])
    if any(origin != f"http://{hosts[0]}" for origin in origins) or sent.get(b"sec-fetch-site", []) == ["cross-site"]:
        return "another origin's page may not use the control API"
    return None


def _names_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host is not None and is_loopback(host)
