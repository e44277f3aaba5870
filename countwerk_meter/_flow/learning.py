"""Journal operations of the statistic that sizes holds: what such calls put out before. Some of it may be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from countwerk_meter._flow.books import Operation
from countwerk_meter._frozen import frozen
from countwerk_meter.estimating import Histories, History

if TYPE_CHECKING:
    from countwerk_meter._flow.books import Books

EVERYBODY = ""


class Kind(NamedTuple):
    """Which calls have a history in common; a model of "" is one that nobody named."""

    ledger: str
    account_id: str
    operation: str
    model: str


class Answered(NamedTuple):
    """How many tokens one call took and gave."""

    input_tokens: int
    output_tokens: int


def _histories(books: Books, kind: Kind) -> Histories:
    common = books.history(kind.ledger, EVERYBODY, kind.operation, kind.model)
    return Histories(History.load(books.history(*kind)), History.load(common))


@frozen
class Recall(Operation[Histories]):
    """Read what is known of such calls."""

    reads: ClassVar[bool] = True
    kind: Kind

    def apply(self, books: Books) -> Histories:
        return _histories(books, self.kind)


@frozen
class Learn(Operation[Histories]):
    """Add some answers to what is known of such calls, and return all of it; many processes add to it."""

    kind: Kind
    answers: tuple[Answered, ...]

    def apply(self, books: Books) -> Histories:
        kind = self.kind
        histories = _histories(books, kind)
        # All of them: each call to `learn` changes something.
        shared = [histories.learn(*answer) for answer in self.answers]
        books.save_history(*kind, histories.own.dump())
        if any(shared):
            books.save_history(kind.ledger, EVERYBODY, kind.operation, kind.model, histories.common.dump())
        return histories
