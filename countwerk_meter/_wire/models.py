"""The contract's objects as pydantic models: snake_case here, its names on the wire, tolerant of what is new."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from countwerk_meter.errors import without_links, without_urls

if TYPE_CHECKING:
    from collections.abc import Generator


class _Wire(BaseModel):
    """Unknown fields are kept, unknown enum values are strings: the vendor adds both."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    def __repr_args__(self) -> Generator[tuple[str | None, Any]]:
        """Show the known fields only: what the vendor adds may be a link, and so may a text."""
        for name, value in super().__repr_args__():
            if name in type(self).model_fields:
                yield name, without_links(value) if isinstance(value, str) else value


class _CamelWire(_Wire):
    model_config = ConfigDict(alias_generator=to_camel)


class _Fleeting(_Wire):
    """Holds purchase URLs, which no pickle may: they are never stored."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        fields = {
            name: without_links(value) if isinstance(value, str) else value for name, value in state["__dict__"].items()
        }
        return {**state, "__dict__": fields, "__pydantic_extra__": without_urls(state["__pydantic_extra__"])}


class ResolvedOrder(_Wire):
    """The account behind a Digistore24 order."""

    order_id: str
    account_id: str
    ai_product_id: str | None = None


class PurchaseOption(_Fleeting):
    """
    One way to buy, or one that is closed for now.

    `type` is `topup`, `upgrade`, `downgrade` or `manage` today, and a plain string because more may come.
    `url` must be used at once and never stored: repr and pickle leave it out. A disabled option has none.
    """

    model_config = ConfigDict(alias_generator=to_camel)

    type: str
    link_mode: str | None = None
    effective_at_policy: str | None = None
    expected_policy: str | None = None
    enabled: bool = False
    disabled_reason: str | None = None
    to_product_id: str | None = None
    from_product_id: str | None = None
    url: str | None = Field(default=None, repr=False)
    label: str | None = None
    description: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _closed_has_no_url(cls, data: object) -> object:
        """Take every link out of an option that is not plainly enabled."""
        if not isinstance(data, dict) or data.get("enabled") is True:  # pyright: ignore[reportUnknownMemberType] - JSON of any shape
            return cast("object", data)
        closed = without_urls(cast("dict[str, Any]", data))
        return closed | {key: value for key, value in (("enabled", False), ("url", None)) if key in closed}

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "url": None}}


class PurchaseLinks(_Fleeting):
    """The options of one account, in the ledger's order."""

    ai_product_id: str | None = None
    account_id: str | None = None
    current_order_id: str | None = None
    current_tier_product_id: str | None = None
    options: tuple[PurchaseOption, ...] = ()

    @property
    def enabled(self) -> tuple[PurchaseOption, ...]:
        """The options that are a way to buy."""
        return tuple(option for option in self.options if option.enabled)

    @property
    def disabled(self) -> tuple[PurchaseOption, ...]:
        """The options that are not a way to buy; `disabled_reason` says why."""
        return tuple(option for option in self.options if not option.enabled)

    def wire_options(self) -> list[dict[str, Any]]:
        """Return the options as the ledger sent them, for a front end that knows the contract's envelope."""
        return [option.model_dump(mode="json", by_alias=True, exclude_unset=True) for option in self.options]

    def all_disabled(self) -> PurchaseLinks:
        """Return the same options, none of them a way to buy: what a failed call carried never becomes a link."""
        closed = [{**option, "enabled": False, "url": None} for option in self.wire_options()]
        return self.model_copy(update={"options": tuple(PurchaseOption.model_validate(option) for option in closed)})


class Balance(_CamelWire):
    """Credits of one account."""

    balance: int
    reserved_balance: int = 0
    available_balance: int
    total_earned: int = 0
    total_spent: int = 0
    next_expiration: datetime | None = None


class Deduction(_CamelWire):
    """A charge made at once."""

    transaction_id: str | None = None
    new_balance: int | None = None
    deducted_amount: int
    operation: str
    description: str | None = None


class LedgerReservation(_CamelWire):
    """Credits held on the ledger until `expires_at`, on the ledger's clock."""

    reservation_id: str = Field(min_length=1)
    operation: str
    amount: int
    expires_at: datetime | None = None
    description: str | None = None


class Confirmation(_CamelWire):
    """A reservation turned into a charge of `actual_amount` credits."""

    reservation_id: str
    confirmed: bool
    actual_amount: int | None = None
    description: str | None = None


class Cancellation(_CamelWire):
    """A reservation given back."""

    reservation_id: str
    cancelled: bool
    reason: str | None = None
