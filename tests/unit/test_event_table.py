"""The table of events and the code that tells them are the same, both ways."""

import ast
from pathlib import Path

import countwerk_meter
from countwerk_meter._flow.events import EVENTS, INTERNAL, table

ROOT = Path(countwerk_meter.__file__).parent
TELLERS = {"Emit", "tell", "_tell", "event"}


def told():
    """Every event that the code names: the first argument of what tells one, and where."""
    for path in sorted(ROOT.rglob("*.py")):
        if path.relative_to(ROOT).parts[0] in {"sandbox", "cli", "testing", "asgi"}:
            continue
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called not in TELLERS:
                continue
            if isinstance(node.args[0], ast.Constant):
                yield node.args[0].value, node
            else:
                assert (path.name, ast.unparse(node.args[0])) in PASSED_ON, f"{path.name}:{node.lineno}"


# Where a name is passed on, or chosen between two that stand right there.
PASSED_ON = {
    ("runtime.py", "command.event"), ("engine.py", "event"), ("commits.py", "event"), ("teller.py", "event"),
    ("reserve.py", "event"),
}  # fmt: skip
CHOSEN = {"orphan_possible", "refused"}


def test_every_event_of_the_code_is_in_the_table_and_the_other_way_round():
    """A name that nobody tells is as wrong as one that nobody documents."""
    assert set(EVENTS) | INTERNAL == {name for name, _ in told()} | CHOSEN


def test_literal_fields_are_in_the_table():
    """Those that stand in a dict right there, or as keywords of `tell`; the flows' own tests hold the rest."""
    for name, node in told():
        if name in INTERNAL:
            continue
        literal = {
            key.value for each in ast.walk(node) if isinstance(each, ast.Dict) for key in each.keys if key is not None
        } | {keyword.arg for keyword in node.keywords}
        assert literal <= set(EVENTS[name].fields), name


def test_every_field_says_something_of_a_call_and_no_event_carries_more():
    """Words of this list are looked at by hand: none can hold a secret, a prompt or a URL."""
    known = {
        "usage_event_id", "account_id", "operation", "amount", "basis", "via", "trace_id", "reservation_id", "reason",
        "of", "tokens", "state", "key", "closed", "resumed", "orphans", "closed_as",
    }  # fmt: skip
    assert known == {field for event in EVENTS.values() for field in event.fields}


def test_rules_and_help_know_every_event():
    """RULES.md has the table as it is; `help(Meter)` names them; README those that somebody has to act on."""
    assert table() in (ROOT / "_flow" / "RULES.md").read_text()
    assert all(f"`{name}`" in countwerk_meter.Meter.__doc__ for name in EVENTS)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert all(f"`{name}`" in readme for name, event in EVENTS.items() if event.alert != "no")
