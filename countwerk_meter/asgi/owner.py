"""
Whose request it is.

The rule: ways to buy belong to one account. A client is shown those of the account that its own request was resolved
to, and of no other: not of one that the app uses for itself, and a stranger none at all.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from countwerk_meter.asgi.protocol import given

if TYPE_CHECKING:
    from countwerk_meter.asgi.protocol import Asked, Scope

_log = logging.getLogger("countwerk_meter.asgi")


class Owner:
    """The account of one request, asked for once, and only when it must be known."""

    __slots__ = ("_account_id", "_ask", "_known", "_scope")

    def __init__(self, ask: Asked[str | None], scope: Scope) -> None:
        self._ask = ask
        self._scope = scope
        self._known = False
        self._account_id: str | None = None

    def is_now(self, account_id: str) -> None:
        """Note what a framework's own authentication found."""
        self._known, self._account_id = True, account_id

    async def account_id(self) -> str | None:
        """Ask the app whose request this is; None: nobody's. What the app's callable raises is raised."""
        if not self._known:
            self._account_id = await given(self._ask, self._scope)
            self._known = True
        return self._account_id

    async def to_be_told(self) -> str | None:
        """Return whom an answer may tell of its account; None where that cannot be found out."""
        try:
            return await self.account_id()
        except Exception as error:  # noqa: BLE001 - the refusal is the answer, whatever else fails
            _log.warning("whose request it is was not found out: %s", type(error).__name__)
            return None
