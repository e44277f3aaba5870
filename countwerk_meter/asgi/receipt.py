"""
What a client is told of its charge, where the app asks for that.

The rule: nothing is told before it is known. What is held and the charge's id stand in the response's head; what was
charged is known when the app has returned and the charge is committed, so it comes after the last byte: as the last
event of an event stream, else as a trailer, where server and client speak of trailers.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from countwerk_meter.asgi.protocol import header

if TYPE_CHECKING:
    from countwerk_meter.asgi.protocol import Message, Scope
    from countwerk_meter.meter import Reservation


class Receipt:
    """
    What one response says of its charge.

    Attributes:
        ends_events: The response is an event stream that ends with an event of ours.
        trails: The response ends with trailers of ours.

    """

    __slots__ = ("_reservation", "_trailers", "ends_events", "trails")

    def __init__(self, reservation: Reservation, scope: Scope) -> None:
        self._reservation = reservation
        accepted = (header(scope, b"te") or "").lower().replace(" ", "").split(",")
        server = "http.response.trailers" in (scope.get("extensions") or {})
        self._trailers = server and "trailers" in accepted and scope["method"] != "HEAD"
        self.ends_events = False
        self.trails = False

    @property
    def _reserved(self) -> int:
        # A deferred call runs without a hold.
        return self._reservation.amount if self._reservation.reservation_id else 0

    def announced(self, message: Message, *, event_stream: bool) -> Message:
        """Return the response's start with the two headers, and where it ends with trailers, the word that it does."""
        headers = [
            *message.get("headers", ()),
            (b"credits-reserved", str(self._reserved).encode()),
            (b"credits-event-id", self._reservation.usage_event_id.encode()),
        ]
        # Trailers that the app sends itself are the app's, and nothing can come after the body that they follow.
        ours = not message.get("trailers")
        self.ends_events = ours and event_stream
        self.trails = ours and not event_stream and self._trailers
        if self.trails:
            headers.append((b"trailer", b"credits-charged"))
            return {**message, "headers": headers, "trailers": True}
        return {**message, "headers": headers}

    def event(self) -> bytes:
        """Return an event stream's last event; empty where it is not known what was charged."""
        charged = self._reservation.charged
        if charged is None:
            return b""
        said = {
            "charged": charged,
            "reserved": self._reserved,
            "usage_event_id": self._reservation.usage_event_id,
        }
        return b"event: credits\ndata: %s\n\n" % json.dumps(said, separators=(",", ":")).encode()

    def trailer(self) -> Message:
        """Return the trailers; none where it is not known what was charged."""
        charged = self._reservation.charged
        trailers = [] if charged is None else [(b"credits-charged", str(charged).encode())]
        return {"type": "http.response.trailers", "headers": trailers, "more_trailers": False}
