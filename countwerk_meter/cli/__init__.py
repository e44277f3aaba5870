"""
`countwerk-meter`: the command line.

Rules for every command: `--json` prints one JSON object on stdout and nothing else; what went wrong is one line on
stderr, never a traceback for something that a user can mend; exit code 0 is done, 1 is "the answer is no", 2 is usage
or configuration. The API key comes from `COUNTWERK_API_KEY` alone, because arguments stand in process lists.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        from countwerk_meter.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"typer", "rich", "click", "shellingham"}:
            raise
        sys.stderr.write("countwerk-meter: the command line needs its extra: pip install 'countwerk-meter[cli]'\n")
        raise SystemExit(2) from None
    app()
