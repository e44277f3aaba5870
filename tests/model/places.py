"""
Where a flow stands: its program, and the replies that it was given so far.

A generator cannot be copied, so a place is reached again by replay; each place is made once, and knows the places that
follow it. What a flow tells (`Emit`) belongs to the step that led there.
"""

from countwerk_meter._flow.commands import Emit, Interrupted
from countwerk_meter._wire.codes import STATUS_OF
from countwerk_meter._wire.replies import Answer, Envelope, InDoubt, NotSent
from countwerk_meter.errors import JournalError

from .ledger import Said

NOT_SENT, IN_DOUBT = NotSent("ConnectError"), InDoubt("ReadTimeout")
# Not replies: the caller of the flow is cancelled right here; the journal cannot write.
CUT, UNWRITTEN = "cut", "unwritten"


class Place:
    """
    One place in a program; `command` is what it asks for next.

    None where the program has ended; it may have named the program that follows (`then`), so that what came before is
    forgotten, and states meet.
    """

    __slots__ = ("_after", "_path", "_start", "command", "program", "then", "told")

    def __init__(self, program, start, path=()):
        self.program = program
        self._start = start
        self._path = path
        self._after = {}
        self.told, self.command, self.then = _replayed(start(), path)

    def after(self, reply):
        """Return the place that this reply leads to."""
        key = _key(reply)
        place = self._after.get(key)
        if place is None:
            heard = _heard(reply) if isinstance(reply, Said) else reply
            place = self._after[key] = Place(self.program, self._start, (*self._path, heard))
        return place


def _key(reply):
    try:
        hash(reply)
    except TypeError:
        return repr(reply)
    return reply


def _heard(said):
    status = 200 if said.code is None else STATUS_OF[said.code]
    return Answer(Envelope(status, said.code, dict(said.data)), said.at)


def _replayed(flow, path):
    """Run a flow through its replies; return what it told since the last one, and what it asks for now."""
    told, left = [], list(reversed(path))
    try:
        command = next(flow)
        while True:
            if isinstance(command, Emit):
                told.append((command.event, command.fields.get("usage_event_id")))
                command = flow.send(None)
            elif left:
                told.clear()
                reply = left.pop()
                if reply is CUT:
                    command = flow.throw(Interrupted())
                elif reply is UNWRITTEN:
                    command = flow.throw(JournalError("the disk is full"))
                else:
                    command = flow.send(reply)
            else:
                return tuple(told), command, None
    except (Interrupted, JournalError):
        return tuple(told), None, None
    except StopIteration as stop:
        return tuple(told), None, stop.value if _is_program(stop.value) else None


def _is_program(value):
    return type(value) is tuple and isinstance(value[0], str)
