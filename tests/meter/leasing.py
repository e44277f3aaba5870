"""What the tests of leases share: calls, waiting for a lease, and somebody on its way to the ledger."""

import asyncio
import threading

from countwerk_meter._flow.rows import LEASE
from countwerk_meter._flow.states import ReservationState
from countwerk_meter._wire.replies import InDoubt, NotSent

from .waiting import until

OPERATION = "app.call"


def call(bench, meter, cost=1, amount=5, operation=OPERATION, **options):
    with meter.reserve(bench.account, operation, amount=amount, **options) as reservation:
        reservation.settle(cost)


def leased(bench, meter, count=1, **options):
    """Be busy until there is a lease; return the newest."""
    for _ in range(3):
        call(bench, meter, **options)
    until(lambda: len(bench.named("leased")) >= count)
    until(lambda: meter._engine.leases._live)
    return bench.named("leased")[-1]


class OnLeases:
    """Stands between a meter and its ledger: counts the reserves of leases, and may lose or hold them up."""

    def __init__(self, meter, fate=None):
        self.fate = fate
        self.seen = 0
        self.go = threading.Event()
        meter._engine.interpose(self)

    def _is_lease(self, request):
        return request.name == "reserve" and request.body.get("description", "").startswith("taken ahead")

    def send(self, transport, request, deadline):
        return transport.send(request, deadline)

    async def asend(self, transport, request, deadline):
        if not self._is_lease(request):
            return await transport.send(request, deadline)
        self.seen += 1
        if self.fate == "held up":
            await asyncio.to_thread(self.go.wait, 10)
        if self.fate == "not sent":
            return NotSent("no connection")
        answer = await transport.send(request, deadline)
        return InDoubt("no answer") if self.fate == "lost" else answer


def rows_of(bench, meter, *states):
    """The journal's leases in some states, or those that may hold something."""
    wanted = states or (ReservationState.HELD, ReservationState.CLOSING)
    return [row for state in wanted for row in bench.rows(meter, state) if row.key.startswith(LEASE)]
