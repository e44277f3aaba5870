"""
`countwerk-meter price`: what a usage costs under a price profile, line by line, without a ledger.

Says which rule was taken for each dimension, and why the others were not. Exit codes: 0 priced, 1 STRICT refuses to
price it, 2 the profile or an argument cannot be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table

from countwerk_meter.cli.answers import NO, USAGE, console, print_json, refuse, say
from countwerk_meter.errors import PricingError
from countwerk_meter.pricing import PriceProfile
from countwerk_meter.pricing._lint import PARENTS

if TYPE_CHECKING:
    from decimal import Decimal

    from rich.console import Console

    from countwerk_meter.pricing import Explanation, Mode, Price

_REFUSALS = frozenset({"UNMATCHED_DIMENSION", "RULESET_HASH_MISMATCH"})
_MOST_OTHERS = 10


def price(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="The price profile: a JSON file.")],
    dimensions: Annotated[list[str], typer.Argument(metavar="DIMENSION=QTY...", help="What was measured.")],
    *,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", "-a", metavar="KEY=VALUE", help="What rules match, as model=gpt-5."),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="STRICT refuses what has no price; RUNTIME leaves it out and says so.")
    ] = "STRICT",
    why: Annotated[bool, typer.Option("--why/--no-why", help="Say why each other rule was not taken.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Price a usage with a price profile."""
    measured = _pairs(dimensions, "DIMENSION=QTY", as_json=as_json)
    attributes = _pairs(attribute or [], "KEY=VALUE", as_json=as_json)
    try:
        loaded = PriceProfile.load(profile)
        result = loaded.price(measured, attributes, cast("Mode", mode.upper()))
        explained = loaded.explain(measured, attributes) if why else ()
    except PricingError as error:
        exit_code = NO if error.code in _REFUSALS else USAGE
        parent = PARENTS.get(error.field or "") if error.code == "UNMATCHED_DIMENSION" else None
        hint = f" (the meter charges {error.field} as {parent} then)" if parent else ""
        refuse("price", f"{error}{hint}", exit_code, as_json=as_json, type="PricingError", code=error.code)
    if as_json:
        data = result.payload()
        if why:
            data["explanation"] = [_explanation(each) for each in explained]
        print_json(data)
        return
    _show(console(), result, explained)


def _pairs(texts: list[str], form: str, *, as_json: bool) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not name or not separator or not value:
            refuse("price", f"{text!r} is not of the form {form}", USAGE, as_json=as_json)
        if name in pairs:
            refuse("price", f"{name} is given twice", USAGE, as_json=as_json)
        pairs[name] = value
    return pairs


def _show(screen: Console, result: Price, explained: tuple[Explanation, ...]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("Dimension", "Rule"):
        table.add_column(heading, overflow="fold")
    for heading in ("Quantity", "Per unit", "Credits"):
        # A number that is cut in two would be another number.
        table.add_column(heading, justify="right", no_wrap=True)
    for line in result.breakdown:
        numbers = (_digits(line.quantity), _digits(line.credits_per_unit), _digits(line.credits))
        table.add_row(line.dimension, line.rule_id, *numbers)
    priced = {line.dimension for line in result.breakdown}
    for dimension, quantity in result.dimensions.items():
        if dimension not in priced:
            state = "no rule" if dimension in result.unmatched_dimensions else "passed over: not above 0"
            table.add_row(dimension, state, str(quantity), "", "", style="yellow")
    screen.print(table)
    screen.print()
    whole = result.credits_to_deduct
    facts = {
        "Total": f"{_digits(result.total)} credits",
        "To deduct": f"{whole} credit{'' if whole == 1 else 's'}",
        "Own cost": None if result.cost_total_eur is None else f"{_digits(result.cost_total_eur)} EUR",
        "Profile": result.profile_version_id,
        "Ruleset": result.ruleset_hash,
        "Quarantine": result.quarantine_reason,
    }
    for name, fact in facts.items():
        if fact is not None:
            say(screen, f"{name:<12}{fact}")
    for each in explained:
        screen.print()
        say(screen, f"{each.dimension}: {each.rule.id if each.rule else 'no rule'}")
        for rule_id, reason in each.others[:_MOST_OTHERS]:
            say(screen, f"  not {rule_id}: {reason}", indent=6)
        if len(each.others) > _MOST_OTHERS:
            say(screen, f"  and {len(each.others) - _MOST_OTHERS} more, which --json lists")


def _explanation(each: Explanation) -> dict[str, object]:
    return {
        "dimensionKey": each.dimension,
        "ruleId": each.rule.id if each.rule else None,
        "others": [{"ruleId": rule_id, "reason": reason} for rule_id, reason in each.others],
    }


def _digits(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
