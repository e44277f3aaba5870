"""A flat price that needs no hold: the charge's first row, for `deduct`."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING

from countwerk_meter._flow.charge import charge_at_once
from countwerk_meter._flow.commands import Now
from countwerk_meter._flow.rows import DEDUCT
from countwerk_meter._flow.states import ChargeState
from countwerk_meter.errors import InsufficientCreditsError

if TYPE_CHECKING:
    from countwerk_meter._flow.commands import Flow, Moment
    from countwerk_meter._flow.rows import ChargeRow
    from countwerk_meter._metering.engine import Engine
    from countwerk_meter._metering.spec import Spec
    from countwerk_meter.errors import CountwerkError


def not_charged(engine: Engine, row: ChargeRow, error: CountwerkError) -> ChargeRow:
    """Raise what refused a charge; where nothing is enforced, return the row that it would have left."""
    engine.let_through(error, row.account_id, row.operation)
    return dataclasses.replace(row, state=ChargeState.DENIED, reason=type(error).__name__)


def charging(engine: Engine, row: ChargeRow) -> Flow[ChargeRow]:
    """Charge a flat price; refused with 402, once more if leases of the account gave credits back, in one budget."""
    start: Moment = yield Now()
    try:
        return (yield from charge_at_once(engine.terms, row))
    except InsufficientCreditsError:
        if engine.leases is None:
            raise
        deadline = start.monotonic + engine.terms.reserve_timeout
        given = yield from engine.leases.recalling(engine.terms, row.account_id)(deadline)
        now: Moment = yield Now()
        if not given or now.monotonic >= deadline:
            raise
    left = dataclasses.replace(engine.terms, reserve_timeout=deadline - now.monotonic)
    return (yield from charge_at_once(left, row))


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
