"""A flat price that needs no hold: the charge's first row, for `deduct`."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING

from countwerk_meter._flow.rows import DEDUCT

if TYPE_CHECKING:
    from countwerk_meter._flow.rows import ChargeRow
    from countwerk_meter._metering.engine import Engine
    from countwerk_meter._metering.spec import Spec


def direct_charge(engine: Engine, spec: Spec) -> ChargeRow:
    """Return the row of a charge whose amount is known before it begins."""
    engine.ready()
    now, price = engine.now(), spec.hold.credits
    return dataclasses.replace(
        spec.charge(engine.terms, engine.name(spec), now),
        amount=price,
        share=price,
        exact=str(Decimal(price)),
        basis="price",
        via=DEDUCT,
        committed_at=now,
    )
