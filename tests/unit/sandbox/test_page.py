"""The page, read with an HTML parser: its structure, its escaping, its policy."""

import re
from html.parser import HTMLParser

import pytest

EVIL = '"><script>alert(1)</script>'


class Page(HTMLParser):
    """What the tests want to know of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def show(http):
    """Fetch and parse the page."""

    def show() -> Page:
        response = http.get("/")
        assert response.status_code == 200
        return Page(response.text)

    return show


@pytest.fixture
def control(countwerk_sandbox):
    """The control API of a fresh ledger."""
    return countwerk_sandbox.control


def test_the_page_says_what_it_is(show):
    """Nobody takes it for the vendor's server."""
    assert "This is a local sandbox, not CountWerk\u2019s server." in show().text


def test_an_empty_ledger_has_words_for_it(show):
    """Each table says that there is nothing, and how to begin."""
    text = show().text

    for words in (
        "PUT /_sandbox/accounts/{account_id}",
        "Nothing is held.",
        "No transaction yet.",
        "None: every request",
    ):
        assert words in text


def test_the_page_shows_accounts_holds_transactions_and_faults(control, show, call, reserve):
    """What was done over the API is there to read."""
    control.account("acct_123", balance=1500, ai_product_id="prod", order_id="ORDER_1")
    reserve("acct_123", amount=25, description="Chat reply", validityMinutes=15)
    reserve("acct_123", amount=1, validityMinutes=1)
    call("credits/deduct", account_id="acct_123", operation="app.image", amount=5, usage_event_id="turn-1")
    control.faults(
        [
            {"kind": "drop_after", "probability": 0.02},
            {"kind": "status", "status": 503, "path": "/api/credits/reserve", "times": 3, "account_id": "acct_9"},
        ]
    )
    text = show().text

    for words in (
        "acct_123", "1,469", "Chat reply", "in 15 min", "in 60 s", "turn-1", "deduct", "balanced", "2.00% of requests",
        "always", "acct_9", "ORDER_1",
    ):  # fmt: skip
        assert words in text


def test_every_text_is_escaped(control, show, call, reserve):
    """A name that is markup stays a name, in texts and in attributes."""
    control.account(EVIL, balance=100, ai_product_id=EVIL, order_id=EVIL, current_tier_product_id=EVIL)
    reserve(EVIL, amount=5, description=EVIL)
    call("credits/deduct", account_id=EVIL, operation="app.chat", amount=5, usage_event_id=EVIL, description=EVIL)
    control.faults([{"kind": "drop_after", "account_id": EVIL}])
    page = show()

    assert len(page.all("script")) == 1
    assert page.text.count(EVIL) >= 9
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]


def test_tables_can_be_heard_and_scrolled_by_keyboard(control, show, reserve):
    """Captions, scopes, and scrolling regions that have a name and take the focus."""
    control.account("acct", balance=100)
    reserve()
    page = show()
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    regions = [attrs for attrs in page.all("div") if attrs.get("role") == "region"]

    assert 4 == len(page.all("table")) == len(page.all("caption")) == len(regions)
    assert all(attrs.get("scope") in {"col", "row"} for attrs in page.all("th"))
    assert all(region["tabindex"] == "0" and region["aria-labelledby"] in ids for region in regions)
    assert len(ids) == len(set(ids))
    assert page.all("html") == [{"lang": "en"}]


def test_the_policy_lets_nothing_in(http):
    """Only the page's own style and script, by a nonce that is never used twice; nothing is cached or framed."""
    first, second = http.get("/"), http.get("/")
    policy = first.headers["content-security-policy"]
    nonces = set(re.findall(r"nonce-([\w-]+)", policy))
    page = Page(first.text)

    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert policy != second.headers["content-security-policy"]
    assert nonces == {attrs["nonce"] for attrs in page.all("script") + page.all("style")}
    assert [attrs for _, attrs in page.tags if "style" in attrs] == []
    assert (first.headers["cache-control"], first.headers["x-content-type-options"]) == ("no-store", "nosniff")


def test_the_page_needs_nothing_from_elsewhere(show):
    """No address of another host, no build product."""
    links = [value for _, attrs in show().tags for name, value in attrs.items() if name in {"src", "href"}]

    assert links == ["data:,"]


def test_without_scripts_the_page_reloads_itself(show):
    """A reader without scripts sees what is new, too."""
    assert {"http-equiv": "refresh", "content": "5"} in show().all("meta")
