"""
Whether a run of a graph goes on from a checkpoint that its thread has left behind: what it does there is charged anew.

LangGraph keeps a task's id when an old checkpoint is resumed by its id. So where a step was paid before, the thread's
own checkpoints are asked whether it has gone on since: never what the config says, for that may be a client's.
Resuming where the thread stands, after a crash or an interrupt, is the same charge.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from countwerk_meter.events import Step
from countwerk_meter_langchain.steps import configurable, current_task

if TYPE_CHECKING:
    from uuid import UUID

_REMEMBERED: Final = 10_000


class Travels:
    """Tells the runs of a step apart. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: OrderedDict[Step, UUID] = OrderedDict()

    def anew(self, step: Step, path: tuple[UUID, ...], *, replayed: bool) -> Step | None:
        """
        Return what names this visit of a step that was paid in an earlier one, or None: it is the same charge.

        Args:
            step: The step that has passed the gate.
            path: What it runs below, from its parent up to the root: the run that goes on.
            replayed: It was charged before.

        """
        if not step.durable:
            return None
        with self._lock:
            if not replayed:
                if path:
                    self._began[step] = path[-1]
                if len(self._began) > _REMEMBERED:
                    self._began.popitem(last=False)
                return None
            retried = bool(path) and self._began.get(step) == path[-1]
        if retried or not _left_behind():
            return None
        return Step((*step.parts, str(path[-1] if path else uuid.uuid4())))


def _left_behind() -> bool:
    """Whether the thread has gone on from a checkpoint that the task here belongs to. Unknown counts as yes."""
    task, conf = current_task(), configurable()
    saver, at = cast("Any", conf.get("__pregel_checkpointer")), conf.get("checkpoint_map")
    if task is None or not saver or not isinstance(at, Mapping):
        # Nothing is kept, so nothing can be visited again.
        return False
    for space, checkpoint in cast("Mapping[str, str]", at).items():
        if space and not task.space.startswith(space):
            continue
        where = {"thread_id": task.thread, "checkpoint_ns": space}
        try:
            newest = saver.get_tuple({"configurable": where})
            if newest is None or newest.checkpoint["id"] == checkpoint:
                continue
            # One that is not saved yet, or never, has only just been made.
            if saver.get_tuple({"configurable": {**where, "checkpoint_id": checkpoint}}) is not None:
                return True
        except Exception:  # noqa: BLE001 - whatever a checkpointer raises: a call must not ride for free
            return True
    return False
