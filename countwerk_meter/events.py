"""
`usage_event_id`: the name of one logical usage, so that a retry of the same step is not a second charge.

The first of these that applies: an explicit id; a framework's own durable step, or a span or key from a caller that the
app trusts; the current span made in this process, with the ordinal of this call in it; the framework's run; a fresh
UUIDv7. A *remote* span context never counts by itself: whoever can choose an id can ride for
free. Works with opentelemetry-api alone, and with unsampled traces.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import OrderedDict
from functools import lru_cache
from typing import Final

from opentelemetry import trace

from countwerk_meter._frozen import frozen
from countwerk_meter._unique import random_bytes
from countwerk_meter.errors import ConfigurationError, InvalidRequestError

_EXPLICIT: Final = re.compile(r"[a-z0-9._-]{1,59}\Z")
_REMEMBERED_SPANS: Final = 100_000


@frozen
class Step:
    """
    A logical step that somebody else names.

    Attributes:
        parts: What names it; digested together with account and operation.
        durable: True: the step survives a retry and another worker (a task of a graph, a trusted caller's request),
            so meeting it again is the same charge. False: a run of this process, which gets an ordinal.
        trace_id: 32 hex digits that become the id's first part, so that a trace viewer finds the trace; or None.

    """

    parts: tuple[str, ...]
    durable: bool = True
    trace_id: str | None = None


@frozen
class EventId:
    """
    A derived id, and what the journal keeps beside it.

    `trace_id` and `span_id` (hex) are the caller's, for the link from the settlement back to the call. `fresh`: it was
    made just now, and nobody can have used it before.
    """

    id: str
    trace_id: str | None = None
    span_id: str | None = None
    durable: bool = False
    fresh: bool = False


class Ordinals:
    """Counts calls within a span or a run: two calls in one span are two charges. Bounded, oldest forgotten first."""

    def __init__(self, limit: int = _REMEMBERED_SPANS) -> None:
        self._limit = limit
        self._lock = threading.RLock()
        self._next: OrderedDict[tuple[str, ...], int] = OrderedDict()
        self._forgot = False

    def surely_first(self, ordinal: int) -> bool:
        """Whether this ordinal cannot have been given before: it was not the first, or nothing was ever forgotten."""
        return ordinal > 0 or not self._forgot

    def next(self, key: tuple[str, ...]) -> int:
        """Return 0 for the first call within `key`, then 1, 2 and so on."""
        with self._lock:
            ordinal = self._next.pop(key, 0)
            self._next[key] = ordinal + 1
            if len(self._next) > self._limit:
                self._next.popitem(last=False)
                self._forgot = True
            return ordinal


def checked_event_id(value: object) -> str:
    """
    Return an explicit id: at most 59 characters of `[a-z0-9._-]`, not beginning `cw.`, not ending `.over` or `.late`.

    Raises:
        InvalidRequestError: It is none.

    """
    if isinstance(value, str) and _EXPLICIT.match(value):
        if not value.startswith("cw.") and not value.endswith((".over", ".late")):
            return value
        problem = "must not begin with cw. or end with .over or .late: those are the meter's own"
    else:
        problem = "must be 1 to 59 characters of a-z 0-9 . _ -"
    raise InvalidRequestError(f"usage_event_id {problem} (nothing was sent)", code="INVALID_USAGE_EVENT_ID", status=400)


def derive(
    account_id: str,
    operation: str,
    ordinals: Ordinals,
    *,
    explicit: str | None = None,
    step: Step | None = None,
    require_trace: bool = False,
) -> EventId:
    """
    Name one charge.

    Args:
        account_id: Digested into every derived id.
        operation: Likewise.
        ordinals: The meter's counts of calls within a span or run.
        explicit: The app's own id, used as it is.
        step: What a framework or a trusted caller calls this step.
        require_trace: Raise instead of making an id up.

    Raises:
        InvalidRequestError: The explicit id is none.
        ConfigurationError: Nothing names the call, and `require_trace` is on.

    """
    context = trace.get_current_span().get_span_context()
    trace_id = f"{context.trace_id:032x}" if context.is_valid else None
    span_id = f"{context.span_id:016x}" if context.is_valid else None
    if explicit is not None:
        return EventId(checked_event_id(explicit), trace_id, span_id)
    if step is not None and step.durable:
        first = step.trace_id or _digest(32, *step.parts)
        name = f"cw.{first}.{_digest(16, *step.parts, account_id, operation)}"
        return EventId(name, trace_id or step.trace_id, span_id, durable=True)
    if trace_id is not None and span_id is not None and not context.is_remote:
        ordinal = ordinals.next(("span", trace_id, span_id, account_id, operation))
        second = _digest(16, span_id, str(ordinal), account_id, operation)
        return EventId(f"cw.{trace_id}.{second}", trace_id, span_id, fresh=ordinals.surely_first(ordinal))
    if step is not None:
        ordinal = ordinals.next(("run", *step.parts, account_id, operation))
        second = _digest(16, *step.parts, str(ordinal), account_id, operation)
        return EventId(f"cw.{_digest(32, *step.parts)}.{second}", trace_id, span_id)
    if require_trace:
        raise ConfigurationError(
            "no trace span is current, and require_trace is on: pass usage_event_id or start a span"
        )
    return EventId(f"cw.{_uuid7()}.{_digest_of(account_id, operation)}", trace_id, span_id, fresh=True)


@lru_cache(maxsize=1024)
def _digest_of(account_id: str, operation: str) -> str:
    return _digest(16, account_id, operation)


def _digest(length: int, *parts: str) -> str:
    """Digest parts unambiguously: each is preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:length]


def _uuid7() -> str:
    """Return a UUIDv7 (RFC 9562) as 32 hex digits: sortable by time, and unguessable."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(random_bytes(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"
