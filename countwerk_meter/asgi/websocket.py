"""A websocket that is denied: by an HTTP response where the server can, else by closing it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from countwerk_meter.asgi.problems import answer_to

if TYPE_CHECKING:
    from countwerk_meter.asgi.owner import Owner
    from countwerk_meter.asgi.protocol import ASGIApp, Message, Receive, Scope, Send

# Policy violation. Before the handshake is done a server makes it a 403.
_CLOSED: Final = 1008
_DENIAL: Final = "websocket.http.response"


async def serve(app: ASGIApp, scope: Scope, receive: Receive, send: Send, owner: Owner) -> None:
    """Run the app. A charge that is refused below denies the handshake, or later closes the connection."""
    accepted = ended = False

    async def watched(message: Message) -> None:
        nonlocal accepted, ended
        accepted = accepted or message["type"] == "websocket.accept"
        ended = ended or message["type"] in {"websocket.close", f"{_DENIAL}.start"}
        await send(message)

    try:
        await app(scope, receive, watched)
    except Exception as error:
        problem = None if ended else await answer_to(error, owner)
        if problem is None:
            raise
        if not accepted and _DENIAL in (scope.get("extensions") or {}):
            told = problem.messages(_DENIAL)
        else:
            told = ({"type": "websocket.close", "code": _CLOSED, "reason": problem.code},)
        # That its client is gone already is no error of the app's.
        with contextlib.suppress(OSError):
            for message in told:
                await send(message)
