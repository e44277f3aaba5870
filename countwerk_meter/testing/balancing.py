"""Whether the books balance: the ledger's own statement against itself, and against what a meter says it charged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from countwerk_meter._flow.overview import Charges
from countwerk_meter._flow.states import ChargeState

if TYPE_CHECKING:
    from countwerk_meter.meter import Meter
    from countwerk_meter.sandbox import SandboxServer

_EVERY = 1_000_000


def assert_books_balance(sandbox: SandboxServer, *meters: Meter, timeout: float = 10.0) -> None:
    """
    Wait until the meters have settled, then hold the sandbox's books against themselves and against the journals.

    Per account: earned = available + reserved + spent (I1); no hold is confirmed for more than it held and no
    `usage_event_id` is deducted twice (I2); nothing is still held (I4). With meters: what their journals call settled
    is what the ledger charged, to the credit (I3, I5). Meters that share a journal are named once.

    Args:
        sandbox: What the fixture `countwerk_sandbox` gives.
        meters: Every meter that charged on it; none: the ledger's books are held against themselves alone.
        timeout: Seconds in which they must have settled.

    Raises:
        AssertionError: They do not balance; the text names each account and each difference, in credits.

    """
    __tracebackhide__ = True
    wrong = [
        f"{meter!r} has not settled everything within {timeout:g} s" for meter in meters if not meter.flush(timeout)
    ]
    settled: dict[str, int] = {}
    for meter in meters:
        engine = meter._engine  # pyright: ignore[reportPrivateUsage] - the package's own testing
        states = frozenset({ChargeState.SETTLED})
        for row in engine.journal.run(Charges(engine.terms.ledger, states, _EVERY)):
            settled[row.account_id] = settled.get(row.account_id, 0) + row.share
    accounts = sandbox.control.all_books(_EVERY)["accounts"]
    for account in accounts:
        name = account["account_id"]
        wrong += [f"{name}: {what}" for what in _of_account(sandbox.control.books(name), settled.pop(name, 0), meters)]
    wrong += [
        f"{name}: {amount} credits are settled, and the ledger does not know it" for name, amount in settled.items()
    ]
    if wrong:
        raise AssertionError("the books do not balance:\n  " + "\n  ".join(wrong))


def _of_account(books: dict[str, Any], settled: int, meters: tuple[Meter, ...]) -> list[str]:
    wrong: list[str] = []
    earned, spent, reserved, available = (books[name] for name in ("earned", "spent", "reserved", "available"))
    if earned != available + reserved + spent or not books["balanced"]:
        wrong.append(f"{earned} earned are not {available} available + {reserved} reserved + {spent} spent")
    if reserved:
        wrong.append(f"{reserved} credits are still held")
    wrong += [
        f"hold {hold['reservation_id']} of {hold['amount']} was charged {hold['actual_amount']}"
        for hold in books["reservations"]
        if (hold["actual_amount"] or 0) > hold["amount"]
    ]
    ids = [entry["usage_event_id"] for entry in books["transactions"] if entry.get("usage_event_id")]
    wrong += [f"{name} was deducted {ids.count(name)} times" for name in sorted(set(ids)) if ids.count(name) > 1]
    if meters and settled != spent:
        wrong.append(f"the meters say {settled} credits are settled, and the ledger charged {spent}")
    return wrong
