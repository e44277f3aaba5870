"""
What a request costs, by how it ended.

The first line that fits applies. "Recorded": something was recorded or set.

| how it ended | flat `price` | `amount`, `estimate` |
|---|---|---|
| status 400 or more, or 301, 307 or 308, nothing recorded | nothing | nothing |
| something recorded, however it ended | the price | what was recorded |
| the end of the response was handed over, whatever became of the app after that | the price | the hold |
| broken off after bytes of the body were handed to the server | the price | the hold (money rule 13) |
| broken off after the response had begun, before any bytes | the price | nothing |
| the app failed after bytes of the body were handed over | nothing | the hold (money rule 13) |
| broken off or failed before that | nothing | nothing |

"Broken off": the client was seen to leave, or the app gave up waiting for it to take what was sent, or the app was
cancelled, or it returned without ending its response. A normal return does not mean that the client got everything:
under uvicorn that is how an app ends whose client leaves. "Failed": the app raised, and its client was there, taking
what was sent; what waited for it less than a quarter of a second when the app failed counts as taken.

The hold is charged only where no nested call drew on it; a nested call's charge is its own, and stays in every line.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from countwerk_meter.asgi.exchange import Exchange
    from countwerk_meter.meter import Reservation


# A router's redirect, to the path with or without its last slash: the request itself is carried out there.
_SENT_ON: Final = frozenset({301, 307, 308})


class BrokenOffError(Exception):
    """Ends a reservation whose app returned without a whole response. Never raised."""


class FailedError(Exception):
    """Ends a reservation whose response says that the request failed. Never raised."""


def outcome(reservation: Reservation, exchange: Exchange, error: BaseException | None) -> BaseException | None:
    """Tell the reservation what the consumer got, and return the error to end it with, or None."""
    status, flat = exchange.status, reservation.spec.hold.kind == "price"
    if status is not None and (status >= 400 or status in _SENT_ON) and not reservation.recorded:
        if flat:
            # Not cancelled: a call that the price covers may be running, and answer.
            return error or FailedError("the response's status")
        reservation.cancel(f"the response's status was {status}")
        return error
    if exchange.complete:
        # Delivered: what fails from here on, a background task perhaps, makes it no cheaper.
        reservation.yielded()
        return error
    broken_off = exchange.left or error is None or isinstance(error, asyncio.CancelledError)
    if (exchange.started and broken_off) if flat else exchange.yielded:
        reservation.yielded()
    return error or BrokenOffError("the app returned without a whole response")
