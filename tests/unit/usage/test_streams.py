"""A list is one call's stream: how its chunks make one usage, and when they do not."""

from types import SimpleNamespace

import pytest

from countwerk_meter.usage import Usage

CHAT = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}


def chat(usage):
    return {"object": "chat.completion.chunk", "choices": [], "usage": usage}


def anthropic(*deltas, start):
    return [
        {"type": "message_start", "message": {"type": "message", "content": [], "usage": start}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        *({"type": "message_delta", "delta": {}, "usage": delta} for delta in deltas),
    ]


START = {"input_tokens": 70, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 10, "output_tokens": 1}


def test_openai_reports_in_its_last_chunk():
    """With `include_usage` every chunk but the last has a null."""
    assert Usage(100, 50) == Usage.of([chat(None), chat(None), chat(CHAT)])


def test_running_totals_do_not_add_up():
    """Servers that repeat the usage in every chunk report totals so far: the last counts."""
    earlier = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    assert Usage(100, 50) == Usage.of((chat(earlier), chat(CHAT)))


def test_openai_without_include_usage_is_unknown():
    """Trap: a custom base URL streams no usage unless asked to; that is not free."""
    assert Usage.of([chat(None), chat(None)]) is None


def test_google_reports_running_totals():
    """Google's chunks carry the counts so far under the name that LangChain uses for increments."""
    chunks = [
        SimpleNamespace(
            usage_metadata=SimpleNamespace(prompt_token_count=9, candidates_token_count=n, total_token_count=9 + n)
        )
        for n in (2, 5, 8)
    ]
    assert Usage(9, 8) == Usage.of(chunks)


def test_openai_responses_report_when_completed():
    """The events before carry a response without usage."""
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    events = [
        {"type": "response.created", "response": {"usage": None}},
        {"type": "response.output_text.delta", "delta": "Hi"},
        {"type": "response.completed", "response": {"usage": usage}},
    ]
    assert Usage(10, 5) == Usage.of(events)
    assert Usage.of(events[:2]) is None


def test_anthropic_events_complete_each_other():
    """Input comes with the first event, the output's count with the last."""
    assert Usage(70, 50, 30, 10) == Usage.of(anthropic({"output_tokens": 20}, {"output_tokens": 50}, start=START))


def test_a_later_anthropic_event_overrules_the_first():
    """Trap: the first event may report no input at all; a delta that does is right."""
    delta = {"input_tokens": 70, "cache_read_input_tokens": None, "output_tokens": 50}
    events = anthropic(delta, start={"input_tokens": 0, "output_tokens": 1})
    assert Usage(70, 50) == Usage.of(events)


def test_an_anthropic_stream_that_reports_no_input_is_unknown():
    """Trap: `input_tokens` 0 all the way is a report that never came."""
    assert Usage.of(anthropic({"output_tokens": 50}, start={"input_tokens": 0, "output_tokens": 1})) is None


@pytest.mark.parametrize("length", [1, 2])
def test_an_anthropic_stream_broken_off_is_unknown(length):
    """Trap: before the last count, the output in the first event is a placeholder."""
    assert Usage.of(anthropic({"output_tokens": 50}, start=START)[:length]) is None


def test_single_anthropic_events_say_nothing():
    """Neither end of the stream is a whole report."""
    start, _, delta = anthropic({"output_tokens": 50}, start=START)
    assert Usage.of(start) is None
    assert Usage.of(delta) is None


def test_a_stream_without_output_is_unknown():
    """Something was streamed, so a report of nothing generated is not the last one."""
    assert Usage.of([chat({"prompt_tokens": 100, "completion_tokens": 0, "total_tokens": 100})]) is None


def test_a_stream_of_text_is_unknown():
    """Plain strings, as many generators yield, carry no usage."""
    assert Usage.of(["Hel", "lo"]) is None
