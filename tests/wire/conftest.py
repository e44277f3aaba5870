"""Cassettes: what they may hold, how they are played, and how they are made."""

import copy
import json
import os
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import vcr

CASSETTES = Path(__file__).parent / "cassettes"
HOST = "https://ledger.example"
KEY = "replay_key"
MOMENT = "2030-01-01T00:00:00.000Z"
KEPT_REQUEST_HEADERS = ("content-type", "accept", "accept-encoding")
KEPT_RESPONSE_HEADERS = ("content-type", "retry-after", "location")
IDS = {"reservationId": "reservation", "transactionId": "transaction"}
TIMES = {"timestamp", "expiresAt", "nextExpiration"}


class Scrubber:
    """
    Makes a recording fit to be kept: no key, no host, no purchase URL, and the same text from every recording.

    `names`: what is to be called something else (account, product, order), and the key, in every text.
    """

    def __init__(self, base_url, names):
        self._base_path = urlsplit(base_url).path.rstrip("/")
        self._names = {real: kept for real, kept in names.items() if real}

    def request(self, request):
        request = copy.copy(request)
        request.uri = HOST + urlsplit(request.uri).path.removeprefix(self._base_path)
        request.headers = {name: value for name, value in request.headers.items() if name in KEPT_REQUEST_HEADERS}
        request.body = self._text(request.body.decode()).encode()
        return request

    def response(self, response):
        headers = {name.lower(): value for name, value in response["headers"].items()}
        kept = {name: [self._text(value[0])] for name, value in headers.items() if name in KEPT_RESPONSE_HEADERS}
        return {
            "status": response["status"],
            "headers": kept | {"date": ["Tue, 01 Jan 2030 00:00:00 GMT"]},
            "body": {"string": self._body(response["body"]["string"])},
        }

    def _body(self, body):
        try:
            document = json.loads(body)
        except ValueError:
            return body if not body.isascii() else self._text(body.decode()).encode()
        return json.dumps(self._value("", document), separators=(",", ":"), ensure_ascii=False).encode()

    def _value(self, name, value):
        if isinstance(value, dict):
            return {key: self._value(key, inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._value(name, inner) for inner in value]
        if not isinstance(value, str):
            return value
        if name in IDS:
            self._names.setdefault(value, f"{IDS[name]}_{1 + sum(IDS[name] in kept for kept in self._names.values())}")
        return MOMENT if name in TIMES else self._text(value)

    def _text(self, text):
        if "://" in text:
            return "https://purchase.example/option"
        for real, kept in self._names.items():
            text = text.replace(real, kept)
        return text


def _as_recorded(made, recorded):
    """Match byte for byte, and see that the key is on its way."""
    assert (recorded.method, recorded.uri, recorded.body) == (made.method, made.uri, made.body)
    assert {name: made.headers.get(name) for name in recorded.headers} == dict(recorded.headers)
    assert KEY == made.headers["x-api-key"]


@pytest.fixture(autouse=True)
def over_httpx(monkeypatch):
    """The cassettes are put into httpx."""
    monkeypatch.setenv("COUNTWERK_TRANSPORT", "httpx")


@pytest.fixture
def replay():
    """Play a cassette: nothing leaves this machine, and every request of it must be made."""

    @contextmanager
    def play(name):
        player = vcr.VCR(record_mode="none", match_on=["as_recorded"])
        player.register_matcher("as_recorded", _as_recorded)
        with player.use_cassette(str(CASSETTES / f"{name}.yaml")) as cassette:
            try:
                yield HOST, KEY
            finally:
                # Also after a refusal: a request that is on no cassette would end as one.
                assert cassette.all_played

    return play


@pytest.fixture(scope="session")
def record():
    """Make a cassette anew."""

    @contextmanager
    def make(name, base_url, names):
        path = CASSETTES / f"{name}.yaml"
        path.unlink(missing_ok=True)
        scrubber = Scrubber(base_url, names)
        recorder = vcr.VCR(
            record_mode="all",
            before_record_request=scrubber.request,
            before_record_response=scrubber.response,
        )
        with recorder.use_cassette(str(path)):
            yield

    return make


@pytest.fixture(scope="session")
def recording():
    """Say whether this run makes the cassettes anew."""
    return os.environ.get("COUNTWERK_RECORD") == "1"


@pytest.fixture
def cassettes():
    """Return every cassette's name and text."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(CASSETTES.glob("*.yaml"))}
