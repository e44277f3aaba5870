"""
A process' leases: who is busy enough for one, which a call may draw on, and when one ends.

No call waits for a lease: what is asked for is noted, and a keeper on settlement's event loop takes, renews and ends
them. What is left of one is known here, as of a block; the journal's word is waited for where a call's id is not new.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from countwerk_meter._drivers.landings import landed
from countwerk_meter._flow.lease import (
    DRAWN_ON_FOR,
    LEASE_VALIDITY,
    Recall,
    Standing,
    call_back,
    take,
)
from countwerk_meter._flow.rows import LEASE, ReservationRow
from countwerk_meter._flow.states import HOLDING, ReservationState
from countwerk_meter._metering.alarm import Bell
from countwerk_meter._metering.demand import BUSY_SECONDS, MOST_DRAWS, Demand
from countwerk_meter._metering.funding import Funding
from countwerk_meter._metering.lease import Lease
from countwerk_meter._metering.spec import DEFAULT_VALIDITY_MINUTES
from countwerk_meter.errors import CountwerkError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from countwerk_meter._drivers.clock import Clock
    from countwerk_meter._drivers.runtime import Runtime
    from countwerk_meter._flow.commands import Flow, Moment
    from countwerk_meter._flow.lease import Taken
    from countwerk_meter._flow.reserve import Gate
    from countwerk_meter._flow.terms import Terms
    from countwerk_meter._metering.demand import Name
    from countwerk_meter._metering.spec import Spec
    from countwerk_meter.journal import Journal
    from countwerk_meter.telemetry import Telemetry


IDLE_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.25
_TAKEN_AT_ONCE: Final = 4
_AGAIN_SECONDS: Final = 1.0
# Seconds of calls that leases can carry, while they are busy.
_AHEAD: Final = 2.0
# While it is drawn on it is looked at so often at least.
_LOOKS_A_LEASE: Final = 5
# The next one is taken in the last part of a lease's life.
_AGEING: Final = 0.8


@dataclass(slots=True, eq=False)
class _Taking:
    """A lease on its way. `unwanted`: it was called back before it came."""

    unwanted: bool = False


class Leases:
    """The leases of one process. Safe from any thread; in a forked child it begins anew, with none."""

    def __init__(
        self, journal: Journal, terms: Terms, clock: Clock, telemetry: Telemetry, follow: Callable[[bool], None]
    ) -> None:
        self._journal = journal
        self._terms = terms
        self._clock = clock
        self._telemetry = telemetry
        self._follow = follow
        self._lock = threading.Lock()
        # Replaced as a whole, so that a call reads it without a lock.
        self._live: dict[Name, tuple[Lease, ...]] = {}
        self._ended: dict[str, Lease] = {}
        self._demand = Demand()
        self._wanted: set[Name] = set()
        self._taking: dict[str, _Taking] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._bell: Bell | None = None
        self.closed = False

    # What a call does.

    def draw(
        self, spec: Spec, via: str | None, drawn_on: Callable[[Funding, bool], Flow[Gate | None]]
    ) -> Flow[Gate | None]:
        """
        Draw on a lease: on `via`, that of the block around, or on one of the call's own; None: none will do.

        `drawn_on` draws on one hold, and says None if it is too small, or over; it is told whether that is no matter,
        because the block around keeps it open.
        """
        if spec.top_up or spec.validity > DEFAULT_VALIDITY_MINUTES:
            # It is a block that others top up, or may run for longer than a lease is good for.
            return None
        name, estimate, now = (spec.account_id, spec.operation), spec.hold.credits, self._clock.now()
        self._demand.note(name, now, estimate)
        for lease in self._worth_trying(name, via):
            if not lease.serves(now, within=lease.key == via):
                continue
            drawn = None
            if lease.ended is None:
                drawn = yield from drawn_on(lease.funding, False)
            if drawn is None and lease.ended is not None and lease.key == via:
                drawn = yield from drawn_on(lease.funding, True)
            if drawn is not None:
                self._drew(lease, estimate, now)
                return drawn
            self._notify()
        if self._demand.deserves_a_lease(name, now):
            self._want(name)
        return None

    def _drew(self, lease: Lease, estimate: int, now: Moment) -> None:
        """Note a draw; now and then, and after a pause, somebody looks how the lease stands."""
        lease.draws += 1
        lease.unseen += estimate
        if lease.unseen * _LOOKS_A_LEASE >= lease.amount or now.monotonic - lease.used_at > _AGAIN_SECONDS:
            lease.unseen = 0
            self._notify()
        lease.used_at = now.monotonic

    def _worth_trying(self, name: Name, via: str | None) -> tuple[Lease, ...]:
        found = self._live.get(name, ())
        if via is None or any(lease.key == via for lease in found):
            return found
        around = [lease for leases in self._live.values() for lease in leases if lease.key == via]
        ended = self._ended.get(via)
        return (*around, *found) if ended is None else (ended, *found)

    def recalling(self, terms: Terms, account_id: str) -> Callable[[float], Flow[bool]]:
        """Return what calls an account's leases back when one of its calls was refused."""

        def recalled(deadline: float) -> Flow[bool]:
            self._end("recalled", account_id)
            keys = tuple(lease.key for lease in list(self._ended.values()) if lease.account_id == account_id)
            if not keys:
                return False
            self._demand.called_back(account_id, self._clock.now())
            given = yield from call_back(terms, keys, deadline)
            self._follow(True)
            return given

        return recalled

    def _want(self, name: Name) -> None:
        if name not in self._wanted and not self.closed:
            self._wanted.add(name)
            self._notify()

    def _notify(self) -> None:
        bell = self._bell
        if bell is not None:
            bell.ring()

    # Ending them.

    def end_all(self, reason: str) -> list[Future[ReservationRow | None]]:
        """End every lease, and those on their way; the commits that say so."""
        self._end(reason)
        now = self._clock.now().wall
        commits = [self._journal.submit(Recall(key, now)) for key in list(self._ended)]
        for commit in commits:
            commit.add_done_callback(self._sealed)
        return commits

    def _sealed(self, commit: Future[ReservationRow | None]) -> None:
        row = None if commit.exception() is not None else commit.result()
        self._follow(row is not None and row.state is ReservationState.CLOSING)

    @property
    def coming(self) -> bool:
        """Whether any is on its way."""
        return bool(self._taking)

    def close(self) -> None:
        """Take no more."""
        self.closed = True
        self._notify()

    def _end(self, reason: str, account_id: str | None = None, only: Lease | None = None) -> None:
        """Let no call draw any more on all leases, an account's, or one. Their rows are still to be sealed."""
        with self._lock:
            going = [
                lease
                for leases in self._live.values()
                for lease in leases
                if only in {None, lease} and account_id in {None, lease.account_id}
            ]
            for lease in going:
                lease.ended = reason
                # Draws that were let in are queued by then, and so come before whoever finds it here and seals it.
                lease.funding.close()
                self._ended[lease.key] = lease
            kept = {
                name: tuple(lease for lease in leases if lease.ended is None) for name, leases in self._live.items()
            }
            self._live = {name: leases for name, leases in kept.items() if leases}
            for account, taking in list(self._taking.items()):
                if only is None and account_id in {None, account}:
                    taking.unwanted = True
        for lease in going:
            self._tell_ended(lease)

    def _tell_ended(self, lease: Lease) -> None:
        told = {"account_id": lease.account_id, "operation": lease.operation, "amount": lease.amount}
        self._telemetry.event("lease_ended", told | {"reason": lease.ended})

    # The keeper, on settlement's event loop.

    async def keep(self, runtime: Runtime, quiet: Callable[[], bool]) -> None:
        """Take, renew and end leases until the end. `quiet`: the ledger is being asked whether it is well."""
        self._bell = bell = Bell()
        self._taking.clear()
        self._tasks.clear()
        while not self.closed:
            bell.still()
            try:
                seconds = await self._look(runtime, quiet())
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody else looks after the leases
                # A journal that cannot be read now: whatever is due is done later.
                seconds = _AGAIN_SECONDS
                if not isinstance(error, CountwerkError):
                    self._telemetry.event("settlement_failed", {"reason": type(error).__name__})
            await bell.sleep(seconds)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _look(self, runtime: Runtime, quiet: bool) -> float:
        """See how the leases stand, end those that are over, take what is wanted; return when to look again."""
        now = self._clock.now()
        leases = [lease for each in self._live.values() for lease in each] + list(self._ended.values())
        if leases:
            keys = tuple(lease.key for lease in leases)
            rows = await landed(self._journal.submit(Standing(keys)))
            for lease, (row, owes) in zip(leases, rows, strict=True):
                await self._judge(lease, row, now, owes=owes)
        if not quiet:
            self._begin_taking(runtime, now)
        return self._until_next(now, quiet)

    async def _judge(self, lease: Lease, row: ReservationRow | None, now: Moment, *, owes: bool) -> None:
        reason: str | None = None
        if row is None or row.state is not ReservationState.HELD:
            reason = "lapsed"
        else:
            free = row.amount - row.committed
            lease.room = free - row.promised
            if row.sealed:
                reason = "lapsed"
            elif owes:
                # A debt is met at a gate (rule 14), and what is held ahead may be what is missing.
                reason = "debt"
            elif lease.is_old(now):
                reason = "old"
            elif now.monotonic - lease.used_at >= IDLE_SECONDS:
                reason = "idle"
            elif lease.draws >= MOST_DRAWS or free < self._demand.smallest((lease.account_id, lease.operation), now):
                reason = "used up"
        if reason is not None and lease.ended is None:
            self._end(reason, only=lease)
        if lease.ended is None:
            return
        if row is not None and row.state is ReservationState.HELD and not row.sealed:
            row = await landed(self._journal.submit(Recall(lease.key, now.wall)))
            self._follow(True)
        if row is None or row.state not in HOLDING:
            self._ended.pop(lease.key, None)
            # What it held is back, and the ledger answers.
            self._demand.granted((lease.account_id, lease.operation))

    def _wants_more(self, name: Name, leases: tuple[Lease, ...], now: Moment) -> bool:
        """Whether less than half of a lease is left, a large call does not fit, or few more are carried."""
        good = [lease for lease in leases if lease.draws < MOST_DRAWS and not lease.is_old(now, _AGEING)]
        rooms = [lease.room for lease in good]
        draws = sum(MOST_DRAWS - lease.draws for lease in good)
        if sum(rooms) < leases[-1].amount / 2 or draws < max(MOST_DRAWS / 2, self._demand.rate(name, now) * _AHEAD):
            return True
        return max(rooms) < self._demand.wanted(name, now).largest

    def _begin_taking(self, runtime: Runtime, now: Moment) -> None:
        names = set(self._wanted)
        self._wanted -= names
        live = self._live
        names = {name for name in names if name not in live}
        names |= {name for name, leases in live.items() if self._wants_more(name, leases, now)}
        for name in names:
            if not self._demand.deserves_a_lease(name, now):
                continue
            if name[0] in self._taking or len(self._taking) >= _TAKEN_AT_ONCE:
                self._wanted.add(name)
                continue
            self._taking[name[0]] = taking = _Taking()
            task = asyncio.create_task(self._take(runtime, name, taking))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take(self, runtime: Runtime, name: Name, taking: _Taking) -> None:
        account_id, operation = name
        since, renewed = self._clock.now(), name in self._live
        row = ReservationRow(
            key=f"{LEASE}{uuid.uuid4().hex}",
            ledger=self._terms.ledger,
            principal=self._terms.principal,
            owner=self._terms.owner,
            account_id=account_id,
            operation=operation,
            amount=0,
            validity=LEASE_VALIDITY,
            created_at=since.wall,
        )
        span = self._telemetry.leasing(account_id, operation)
        taken: Taken | None = None
        try:
            taken = await runtime.arun(take(self._terms, row, self._demand.wanted(name, since), renewed=renewed))
            span.set_attribute("countwerk.lease", taken.end.value)
        except Exception as error:  # noqa: BLE001 - whatever it is, calls go on without a lease
            span.set_attribute("error.type", type(error).__name__)
        finally:
            span.end()
            await self._landed(name, taking, taken, since)

    async def _landed(self, name: Name, taking: _Taking, taken: Taken | None, since: Moment) -> None:
        now, row, unwanted = self._clock.now(), None if taken is None else taken.row, False
        if taken is None or row is None:
            self._demand.refused(name, now, None if taken is None else taken.wait)
        else:
            self._demand.granted(name)
            lasts = taken.lasts / DRAWN_ON_FOR
            lease = Lease(row.key, *name, row.amount, row.amount, since, lasts, now.monotonic, Funding(row))
            with self._lock:
                unwanted = taking.unwanted or self.closed
                if unwanted:
                    lease.ended = "recalled"
                    lease.funding.close()
                    self._ended[lease.key] = lease
                else:
                    self._live = self._live | {name: (*self._live.get(name, ()), lease)}
            if unwanted:
                self._tell_ended(lease)
                with contextlib.suppress(CountwerkError):  # the next look seals it, or the next start
                    await landed(self._journal.submit(Recall(lease.key, now.wall)))
        with self._lock:
            self._taking.pop(name[0], None)
        self._follow(unwanted)
        if self._bell is not None:
            self._bell.ring_here()

    def _until_next(self, now: Moment, quiet: bool) -> float:
        live = [lease for leases in self._live.values() for lease in leases]
        if any(now.monotonic - lease.used_at < 2 * _LOOK_SECONDS for lease in live):
            return _LOOK_SECONDS
        waits = [max(IDLE_SECONDS - (now.monotonic - lease.used_at), _LOOK_SECONDS) for lease in live]
        if any(now.monotonic - lease.used_at < BUSY_SECONDS for lease in live):
            # What runs out sooner, a call finds out.
            waits.append(_AGAIN_SECONDS)
        if self._ended or (self._wanted and not self._taking) or quiet:
            waits.append(_AGAIN_SECONDS)
        return min(waits, default=IDLE_SECONDS)
