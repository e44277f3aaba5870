"""The providers' own classes against loopback servers that speak their wire formats."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from countwerk_meter_langchain import CountwerkCallbackHandler
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI

from countwerk_meter import InsufficientCreditsError

RATES = {
    "llm_input_tokens": 0.01,
    "llm_output_tokens": 0.1,
    "llm_cache_read_tokens": 0.001,
    "llm_cache_write_tokens": 0.02,
    "llm_reasoning_tokens": 0.2,
}
PRICES = {
    "profileVersionId": "providers-1",
    "eurPerCredit": 0.01,
    "rateRules": [{"id": name, "dimensionKey": name, "creditsPerUnit": rate} for name, rate in RATES.items()],
}
CUT = object()


class Provider:
    """A loopback server that answers each request with the next of its scripts."""

    def __init__(self):
        self.requests, self.scripts = [], []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_POST(self):
                provider.requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                status, parts = provider.scripts.pop(0)
                if isinstance(parts, dict):
                    body = json.dumps(parts).encode()
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                self.close_connection = True
                for part in parts:
                    if part is CUT:
                        return
                    data = part.encode()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answers(self, *scripts):
        self.scripts += [script if isinstance(script, tuple) else (200, script) for script in scripts]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def provider():
    made = Provider()
    yield made
    made.close()


def events(*parts, named=False):
    """Server-sent events, as OpenAI sends them or, named, as Anthropic does."""
    return [
        part if part is CUT else (f"event: {part['type']}\n" if named else "") + f"data: {json.dumps(part)}\n\n"
        for part in parts
    ]


OPENAI_USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 50,
    "total_tokens": 1050,
    "prompt_tokens_details": {"cached_tokens": 400},
    "completion_tokens_details": {"reasoning_tokens": 20},
}
OPENAI_COST = 14  # 6 + 0.4 + 3 + 4 = 13.4, rounded up
ANTHROPIC_USAGE = {
    "input_tokens": 600,
    "cache_read_input_tokens": 400,
    "cache_creation_input_tokens": 100,
    "output_tokens": 30,
}
ANTHROPIC_COST = 12  # 6 + 0.4 + 2 + 3 = 11.4, rounded up


def openai_chunk(delta, usage=None, finish=None):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-test-2026",
        "choices": choices,
        "usage": usage,
    }


def openai_stream(usage, cut=False):
    parts = [
        openai_chunk({"role": "assistant", "content": ""}),
        *(openai_chunk({"content": w}) for w in ("one ", "two ")),
    ]
    if cut:
        return events(*parts, CUT)
    parts += [openai_chunk({}, finish="stop")]
    parts += [openai_chunk(None, usage=OPENAI_USAGE)] if usage else []
    return [*events(*parts), "data: [DONE]\n\n"]


OPENAI_ANSWER = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-test-2026",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "one two"}, "finish_reason": "stop"}],
    "usage": OPENAI_USAGE,
}


def anthropic_stream(start, end, cut=None):
    parts = [
        {
            "type": "message_start",
            "message": {
                "id": "m1",
                "type": "message",
                "role": "assistant",
                "model": "claude-test",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": start,
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": w}}
            for w in ("one ", "two ")
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": end},
        {"type": "message_stop"},
    ]
    return events(*(parts if cut is None else [*parts[:cut], CUT]), named=True)


ANTHROPIC_ANSWER = {
    "id": "m1",
    "type": "message",
    "role": "assistant",
    "model": "claude-test",
    "content": [{"type": "text", "text": "one two"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": ANTHROPIC_USAGE,
}
BUSY = (500, {"error": {"type": "api_error", "message": "busy"}})


def openai(provider, **options):
    return ChatOpenAI(model="gpt-test", base_url=f"{provider.url}/v1", api_key="k", max_tokens=100, **options)


def anthropic(provider, **options):
    return ChatAnthropic(model="claude-test", base_url=provider.url, api_key="k", max_tokens=100, **options)


@pytest.fixture
def paid(make_bench):
    return make_bench(prices=PRICES)


def call(bench, model, path, how="invoke"):
    config = {"callbacks": [CountwerkCallbackHandler(bench.meter, account_id="acct")]}

    async def acall():
        if how == "invoke":
            return await model.ainvoke("x", config)
        return [part async for part in model.astream("x", config)]

    if path == "async":
        return asyncio.run(acall())
    return model.invoke("x", config) if how == "invoke" else list(model.stream("x", config))


both = pytest.mark.parametrize("path", ["sync", "async"])


@both
def test_openai_invoke(paid, provider, path):
    """Cached and reasoning tokens are priced as what they are, and the SDK's own retry is one charge."""
    provider.answers(BUSY, OPENAI_ANSWER)
    call(paid, openai(provider, max_retries=2), path)
    assert len(provider.requests) == 2
    audit = paid.audit()
    assert audit.told == [("settled", OPENAI_COST, "provider")]
    assert {line["attributes"]["model"] for line in audit.charges[0].lines} == {"gpt-test"}


@both
def test_openai_stream_with_usage(paid, provider, path):
    """Asked for it, the provider reports the usage at the end of the stream."""
    provider.answers(openai_stream(usage=True))
    call(paid, openai(provider, stream_usage=True), path, "stream")
    assert provider.requests[0]["stream_options"] == {"include_usage": True}
    assert paid.audit().told == [("settled", OPENAI_COST, "provider")]


@both
def test_openai_stream_without_usage(paid, provider, path):
    """A server that reports none (as with a base_url of one's own, unless asked) is counted, not free (trap 12)."""
    provider.answers(openai_stream(usage=False))
    call(paid, openai(provider), path, "stream")
    assert "stream_options" not in provider.requests[0]
    ((state, amount, basis),) = paid.audit().told
    assert (state, amount, basis) == ("settled", 1, "counted")


@both
def test_openai_cut_in_mid_stream(paid, provider, path):
    """A connection that breaks is charged what was consumed, and the provider's error is what the caller sees."""
    provider.answers(openai_stream(usage=True, cut=True))
    with pytest.raises(Exception) as caught:
        call(paid, openai(provider, stream_usage=True, max_retries=0), path, "stream")
    assert not isinstance(caught.value, InsufficientCreditsError)
    assert paid.audit().told == [("settled", 1, "counted")]


@both
@pytest.mark.parametrize("make", [openai, anthropic])
def test_a_failed_request_costs_nothing(paid, provider, path, make):
    """No answer at all after the SDK's retries: nothing is charged."""
    provider.answers(BUSY, BUSY)
    with pytest.raises(Exception, match="busy"):
        call(paid, make(provider, max_retries=1), path)
    assert len(provider.requests) == 2
    assert paid.audit().told == [("cancelled", None, None)]


@both
def test_nothing_is_sent_without_credits(make_bench, provider, path):
    """The denial comes before the request leaves."""
    broke = make_bench(prices=PRICES, balance=1)
    for make in (openai, anthropic):
        with pytest.raises(InsufficientCreditsError):
            call(broke, make(provider), path)
    assert provider.requests == []
    assert broke.audit().spent == 0


@both
def test_anthropic_invoke(paid, provider, path):
    """Cache reads and writes are priced as what they are, and the SDK's own retry is one charge."""
    provider.answers(BUSY, ANTHROPIC_ANSWER)
    call(paid, anthropic(provider, max_retries=2), path)
    assert len(provider.requests) == 2
    assert paid.audit().told == [("settled", ANTHROPIC_COST, "provider")]


@both
def test_anthropic_cache_writes_by_age(paid, provider, path):
    """The parts by age are the cache writes, whatever stands beside them (trap 11)."""
    usage = {**ANTHROPIC_USAGE, "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40}}
    provider.answers({**ANTHROPIC_ANSWER, "usage": usage})
    call(paid, anthropic(provider), path)
    assert paid.audit().told == [("settled", ANTHROPIC_COST, "provider")]


@both
def test_anthropic_stream(paid, provider, path):
    """The usage so far is reported at the beginning, all of it at the end: the end's report is what counts."""
    provider.answers(anthropic_stream({**ANTHROPIC_USAGE, "output_tokens": 1}, ANTHROPIC_USAGE))
    call(paid, anthropic(provider), path, "stream")
    assert paid.audit().told == [("settled", ANTHROPIC_COST, "provider")]


@both
@pytest.mark.parametrize("start", [0, 600])
def test_anthropic_stream_that_reports_no_input(paid, provider, path, start):
    """Where the end's report names the output alone the input is counted, not free (trap 13)."""
    provider.answers(anthropic_stream({"input_tokens": start, "output_tokens": 1}, {"output_tokens": 30}))
    call(paid, anthropic(provider), path, "stream")
    # 3 credits for the output, and the few tokens of the prompt
    assert paid.audit().told == [("settled", 4, "counted")]


@both
@pytest.mark.parametrize("cut", [1, 4])
def test_anthropic_cut_in_mid_stream(paid, provider, path, cut):
    """Nothing is reported of a stream that is cut (trap 13): what was consumed is counted."""
    provider.answers(anthropic_stream({**ANTHROPIC_USAGE, "output_tokens": 1}, ANTHROPIC_USAGE, cut=cut))
    with pytest.raises(Exception) as caught:
        call(paid, anthropic(provider, max_retries=0), path, "stream")
    assert not isinstance(caught.value, InsufficientCreditsError)
    assert paid.audit().told == [("settled", 1, "counted")]
