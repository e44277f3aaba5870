"""
How a command answers: a person reads text, a script reads one JSON object, and both read the exit code.

The rule: stdout carries the answer and nothing else; what went wrong is one line on stderr, and with `--json` also an
object `{"error": ...}` on stdout.
"""

from __future__ import annotations

import json
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer
from rich.console import Console, ConsoleDimensions
from rich.measure import Measurement

from countwerk_meter.errors import (
    AuthenticationError,
    ConfigurationError,
    CountwerkError,
    InvalidRequestError,
    JournalError,
    PermissionDeniedError,
    PricingError,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from rich.table import Table

DONE: Final = 0
NO: Final = 1
USAGE: Final = 2
_WIDEST: Final = 1000

# Mended by whoever set it up, not by asking again.
_OF_THE_SETUP: Final = (
    ConfigurationError,
    InvalidRequestError,
    AuthenticationError,
    PermissionDeniedError,
    JournalError,
    PricingError,
)
_HINTS: Final[Mapping[type[CountwerkError], str]] = {AuthenticationError: "check COUNTWERK_API_KEY"}


def console(*, stderr: bool = False) -> Console:
    """Return a console for text that others wrote: it takes nothing for markup."""
    screen = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not screen.is_terminal:
        # Nobody's window to fit: a table in a file or a log is better unfolded.
        screen.width = max(screen.width, 100)
    return screen


def print_whole(table: Table) -> None:
    """Print a table as wide as it is, window or not: an id that is folded can be neither copied nor searched for."""
    screen = console()
    needed = Measurement.get(screen, screen.options.update(width=_WIDEST), table).maximum
    screen.size = ConsoleDimensions(max(screen.width, needed), screen.height)
    screen.print(table, crop=False)


def say(screen: Console, text: str, *, indent: int = 0) -> None:
    """Print one line; a terminal gets it folded between words, a file or a pipe in one piece."""
    if screen.is_terminal:
        text = textwrap.fill(
            text, screen.width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
    screen.print(text, soft_wrap=True)


def print_json(data: Mapping[str, Any]) -> None:
    """Print the one JSON object."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def refuse(command: str, message: str, exit_code: int, *, as_json: bool = False, **more: object) -> NoReturn:
    """Say in one line what went wrong, and end with an exit code."""
    line = " ".join(message.split())
    if as_json:
        print_json({"error": {"message": line, **more}})
    typer.echo(f"countwerk-meter {command}: {line}", err=True)
    raise typer.Exit(exit_code)


@contextmanager
def reported(command: str, *, as_json: bool) -> Generator[None]:
    """Turn every `CountwerkError` inside into its line and its exit code."""
    try:
        yield
    except CountwerkError as error:
        hint = _HINTS.get(type(error))
        # The client names the endpoint first, which is mostly the command's own name.
        message = str(error).removeprefix(f"{command}: ")
        refuse(
            command,
            f"{message} ({hint})" if hint else message,
            USAGE if isinstance(error, _OF_THE_SETUP) else NO,
            as_json=as_json,
            type=type(error).__name__,
            code=getattr(error, "code", None),
            status=getattr(error, "status", None),
        )
