"""Where the ledger may be, and where the settings come from."""

import pytest

from countwerk_meter._drivers.endpoint import DEFAULT_BASE_URL, Endpoint
from countwerk_meter.client import AsyncCountwerkClient, CountwerkClient
from countwerk_meter.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://ledger.example", "https://ledger.example"),
        ("https://ledger.example/", "https://ledger.example"),
        (" https://ledger.example/v1/ ", "https://ledger.example/v1"),
        ("HTTPS://Ledger.Example/Path", "https://ledger.example/Path"),
        ("https://ledger.example:8443", "https://ledger.example:8443"),
        ("http://localhost:8787", "http://localhost:8787"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://127.8.9.10:1", "http://127.8.9.10:1"),
        ("http://[::1]:8787", "http://[::1]:8787"),
    ],
)
def test_accepted(url, expected):
    """A ledger is reached over https, or on this machine."""
    assert expected == Endpoint.of("key", url).base_url


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        5,
        "ledger.example",
        "//ledger.example",
        "ftp://ledger.example",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://user:secret@ledger.example",
        "https://user@ledger.example",
        "https://@ledger.example",
        "https://ledger.example?",
        "https://ledger.example?key=1",
        "https://ledger.example#",
        "https://ledger.example/#top",
        "https://ledger.example\\elsewhere",
        "https://ledger.example /x",
        "https://ledger\n.example",
        "https://ledger.example:0",
        "https://ledger.example:99999",
        "https://ledger.example:port",
        "https://[::1",
        f"https://{'a' * 64}.example",
        "http://ledger.example",
        "http://10.0.0.1",
        "http://localhost.example",
        "http://127.0.0.1.example",
        "http://0.0.0.0",
    ],
)
def test_refused(url):
    """Everything else is refused when the client is made, without quoting it."""
    with pytest.raises(ConfigurationError) as caught:
        Endpoint.of("key", url)

    assert "secret" not in str(caught.value)


def test_in_the_clear_on_request():
    """`allow_http` is how an app says that its network is its own."""
    for client in (CountwerkClient, AsyncCountwerkClient):
        assert "'http://ledger.internal'" in repr(client("key", "http://ledger.internal", allow_http=True))
        with pytest.raises(ConfigurationError, match="in the clear"):
            client("key", "http://ledger.internal")


@pytest.mark.parametrize("key", ["", "  ", "key\n", " key", "kéy", "a\tb", 5, b"key"])
def test_keys_that_are_none(key, monkeypatch):
    """A key that no header carries is refused when the client is made, and is not replaced by another."""
    monkeypatch.setenv("COUNTWERK_API_KEY", "another")

    with pytest.raises(ConfigurationError):
        Endpoint.of(key, "https://ledger.example")


def test_the_environment(monkeypatch):
    """What is not passed in comes from the environment."""
    monkeypatch.setenv("COUNTWERK_API_KEY", "from_the_environment")
    monkeypatch.setenv("COUNTWERK_BASE_URL", "https://elsewhere.example/")

    assert "https://elsewhere.example" == Endpoint.of(None, None).base_url
    assert "from_the_environment" == Endpoint.of(None, None).key.get_secret_value()
    assert "passed" == Endpoint.of("passed", "https://ledger.example").key.get_secret_value()
    assert "https://ledger.example" == Endpoint.of("passed", "https://ledger.example").base_url


def test_a_client_says_where_it_goes():
    """A client tells its endpoint, whose repr shows no key."""
    with CountwerkClient("a_key", "https://ledger.example") as client:
        assert "Endpoint(base_url='https://ledger.example', key=SecretStr('**********'))" == repr(client.endpoint)


def test_the_default(monkeypatch):
    """Without a setting the ledger is the vendor's; without a key there is no client."""
    monkeypatch.setenv("COUNTWERK_BASE_URL", "")
    monkeypatch.delenv("COUNTWERK_API_KEY", raising=False)

    assert DEFAULT_BASE_URL == Endpoint.of("key", None).base_url == "https://app.countwerk.com"
    with pytest.raises(ConfigurationError, match="COUNTWERK_API_KEY"):
        CountwerkClient()
