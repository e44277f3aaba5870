"""
Purchase options, as a purchase-links answer lists them.

The rule: a URL is made for one answer and never again (each carries a token of its own), so a caller that keeps one
is seen by whoever compares two answers. No URL here leads anywhere: the path says sandbox.
"""

import secrets
from dataclasses import dataclass
from typing import Final

from countwerk_meter.sandbox.contract import JsonObject


@dataclass(frozen=True, slots=True)
class _Tier:
    product_id: str
    rank: int
    label: str


@dataclass(frozen=True, slots=True)
class _TopUp:
    product_id: str
    credits: int


TIERS: Final = (
    _Tier("STARTER_001", 1, "Starter"),
    _Tier("PRO_001", 2, "Pro"),
    _Tier("BUSINESS_001", 3, "Business"),
    _Tier("SCALE_001", 4, "Scale"),
)
TOP_UPS: Final = (_TopUp("TOPUP_5000", 5000), _TopUp("TOPUP_1000", 1000), _TopUp("TOPUP_100", 100))

_HOST: Final = "https://www.digistore24.com/sandbox"
_NO_ORDER: Final = "There is no current order to change"


def purchase_options(
    account_id: str,
    current_order_id: str | None,
    current_tier_product_id: str | None,
    *,
    no_key: str | None = None,
    unheard_of: bool = False,
) -> list[JsonObject]:
    """List the options in the contract's order. With `no_key` (the reason) every one of them is disabled."""
    rank = next((tier.rank for tier in TIERS if tier.product_id == current_tier_product_id), 0)
    no_order = no_key or (None if current_order_id else _NO_ORDER)
    current = current_tier_product_id
    options = [
        *(_change("upgrade", tier, current, no_order) for tier in TIERS if tier.rank > rank),
        *(_change("downgrade", tier, current, no_order) for tier in TIERS if tier.rank < rank),
        *(_top_up(top_up, account_id, no_key) for top_up in TOP_UPS),
    ]
    if unheard_of:
        options.append(_option("gift", "carrier_pigeon", "at_full_moon", no_key, label="A kind nobody knows yet"))
    options.append(
        _option(
            "manage",
            "ds_upgrade_url",
            "unknown",
            no_key or "Subscription management is switched off for this product",
            label="Manage the subscription",
        )
    )
    return options


def _change(kind: str, tier: _Tier, current: str | None, disabled: str | None) -> JsonObject:
    policy = "immediate" if kind == "upgrade" else "end_of_period"
    return _option(
        kind,
        "ds_upgrade_url",
        policy,
        disabled,
        label=tier.label,
        toProductId=tier.product_id,
        fromProductId=current,
        description=f"Change to {tier.label}",
    )


def _top_up(top_up: _TopUp, account_id: str, disabled: str | None) -> JsonObject:
    return _option(
        "topup",
        "create_buy_url",
        "immediate",
        disabled,
        label=f"{top_up.credits} credits",
        toProductId=top_up.product_id,
        description=f"{top_up.credits} credits for {account_id}",
    )


def _option(kind: str, link_mode: str, policy: str, disabled: str | None, **more: str | None) -> JsonObject:
    return {
        "type": kind,
        "linkMode": link_mode,
        "effectiveAtPolicy": policy,
        "expectedPolicy": policy,
        "enabled": disabled is None,
        "disabledReason": disabled,
        "url": f"{_HOST}/{kind}/{secrets.token_urlsafe(18)}" if disabled is None else None,
        **{name: value for name, value in more.items() if value is not None},
    }
