"""
The 402 as a page, for a person with a browser: what the call needs, what is left, and the ways to get more.

The rules: it needs no script and loads nothing; every text of the ledger's is escaped and kept from turning the text
around it; only an https link becomes one; a disabled option is never a way to buy.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from countwerk_meter.asgi.protocol import Scope

_STYLE: Final = files("countwerk_meter.asgi").joinpath("page.css").read_text("utf-8")
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS: Final = (
    (b"content-type", b"text/html; charset=utf-8"),
    (
        b"content-security-policy",
        f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'".encode(),
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)

_KINDS: Final = {"topup": "Top-up", "upgrade": "Upgrade", "downgrade": "Downgrade", "manage": "Subscription"}
_WHEN: Final = {"immediate": "at once", "end_of_period": "from the next period"}
_NOTHING_TO_BUY: Final = {
    None: "There is nothing to buy for this account at the moment.",
    "OTHER_ACCOUNT": "These credits are not yours to buy. Please tell whoever runs this service.",
    "DS24_KEY_REQUIRED": "Buying is switched off at the moment. Please tell whoever runs this service.",
    "DS24_KEY_INVALID": "Buying is switched off at the moment. Please tell whoever runs this service.",
}
# Characters of a number beyond which it is shown smaller, to stand in one line of a telephone's.
_LONG: Final = len("999,999,999")
_NOT_FETCHED: Final = "The ways to buy could not be fetched. Please load this page again in a moment."


def wants_page(scope: Scope) -> bool:
    """Whether the client asks for HTML by name, and for no JSON as much."""
    sent = b",".join(value for name, value in scope["headers"] if name.lower() == b"accept").decode("latin-1")
    html = json = 0.0
    for part in sent.lower().split(","):
        kind, *parameters = (word.strip() for word in part.split(";"))
        quality = next((_number(word[2:]) for word in parameters if word.startswith("q=")), 1.0)
        if kind in {"text/html", "application/xhtml+xml"}:
            html = max(html, quality)
        elif kind in {"application/json", "application/problem+json"}:
            json = max(json, quality)
    return html > json


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if 0 <= number <= 1 else 0.0


def page(payload: Mapping[str, Any], left: int | None) -> bytes:
    """
    Return the whole page.

    Args:
        payload: The 402's.
        left: Credits that the account has available; None: not known, and not shown.

    """
    options: list[dict[str, Any]] = payload["data"]["options"]
    facts = [_fact("Needed", payload["required"])]
    if left is not None:
        facts.append(_fact("Left", left))
    if payload["held"]:
        facts.append(_fact("In use", payload["held"], _until(payload["held_until"])))
    reference = "".join(
        f"\n<code>{_text(word)}</code>" for word in (payload["operation"], payload["usage_event_id"]) if word
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Not enough credits</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Not enough credits</h1>
<p>This needs more credits than you have left.{_in_use(payload["held"])}</p>
<dl>
{"".join(facts)}</dl>
<section aria-labelledby="more">
<h2 id="more">Get more credits</h2>
{_list(options, payload["purchase_error"])}</section>
<footer>If you ask for help, quote:{reference}</footer>
</main>
</body>
</html>
""".encode("utf-8", "replace")


def _fact(name: str, credits_: int, note: str = "") -> str:
    unit = "credit" if credits_ == 1 else "credits"
    number = f"{credits_:,}"
    size = ' class="long"' if len(number) > _LONG else ""
    return f"<div><dt>{name}</dt><dd><b{size}>{number}</b> <small>{unit}{note}</small></dd></div>\n"


def _in_use(held: int) -> str:
    return " Some of yours are in use, and what they do not cost comes back." if held else ""


def _until(moment: str | None) -> str:
    if moment is None:
        return ""
    at = datetime.fromisoformat(moment)
    shown = f"{at:%d %b, %H:%M} {at.tzname() or ''}"
    return f', until <time datetime="{escape(moment)}">{escape(shown)}</time>'


def _list(options: list[dict[str, Any]], why: str | None) -> str:
    shown: list[str] = []
    first = True
    for number, option in enumerate(options):
        link = _secure(option.get("url")) if option.get("enabled") is True else None
        if link is None:
            shown.append(_closed(option, number))
        else:
            shown.append(_open(option, link, first=first))
            first = False
    # Where nothing can be bought it is said why, unless each option says so itself.
    closed = first and (why is not None or not shown)
    said = f"<p>{_NOTHING_TO_BUY.get(why, _NOT_FETCHED)}</p>\n" if closed else ""
    return said + (f"<ul>\n{''.join(shown)}</ul>\n" if shown else "")


def _open(option: Mapping[str, Any], link: str, *, first: bool) -> str:
    place = ' class="first"' if first else ""
    described = option.get("description")
    note = f'<span class="note">{_text(described)}</span>' if described and described != _name(option) else ""
    return (
        f'<li{place}><a class="option" href="{escape(link)}" rel="noopener noreferrer">'
        f'<b>{_text(_name(option))}</b><span class="kind">{_kind(option)}</span>{note}</a></li>\n'
    )


def _closed(option: Mapping[str, Any], number: int) -> str:
    if option.get("enabled") is True:
        reason = "It has no secure link."
    else:
        reason = option.get("disabledReason") or "Not available at the moment."
    return (
        f'<li><button class="option" type="button" disabled aria-describedby="why{number}">'
        f'<b>{_text(_name(option))}</b><span class="kind">{_kind(option)}</span>'
        f'<span class="note" id="why{number}">{_text(reason)}</span></button></li>\n'
    )


def _name(option: Mapping[str, Any]) -> str:
    named = option.get("label") or option.get("toProductId") or _KINDS.get(str(option.get("type"))) or "Option"
    return str(named)


def _kind(option: Mapping[str, Any]) -> str:
    kind = str(option.get("type") or "")
    when = _WHEN.get(str(option.get("effectiveAtPolicy"))) if option.get("enabled") is True else None
    return _text(", ".join(filter(None, (_KINDS.get(kind, kind), when))))


def _text(text: object) -> str:
    """Escape a text, and keep its direction to itself."""
    shown = "".join(character if character.isprintable() else " " for character in str(text))
    return f"<bdi>{escape(shown)}</bdi>"


def _secure(url: object) -> str | None:
    """Return a link that may stand in a page: https, to a host, with nothing in it that hides where it leads."""
    if not isinstance(url, str) or not url.isprintable() or set(url) & set(" \\<>\"'`"):
        return None
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "https" and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return None
    return url if plain else None
