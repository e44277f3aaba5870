"""A command of several words whose first one may be left out: `charges` is `charges list`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


def with_default(name: str) -> type[TyperGroup]:
    """Return a group that puts `name` in front, unless a command, or help, is asked for by name."""

    class WithDefault(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            named = bool(args) and args[0] in self.commands
            return super().parse_args(ctx, args if named else [name, *args])

    return WithDefault
