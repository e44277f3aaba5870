"""
The 402's page in a real Chromium, served by uvicorn: what it looks like, and that nothing in it breaks out.

Runs where COUNTWERK_TEST_CHROMIUM names the binary; tests/asgi/test_asgi_page.py reads the page everywhere.
The screenshots are kept in the folder that COUNTWERK_TEST_SCREENSHOTS names, else in the test's own.
"""

import asyncio
import os
import re
import socket
import struct
import threading
import zlib
from pathlib import Path

import pytest
import uvicorn

from countwerk_meter import Meter
from countwerk_meter._wire.models import PurchaseLinks
from countwerk_meter.asgi import CreditsMiddleware, Route
from countwerk_meter.errors import InsufficientCreditsError

CHROMIUM = os.environ.get("COUNTWERK_TEST_CHROMIUM")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="COUNTWERK_TEST_CHROMIUM names no Chromium")

EVIL = "</bdi></b></a><script>document.title='broken in'</script><img src=x onerror=alert(1)>"
ACCENT = (0x29, 0x46, 0xC7)
LOOKS = {"light": (390, 1150), "dark": (390, 1150), "light-wide": (1280, 1150), "dark-wide": (1280, 1150)}


LONG = "Donaudampfschifffahrtsgesellschaft" * 5


async def app(scope, receive, send):
    """An app that another's hostile ledger talks through, or one that is in love with long words and numbers."""
    if scope["path"] == "/long":
        option = {
            "type": "topup",
            "enabled": True,
            "url": "https://shop.example",
            "label": LONG,
            "description": LONG * 2,
        }
        closed = {"type": LONG, "enabled": False, "disabledReason": LONG, "label": LONG}
        raise InsufficientCreditsError(
            account_id="acct_1",
            operation=LONG,
            required=2**53 - 1,
            purchase_links=PurchaseLinks.model_validate({"options": [option, closed]}),
        )
    option = {"type": EVIL, "enabled": True, "url": 'https://shop.example/"><script>x</script>', "label": EVIL}
    closed = {"type": "manage", "enabled": False, "disabledReason": EVIL, "label": "\u202eesrever"}
    links = [option, option | {"url": "javascript:document.title='broken in'"}, closed, option | {"url": None}]
    links.append(option | {"url": "https://shop.example/buy?a=1&b=2", "description": EVIL})
    raise InsufficientCreditsError(
        account_id="acct_1",
        operation=EVIL,
        required=7,
        usage_event_id=EVIL,
        purchase_links=PurchaseLinks.model_validate({"options": links}),
    )


@pytest.fixture
def site(countwerk_sandbox, tmp_path):
    """Serve a route that the account cannot pay for, and one whose ledger is hostile; gives the URL."""
    control = countwerk_sandbox.control
    control.account("acct_1", balance=42, ai_product_id="prod_1", order_id="ORDER", current_tier_product_id="PRO_001")
    route = Route("GET", "/reply", "app.chat.reply", price=1500)
    options = {"api_key": countwerk_sandbox.api_key, "base_url": countwerk_sandbox.url, "journal": "memory:"}
    with Meter("prod_1", **options) as meter, meter.reserve("acct_1", "app.other", amount=30) as other:
        serving = CreditsMiddleware(app, meter=meter, account_id=lambda scope: "acct_1", routes=[route])
        with socket.create_server(("127.0.0.1", 0)) as listening:
            server = uvicorn.Server(uvicorn.Config(serving, lifespan="off", log_config=None))
            thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[listening]),))
            thread.start()
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            server.should_exit = True
            thread.join(10)
        other.cancel()


@pytest.fixture
def browse(chromium):
    """Load a page; gives (DOM, what the console said)."""
    return lambda url, *options: chromium(url, "--hide-scrollbars", "--virtual-time-budget=500", *options)


@pytest.mark.parametrize("look", LOOKS)
def test_what_it_looks_like(site, browse, tmp_path, look):
    """A picture is kept, in light and dark, on a telephone and on a desk; and the policy complains of nothing."""
    folder = Path(os.environ.get("COUNTWERK_TEST_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"credits-{look}.png"
    width, height = LOOKS[look]
    scheme = 0 if look.startswith("dark") else 1
    _, console = browse(
        f"{site}/reply",
        f"--screenshot={picture}",
        f"--window-size={width},{height}",
        f"--blink-settings=preferredColorScheme={scheme}",
    )
    kept = picture.read_bytes()
    assert (kept[:8], struct.unpack(">II", kept[16:24])) == (b"\x89PNG\r\n\x1a\n", (width, height))
    assert len(kept) > 10_000
    assert console == ""


def test_what_it_says(site, browse):
    """What is needed, what is left and in use, and the options: links that are open, buttons that are not."""
    dom, console = browse(f"{site}/reply", "--dump-dom")
    words = re.sub(r"\s+", " ", re.sub(r"<style.*</style>|<[^>]+>", " ", dom, flags=re.DOTALL))
    assert console == ""
    assert "Needed 1,500 credits Left 12 credits In use 30 credits, until" in words
    assert '<a class="option" href="https://www.digistore24.com/sandbox/upgrade/' in dom
    assert re.search(r'<button class="option" type="button" disabled="" aria-describedby="why\d+">', dom)
    assert "Subscription management is switched off for this product" in words


def test_nothing_breaks_out(site, browse):
    """Texts stay texts, and only the https link is one."""
    dom, console = browse(f"{site}/hostile", "--dump-dom")
    assert console == ""
    assert "<title>Not enough credits</title>" in dom
    assert "<script" not in dom
    assert "<img" not in dom
    assert re.findall(r'href="([^"]*)"', dom) == ["https://shop.example/buy?a=1&amp;b=2"]
    assert dom.count("It has no secure link.") == 3


@pytest.mark.parametrize("width", [390, 1280])
def test_long_words_stay_inside(site, browse, tmp_path, width):
    """Words without end are broken, and numbers are not: beside the sheet there is nothing but the ground."""
    folder = Path(os.environ.get("COUNTWERK_TEST_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"credits-long-{width}.png"
    light = "--blink-settings=preferredColorScheme=1"
    browse(f"{site}/long", f"--screenshot={picture}", f"--window-size={width},700", light)
    rows = list(pixels(picture.read_bytes()))
    assert any(ACCENT in row for row in rows)
    assert not any(ACCENT in row[-15:] for row in rows)


def pixels(png):
    """Yield the rows of a picture that Chromium made: 8 bits a channel, not interlaced."""
    width, channels = struct.unpack(">I", png[16:20])[0], {2: 3, 6: 4}[png[25]]
    data, at = b"", 8
    while at < len(png):
        length = struct.unpack(">I", png[at : at + 4])[0]
        data += png[at + 8 : at + 8 + length] if png[at + 4 : at + 8] == b"IDAT" else b""
        at += length + 12
    raw, size, above = zlib.decompress(data), width * channels, bytearray(width * channels)
    for start in range(0, len(raw), size + 1):
        row = bytearray(raw[start + 1 : start + 1 + size])
        for place in range(size):
            a, b, c = (row[place - channels], above[place], above[place - channels])
            a, c = (a, c) if place >= channels else (0, 0)
            nearest = min((a, b, c), key=lambda one: abs(a + b - c - one))
            row[place] = (row[place] + (0, a, b, (a + b) // 2, nearest)[raw[start]]) & 255
        yield [tuple(row[place : place + 3]) for place in range(0, size, channels)]
        above = row
