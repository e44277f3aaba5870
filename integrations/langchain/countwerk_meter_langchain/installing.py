"""
Metering every LangChain model call of the process, through LangChain's configure hook.

The rule: what is installed meters what no handler of the app's own does: LangChain leaves it out where a
`CountwerkCallbackHandler` is on the run already. It is inherited, for a graph's nodes are told of to no other.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.tracers.context import register_configure_hook

from countwerk_meter import ConfigurationError
from countwerk_meter_langchain.handler import CountwerkCallbackHandler

if TYPE_CHECKING:
    from contextvars import ContextVar
    from types import TracebackType

    from langchain_core.callbacks import BaseCallbackHandler

    from countwerk_meter import Meter


class _Everywhere:
    """
    What LangChain's hook reads for every run, where others keep a context variable.

    A thread that was started without its parent's context sees it as well.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handler: CountwerkCallbackHandler | None = None
        self._registered = False

    def get(self) -> BaseCallbackHandler | None:
        return self._handler

    def put(self, handler: CountwerkCallbackHandler) -> None:
        with self._lock:
            if self._handler is not None:
                raise ConfigurationError("a meter is installed already: uninstall it first")
            if not self._registered:
                register_configure_hook(
                    cast("ContextVar[Any]", self), inheritable=True, handle_class=CountwerkCallbackHandler
                )
                self._registered = True
            self._handler = handler

    def remove(self, handler: CountwerkCallbackHandler) -> None:
        with self._lock:
            if self._handler is handler:
                self._handler = None


_everywhere = _Everywhere()


class Installed:
    """An installed meter. `uninstall()` it, or use it with `with`, as tests do."""

    def __init__(self, handler: CountwerkCallbackHandler) -> None:
        self.handler = handler

    def uninstall(self) -> None:
        """Meter nothing any more that begins from here on."""
        _everywhere.remove(self.handler)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.uninstall()


def install(meter: Meter, **options: Any) -> Installed:
    """
    Meter every LangChain model call of this process, agents and graphs included.

    Args:
        meter: The meter whose ledger is charged.
        options: Those of `CountwerkCallbackHandler`. Without `account_id` each call is charged to the enclosing
            reservation's account, else to that of `with countwerk_meter.account(...)`; a call with neither is refused,
            and so is one with two that disagree. What a client's config says of an account counts only with
            `account_from_metadata=True`. A `CountwerkCallbackHandler` that the app attaches to a run meters it
            instead.

    Returns:
        What uninstalls it.

    Raises:
        ConfigurationError: As the handler raises; or another meter is installed already.

    """
    handler = CountwerkCallbackHandler(meter, **options)
    _everywhere.put(handler)
    return Installed(handler)
