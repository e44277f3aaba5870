"""
A bracket of the agent middleware: where it stands, whose credits it takes, and the handler that it hangs on its calls.

The rule: a handler of the same meter that is on the run already meters the calls; only where there is none is ours hung
on them, for the length of the bracket.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables.config import var_child_runnable_config

from countwerk_meter import current_reservation
from countwerk_meter_langchain.chains import Chain
from countwerk_meter_langchain.handler import CountwerkCallbackHandler
from countwerk_meter_langchain.steps import current_task, run_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextvars import Token
    from uuid import UUID

    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.runnables import RunnableConfig

    from countwerk_meter import Meter, Reservation
    from countwerk_meter_langchain.accounts import Accounts


class Visit:
    """One bracket: where it stands, whose credits it takes, and what is hung on the calls in it."""

    def __init__(
        self,
        handler: CountwerkCallbackHandler,
        meter: Meter,
        accounts: Accounts | None,
        key: str,
        config: RunnableConfig | None,
    ) -> None:
        """
        Look at what surrounds the call.

        Args:
            handler: What is hung on the calls, where no handler of the meter is on the run.
            meter: The middleware's.
            accounts: The middleware's own word on the account, or None: that of a handler on the run counts as well.
            key: The name of the agent's run.
            config: A tool is handed the config that its calls will have; a model finds it in the context.

        Raises:
            ConfigurationError: No account, or two that disagree.

        """
        self._handler = handler
        self._meter = meter
        self._given = config is not None
        self.config: RunnableConfig = config or var_child_runnable_config.get() or {}
        callbacks = self.config.get("callbacks")
        self._manager = callbacks if isinstance(callbacks, BaseCallbackManager) else None
        self._listed = [] if callbacks is None or isinstance(callbacks, BaseCallbackManager) else list(callbacks)
        self.node: UUID | None = self._manager.parent_run_id if self._manager is not None else None
        self.key = key or str(self.node)
        self.run = run_of(self.config.get("configurable") or {})
        handlers = self._listed if self._manager is None else self._manager.handlers
        gates = [other._gate for other in handlers if isinstance(other, CountwerkCallbackHandler)]
        others = [gate for gate in gates if gate.meter is meter]
        self.metered = bool(others)
        # The one that was told what the call runs below.
        gate = others[0] if others else handler._gate
        self.steps, self.path = gate.steps, gate.runs.path(self.node)
        self.account_id = (accounts or gate.accounts).of(self.config.get("metadata") or {})
        self.block: Reservation | None = None

    @property
    def enclosed(self) -> bool:
        """Whether an open block of the same meter and account surrounds the call."""
        around = current_reservation()
        return (
            around is not None
            and around.open
            and around.engine is self._meter._engine
            and around.account_id == self.account_id
        )

    @contextlib.contextmanager
    def inside(self) -> Generator[None]:
        """Let the calls in here draw on the block, with a handler on them."""
        with contextlib.ExitStack() as stack:
            if self.block is not None:
                stack.enter_context(self.block.entered())
            if not self.metered:
                stack.enter_context(self._hung())
            yield

    @contextlib.contextmanager
    def _hung(self) -> Generator[None]:
        runs, settling, task = self._handler._runs, self._handler._settling, current_task()
        if self.node is not None:
            runs.bracket_began(self.node, Chain(space=None if task is None else task.space, node=True))
        token = None
        if self._manager is None:
            token = _made_current(self.config, [*self._listed, self._handler])
        elif self._given:
            self._manager.add_handler(self._handler, inherit=True)
        else:
            manager = self._manager.copy()
            manager.add_handler(self._handler, inherit=True)
            token = _made_current(self.config, manager)
        try:
            yield
        finally:
            if token is not None:
                var_child_runnable_config.reset(token)
            elif self._manager is not None:
                self._manager.remove_handler(self._handler)
            if self.node is not None and runs.bracket_ended(self.node):
                # A call that was cancelled in here is told of nowhere else. Its denial is remembered for a retry.
                settling.sweep(self.node, forget=False)


def _made_current(
    config: RunnableConfig, callbacks: list[BaseCallbackHandler] | BaseCallbackManager
) -> Token[RunnableConfig | None]:
    changed = config.copy()
    changed["callbacks"] = callbacks
    return var_child_runnable_config.set(changed)
