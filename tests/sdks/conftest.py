"""The providers' own clients, each over a transport in memory that answers with wire JSON.

The documents in `wire` are written by hand in the format that the providers document; no account of anyone's was used.
The clients take seconds to import, so whoever runs none of these tests imports none.
"""

import json
from pathlib import Path

import httpx2
import pytest

WIRE = Path(__file__).parent / "wire"


def document(name):
    return json.loads((WIRE / f"{name}.json").read_text(encoding="utf-8"))


def answering(body, *, named_events=False):
    """Answer every request with a JSON document, or with a list of them as server-sent events."""

    def answer(_):
        if not isinstance(body, list):
            return httpx2.Response(200, json=body)
        lines = [
            (f"event: {each['type']}\n" if named_events else "") + f"data: {json.dumps(each)}\n\n" for each in body
        ]
        return httpx2.Response(200, text="".join(lines), headers={"content-type": "text/event-stream"})

    return httpx2.Client(transport=httpx2.MockTransport(answer))


@pytest.fixture
def wire():
    """Reads a document of `wire`."""
    return document


@pytest.fixture
def openai_client():
    """An OpenAI client that is answered with a document of `wire`."""
    import openai

    def make(name):
        http = answering(document(name), named_events="response" in name)
        return openai.OpenAI(api_key="test", base_url="http://127.0.0.1/v1", max_retries=0, http_client=http)

    return make


@pytest.fixture
def anthropic_client():
    """An Anthropic client that is answered with a document of `wire`."""
    import anthropic

    def make(name):
        http = answering(document(name), named_events=True)
        return anthropic.Anthropic(api_key="test", base_url="http://127.0.0.1", max_retries=0, http_client=http)

    return make


@pytest.fixture
def google_client():
    """A Google GenAI client that is answered with a document of `wire`."""
    from google import genai
    from google.genai import types

    def make(name):
        options = types.HttpOptions(base_url="http://127.0.0.1", httpx_client=answering(document(name)))
        return genai.Client(api_key="test", http_options=options)

    return make
