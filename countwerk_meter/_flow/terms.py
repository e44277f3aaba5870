"""What a flow is told once: whose journal rows these are, and what the app chose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """
    The terms of one Meter.

    Attributes:
        ledger: Base URL; rows of another ledger are never touched.
        principal: Fingerprint of the API key, not the key. Recovery takes over rows of this key only.
        owner: This process' name in the journal.
        reserve_timeout: Seconds that a gate may take in all, purchase links included (money rule 2).
        settle_timeout: Seconds that one settlement request may take.
        on_crash: What a dead process' open calls are charged: `checkpoint`, `cancel` or `reserved`.
        rounding: `ceil` or `carry` (money rule 11).

    """

    ledger: str
    principal: str
    owner: str
    ai_product_id: str
    reserve_timeout: float = 5.0
    settle_timeout: float = 10.0
    on_unavailable: str = "deny"
    debt_limit: int = 0
    settle_with: str = "confirm"
    on_replay: str = "refuse"
    on_crash: str = "checkpoint"
    rounding: str = "ceil"
