"""`countwerk-meter doctor`: what stands in the way of metering here, and what to do about it."""

import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from countwerk_meter.cli.answers import NO, console, print_json
from countwerk_meter.cli.doctor.finding import Finding
from countwerk_meter.cli.doctor.frameworks import installed_frameworks
from countwerk_meter.cli.doctor.journal import journal
from countwerk_meter.cli.doctor.ledger import DEFAULT_ACCOUNT, reachability
from countwerk_meter.cli.doctor.setup import configuration, prices
from countwerk_meter.cli.options import AsJson, BaseUrl, JournalUrl, Timeout

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("PROBLEM", "bold red")}


def doctor(
    account: Annotated[
        str, typer.Argument(metavar="[ACCOUNT]", help="Whose balance to ask for; it need not exist.")
    ] = DEFAULT_ACCOUNT,
    *,
    base_url: BaseUrl = None,
    journal_url: JournalUrl = None,
    timeout: Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Check configuration, ledger, journal, prices and frameworks; change nothing. Exit code 1: a problem."""
    found = configuration(base_url)
    with console(stderr=True).status("Asking the ledger"):
        found += reachability(base_url, account, timeout)
    found += journal(journal_url, base_url)
    found += prices(os.environ.get("COUNTWERK_PRICES"))
    found += installed_frameworks()
    problems = sum(finding.status == "problem" for finding in found)
    if as_json:
        print_json({"ok": not problems, "problems": problems, "findings": [asdict(finding) for finding in found]})
    else:
        _show(found, problems)
    if problems:
        raise typer.Exit(NO)


def _show(found: Iterable[Finding], problems: int) -> None:
    screen = console()
    area = ""
    for finding in found:
        if finding.area != area:
            screen.print(Text(finding.area.capitalize(), style="bold"))
            area = finding.area
        word, style = _MARKS[finding.status]
        line = Text("  ").append(f"{word:<8}", style=style).append(f"{finding.name}: ").append(finding.detail)
        screen.print(line, soft_wrap=True)
        if finding.advice:
            screen.print(Text(f"          {finding.advice}", style="dim"), soft_wrap=True)
    plural = "problem" if problems == 1 else "problems"
    screen.print(Text(f"{problems or 'No'} {plural}.", style="bold red" if problems else "bold green"))
