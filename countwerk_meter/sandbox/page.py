"""
The page at `/`: accounts, live reservations, recent transactions and the faults still to come.

The rule: every text that came from outside passes `_text`, and should one slip through, the page's policy lets no
script run but its own: a nonce per answer, nothing from elsewhere. The page needs no script to be read.
"""

import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from html import escape
from importlib import resources
from string import Template
from typing import cast

from starlette.responses import HTMLResponse, Response

from countwerk_meter.sandbox.contract import JsonObject
from countwerk_meter.sandbox.faults import Fault

_TOTALS = ("accounts", "earned", "available", "reserved", "spent")


def page_response(overview: JsonObject, faults: Sequence[Fault]) -> Response:
    """Draw an overview (audit.py) and a fault plan."""
    nonce = secrets.token_urlsafe(16)
    html = _template().substitute(
        nonce=nonce,
        clock=_time(overview["now"], with_date=True),
        totals=_totals(overview),
        tables="\n".join(
            (
                _accounts(_rows(overview, "accounts")),
                _reservations(_rows(overview, "reservations"), str(overview["now"])),
                _faults(faults),
                _transactions(_rows(overview, "transactions")),
            )
        ),
    )
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(
        html,
        headers={
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        },
    )


@cache
def _template() -> Template:
    return Template(resources.files(__package__ or "").joinpath("page.html").read_text(encoding="utf-8"))


def _rows(overview: JsonObject, name: str) -> list[JsonObject]:
    return cast("list[JsonObject]", overview[name])


def _totals(overview: JsonObject) -> str:
    totals = cast("JsonObject", overview["totals"])
    verdict = '<dd class="good">balanced</dd>' if overview["balanced"] else '<dd class="bad">NOT balanced</dd>'
    cells = "".join(f"<div><dt>{name.capitalize()}</dt><dd>{_number(totals[name])}</dd></div>" for name in _TOTALS)
    return f"{cells}<div><dt>Books</dt>{verdict}</div>"


def _accounts(accounts: list[JsonObject]) -> str:
    rows = (
        f'<tr><th scope="row">{_code(row["account_id"])}</th><td>{_code(row["ai_product_id"])}</td>'
        f"<td>{_code(row['current_tier_product_id'])}</td><td>{_code(row['order_id'])}</td>"
        f"{_numbers(row, 'available', 'reserved', 'spent', 'earned')}<td>{_bar(row)}</td></tr>"
        for row in accounts
    )
    heads = ("Account", "AI product", "Tier", "Order", "#Available", "#Reserved", "#Spent", "#Earned", "Share")
    return _table("Accounts", heads, rows, "No account yet: PUT /_sandbox/accounts/{account_id} opens one.")


def _reservations(reservations: list[JsonObject], now: str) -> str:
    rows = (
        f'<tr><th scope="row">{_code(row["reservation_id"])}</th><td>{_code(row["account_id"])}</td>'
        f"<td>{_code(row['operation'])}</td>{_numbers(row, 'amount')}"
        f'<td>{_time(row["expires_at"])} <span class="soft">{_left(str(row["expires_at"]), now)}</span></td>'
        f'<td class="text">{_cut(row["description"])}</td></tr>'
        for row in reservations
    )
    heads = ("Reservation", "Account", "Operation", "#Credits", "Expires", "Description")
    return _table("Live reservations", heads, rows, "Nothing is held.")


def _transactions(transactions: list[JsonObject]) -> str:
    rows = (
        f'<tr><th scope="row">{_time(row["created_at"])}</th>'
        f'<td><span class="chip {row["kind"]}">{_text(row["kind"])}</span></td>'
        f"<td>{_code(row['account_id'])}</td><td>{_code(row['operation'])}</td>"
        f"{_numbers(row, 'amount', 'balance_after')}"
        f"<td>{_code(row['usage_event_id'] or row['reservation_id'])}</td>"
        f'<td class="text">{_cut(row["description"])}</td></tr>'
        for row in transactions
    )
    heads = (
        "Time",
        "Kind",
        "Account",
        "Operation",
        "#Credits",
        "#Balance after",
        "Event or reservation",
        "Description",
    )
    return _table("Recent transactions", heads, rows, "No transaction yet.")


def _faults(faults: Sequence[Fault]) -> str:
    rows = (
        f'<tr><th scope="row">{_text(fault.kind)}</th><td>{_code(fault.path)}</td>'
        f"<td>{_code(fault.account_id or 'all')}</td><td>{_text('always' if fault.times is None else fault.times)}</td>"
        f"<td>{'every request' if fault.probability is None else f'{fault.probability:.2%} of requests'}</td></tr>"
        for fault in faults
    )
    heads = ("Fault", "Path", "Account", "Times left", "Strikes")
    return _table("Faults to come", heads, rows, "None: every request is answered as it should be.")


def _table(title: str, heads: Sequence[str], rows: Iterable[str], empty: str) -> str:
    """Draw a table; a head that begins with # is a column of numbers."""
    name = title.lower().replace(" ", "-")
    columns = "".join(
        f'<th scope="col" class="number">{_text(head[1:])}</th>' if head[0] == "#" else f'<th scope="col">{head}</th>'
        for head in heads
    )
    body = "".join(rows) or f'<tr><td class="empty" colspan="{len(heads)}">{_text(empty)}</td></tr>'
    # The wrapper can be scrolled with the keyboard, and says what it is.
    return (
        f'<section><div class="scroll" role="region" aria-labelledby="{name}-title" tabindex="0"><table>'
        f'<caption id="{name}-title">{title}</caption><thead><tr>{columns}</tr></thead>'
        f'<tbody id="{name}" data-live>{body}</tbody></table></div></section>'
    )


def _text(value: object) -> str:
    return '<span class="soft">none</span>' if value is None else escape(str(value))


def _cut(value: object, tag: str = "span") -> str:
    """Draw a text that may be long: what does not fit is hidden, and told by the pointer and to a screen reader."""
    if value is None:
        return _text(None)
    text = escape(str(value))
    return f'<{tag} class="cut" title="{text}">{text}</{tag}>'


def _code(value: object) -> str:
    return _cut(value, "code")


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _numbers(row: JsonObject, *names: str) -> str:
    return "".join(f'<td class="number">{_number(row[name])}</td>' for name in names)


def _time(value: object, *, with_date: bool = False) -> str:
    stamp = str(value)
    shown = f"{stamp[:10]} {stamp[11:19]} UTC" if with_date else stamp[11:19]
    return f'<time datetime="{escape(stamp)}">{escape(shown)}</time>'


def _left(expires_at: str, now: str) -> str:
    seconds = (datetime.fromisoformat(expires_at) - datetime.fromisoformat(now)).total_seconds()
    return f"in {seconds:.0f} s" if seconds < 120 else f"in {seconds / 60:.0f} min"


def _bar(row: JsonObject) -> str:
    """Draw an account's shares. Attributes, not styles: the page's policy allows no inline style."""
    earned = cast("int", row["earned"]) or 1
    start, pieces = 0.0, ""
    for name in ("available", "reserved", "spent"):
        width = 100 * cast("int", row[name]) / earned
        pieces += f'<rect class="{name}" x="{start:.2f}" y="0" width="{width:.2f}" height="4"/>'
        start += width
    return f'<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">{pieces}</svg>'
