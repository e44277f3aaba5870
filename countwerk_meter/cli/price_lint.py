"""
`countwerk-meter price lint`: what in a price profile will surprise its vendor.

Exit codes: 0 no problem (there may be notes), 1 a problem, 2 there is no profile to read.
"""

from typing import Annotated

import typer

from countwerk_meter.cli.answers import NO, console, print_json, reported, say
from countwerk_meter.cli.options import AsJson
from countwerk_meter.pricing import lint as look_over


def lint(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="The price profile: a JSON file.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Find rules that are never chosen, usage without a price, and a hash that is not the rules'."""
    with reported("price lint", as_json=as_json):
        findings = look_over(profile)
    problems = [finding for finding in findings if finding.is_problem]
    notes = len(findings) - len(problems)
    if as_json:
        listed = [
            {
                "kind": finding.kind,
                "severity": "problem" if finding.is_problem else "note",
                "message": finding.message,
                "rule_ids": list(finding.rule_ids),
                "dimension": finding.dimension,
            }
            for finding in findings
        ]
        print_json({"clean": not problems, "problems": len(problems), "notes": notes, "findings": listed})
    else:
        screen = console()
        for finding in findings:
            sort = finding.kind if finding.is_problem else f"note, {finding.kind}"
            say(screen, f"{sort}: {finding.message}", indent=2)
        say(screen, f"{_counted(len(problems), 'problem')}, {_counted(notes, 'note')}")
    if problems:
        raise typer.Exit(NO)


def _counted(number: int, name: str) -> str:
    return f"{number or 'no'} {name}{'' if number == 1 else 's'}"
