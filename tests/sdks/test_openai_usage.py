"""What the real OpenAI client returns, read by `Usage.of`."""

import pytest

from countwerk_meter import Usage

CHAT = Usage(86, 108, 1920, 0, 192)
RESPONSE = Usage(72, 23, 256, 0, 64)


def chat(client, **options):
    return client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "Hi"}], **options)


def test_a_chat_completion_is_parted(openai_client):
    """Cached tokens leave the input, reasoning leaves the output, and the pools add up to the provider's total."""
    answer = chat(openai_client("openai_chat"))
    usage = Usage.of(answer)
    assert CHAT == usage == Usage.of(answer.usage) == Usage.of(answer.model_dump())
    assert answer.usage.total_tokens == usage.total_tokens
    assert 0 == usage.unexplained_tokens


@pytest.mark.parametrize("name", ["openai_chat_zeros", "openai_chat_no_output", "openai_chat_without"])
def test_a_chat_completion_that_says_something_and_reports_nothing_is_unknown(openai_client, name):
    """Null, zeros, or no output beside a text: a report that nobody stands behind."""
    answer = chat(openai_client(name))
    assert "Hello." == answer.choices[0].message.content
    assert Usage.of(answer) is None
    assert Usage.of(answer.model_dump()) is None


def test_a_chat_stream_reports_in_its_last_chunk(openai_client):
    """With `include_usage` the last chunk speaks for the stream; broken off before, it is unknown."""
    chunks = list(chat(openai_client("openai_chat_stream"), stream=True, stream_options={"include_usage": True}))
    assert CHAT == Usage.of(chunks) == Usage.of(chunks[-1])
    assert Usage.of(chunks[:-1]) is None


def test_a_chat_stream_without_usage_is_unknown(openai_client):
    """Trap 12: nobody asked for it, so nobody reported it."""
    assert Usage.of(list(chat(openai_client("openai_chat_stream_without"), stream=True))) is None


@pytest.mark.parametrize("name", ["openai_response", "openai_response_incomplete"])
def test_a_response_is_parted(openai_client, name):
    """One that stopped at its output cap has its full report, and is charged by it."""
    answer = openai_client(name).responses.create(model="gpt-5", input="Hi")
    assert RESPONSE == Usage.of(answer) == Usage.of(answer.usage) == Usage.of(answer.model_dump(warnings=False))
    assert answer.usage.total_tokens == Usage.of(answer).total_tokens


def test_a_response_in_progress_is_unknown(openai_client):
    """A background response that is still at work counts what it has so far, which is no measure."""
    answer = openai_client("openai_response_in_progress").responses.create(model="gpt-5", input="Hi", background=True)
    assert 1 == answer.usage.output_tokens
    assert Usage.of(answer) is None


@pytest.mark.parametrize("name", ["openai_response_stream", "openai_response_stream_incomplete"])
def test_a_response_stream_reports_in_its_last_event(openai_client, name):
    """`response.completed` and `response.incomplete` carry the usage; before them there is none."""
    events = list(openai_client(name).responses.create(model="gpt-5", input="Hi", stream=True))
    assert RESPONSE == Usage.of(events) == Usage.of(events[-1])
    assert Usage.of(events[:-1]) is None


def test_a_failed_response_stream_is_unknown(openai_client):
    """`response.failed` has no usage; what was streamed until then is not free."""
    events = list(openai_client("openai_response_stream_failed").responses.create(model="m", input="Hi", stream=True))
    assert "response.failed" == events[-1].type
    assert Usage.of(events) is None


def test_an_embedding_has_input_alone(openai_client):
    """No output is no gap where none is generated."""
    answer = openai_client("openai_embedding").embeddings.create(model="m", input="Hi", encoding_format="float")
    assert Usage(8) == Usage.of(answer)
