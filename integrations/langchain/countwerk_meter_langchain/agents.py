"""
Metering what the hooks of an agent's other middlewares call, which no bracket of ours surrounds.

Each hook is a node of the agent's graph, and our middleware writes into the graph's state who meters the run. So
LangChain's configure hook asks that state, which only this agent's graph can read, and hangs the middleware's handler
on whatever runs there, unless a handler is on it already. The state names the terms, not the process: an agent that is
built anew after a restart goes on with them.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
import weakref
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook

from countwerk_meter import ConfigurationError
from countwerk_meter_langchain.chains import Chain
from countwerk_meter_langchain.handler import CountwerkCallbackHandler
from countwerk_meter_langchain.steps import configurable, current_task

if TYPE_CHECKING:
    from contextvars import ContextVar

    from langchain_core.callbacks import BaseCallbackHandler

RUN_KEY: Final = "countwerk_run"


class _Agents:
    """What LangChain's hook reads, where others keep a context variable; the handlers of the middlewares, by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registered = False
        self._handlers: weakref.WeakValueDictionary[tuple[str, str], CountwerkCallbackHandler] = (
            weakref.WeakValueDictionary()
        )

    def add(self, handler: CountwerkCallbackHandler) -> str:
        """Know a middleware's handler, and return its name: its terms', and its own."""
        terms = hashlib.sha256(handler.described().encode()).hexdigest()[:16]
        own = uuid.uuid4().hex
        with self._lock:
            if not self._registered:
                register_configure_hook(
                    cast("ContextVar[Any]", self), inheritable=True, handle_class=CountwerkCallbackHandler
                )
                self._registered = True
            self._handlers[terms, own] = handler
        return f"{terms}.{own}"

    def get(self) -> BaseCallbackHandler | None:
        task, read = current_task(), configurable().get("__pregel_read")
        if task is None or not callable(read):
            return None
        try:
            run = read(RUN_KEY)
        except KeyError:
            return None
        handler = self._of(run) if isinstance(run, str) else None
        if handler is not None:
            self._note_node(handler, task.space)
        return handler

    def _of(self, run: str) -> CountwerkCallbackHandler | None:
        terms, _, rest = run.partition(".")
        with self._lock:
            own = self._handlers.get((terms, rest.partition(".")[0]))
            if own is not None:
                return own
            # Another process began the run, or an agent that is gone.
            named = [handler for (name, _), handler in self._handlers.items() if name == terms]
        alike = [handler for handler in named if not handler._gate.meter._engine.closed]
        if len(alike) > 1 and callable(alike[0]._gate.accounts.account_id):
            raise ConfigurationError(
                "several agents have a CountwerkAgentMiddleware on these terms, and a function that says whose credits "
                "each takes: put a CountwerkCallbackHandler on the run"
            )
        return alike[-1] if alike else None

    @staticmethod
    def _note_node(handler: CountwerkCallbackHandler, space: str) -> None:
        """Tell the handler of the node that runs here, so that it can tell the node's attempts apart."""
        config = var_child_runnable_config.get()
        manager = config.get("callbacks") if config else None
        node = manager.parent_run_id if isinstance(manager, BaseCallbackManager) else None
        if node is not None and not handler._runs.tracked((node,)):
            handler._runs.chain_began(node, Chain(space=space, node=True))


_agents: Final = _Agents()


def known(handler: CountwerkCallbackHandler) -> str:
    """Meter with this handler what runs in the graphs whose state names it; return the name."""
    return _agents.add(handler)


def new_run(name: str) -> str:
    """Return a name for an agent's run, which says whose handler meters it."""
    return f"{name}.{uuid.uuid4().hex}"
