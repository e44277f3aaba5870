"""One replay from beginning to end: accounts with credits, traffic, settlement, then the books."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import ROUND_CEILING
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from countwerk_meter import Meter
from countwerk_meter.cli.child import sandbox_process
from countwerk_meter.cli.replay.accounting import Result, account_for
from countwerk_meter.cli.replay.ledgers import NamedLedger, OwnSandbox
from countwerk_meter.cli.replay.trace import TraceError
from countwerk_meter.cli.replay.traffic import Tally, drive, hold_for, used_by
from countwerk_meter.errors import PricingError
from countwerk_meter.journal import open_journal
from countwerk_meter.sandbox import DEFAULT_API_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from countwerk_meter.cli.replay.ledgers import Ledger
    from countwerk_meter.cli.replay.trace import Row
    from countwerk_meter.journal import Journal
    from countwerk_meter.pricing import PriceProfile

_VALIDITY_MINUTES = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to replay, and how. Credits, tokens, seconds."""

    rows: Sequence[Row]
    prices: PriceProfile
    hold_output: int
    concurrency: int
    speed: float
    rounding: Literal["ceil", "carry"]
    drain: float
    balance: int | None = None
    fault_rate: float = 0.0
    seed: int = 0
    base_url: str | None = None
    product: str = "replay"
    journal: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    result: Result
    seconds: float
    settling_seconds: float
    drained: bool
    time_moved: bool
    ledger: str


class Watcher(Protocol):
    """Whoever is shown how far it is."""

    def advanced(self) -> None:
        """One more row is through."""
        ...

    def phase(self, text: str) -> None:
        """Something else begins."""
        ...


def enough(plan: Plan) -> dict[str, int]:
    """
    Return what each account needs to pay for all its calls, whatever is held at once, in credits.

    Raises:
        TraceError: A row that the profile cannot price, by its number.

    """
    needed: dict[str, int] = {}
    for row in plan.rows:
        attributes = {"model": row.model} if row.model else {}
        try:
            prices = [
                plan.prices.price(usage.measured(), attributes).total
                for usage in (hold_for(row, plan.hold_output), used_by(row))
            ]
        except PricingError as error:
            raise TraceError(f"row {row.number}: {error}") from None
        most = max(int(max(prices).to_integral_value(ROUND_CEILING)), 1)
        needed[row.account_id] = needed.get(row.account_id, 0) + most
    return needed


def run(plan: Plan, watcher: Watcher) -> Outcome:
    """Replay. Whatever is started here is ended here."""
    needed = enough(plan)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="countwerk-replay-")))
        ledger: Ledger
        if plan.base_url is None:
            watcher.phase("Starting a sandbox")
            url: str = stack.enter_context(sandbox_process(directory)).announced["url"]
            ledger, api_key = OwnSandbox(url, plan.fault_rate, plan.seed), DEFAULT_API_KEY
        else:
            ledger, api_key = NamedLedger(plan.base_url), None
        stack.callback(ledger.close)
        watcher.phase("Opening the accounts")
        ledger.open({account: needed[account] if plan.balance is None else plan.balance for account in needed})
        journal = open_journal(plan.journal or f"sqlite:///{directory / 'journal.db'}")
        stack.callback(journal.close)
        return _metered(plan, ledger, journal, api_key, needed, watcher)


def _metered(
    plan: Plan, ledger: Ledger, journal: Journal, api_key: str | None, accounts: Mapping[str, int], watcher: Watcher
) -> Outcome:
    since = time.time()
    tallies = {account_id: Tally() for account_id in accounts}
    meter = Meter(
        plan.product,
        api_key=api_key,
        base_url=ledger.url,
        prices=plan.prices,
        journal=journal,
        rounding=plan.rounding,
    )
    with meter:
        watcher.phase("Replaying")
        seconds = drive(
            meter,
            plan.rows,
            tallies,
            hold_output=plan.hold_output,
            concurrency=plan.concurrency,
            speed=plan.speed,
            advanced=watcher.advanced,
        )
        watcher.phase("Settling what is left")
        started = time.monotonic()
        drained = meter.flush(plan.drain)
        meter.close(1.0)
        settling = time.monotonic() - started
    watcher.phase("Reading the books")
    named = _normalised(meter)
    at_rest = {account_id: ledger.statement(account_id) for account_id in tallies}
    # Holds in doubt end by their validity: move the ledger's clock past it, and look again.
    time_moved = drained and ledger.pass_time(_VALIDITY_MINUTES * 60 + 60)
    at_the_end = {account_id: ledger.statement(account_id) for account_id in tallies} if time_moved else None
    result = account_for(journal, named, tallies, at_rest, at_the_end, since)
    return Outcome(result, seconds, settling, drained, time_moved, ledger.url)


def _normalised(meter: Meter) -> str:
    """Return the ledger's name as the journal has it."""
    return meter._engine.terms.ledger
