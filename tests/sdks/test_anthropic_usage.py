"""What the real Anthropic client returns, read by `Usage.of`."""

from countwerk_meter import Usage

ASKED = {"model": "claude-test", "max_tokens": 1000, "messages": [{"role": "user", "content": "Hi"}]}
MESSAGE = Usage(21, 393, 1880, 456)


def test_a_message_leaves_cached_tokens_outside_its_input(anthropic_client):
    """The four counts are disjoint as they come; the writes by lifetime repeat their sum."""
    answer = anthropic_client("anthropic_message").messages.create(**ASKED)
    assert MESSAGE == Usage.of(answer) == Usage.of(answer.usage) == Usage.of(answer.model_dump())
    assert 456 == answer.usage.cache_creation_input_tokens


def test_a_server_tool_changes_no_pool(anthropic_client):
    """Searches are counted beside the tokens; thinking is inside the output."""
    answer = anthropic_client("anthropic_server_tool").messages.create(**ASKED)
    assert 1 == answer.usage.server_tool_use.web_search_requests
    assert Usage(105, 200, 7123, 0, 39) == Usage.of(answer)


def test_a_stream_is_read_from_both_its_ends(anthropic_client):
    """`message_start` has the input, `message_delta` the output; without the latter it is unknown."""
    events = list(anthropic_client("anthropic_stream").messages.create(**ASKED, stream=True))
    assert MESSAGE == Usage.of(events)
    assert all(Usage.of(events[:length]) is None for length in range(1, 5))


def test_a_stream_that_begins_with_zeros_is_right_at_its_end(anthropic_client):
    """Trap 13: input 0 and output 1 are placeholders; broken off there, the call is unknown and not nearly free."""
    events = list(anthropic_client("anthropic_stream_zero_start").messages.create(**ASKED, stream=True))
    assert Usage(70, 15, 30) == Usage.of(events)
    assert Usage.of(events[:3]) is None


def test_the_stream_helper_gives_the_same(anthropic_client):
    """Its events, which add some of the SDK's own, and its final message agree."""
    with anthropic_client("anthropic_stream").messages.stream(**ASKED) as stream:
        events = list(stream)
        assert MESSAGE == Usage.of(events) == Usage.of(stream.get_final_message())


def test_a_snapshot_of_a_message_in_the_making_is_unknown(anthropic_client):
    """A stream that the app leaves early has a message with an output of 1: a placeholder, no report."""
    with anthropic_client("anthropic_stream").messages.stream(**ASKED) as stream:
        for event in stream:
            if event.type == "text":
                break
        snapshot = stream.current_message_snapshot
    assert 1 == snapshot.usage.output_tokens
    assert Usage.of(snapshot) is None
    assert Usage.of(snapshot.model_dump()) is None
