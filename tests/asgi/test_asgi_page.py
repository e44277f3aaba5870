"""The 402 as a page: who gets it, what stands in it, and what never does. tests/browser looks at it in Chromium."""

import re

import pytest

from countwerk_meter._wire.models import PurchaseLinks
from countwerk_meter.asgi import Route
from countwerk_meter.asgi.page import page, wants_page
from countwerk_meter.errors import InsufficientCreditsError

BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
PAGE = [(b"accept", BROWSER)]
ROUTE = Route("POST", "/chat", "app.chat", price=500)


async def unreached(scope, receive, send):
    raise AssertionError("not reached")


def payload(*options, **more):
    links = PurchaseLinks.model_validate({"options": list(options)})
    error = InsufficientCreditsError(
        account_id="acct_1", operation="app.chat", required=5, usage_event_id="e-1", purchase_links=links
    )
    return error.to_payload() | more


def option(**more):
    return {"type": "topup", "enabled": True, "url": "https://shop.example/buy", "label": "100 credits"} | more


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ([BROWSER], True),
        ([b"text/html"], True),
        ([b"TEXT/HTML; charset=utf-8"], True),
        ([b"text/html, */*"], True),
        ([b"application/json;q=0.5, text/html"], True),
        ([b"image/png", b"text/html"], True),
        ([b"text/html, application/json"], False),
        ([b"text/html;q=0.5, application/problem+json"], False),
        ([b"text/html;q=0"], False),
        ([b"text/html;q=nan"], False),
        ([b"text/html;q=much"], False),
        ([b"text/html;q=2"], False),
        ([b"*/*"], False),
        ([b"application/json, text/plain, */*"], False),
        ([b"\xff\xfe"], False),
        ([b""], False),
        ([], False),
    ],
)
def test_who_gets_the_page(accept, wanted):
    """Who names HTML, and no JSON as much."""
    assert wants_page({"headers": [(b"Accept", value) for value in accept]}) is wanted


async def test_the_page_at_the_gate(wrap, request_to, scope_of, spent):
    """A browser gets what the call needs, what is left, and the options, under a strict policy."""
    request = await request_to(wrap(unreached, ROUTE), scope_of(headers=PAGE)).run()
    assert request.status == 402
    assert request.headers[b"content-type"] == b"text/html; charset=utf-8"
    assert request.headers[b"cache-control"] == b"no-store"
    assert request.headers[b"vary"] == b"accept"
    assert request.headers[b"referrer-policy"] == b"no-referrer"
    assert request.headers[b"content-length"] == str(len(request.body)).encode()
    policy = request.headers[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    text = request.body.decode()
    assert "<dt>Needed</dt><dd><b>500</b> <small>credits</small>" in text
    assert "<dt>Left</dt><dd><b>100</b> <small>credits</small>" in text
    assert "In use" not in text
    assert "<script" not in text
    assert 'href="https://www.digistore24.com/sandbox/topup/' in text
    assert spent() == 0


async def test_programs_get_json(wrap, request_to, scope_of):
    """Without a word for HTML the answer is what it always was; a cache would have to tell the two apart."""
    request = await request_to(wrap(unreached, ROUTE), scope_of(headers=[(b"accept", b"*/*")])).run()
    assert request.headers[b"content-type"] == b"application/problem+json"
    assert request.headers[b"vary"] == b"accept"
    assert request.json["code"] == "INSUFFICIENT_CREDITS"


async def test_the_page_from_below(meter, wrap, request_to, scope_of):
    """A denial inside of a route, listed or not, is a page too."""

    async def app(scope, receive, send):
        async with meter.reserve("acct_1", "app.more", amount=900):
            raise AssertionError("not reached")

    for path in ("/chat", "/elsewhere"):
        request = await request_to(
            wrap(app, Route("POST", "/chat", "app.chat", amount=5)), scope_of(path=path, headers=PAGE)
        ).run()
        text = request.body.decode()
        assert "<b>900</b>" in text
        assert "<dt>Left</dt>" in text


async def test_what_is_left_may_be_unknown(wrap, request_to, scope_of, control):
    """A ledger that does not say it costs the page nothing but that number."""
    control.faults([{"path": "/api/credits/balance", "kind": "status", "status": 503, "times": 9}])
    request = await request_to(wrap(unreached, ROUTE), scope_of(headers=PAGE)).run()
    assert request.status == 402
    assert b"<dt>Left</dt>" not in request.body


async def test_no_more_is_asked_than_the_gate_has_time_for(make_meter, wrap, request_to, scope_of, control):
    """Where reserve and purchase links took the whole budget, the balance is not asked for."""
    control.faults([{"path": "/api/purchase-links", "kind": "delay", "seconds": 5, "times": 1}])
    control.clear_requests()
    meter = make_meter(reserve_timeout=0.3)
    request = await request_to(wrap(unreached, ROUTE, meter=meter), scope_of(headers=PAGE)).run()
    assert request.status == 402
    assert b"could not be fetched" in request.body
    assert "/api/credits/balance" not in control.requests()["counts"]


async def test_the_balance_of_another_account_is_not_shown(meter, control, wrap, request_to, scope_of):
    """A call that is the app's own says nothing of the app's credits."""
    control.account("acct_app", balance=3, ai_product_id="prod_1")

    async def app(scope, receive, send):
        async with meter.reserve("acct_app", "app.own", amount=9):
            raise AssertionError("not reached")

    request = await request_to(wrap(app, Route("POST", "/chat", "app.chat", price=5)), scope_of(headers=PAGE)).run()
    text = request.body.decode()
    assert "<dt>Left</dt>" not in text
    assert "href=" not in text
    assert "not yours to buy" in text


async def test_an_event_stream_stays_one(wrap, request_to, scope_of):
    """Once a stream has begun its last event is JSON, whatever its client accepts."""

    async def app(scope, receive, send):
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        raise InsufficientCreditsError(account_id="acct_1", operation="app.inner", required=7)

    route = Route("POST", "/chat", "app.chat", price=5)
    request = await request_to(wrap(app, route), scope_of(headers=PAGE)).run()
    assert request.body.startswith(b"event: payment_required\ndata: {")


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example/buy",
        "javascript:alert(1)",
        "data:text/html,x",
        "//shop.example/buy",
        "/buy",
        "https:///buy",
        "https://shop.example@evil.example/buy",
        "https://shop.example/\n",
        'https://shop.example/"x',
        "https://shop.example\\@evil.example",
        "https://[evil/",
        "",
        None,
    ],
)
def test_only_https_links(url):
    """What is no plain https link is an option that is closed, and says why."""
    text = page(payload(option(url=url)), 3).decode()
    assert "href=" not in text
    assert "It has no secure link." in text
    assert re.search(r'<button class="option" type="button" disabled aria-describedby="why0">', text)


def test_closed_options_say_why():
    """With the ledger's reason, or with a general one; never with a link."""
    closed = option(enabled=False, disabledReason="Not in <b>your</b> country", url="https://shop.example/no")
    text = page(payload(closed, option(enabled=False), option()), 3).decode()
    assert "Not in &lt;b&gt;your&lt;/b&gt; country" in text
    assert "Not available at the moment." in text
    assert re.findall('href="([^"]+)"', text) == ["https://shop.example/buy"]


@pytest.mark.parametrize(
    ("why", "said"),
    [
        (None, "nothing to buy"),
        ("DS24_KEY_REQUIRED", "switched off"),
        ("LEDGER_UNREACHABLE", "could not be fetched"),
        ("NEW_IN_2030", "could not be fetched"),
    ],
)
def test_why_there_is_nothing_to_buy(why, said):
    """A page without options says why."""
    assert said in page(payload(purchase_error=why), None).decode()


def test_every_text_is_escaped():
    """What the ledger or the app says stays text, in its own direction, and is one even if it is broken Unicode."""
    evil = "</bdi><script>x</script>\u202e\ud800&\"'"
    made = option(type=evil, label="label" + evil, description="description" + evil)
    text = page(payload(made, operation=evil, usage_event_id=evil), 3).decode()
    assert "<script" not in text
    assert "\u202e" not in text
    assert text.count("&lt;/bdi&gt;&lt;script&gt;x&lt;/script&gt;") == 5


def test_an_option_without_a_name():
    """Something to click on is named by its product, else by its kind."""
    text = page(payload(option(label=None, toProductId="P-1"), option(label=None, type="manage")), 3).decode()
    assert "<b><bdi>P-1</bdi></b>" in text
    assert "<b><bdi>Subscription</bdi></b>" in text


def test_one_credit():
    """Numbers read well: one credit, and a million with its commas; and what is held says until when."""
    held = {"held": 1_000_000, "held_until": "2026-11-27T14:05:00+00:00"}
    text = page(payload(required=1, **held), 0).decode()
    assert "<b>1</b> <small>credit</small>" in text
    assert "<b>1,000,000</b> <small>credits, until <time" in text
    assert "27 Nov, 14:05 UTC" in text
    assert "until" not in page(payload(held=3), None).decode()


def test_it_is_small():
    """With a dozen options the page is well below what one round trip carries."""
    assert len(page(payload(*[option()] * 12), 3)) < 10_000


async def test_a_broken_text_is_no_failure(wrap, request_to):
    """JSON too goes out where the ledger sent half a character."""

    async def app(scope, receive, send):
        raise InsufficientCreditsError(account_id="acct_1", operation="app.\ud800", required=7)

    request = await request_to(wrap(app, Route("POST", "/chat", "app.chat", price=5))).run()
    assert request.json["operation"] == "app.?"


def _luminance(colour):
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "ground"),
    [
        ("ink", "sheet"),
        ("quiet", "sheet"),
        ("accent", "sheet"),
        ("accent", "accent-soft"),
        ("accent-ink", "accent"),
        ("quiet", "off"),
    ],
)
def test_it_can_be_read(scheme, ink, ground):
    """Every text has the contrast that WCAG AA asks of small text, in both schemes."""
    style = re.search("<style>(.*?)</style>", page(payload(), None).decode(), re.DOTALL)[1]
    dark = style.index("prefers-color-scheme: dark")
    part = style[dark:] if scheme == "dark" else style[:dark]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", part))
    light, less = sorted((_luminance(colours[ink]), _luminance(colours[ground])), reverse=True)
    assert (light + 0.05) / (less + 0.05) >= 4.5
