"""
`countwerk-meter sandbox`: the local ledger in the foreground.

The rule: one line says where it is, and a key that the user chose is never printed.
"""

import json as json_format
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from countwerk_meter.cli.answers import USAGE, refuse

_DEFAULT_API_KEY = "cs_sandbox"


def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on. Beyond loopback, the control API is off.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes any free one.", min=0, max=65535)] = 8787,
    db: Annotated[Path | None, typer.Option(help="SQLite file to keep the ledger in. Without it: in memory.")] = None,
    api_key: Annotated[str, typer.Option(help="The API key that the sandbox accepts.")] = _DEFAULT_API_KEY,
    json: Annotated[bool, typer.Option("--json", help="Say where it is as one JSON object.")] = False,
) -> None:
    """Run a local CountWerk-compatible ledger for development and tests, until interrupted."""
    try:
        from countwerk_meter.sandbox import NotABooksFileError, run
    except ImportError:
        _fail("the sandbox needs its extra: pip install 'countwerk-meter[sandbox]'", as_json=json)

    def started(url: str, control: bool) -> None:
        typer.echo(_announcement(url, control=control, db=db, api_key=api_key, json=json))
        sys.stdout.flush()

    try:
        run(host=host, port=port, db=db, api_key=api_key, started=started)
    except OSError as error:
        why = error.strerror or error
        _fail(f"cannot listen on {host} port {port}: {why}; --port 0 takes a free one", as_json=json)
    except NotABooksFileError as error:
        _fail(f"cannot use {db}: {error}", as_json=json)
    except ValueError as error:
        _fail(str(error), as_json=json)


def _announcement(url: str, *, control: bool, db: Path | None, api_key: str, json: bool) -> str:
    key = api_key if api_key == _DEFAULT_API_KEY else None
    page = f"{url}/" if control else None
    if json:
        return json_format.dumps(
            {"url": url, "api_key": key, "db": None if db is None else str(db), "page": page, "control": control}
        )
    kept = "in memory, gone when it stops" if db is None else f"in {db}"
    shown = "the one you gave" if key is None else key
    where = f"page {page}" if page else "control API and page off: not bound to loopback"
    return f"Sandbox ledger at {url} | API key: {shown} | books {kept} | {where}"


def _fail(message: str, *, as_json: bool) -> NoReturn:
    refuse("sandbox", message, USAGE, as_json=as_json)
