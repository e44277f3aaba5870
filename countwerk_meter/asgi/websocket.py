"""
A websocket that is denied: by an HTTP response where the server can, else by closing it.

Frameworks that raise no exception (Quart, Litestar) end the connection themselves, with a word that something failed or
none at all: where a metered call inside was refused, and neither was one let through nor anything said after it, that
end says what it was.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from countwerk_meter._metering import scope as surroundings
from countwerk_meter.asgi.problems import answer_to

if TYPE_CHECKING:
    from countwerk_meter.asgi.owner import Owner
    from countwerk_meter.asgi.problems import Problem
    from countwerk_meter.asgi.protocol import ASGIApp, Message, Receive, Scope, Send
    from countwerk_meter.errors import CountwerkError

# Policy violation. Before the handshake is done a server makes it a 403.
_CLOSED: Final = 1008
# How an end is closed that nobody chose: Quart's, the protocol's own, Litestar's.
_UNCHOSEN: Final = frozenset({1000, 1011, 4500})
_DENIAL: Final = "websocket.http.response"


async def serve(app: ASGIApp, scope: Scope, receive: Receive, send: Send, owner: Owner) -> None:
    """Run the app. A charge that is refused below denies the handshake, or later closes the connection."""
    accepted = ended = answered = False
    refusals: list[CountwerkError] = []

    async def tell(problem: Problem) -> None:
        if not accepted and _DENIAL in (scope.get("extensions") or {}):
            told = problem.messages(_DENIAL)
        else:
            told = ({"type": "websocket.close", "code": _CLOSED, "reason": problem.code},)
        # That its client is gone already is no error of the app's.
        with contextlib.suppress(OSError):
            for message in told:
                await send(message)

    async def watched(message: Message) -> None:
        nonlocal accepted, ended, answered
        if answered:
            return
        if message["type"] == "websocket.send":
            # Whoever was refused is told by the app.
            refusals.clear()
        elif refusals and not ended and _is_unchosen(message):
            problem = await answer_to(refusals[-1], owner)
            if problem is not None:
                ended = answered = True
                await tell(problem)
                return
        accepted = accepted or message["type"] == "websocket.accept"
        ended = ended or message["type"] in {"websocket.close", f"{_DENIAL}.start"}
        await send(message)

    before = surroundings.surroundings()
    surroundings._refusal.set(refusals)
    try:
        await app(scope, receive, watched)
    except Exception as error:
        problem = None if ended else await answer_to(error, owner)
        if problem is None:
            raise
        await tell(problem)
    finally:
        surroundings.put_back(before)
        refusals.clear()


def _is_unchosen(message: Message) -> bool:
    """Whether an app ends its connection with nothing but the word that it ended, or failed."""
    if message["type"] == "websocket.close":
        return message.get("code", 1000) in _UNCHOSEN
    return message["type"] == f"{_DENIAL}.start" and message["status"] == 500
