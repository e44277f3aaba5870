"""
What a person does about a journal beside the calls: look at what is left, close it, prune, take a key's rows over.

The rule: nothing here makes a charge of its own accord. A deduct by hand says so in its call, and needs the key.
"""

from __future__ import annotations

import time
import unicodedata
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from countwerk_meter._flow.commands import Moment
from countwerk_meter._flow.prune import Prune, Pruned
from countwerk_meter._flow.reconcile import Close, Finding, Listings, close_listed
from countwerk_meter._flow.recover import Keys, TakeKey
from countwerk_meter._metering.listed import Listed
from countwerk_meter.errors import ConfigurationError, CountwerkError

if TYPE_CHECKING:
    from countwerk_meter._flow.reconcile import Closed
    from countwerk_meter._metering.engine import Engine
    from countwerk_meter.journal import Journal

LONGEST_NOTE: Final = 500
# What a call, its confirm and a person's second thought may still need.
YOUNGEST: Final = timedelta(days=1)
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


class Operations:
    """
    One ledger's rows in a journal, for a person.

    Args:
        journal: The journal.
        ledger: Base URL of the ledger, as the journal writes it.
        engine: A Meter's machinery, which a deduct by hand needs; without one nothing here needs a key.

    """

    def __init__(self, journal: Journal, ledger: str, engine: Engine | None = None) -> None:
        self._journal = journal
        self._ledger = ledger
        self._engine = engine

    def listed(self) -> list[Listed]:
        """Return what the client cannot decide, oldest first: charges, then holds that have none that waits."""
        return [Listed.of(listing) for listing in self._journal.run(Listings(self._ledger))]

    def close(self, name: str, finding: str, *, note: str, deduct: bool = False) -> Closed:
        """
        Close one listed row by a person's word; row and note stay in the journal.

        Args:
            name: `id` of what `listed` returned.
            finding: `charged`: the ledger has it. `not-charged`: it does not. `written-off`: nobody will find out, or
                it will not be collected. None of them moves money by itself.
            note: Who found out what, and how: 1 to 500 characters, none of them unseen.
            deduct: Only with `not-charged`, for an unresolved confirm whose hold has expired by the ledger's clock:
                charge it now, once, under `<id>.late`. Who says so wrongly charges twice.

        Returns:
            How it stands now; `again`, if it had been closed before with the same words.

        Raises:
            ConfigurationError: There is no such finding, the note cannot be kept, or a deduct needs a Meter.
            CountwerkError: It is not listed, or cannot be closed so; the text says why. Nothing was changed.

        """
        if finding not in set(Finding):
            raise ConfigurationError(f"no finding {finding!r}; there are {', '.join(Finding)}")
        kept, note = Finding(finding), checked_note(note)
        if self._engine is not None:
            closing = close_listed(self._engine.terms, name, kept, note, deduct=deduct)
            done = self._engine.runtime.run(closing)
            if done.deduct is not None and self._engine.background:
                self._engine.settlement.notify()
        elif deduct:
            raise ConfigurationError("a deduct needs a Meter: product and API key")
        else:
            done = self._journal.run(Close(self._ledger, name, kept, note, Moment(0.0, time.time())))
        if done.refusal is not None:
            raise CountwerkError(done.refusal)
        return done

    def prune(self, older_than: timedelta) -> Pruned:
        """
        Shrink charges that have ended, and forget holds that have, begun longer ago than this; in short transactions.

        A charge keeps its id, account, operation, state and amount, so that its id met again is still no second
        charge; a hold's id stays known. What is left or still settles is not touched.

        Raises:
            ConfigurationError: Less than a day.

        """
        if older_than < YOUNGEST:
            raise ConfigurationError("prune what is older than a day; younger rows may still be needed")
        before = time.time() - older_than.total_seconds()
        charges = reservations = 0
        after: float | None = 0.0
        while after is not None:
            step = self._journal.run(Prune(self._ledger, before, after))
            charges, reservations, after = charges + step.charges, reservations + step.reservations, step.after
        return Pruned(charges, reservations)

    def keys(self) -> dict[str, int]:
        """Return how many rows that have not ended each API key has, by its fingerprint."""
        return self._journal.run(Keys(self._ledger))

    def take_over_key(self, fingerprint: str, ours: str) -> int:
        """
        Give one key's rows that have not ended to another, by fingerprint; return how many rows.

        Only a person can say that both keys open the same accounts: nothing in the contract proves it, and a deduct
        under the wrong one would charge somebody else.

        Raises:
            ConfigurationError: Both are the same key.
            CountwerkError: That key has no rows here.

        """
        if fingerprint == ours:
            raise ConfigurationError(f"{fingerprint} is the key in use")
        moved = self._journal.run(TakeKey(self._ledger, fingerprint, ours))
        if not moved:
            others = ", ".join(name for name in self.keys() if name != ours) or "none"
            raise CountwerkError(f"the API key {fingerprint} has no rows left here; other keys that have: {others}")
        return moved


def checked_note(note: str) -> str:
    """Return a note that can be kept and shown; the journal keeps it for good."""
    note = note.strip()
    if not note or len(note) > LONGEST_NOTE:
        raise ConfigurationError(f"a note of 1 to {LONGEST_NOTE} characters is needed: who found out what, and how")
    if any(unicodedata.category(char) in _UNSEEN for char in note):
        raise ConfigurationError("a note is one line of characters that can be seen")
    return note
