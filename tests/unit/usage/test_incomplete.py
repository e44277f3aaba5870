"""Reports that are there and are not the whole truth: unknown, never a smaller or a free call."""

from decimal import Decimal
from types import SimpleNamespace

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk

from countwerk_meter.usage import Usage

ODD = [-5, 1.5, "5", True, float("nan"), float("inf"), Decimal(5), [5]]
NOTHING_MADE = {"prompt_tokens": 100, "completion_tokens": 0, "total_tokens": 100}
PAIR = {"input_tokens": 100, "output_tokens": 0, "total_tokens": 100}
GOOGLE = {"promptTokenCount": 100, "totalTokenCount": 100}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10, "completion_tokens": 5},
        {"input_tokens": 10, "output_tokens": 5},
        {"input_tokens": 10, "output_tokens": 5, "input_token_details": {}},
        {"input_tokens": 10, "output_tokens": 5, "cache_read_tokens": 0},
        {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 7, "cache_creation_input_tokens": 7},
        {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 7},
        {"prompt_token_count": 10, "candidates_token_count": 5, "tool_use_prompt_token_count": 7},
    ],
    ids=lambda usage: next(reversed(usage)),
)
def test_what_is_no_count_makes_the_usage_unknown(usage, odd):
    """A count that cannot be read is not a count of zero: the rest of the report is less than what was used."""
    assert Usage.of(usage) is not None
    for name in usage:
        if not isinstance(usage[name], dict) and name != "cache_read_tokens":
            assert Usage.of({**usage, name: odd}) is None
            assert Usage.of({"usage": {**usage, name: odd}}) is None


@pytest.mark.parametrize("null", [True, False], ids=["null", "absent"])
@pytest.mark.parametrize(
    ("sent", "made", "total"),
    [
        ("prompt_tokens", "completion_tokens", "total_tokens"),
        ("input_tokens", "output_tokens", "total_tokens"),
        ("promptTokenCount", "candidatesTokenCount", "totalTokenCount"),
        ("prompt_token_count", "candidates_token_count", "total_token_count"),
    ],
)
def test_an_output_that_nothing_counts_is_unknown(sent, made, total, null):
    """Neither the output nor a total: half a report. With a total the output is what that leaves, even nothing."""
    usage = {sent: 100, made: None} if null else {sent: 100}
    assert Usage.of(usage) is None
    if null and total == "total_tokens":
        # OpenAI leaves a count out or gives it: a null is neither.
        assert Usage.of({**usage, total: 120}) is None
        return
    assert Usage(100) == Usage.of({**usage, total: 100})
    assert Usage(100, 20) == Usage.of({**usage, total: 120})


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"message": {"content": "Hi"}}], "usage": NOTHING_MADE},
        {"choices": [{"message": {"content": None, "tool_calls": [{"id": "call_1"}]}}], "usage": NOTHING_MADE},
        {"choices": [{"text": "Hi"}], "usage": NOTHING_MADE},
        {"object": "response", "output": [{"type": "function_call"}], "usage": PAIR},
        {"type": "message", "stop_reason": "end_turn", "content": [{"type": "text", "text": "Hi"}], "usage": PAIR},
        {"candidates": [{"content": {"parts": [{"text": "Hi"}]}}], "usageMetadata": GOOGLE},
        {"parts": [SimpleNamespace(content="Hi")], "usage": {**PAIR, "cache_read_tokens": 0}},
        AIMessage("Hi", usage_metadata=PAIR),
        AIMessage([{"type": "text", "text": "Hi"}], usage_metadata=PAIR),
        AIMessage(["Hi"], usage_metadata=PAIR),
        AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "1"}], usage_metadata=PAIR),
        AIMessage("Hi", response_metadata={"token_usage": NOTHING_MADE}),
    ],
)
def test_an_answer_that_says_something_and_counts_no_output_is_unknown(answer):
    """A zero beside a text is a report that never came in full."""
    assert Usage.of(answer) is None


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"message": {"content": ""}}], "usage": NOTHING_MADE},
        {"choices": [], "usage": NOTHING_MADE},
        {"candidates": [{"finishReason": "SAFETY"}], "usageMetadata": GOOGLE},
        AIMessage("", usage_metadata=PAIR),
        AIMessage([{"type": "text", "text": ""}], usage_metadata=PAIR),
    ],
)
def test_an_answer_that_says_nothing_may_count_no_output(answer):
    """A prompt that was refused is charged for what was sent."""
    assert Usage(100) == Usage.of(answer)


THOUGHT = {**NOTHING_MADE, "completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": 50}}
THOUGHTS = {**GOOGLE, "thoughtsTokenCount": 50, "totalTokenCount": 150}
RESPONDED = {**PAIR, "output_tokens": 50, "output_tokens_details": {"reasoning_tokens": 50}}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"choices": [{"message": {"reasoning_content": "Hm"}}], "usage": THOUGHT}, False),
        ({"choices": [{"message": {"reasoning_content": "Hm", "content": "Hi"}}], "usage": THOUGHT}, True),
        ({"object": "response", "output": [{"type": "reasoning"}], "usage": RESPONDED}, False),
        ({"object": "response", "output": [{"type": "reasoning"}, {"type": "message"}], "usage": RESPONDED}, True),
        ({"candidates": [{"content": {"parts": [{"text": "Hm", "thought": True}]}}], "usageMetadata": THOUGHTS}, False),
        ({"candidates": [{"content": {"parts": [{"text": "Hi"}]}}], "usageMetadata": THOUGHTS}, True),
    ],
)
def test_thinking_alone_counts_no_output(answer, said):
    """An answer that ended at its cap while thinking is whole; one that said something as well is not."""
    expected = None if said else Usage(100, 0, reasoning_tokens=50)
    assert expected == Usage.of(answer)
    assert expected == Usage.of([answer])


def test_a_summary_of_thoughts_is_no_text():
    """Events of a responses stream bring it under a name of its own."""
    done = {"type": "response.completed", "response": {"object": "response", "usage": RESPONDED}}
    thought = {"type": "response.reasoning_summary_text.delta", "delta": "Hm"}
    said = {"type": "response.output_text.delta", "delta": "Hi"}
    assert Usage(100, 0, reasoning_tokens=50) == Usage.of([thought, done])
    assert Usage.of([thought, said, done]) is None


def test_an_output_that_only_the_total_counts_is_counted():
    """The total speaks where the part does not."""
    answer = {"choices": [{"message": {"content": "Hi"}}], "usage": {**NOTHING_MADE, "total_tokens": 120}}
    assert Usage(100, 20) == Usage.of(answer)


def text(content, usage=None):
    return {"object": "chat.completion.chunk", "choices": [{"delta": {"content": content}}], "usage": usage}


def test_text_after_the_last_report_makes_a_stream_unknown():
    """Trap: running totals of a stream that broke off leave out what came after them."""
    so_far = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
    assert Usage(100, 1) == Usage.of([text("H", so_far)])
    assert Usage.of([text("H", so_far), text("i")]) is None
    assert Usage(100, 1) == Usage.of([text("H"), text("i"), text("", so_far), text("")])
    assert Usage.of([AIMessageChunk("", usage_metadata={**PAIR, "output_tokens": 1}), AIMessageChunk("Hi")]) is None


@pytest.mark.parametrize(
    "half",
    [
        {"type": "message", "stop_reason": None, "usage": {**PAIR, "output_tokens": 1}},
        {"object": "response", "status": "in_progress", "usage": {**PAIR, "output_tokens": 1}},
        {"object": "response", "status": "queued", "usage": {**PAIR, "output_tokens": 1}},
        {"kind": "response", "state": "incomplete", "usage": {**PAIR, "output_tokens": 1, "cache_read_tokens": 0}},
        {"kind": "response", "state": "interrupted", "usage": {**PAIR, "output_tokens": 1, "cache_read_tokens": 0}},
    ],
    ids=["anthropic", "openai", "openai queued", "pydantic-ai", "pydantic-ai stopped"],
)
def test_an_answer_that_is_still_being_made_is_unknown(half):
    """Its output count is that of the first event."""
    assert Usage.of(half) is None
    whole = {**half, "stop_reason": "end_turn", "status": "completed", "state": "complete"}
    assert Usage(100, 1) == Usage.of(whole)


def test_a_response_that_ended_at_its_cap_is_known():
    """`incomplete` says why it ended; its usage is what it used, unless that is nothing but zeros."""
    answer = {"object": "response", "status": "incomplete", "usage": {**PAIR, "output_tokens": 50}}
    assert Usage(100, 50) == Usage.of(answer)
    zeros = dict.fromkeys(PAIR, 0)
    assert Usage.of({**answer, "output": [{"type": "message"}], "usage": zeros}) is None


def test_an_anthropic_total_is_not_taken_back():
    """Trap: a last event that reports an input of 0 is no correction of the first."""
    start = {"input_tokens": 70, "cache_read_input_tokens": 30, "output_tokens": 1}
    events = [
        {"type": "message_start", "message": {"usage": start}},
        {"type": "message_delta", "usage": {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 50}},
    ]
    assert Usage(70, 50, 30) == Usage.of(events)


def test_a_provider_that_asks_nothing_for_a_call_does_not_make_it_free():
    """Trap: `total_cost` 0 is LangChain's sign of a cache hit in `usage_metadata`, and nobody else's."""
    assert Usage(100, 50) == Usage.of({"usage": {"input_tokens": 100, "output_tokens": 50, "total_cost": 0}})
    assert Usage(100, 50) == Usage.of({"input_tokens": 100, "output_tokens": 50, "requests": 0, "total_cost": 0})
    hit = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150, "total_cost": 0}
    assert Usage() == Usage.of(hit) == Usage.of({"usage_metadata": hit})
    assert Usage() == Usage.of({"usage_metadata": {"total_cost": 0}})
    assert Usage(100, 50) == Usage.of({"usage_metadata": {**hit, "total_cost": False}})
