"""
What LangGraph shows the consumer of its stream before LangChain has told the handler of it.

On the async path our hooks run on threads, LangGraph's own handler on the event loop: it hands a chunk on at once, and
a consumer that leaves with it cancels the model before our hook has begun. So that handler is listened to; only whether
there was a chunk counts: what is in it, the hook tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakSet

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables.config import var_child_runnable_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

_MODULE: Final = "langgraph.pregel._messages"
# Of a stream of protocol events, these carry something of an answer.
_TELLING: Final = frozenset({"content-block-start", "content-block-delta"})


class Shown:
    """Listens to LangGraph's handlers of streams, for one handler. Safe to use from any thread."""

    def __init__(self, yielded: Callable[[UUID], None]) -> None:
        self._yielded = yielded
        self._heard: WeakSet[BaseCallbackHandler] = WeakSet()

    def listen(self) -> None:
        """Listen to what shows the consumer the run that is current here, if anything does."""
        config = var_child_runnable_config.get()
        callbacks = config.get("callbacks") if config else None
        for handler in callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else ():
            if handler.run_inline and type(handler).__module__ == _MODULE and handler not in self._heard:
                self._heard.add(handler)
                self._tap(cast("Any", handler))

    def _tap(self, handler: Any) -> None:
        token, event = handler.on_llm_new_token, getattr(handler, "on_stream_event", None)

        def on_llm_new_token(*args: Any, run_id: UUID, **kwargs: Any) -> Any:
            self._yielded(run_id)
            return token(*args, run_id=run_id, **kwargs)

        def on_stream_event(told: Any, *args: Any, run_id: UUID, **kwargs: Any) -> Any:
            if told.get("event") in _TELLING:
                self._yielded(run_id)
            return event(told, *args, run_id=run_id, **kwargs)  # pyright: ignore[reportOptionalCall]

        handler.on_llm_new_token = on_llm_new_token
        if event is not None:
            handler.on_stream_event = on_stream_event
