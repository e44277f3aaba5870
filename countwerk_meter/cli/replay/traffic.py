"""
Driving a trace through a real Meter: so many calls at once, at the recorded pace or as fast as it goes.

The rule: every row ends in exactly one column of its account's tally, so that calls = charged + refused + unavailable.
Calls wait while too many charges wait for settlement, because "as fast as it goes" includes settling.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from countwerk_meter._drivers.landings import landed
from countwerk_meter._flow.overview import Due
from countwerk_meter.errors import InsufficientCreditsError, LedgerUnavailableError
from countwerk_meter.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from countwerk_meter import Meter
    from countwerk_meter.cli.replay.trace import Row


_MOST_BEHIND: Final = 500
_LOOKS_EVERY: Final = 0.25


@dataclass(slots=True)
class Tally:
    """What the callers of one account saw; credits and calls."""

    calls: int = 0
    let_through: int = 0
    refused: int = 0
    unavailable: int = 0
    in_doubt: int = 0
    held: int = 0


def hold_for(row: Row, hold_output: int) -> Usage:
    """Return what a call is expected to use at most: its own input, which is known, and a bound on its output."""
    return Usage(input_tokens=row.input_tokens, output_tokens=max(hold_output, 1))


def used_by(row: Row) -> Usage:
    """Return what a call used."""
    return Usage(input_tokens=row.input_tokens, output_tokens=row.output_tokens)


def drive(
    meter: Meter,
    rows: Sequence[Row],
    tallies: Mapping[str, Tally],
    *,
    hold_output: int,
    concurrency: int,
    speed: float,
    advanced: Callable[[], None],
) -> float:
    """
    Make every row a metered call.

    Args:
        meter: The meter.
        rows: In order of time.
        tallies: By account; each is added to.
        hold_output: Output tokens that each call holds credits for.
        concurrency: Calls at once.
        speed: 0: as fast as it goes; 1: at the recorded pace; 60: a minute in a second.
        advanced: Called after each row.

    Returns:
        The seconds that it took, settlement not included.

    """
    started = time.monotonic()
    asyncio.run(_drive(meter, iter(rows), tallies, hold_output, concurrency, speed, advanced))
    return time.monotonic() - started


async def _drive(
    meter: Meter,
    rows: Iterator[Row],
    tallies: Mapping[str, Tally],
    hold_output: int,
    concurrency: int,
    speed: float,
    advanced: Callable[[], None],
) -> None:
    started = time.monotonic()
    in_pace = asyncio.Event()
    in_pace.set()

    async def caller() -> None:
        for row in rows:  # shared: each caller takes the next one
            if speed and row.at is not None:
                await asyncio.sleep(started + row.at / speed - time.monotonic())
            await in_pace.wait()
            await _call(meter, row, tallies[row.account_id], hold_output)
            advanced()

    keeper = asyncio.create_task(_keep_pace(meter, in_pace))
    async with asyncio.TaskGroup() as callers:
        for _ in range(concurrency):
            callers.create_task(caller())
    keeper.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeper


async def _keep_pace(meter: Meter, in_pace: asyncio.Event) -> None:
    """Hold new calls back while settlement is far behind."""
    engine = meter._engine
    while True:
        due = Due(engine.terms.ledger, engine.terms.owner, engine.now(), _MOST_BEHIND)
        agenda = await landed(engine.journal.submit(due))
        if len(agenda.rows) < _MOST_BEHIND:
            in_pace.set()
        else:
            in_pace.clear()
        await asyncio.sleep(_LOOKS_EVERY)


async def _call(meter: Meter, row: Row, tally: Tally, hold_output: int) -> None:
    tally.calls += 1
    reservation = meter.reserve(row.account_id, row.operation, estimate=hold_for(row, hold_output), model=row.model)
    try:
        async with reservation:
            tally.held += reservation.amount
            used = used_by(row)
            reservation.record(used, model=row.model)
    except InsufficientCreditsError:
        tally.refused += 1
    except LedgerUnavailableError as error:
        tally.unavailable += 1
        tally.in_doubt += error.in_doubt
    else:
        tally.let_through += 1
