"""
`countwerk-meter price`: two commands of one name.

`price PROFILE DIMENSION=QTY...` is what one mostly wants, so that it needs no further word; `price lint PROFILE` is the
other. A profile whose file is called `lint` is `./lint`.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from countwerk_meter.cli.price import price
from countwerk_meter.cli.price_lint import lint

_DEFAULT = "usage"


class _UsageByDefault(TyperGroup):
    """A group whose first word may be a profile."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command in front, unless one is named."""
        named = bool(args) and args[0] in self.commands
        return super().parse_args(ctx, args if named else [_DEFAULT, *args])


prices = typer.Typer(
    cls=_UsageByDefault,
    help="Price a usage with a price profile, or look the profile over: `price lint PROFILE`.",
)
prices.command(_DEFAULT, epilog="To look the profile itself over: countwerk-meter price lint PROFILE.")(price)
prices.command()(lint)
