"""
What a journal must do: carry out operations in the order they came, each in one transaction.

A store only reads and writes rows; the rules live in the operations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeVar

from countwerk_meter.errors import CountwerkError, JournalError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from countwerk_meter._flow.books import Operation

T = TypeVar("T")


class Journal(ABC):
    """
    Port of the durable stores.

    A store is safe to use from any thread and, opened anew behind its back, after a fork.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call it: a file, `memory:`."""

    @property
    def schema_version(self) -> int | None:
        """The version of what is stored, where there is one."""
        return None

    @abstractmethod
    def submit(self, operation: Operation[T]) -> Future[T]:
        """
        Queue one operation, and return its future.

        The future has the result once the operation is committed, synced to the disk if it is durable, or a
        `JournalError`. A queued operation is carried out even if nobody waits for it.
        """

    @abstractmethod
    def join(self, owner: str) -> None:
        """Announce this process as an owner of rows, until it closes the journal or dies."""

    @abstractmethod
    def is_alive(self, owner: str) -> bool:
        """Whether an owner that joined still lives."""

    @abstractmethod
    def leave(self, owner: str) -> None:
        """Take back what `join` announced."""

    @abstractmethod
    def close(self, timeout: float | None = None) -> None:
        """Carry out what is queued, waiting so many seconds or as the store sees fit, and let go of the store."""

    def run(self, operation: Operation[T]) -> T:
        """Carry out one operation and wait for it."""
        return self.submit(operation).result()


def refused(name: str, error: Exception) -> CountwerkError:
    """Return what a step that failed is told as: an error of ours as it is, everything else as a `JournalError`."""
    if isinstance(error, CountwerkError):
        return error
    return JournalError(f"the journal {name} refused a step: {type(error).__name__}: {error}")
