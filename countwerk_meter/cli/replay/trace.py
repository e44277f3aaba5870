"""
Reading a trace: one row for each call that a product made.

Headers are recognised in whatever case and with whatever separators. The rule: a row that cannot be read ends the
reading with its number, its column and what is wrong with it; none is skipped, because a replay that loses rows shows
too low a price.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from countwerk_meter._wire.requests import checked_account, checked_operation
from countwerk_meter.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_NAMES: Final = {
    "timestamp": ("timestamp", "time", "at", "datetime", "date", "createdat", "starttime"),
    "input": ("contexttokens", "inputtokens", "prompttokens", "llminputtokens", "input", "tokensin"),
    "output": ("generatedtokens", "outputtokens", "completiontokens", "llmoutputtokens", "output", "tokensout"),
    "account": ("account", "accountid", "user", "userid", "customer", "customerid", "tenant"),
    "model": ("model", "modelname"),
    "operation": ("operation", "operationname"),
}
_MOST_TOKENS: Final = 10**12
_DEFAULT_OPERATION: Final = "replay.call"


@dataclass(frozen=True, slots=True)
class Row:
    """One call: `at` in seconds since the first call, or None where the trace has no times."""

    number: int
    at: float | None
    input_tokens: int
    output_tokens: int
    account_id: str
    model: str | None
    operation: str


class _Reader(Protocol):
    """What `csv.reader` gives."""

    @property
    def line_num(self) -> int: ...

    def __iter__(self) -> Iterator[list[str]]: ...

    def __next__(self) -> list[str]: ...


class TraceError(ConfigurationError):
    """A trace that cannot be read; the text names file, row and column."""


def read_trace(path: Path, *, accounts: int, model: str | None = None, limit: int | None = None) -> list[Row]:
    """
    Read a CSV file.

    Args:
        path: The file. Its first line names the columns; input and output tokens are needed, the rest is optional.
        accounts: How many accounts the calls are dealt out to, in turn, where the trace names none.
        model: For rows that name none.
        limit: Only the first so many rows.

    Raises:
        TraceError: With the file, the row and the column at fault.

    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = _rows(path, csv.reader(file, strict=True), accounts, model, limit)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: is not UTF-8 text") from None
    if not rows:
        raise TraceError(f"{path}: has no rows")
    return _in_order(rows)


def _rows(path: Path, reader: _Reader, accounts: int, model: str | None, limit: int | None) -> list[Row]:
    try:
        header = next(reader, None)
        if header is None:
            raise TraceError(f"{path}: is empty")
        columns = _columns(path, header)
        rows: list[Row] = []
        for cells in reader:
            if limit is not None and len(rows) >= limit:
                break
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path}: row {reader.line_num}"
            if len(cells) != len(header):
                raise TraceError(f"{where}: has {len(cells)} columns, and the header has {len(header)}")
            given = {name: cells[index].strip() for name, index in columns.items()}
            named = {name: f"{where}, column {header[index].strip()}" for name, index in columns.items()}
            rows.append(_row(given, named, reader.line_num, len(rows), accounts, model))
    except csv.Error as error:
        raise TraceError(f"{path}: row {reader.line_num}: {error}") from None
    return rows


def _columns(path: Path, header: Iterable[str]) -> dict[str, int]:
    columns: dict[str, int] = {}
    names = list(header)
    for index, name in enumerate(names):
        plain = re.sub(r"[^a-z]", "", name.lower())
        for known, spellings in _NAMES.items():
            if plain in spellings:
                if known in columns:
                    raise TraceError(f"{path}: row 1: both {names[columns[known]]} and {name} would be its {known}")
                columns[known] = index
    for needed, spelled in (("input", "input_tokens"), ("output", "output_tokens")):
        if needed not in columns:
            found = ", ".join(name.strip() for name in names)[:200]
            raise TraceError(f"{path}: row 1: no column {spelled} (or {', '.join(_NAMES[needed][:3])}) in: {found}")
    return columns


def _row(
    given: dict[str, str], named: dict[str, str], number: int, index: int, accounts: int, model: str | None
) -> Row:
    account_id, operation = given.get("account"), given.get("operation")
    return Row(
        number=number,
        at=_time(named["timestamp"], given["timestamp"]) if given.get("timestamp") else None,
        input_tokens=_tokens(named["input"], given["input"]),
        output_tokens=_tokens(named["output"], given["output"]),
        account_id=_checked(named["account"], checked_account, account_id) if account_id else _dealt(index, accounts),
        model=given.get("model") or model,
        operation=_checked(named["operation"], checked_operation, operation) if operation else _DEFAULT_OPERATION,
    )


def _dealt(index: int, accounts: int) -> str:
    """Name the account whose turn it is: the same in every replay."""
    return f"replay-{index % accounts + 1:0{len(str(accounts))}}"


def _checked(where: str, check: Callable[[object], str], value: str) -> str:
    try:
        return check(value)
    except InvalidRequestError as error:
        raise TraceError(f"{where}: {error.message}") from None


def _tokens(where: str, text: str) -> int:
    # 374.0 is how a spreadsheet writes 374.
    if not re.fullmatch(r"[0-9]{1,12}(\.0+)?", text, re.ASCII):
        raise TraceError(f"{where}: {text!r} is no whole number of tokens of at least 0")
    return int(text.partition(".")[0])


def _time(where: str, text: str) -> float:
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]+)?", text, re.ASCII):
        return float(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise TraceError(f"{where}: {text!r} is no time; write 2026-01-31 12:00:00.5, or seconds since 1970") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _in_order(rows: list[Row]) -> list[Row]:
    """Sort by time, from 0 on; a trace without times, or with gaps among them, stays in its own order."""
    times = [row.at for row in rows]
    known = [at for at in times if at is not None]
    if len(known) < len(rows):
        return [Row(r.number, None, r.input_tokens, r.output_tokens, r.account_id, r.model, r.operation) for r in rows]
    first = min(known)
    moved = [
        Row(r.number, at - first, r.input_tokens, r.output_tokens, r.account_id, r.model, r.operation)
        for r, at in zip(rows, known, strict=True)
    ]
    return sorted(moved, key=lambda row: (row.at or 0.0, row.number))
