"""The check that pools add up, over generated wire documents of every format."""

from hypothesis import given
from hypothesis import strategies as st

from countwerk_meter.usage import Usage

tokens = st.integers(min_value=0, max_value=10**6)
formats = st.sampled_from(["chat", "responses", "anthropic", "google", "langchain", "pydantic-ai"])


def document(form, plain, read, written, made, thought):
    """Write disjoint counts as a provider does, each by its own convention."""
    sent, total = plain + read + written, plain + read + written + made + thought
    if form == "chat":
        return {
            "prompt_tokens": sent,
            "completion_tokens": made + thought,
            "total_tokens": total,
            "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
            "completion_tokens_details": {"reasoning_tokens": thought},
        }
    if form == "anthropic":
        return {
            "input_tokens": plain,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": written,
            "output_tokens": made + thought,
            "output_tokens_details": {"thinking_tokens": thought},
        }
    if form == "google":
        # It reports no cache writes: they are part of the prompt.
        return {
            "promptTokenCount": sent,
            "cachedContentTokenCount": read,
            "candidatesTokenCount": made,
            "thoughtsTokenCount": thought,
            "totalTokenCount": total,
        }
    whole = {"input_tokens": sent, "output_tokens": made + thought}
    if form == "responses":
        return whole | {
            "total_tokens": total,
            "input_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
            "output_tokens_details": {"reasoning_tokens": thought},
        }
    if form == "langchain":
        return whole | {
            "total_tokens": total,
            "input_token_details": {"cache_read": read, "cache_creation": 0, "ephemeral_5m_input_tokens": written},
            "output_token_details": {"reasoning": thought},
        }
    return whole | {"cache_read_tokens": read, "cache_write_tokens": written, "output_reasoning_tokens": thought}


@given(formats, tokens, tokens, tokens, tokens, tokens)
def test_pools_are_what_the_provider_meant(form, plain, read, written, made, thought):
    """Whatever the convention: each token in one pool, and the pools' sum is the provider's total."""
    usage = Usage.of(document(form, plain, read, written, made, thought))
    if not plain + read + written:
        assert usage is None
        return
    expected = (
        Usage(plain + written, made, read, 0, thought)
        if form == "google"
        else Usage(plain, made, read, written, thought)
    )
    assert expected == usage
    assert plain + read + written + made + thought == usage.total_tokens
    assert 0 == usage.unexplained_tokens


TOTALS = {"chat": "total_tokens", "responses": "total_tokens", "google": "totalTokenCount", "langchain": "total_tokens"}


@given(st.sampled_from(sorted(TOTALS)), tokens, tokens, tokens, tokens, tokens, st.integers(1, 10**7))
def test_a_total_that_does_not_fit_never_makes_a_call_cheaper(form, plain, read, written, made, thought, total):
    """The pools hold at least the total, and at least the whole input and output; none is negative; nothing raises."""
    wire = document(form, plain, read, written, made, thought) | {TOTALS[form]: total}
    usage = Usage.of(wire)
    if usage is None:
        assert not plain + read + written
        return
    assert usage.total_tokens >= max(total, plain + read + written + made + thought)
    if usage.total_tokens > total:
        assert usage.total_tokens - total == usage.unexplained_tokens
