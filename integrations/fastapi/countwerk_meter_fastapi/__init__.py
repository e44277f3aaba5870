"""
Credits for FastAPI routes.

    from countwerk_meter_fastapi import Credits, add_credits

    add_credits(app, meter=meter, account_id=account_of_request)

    @app.post("/chat")
    async def chat(reservation: Annotated[Reservation, Credits("app.chat.reply", price=5)]): ...

The public names are `Credits`, `add_credits`, `declare_payment_required` and `Reservation`.
"""

from __future__ import annotations

from countwerk_meter.meter import Reservation
from countwerk_meter_fastapi.dependency import Credits
from countwerk_meter_fastapi.installing import add_credits
from countwerk_meter_fastapi.openapi import declare_payment_required

__all__ = ["Credits", "Reservation", "add_credits", "declare_payment_required"]
