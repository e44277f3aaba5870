"""
Meter: what an app holds.

It reserves credits before a call, charges what the call really cost afterwards, and gives the rest back. One Meter
serves sync and async code, many threads and many event loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from countwerk_meter._drivers.endpoint import Endpoint, conceal
from countwerk_meter._drivers.shadow import shadow_of
from countwerk_meter._flow.overview import Charges
from countwerk_meter._flow.terms import Terms
from countwerk_meter._metering.amounts import checked_prices, hold_of, named_of
from countwerk_meter._metering.charges import Charge, states_named
from countwerk_meter._metering.decorator import Recipe, metered
from countwerk_meter._metering.direct import charging, direct_charge, not_charged
from countwerk_meter._metering.engine import Engine
from countwerk_meter._metering.estimates import Estimates, Expected, clamp_of
from countwerk_meter._metering.lifecycle import Lifecycle
from countwerk_meter._metering.lookups import Lookups
from countwerk_meter._metering.options import check_options, check_unavailable, from_environment
from countwerk_meter._metering.reservation import Reservation
from countwerk_meter._metering.scope import account, current_reservation
from countwerk_meter._metering.spec import DEFAULT_VALIDITY_MINUTES, Spec
from countwerk_meter._wire import requests as checks
from countwerk_meter.errors import ConfigurationError, CountwerkError
from countwerk_meter.journal import open_journal
from countwerk_meter.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import httpx
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from pydantic import SecretStr

    from countwerk_meter._flow.rows import ChargeRow
    from countwerk_meter.client import CountwerkClient
    from countwerk_meter.events import Step
    from countwerk_meter.journal import Journal
    from countwerk_meter.pricing import PriceProfile
    from countwerk_meter.usage import Usage

__all__ = ["Charge", "Meter", "Reservation", "account", "current_reservation"]

F = TypeVar("F", bound="Callable[..., Any]")


class Meter(Lifecycle, Estimates, Lookups):
    """
    Meters an AI product's calls on a CountWerk ledger.

    Args:
        ai_product_id: The product that users buy credits for; purchase links are made for it.
        client: Take endpoint and key from a client; or pass `api_key` and `base_url`, or leave both to
            `COUNTWERK_API_KEY` and `COUNTWERK_BASE_URL`.
        prices: A price profile, or what `PriceProfile.load` takes. Without one, recorded usage is charged as held.
        journal: A `Journal`, or a URL: `sqlite:///path` (default: a file in the user's state directory), `memory:`.
        rounding: `ceil`: each charge is rounded up. `carry`: an account's fraction is carried to its next charge.
        settlement: `background`: on a thread of the meter's own. `inline`: before the block is left (serverless).
        settlement_concurrency: Requests that settle at once.
        settle_with: `confirm`, or `deduct`: the hold is only the admission, no doubtful state exists, and the price
            is headroom beside the hold.
        on_unavailable: `deny`, or `defer`: when the ledger cannot be reached, run the call and deduct later.
        debt_limit: Credits that an account may owe for deferred calls.
        on_crash: What a killed process' open calls are charged: `checkpoint` if there is one, else nothing; `cancel`:
            nothing; `reserved`: what was held.
        on_replay: A `usage_event_id` that was charged before: `refuse`, or `run` without a further charge.
        enforcement: `on`, or `shadow`: every call is measured, priced and journaled as it would be, and nothing is
            reserved, charged or refused.
        reserve_timeout: Seconds that a gate may take in all, purchase links included.
        leases: Take credits ahead for busy accounts, so that their calls draw on those without a round trip.
        require_trace: Raise where no span names a call, instead of making an id up.
        on_event: Called with an event's name and its fields, from any thread; must not block. Act on `unresolved`,
            `excess`, `superseded`, `paused`, `parked`, `journal_failed`, `settlement_failed`; watch `orphan_possible`,
            `in_doubt`, `unpriced`, `usage_mismatch`, `uncollected`, `crashed`; the others say what happens: `reserved`,
            `charged`, `refused`, `deferred`, `lapsed`, `converted`, `inferred`, `late`, `recovered`, `resumed`,
            `closed`, `let_through`, `leased`, `lease_ended`. Their fields stand in `_flow/RULES.md`.
        tracer_provider: OpenTelemetry's; default: the global one.
        meter_provider: Likewise.
        http: An `httpx.Client` of yours for requests from sync code; it stays yours to close.
        allow_http: Accept a base URL in the clear that is not loopback.

    Raises:
        ConfigurationError: Something that cannot be; the text says what.
        JournalError: The journal cannot be opened; it is never replaced by a new one.
        PricingError: The profile is malformed; the text names rule and field.

    """

    def __init__(
        self,
        ai_product_id: str,
        *,
        client: CountwerkClient | None = None,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        prices: PriceProfile | str | Path | Mapping[str, Any] | None = None,
        journal: Journal | str | None = None,
        rounding: Literal["ceil", "carry"] = "ceil",
        settlement: Literal["background", "inline"] = "background",
        settlement_concurrency: int = 16,
        settle_with: Literal["confirm", "deduct"] = "confirm",
        on_unavailable: Literal["deny", "defer"] = "deny",
        debt_limit: int = 0,
        on_crash: Literal["checkpoint", "cancel", "reserved"] = "checkpoint",
        on_replay: Literal["refuse", "run"] = "refuse",
        enforcement: Literal["on", "shadow"] = "on",
        reserve_timeout: float = 5.0,
        leases: bool = False,
        require_trace: bool = False,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        on_event: Callable[[str, Mapping[str, Any]], None] | None = None,
        allow_http: bool = False,
        http: httpx.Client | None = None,
    ) -> None:
        # First of all: a crash report shows the local variables of this frame.
        api_key = conceal(api_key)
        chosen = {
            "rounding": rounding,
            "settlement": settlement,
            "settle_with": settle_with,
            "on_unavailable": on_unavailable,
            "on_crash": on_crash,
            "on_replay": on_replay,
            "enforcement": enforcement,
        }
        check_options(
            chosen,
            debt_limit=debt_limit,
            reserve_timeout=reserve_timeout,
            settlement_concurrency=settlement_concurrency,
            leases=leases,
        )
        if client is not None and (api_key is not None or base_url is not None):
            raise ConfigurationError("pass either client, or api_key and base_url")
        self.ai_product_id = checks.checked_text(ai_product_id, "ai_product_id", "MISSING_PRODUCT_ID")
        endpoint = client.endpoint if client is not None else Endpoint.of(api_key, base_url, allow_http=allow_http)
        loaded = checked_prices(prices)
        terms = Terms(
            ledger=shadow_of(endpoint.base_url) if enforcement == "shadow" else endpoint.base_url,
            principal=endpoint.fingerprint,
            owner="",
            ai_product_id=self.ai_product_id,
            reserve_timeout=reserve_timeout,
            on_unavailable=on_unavailable,
            debt_limit=debt_limit,
            settle_with=settle_with,
            on_replay=on_replay,
            on_crash=on_crash,
            rounding=rounding,
        )
        self._engine = Engine(
            endpoint,
            terms,
            open_journal(journal),
            Telemetry(tracer_provider, meter_provider, on_event, shadow=enforcement == "shadow"),
            prices=loaded,
            background=settlement == "background",
            concurrency=settlement_concurrency,
            require_trace=require_trace,
            shadow=enforcement == "shadow",
            http=http,
            own_journal=journal is None or isinstance(journal, str),
            leases=leases,
        )
        try:
            self._engine.recover()
        except BaseException:
            # Nobody could close it.
            self._engine.close(0)
            raise
        if self._engine.background:
            self._engine.settlement.notify()

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """
        Make a Meter from `COUNTWERK_AI_PRODUCT_ID`, `_API_KEY`, `_BASE_URL`, `_JOURNAL`,
        `_PRICES` and `_ENFORCEMENT`.

        Args:
            overrides: Arguments of `Meter` that win over the environment.

        """
        given = from_environment(overrides)
        return cls(given.pop("ai_product_id"), **given)

    def __repr__(self) -> str:
        return f"<Meter {self.ai_product_id} on {self._engine.terms.ledger}>"

    def reserve(
        self,
        account_id: str,
        operation: str,
        *,
        amount: int | None = None,
        price: int | None = None,
        estimate: Expected | None = None,
        max_output_tokens: int | None = None,
        clamp: bool = False,
        top_up: bool = False,
        usage_event_id: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        validity: int | None = None,
        model: str | None = None,
        attributes: Mapping[str, str] | None = None,
        step: Step | None = None,
        on_replay: Literal["refuse", "run"] | None = None,
        on_unavailable: Literal["deny", "defer"] | None = None,
    ) -> Reservation:
        """
        Hold credits for one call: `with meter.reserve(...) as reservation:`, or `async with`.

        Exactly one of the three sizes:

        Args:
            account_id: Whose credits.
            operation: What for: 3 to 64 characters of `a-z 0-9 . _ -`.
            amount: Credits to hold. What was recorded or set is charged, else all of it.
            price: A flat price in credits: charged if the block ended normally, or anything was recorded or yielded.
            estimate: A prompt or messages, of which `Meter.estimate` makes a `Usage`, or the expected usage itself,
                priced to size the hold. What was recorded is charged, else the hold.
            max_output_tokens: The request's own output cap, for estimating.
            clamp: Where the balance pays for part of the estimated output, hold that, and say how much in
                `reservation.max_tokens`, instead of a refusal. Entering then takes two round trips more.
            top_up: Nested calls may hold more when their estimate no longer fits.
            usage_event_id: The charge's id; default: derived from the trace span.
            description: For the account's statement.
            metadata: Sent with a `deduct`; no prompt, no answer.
            validity: Minutes until the ledger gives the hold back by itself; default 15.
            model: The attribute `model` that the estimate is priced with.
            attributes: Further attributes for pricing the estimate.
            step: What a framework calls this step; for integrations.
            on_replay: Overrides the meter's own.
            on_unavailable: Overrides the meter's own; `defer` needs the meter's `debt_limit` above 0.

        Returns:
            A context manager: nothing is held before it is entered, and nothing is charged but through it. Entering
            raises `InsufficientCreditsError` before the call is made if credits ran out, `LedgerUnavailableError`
            where there was no definite answer in time, `ChargeInProgressError` or `ChargeAlreadySettledError` for an
            id that stands, and `ApiError` where the ledger refuses otherwise.

        Raises:
            InvalidRequestError: An account, amount or other word that the contract refuses; nothing was sent.
            ConfigurationError: None or two sizes, an estimate without a price profile, `clamp` without an estimate,
                `defer` without a `debt_limit`.
            PricingError: The profile cannot price the estimate.

        """
        if on_unavailable is not None:
            check_unavailable(on_unavailable, self._engine.terms.debt_limit)
        named = named_of(model, attributes)
        expected = self._expected(estimate, operation, account_id, model, max_output_tokens)
        spec = Spec(
            account_id=checks.checked_account(account_id),
            operation=checks.checked_operation(operation),
            hold=hold_of(amount, price, expected, self._engine.prices, named),
            usage_event_id=usage_event_id,
            step=step,
            description=checks.checked_optional(description, "description"),
            metadata=metadata,
            validity=DEFAULT_VALIDITY_MINUTES if validity is None else checks.checked_validity(validity),
            top_up=top_up,
            on_replay=on_replay,
            on_unavailable=on_unavailable,
            clamp=clamp_of(expected, self._engine.prices, named) if clamp else None,
        )
        return Reservation(self._engine, spec, current_reservation())

    def metered(
        self,
        operation: str | Callable[..., str],
        *,
        account_id: str | Callable[..., str] | None = None,
        amount: int | Callable[..., int] | None = None,
        price: int | Callable[..., int] | None = None,
        estimate: Usage | Callable[..., Expected] | None = None,
        usage: Callable[[Any], Usage | None] | None = None,
        model: str | Callable[..., str] | None = None,
        usage_event_id: str | Callable[..., str] | None = None,
    ) -> Callable[[F], F]:
        """
        Meter every call of a function, coroutine, generator or async generator.

        Args:
            operation: As in `reserve`; like every argument but `usage`, a value, or a callable that is called with
                exactly the call's own arguments.
            account_id: Default: the enclosing reservation's, else the one of `with account(...)`.
            amount: As in `reserve`.
            price: As in `reserve`.
            estimate: As in `reserve`.
            usage: From the result, or from a generator's list of chunks, to a `Usage`. A stream that is broken off
                is charged what its chunks so far report, else what was held. Not asked where a framework's handler
                metered the calls inside: it is their usage, and charged already.
            model: The attribute `model` that the usage is priced with.
            usage_event_id: As in `reserve`.

        """
        recipe = Recipe(self.reserve, operation, account_id, amount, price, estimate, usage, model, usage_event_id)
        return lambda function: metered(function, recipe)

    def _flat(
        self,
        account_id: str,
        operation: str,
        price: int,
        usage_event_id: str | None,
        description: str | None,
        metadata: Mapping[str, Any] | None,
        step: Step | None,
    ) -> ChargeRow:
        spec = Spec(
            account_id=checks.checked_account(account_id),
            operation=checks.checked_operation(operation),
            hold=hold_of(None, price, None, None, {}),
            usage_event_id=usage_event_id,
            step=step,
            description=checks.checked_optional(description, "description"),
            metadata=metadata,
        )
        return direct_charge(self._engine, spec)

    def deduct(
        self,
        account_id: str,
        operation: str,
        price: int,
        *,
        usage_event_id: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        step: Step | None = None,
    ) -> Charge:
        """
        Charge a flat price at once, idempotently, through the journal.

        The same id again answers with the charge that stands, even with another price.

        Raises:
            InsufficientCreditsError: 402, with purchase links; nothing is owed.
            LedgerUnavailableError: No definite answer in time. With `in_doubt` the journal keeps the charge and sends
                it again until it is answered; without, nothing was charged.

        """
        row = self._flat(account_id, operation, price, usage_event_id, description, metadata, step)
        try:
            made = self._engine.runtime.run(charging(self._engine, row), within=self._engine.patience)
        except CountwerkError as error:
            made = not_charged(self._engine, row, error)
        finally:
            self._nudge()
        return Charge.of(made)

    async def adeduct(
        self,
        account_id: str,
        operation: str,
        price: int,
        *,
        usage_event_id: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        step: Step | None = None,
    ) -> Charge:
        """Do what `deduct` does, on the running event loop."""
        row = self._flat(account_id, operation, price, usage_event_id, description, metadata, step)
        try:
            made = await self._engine.runtime.arun(charging(self._engine, row), within=self._engine.patience)
        except CountwerkError as error:
            made = not_charged(self._engine, row, error)
        finally:
            self._nudge()
        return Charge.of(made)

    def _nudge(self) -> None:
        if self._engine.background:
            self._engine.settlement.notify()

    def charges(self, state: str | Iterable[str] | None = None, *, limit: int = 1000) -> list[Charge]:
        """
        Return this ledger's charges in the journal, newest first.

        Raises:
            ConfigurationError: There is no such state.

        """
        rows = self._engine.journal.run(Charges(self._engine.terms.ledger, states_named(state), limit))
        return [Charge.of(row) for row in rows]
