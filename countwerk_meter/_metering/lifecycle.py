"""How a Meter goes on and ends: flush, recover, close, and the `with` block around its life."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from countwerk_meter._metering.operations import Operations

if TYPE_CHECKING:
    from types import TracebackType

    from countwerk_meter._flow.recover import Recovered
    from countwerk_meter._metering.engine import Engine
    from countwerk_meter.journal import Journal


class Lifecycle:
    """What a Meter can do beside its calls."""

    _engine: Engine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def journal(self) -> Journal:
        """Where reservations and charges are kept."""
        return self._engine.journal

    @property
    def operations(self) -> Operations:
        """What a person does about this ledger's rows: `listed`, `close`, `prune`, `keys`. Each waits for the disk."""
        return Operations(self._engine.journal, self._engine.terms.ledger, self._engine)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait up to `timeout` seconds until everything that settles by itself has; False: something has not."""
        return self._engine.flush(timeout)

    async def aflush(self, timeout: float = 10.0) -> bool:  # noqa: ASYNC109 - seconds, as in flush
        """Do what `flush` does, without blocking the running event loop."""
        return await asyncio.to_thread(self._engine.flush, timeout)

    def recover(self) -> Recovered:
        """Take over what dead processes left in the journal, and settle it. Runs at start by itself."""
        return self._engine.recover()

    async def arecover(self) -> Recovered:
        """Do what `recover` does, without blocking the running event loop."""
        return await asyncio.to_thread(self._engine.recover)

    def close(self, timeout: float = 5.0) -> bool:
        """Settle what can be within `timeout` seconds and let go. False: something is left in the journal."""
        return self._engine.close(timeout)

    async def aclose(self, timeout: float = 5.0) -> bool:  # noqa: ASYNC109 - seconds, as in close
        """Do what `close` does, without blocking the running event loop."""
        drained = await asyncio.to_thread(self.close, timeout)
        await self._engine.aclose_loop()
        return drained
