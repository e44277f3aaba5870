"""The invariants, as the model sees them: some hold in every state, some at rest."""

from countwerk_meter._flow.clock import GUARD_SECONDS
from countwerk_meter._flow.rows import CONFIRM, DEDUCT
from countwerk_meter._flow.states import HOLDING, WAITING, ChargeState, ReservationState

from .books import Violation
from .state import ledger_time

_LISTED = frozenset({ChargeState.UNRESOLVED, ChargeState.UNCOLLECTED})


class Audit:
    """Remembers which books were found in order, because many states share them."""

    def __init__(self, scenario):
        self._costs = scenario.costs
        self._most = scenario.costs | scenario.guess
        self._good = set()

    def always(self, state):
        """Check what holds in every state: I2 at most once, I5 honesty."""
        books = state.ledger, state.journal, state.told
        if books not in self._good:
            _always(state, self._most)
            self._good.add(books)

    def at_rest(self, state):
        """Check what holds at rest: I3 no silent loss, I4 no leaked hold, I8 every row has ended."""
        _at_rest(state, self._costs)


def _always(state, most):
    ledger, journal = state.ledger, state.journal
    allowed = sum(most[name] for name in most if ("ran", name) in state.told or ("asked", name) in state.told)
    if ledger.spent > allowed:
        raise Violation("I2", f"{ledger.spent} credits charged for what costs {allowed}")
    rows = {row.reservation_id: row for row in journal.reservations.values() if row.reservation_id is not None}
    for hold in ledger.holds:
        row = rows.get(hold.name)
        if hold.charged and (row is None or hold.charged > row.committed):
            raise Violation("I2", f"{hold.name} was charged {hold.charged}, and {row and row.committed} was committed")
    for name, amount in ledger.deducts:
        charge = journal.charges.get(name)
        if charge is None or amount > charge.share:
            raise Violation("I2", f"{amount} deducted under {name}, and {charge and charge.share} was committed")
    for row in rows.values():
        _once(state, row)
    for charge in journal.charges.values():
        if charge.state is not ChargeState.SETTLED or charge.via != DEDUCT:
            continue
        # A charge that lies wholly beyond its hold ends as its leg ends.
        name, share = (charge.id, charge.share) if charge.share else (charge.id + ".over", charge.amount or 0)
        if share > ledger.deducted(name) + _late(journal, charge):
            raise Violation("I5", f"{charge.id} is settled, and the deduct under {name} was never carried out")


def _late(journal, charge):
    """Return what goes under late legs of a charge: what an answer left short is no loss, and not called charged."""
    root = charge.parent or charge.id
    return sum(leg.share for leg in journal.charges.values() if leg.parent == root and ".late" in leg.id)


def _once(state, row):
    """No charge of a hold is both confirmed and deducted; what is called settled is charged."""
    hold = state.ledger.hold(row.reservation_id)
    drawn = [charge for charge in state.journal.charges.values() if charge.reservation_key == row.key]
    deducted = sum(state.ledger.deducted(charge.id) for charge in drawn)
    charged = hold.charged if hold is not None else 0
    shares = sum(charge.share for charge in drawn)
    if charged + deducted > shares:
        raise Violation("I2", f"{charged} confirmed and {deducted} deducted for charges of {shares} on {row.key}")
    if row.state is ReservationState.CONFIRMED and (hold is None or hold.state != "confirmed"):
        raise Violation("I5", f"{row.key} is confirmed, and {row.reservation_id} is {hold and hold.state}")
    settled = sum(c.share for c in drawn if c.state is ChargeState.SETTLED and c.via == CONFIRM)
    if settled > charged + sum(_late(state.journal, charge) for charge in drawn):
        raise Violation("I5", f"{settled} credits on {row.key} are called settled, and {charged} were charged")


def leak(state):
    """
    Check I4 where nothing is left to do: a hold that the journal knows is given back.

    Not one that nobody can decide, and not in its last seconds, when it ends sooner by itself.
    """
    for row in state.journal.reservations.values():
        if row.reservation_id is None or row.state is ReservationState.UNRESOLVED:
            continue
        if state.ledger.is_active(row.reservation_id, ledger_time(state.phase) + GUARD_SECONDS):
            raise Violation("I4", f"{row.reservation_id} is still held, and its row is {row.state}")


def _at_rest(state, costs):
    journal, ledger = state.journal, state.ledger
    for row in journal.reservations.values():
        if row.state in HOLDING or row.due_at is not None:
            raise Violation("I8", f"the reservation {row.key} is {row.state} for ever")
    for charge in journal.charges.values():
        if charge.state is ChargeState.OPEN or charge.state in WAITING:
            raise Violation("I8", f"the charge {charge.id} is {charge.state} for ever")
    now = ledger_time(state.phase)
    if any(ledger.is_active(hold.name, now) for hold in ledger.holds):
        raise Violation("I4", "a hold outlives its validity")
    listed = 0
    for charge in journal.charges.values():
        if charge.state in _LISTED and charge.share:
            listed += charge.share
            if (str(charge.state), charge.id) not in state.told:
                raise Violation("I3", f"{charge.id} is {charge.state}, and nobody was told")
    used = sum(cost for name, cost in costs.items() if ("used", name) in state.told)
    if ledger.spent + listed < used:
        raise Violation("I3", f"{used} credits were committed, {ledger.spent} charged and {listed} listed")
    _crashed(state, costs)


# A commit that was written and not heard of is the charge all the same, while there is power.
_ENDED_BY_ITSELF = ("used", "released", "superseded", "written")


def _crashed(state, costs):
    """A call that ran and whose process died before it said what it used is lost, or charged by the policy, and told."""
    if ("power lost", "") in state.told:
        return
    for name in costs:
        if ("ran", name) not in state.told or state.told & {(how, name) for how in _ENDED_BY_ITSELF}:
            continue
        charge = state.journal.charges.get(name)
        if charge is None and ("ahead", name) in state.told:
            # Its process died before its draw was written, which nobody had waited for.
            continue
        if charge is None or charge.state not in {ChargeState.LOST, ChargeState.SETTLED, *_LISTED}:
            raise Violation("I3", f"{name} ran, and its charge is {charge and charge.state}")
        if ("crashed", name) not in state.told:
            raise Violation("I3", f"{name} was closed by the policy, and nobody was told")
