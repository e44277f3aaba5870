"""A trace that a person can follow: one numbered line for each step, with what matters of it."""

from countwerk_meter._flow.books import Operation
from countwerk_meter._flow.commands import Journal, Now, Send

from .ledger import Message, Said, message_of

_SHOWN = ("kind", "state", "charge_id", "amount", "reason", "deduct", "then_deduct", "delivered", "alive", "dead")


def lines(scenario, actions):
    """Return the actions as text, numbered."""
    return "\n".join(f"{number:3}. {_line(scenario, action)}" for number, action in enumerate(actions, 1))


def _line(scenario, action):
    who, *what = action
    if isinstance(who, int):
        known = scenario.threads[who]
        who = f"{scenario.processes[known.process].owner}/{'settlement' if known.works else 'app'}"
    return " ".join([str(who), *[_word(each) for each in what if each is not None]])


def _word(each):
    match each:
        case Message() | str():
            return str(each)
        case Said():
            answer = each.code or f"success {dict(each.data)}"
            return answer + (" without a time" if each.at is None else "")
        case Journal():
            return f"commits {_word(each.operation)}"
        case Now():
            return "looks at the clock"
        case Send():
            return f"has out: {message_of(each.request)}"
        case Operation():
            shown = [f"{name}={getattr(each, name)}" for name in _SHOWN if getattr(each, name, None) not in {None, ""}]
            return f"{type(each).__name__}({', '.join(shown)})"
        case tuple():
            return " ".join([str(each[0]), *[str(arg) for arg in each[2:]]])
        case _:
            return str(each)
