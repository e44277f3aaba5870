"""LangChain's own objects: its messages, chunks, results, and its cache."""

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, LLMResult

from countwerk_meter.usage import Usage


def metadata(sent, made, sent_details=None, made_details=None):
    usage = {"input_tokens": sent, "output_tokens": made, "total_tokens": sent + made}
    if sent_details is not None:
        usage["input_token_details"] = sent_details
    if made_details is not None:
        usage["output_token_details"] = made_details
    return usage


def message(*args):
    return AIMessage("Hi", usage_metadata=metadata(*args))


DETAILED = message(100, 50, {"cache_read": 30, "cache_creation": 10}, {"reasoning": 20})
DISJOINT = Usage(60, 30, 30, 10, 20)


def test_a_message_includes_what_was_cached():
    """Trap: totals include cached tokens and reasoning, whoever the provider."""
    assert DISJOINT == Usage.of(DETAILED) == Usage.of(DETAILED.usage_metadata) == Usage.of(DETAILED.model_dump())


def test_anthropic_cache_writes_by_lifetime_are_added():
    """Trap: `cache_creation` is 0 where the lifetimes are given: the three add up."""
    details = {
        "cache_read": 30,
        "cache_creation": 0,
        "ephemeral_5m_input_tokens": 6,
        "ephemeral_1h_input_tokens": 4,
    }
    assert Usage(60, 50, 30, 10) == Usage.of(message(100, 50, details))
    assert Usage(60, 50, 30, 10) == Usage.of(message(100, 50, details | {"cache_creation": 10})), "older: the sum"


def test_audio_is_part_of_its_side():
    """Audio details repeat tokens that the totals hold; beside the lifetimes of Anthropic's cache they change nothing."""
    details = {"audio": 25, "cache_read": 30, "cache_creation": 0, "ephemeral_5m_input_tokens": 6}
    spoken = message(100, 50, details | {"ephemeral_1h_input_tokens": 4}, {"audio": 12, "reasoning": 20})
    assert DISJOINT == Usage.of(spoken) == Usage.of(ChatResult(generations=[ChatGeneration(message=spoken)]))
    assert spoken.usage_metadata["total_tokens"] == Usage.of(spoken).total_tokens


def test_text_without_a_count_of_it_is_unknown():
    """No output beside an answer is a report that never came: for a message, a chunk and a result."""
    assert Usage.of(message(100, 0)) is None
    assert Usage.of(AIMessageChunk("Hi", usage_metadata=metadata(100, 0))) is None
    assert Usage.of(LLMResult(generations=[[ChatGeneration(message=message(100, 0))]])) is None
    output = {"token_usage": {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10}}
    assert Usage.of(LLMResult(generations=[[Generation(text="Hi")]], llm_output=output)) is None
    silent = AIMessage("", usage_metadata=metadata(100, 0))
    assert Usage(100) == Usage.of(silent)


def test_service_tiers_have_details_of_their_own():
    """OpenAI's flex and priority tiers prefix the details; what is cached is cached all the same."""
    tiered = message(100, 50, {"flex": 70, "flex_cache_read": 30}, {"flex": 30, "flex_reasoning": 20})
    assert Usage(70, 30, 30, 0, 20) == Usage.of(tiered)


@pytest.mark.parametrize("empty", [{}, {"audio": 0}])
def test_details_may_say_nothing(empty):
    """A provider without caching leaves the details out or empty."""
    assert Usage(100, 50) == Usage.of(message(100, 50)) == Usage.of(message(100, 50, empty, empty))


def test_results_and_generations_hold_the_message():
    """The callback's `LLMResult`, a `ChatResult` and a generation read as the message in them."""
    generation = ChatGeneration(message=DETAILED)
    assert DISJOINT == Usage.of(generation)
    assert DISJOINT == Usage.of(ChatResult(generations=[generation]))
    assert DISJOINT == Usage.of(LLMResult(generations=[[generation]]))


def test_several_answers_to_one_prompt_share_one_usage():
    """With n=2 both answers may carry the usage of the whole call: it counts once."""
    two = [ChatGeneration(message=DETAILED), ChatGeneration(message=DETAILED)]
    assert DISJOINT == Usage.of(ChatResult(generations=two)) == Usage.of(LLMResult(generations=[two]))


def test_several_prompts_add_up():
    """Each prompt of a batch is a call of its own."""
    result = LLMResult(generations=[[ChatGeneration(message=DETAILED)], [ChatGeneration(message=message(10, 5))]])
    assert DISJOINT + Usage(10, 5) == Usage.of(result)


def test_a_prompt_without_usage_makes_the_batch_unknown():
    """Part of a batch is not its usage."""
    for silent in (AIMessage("Hi"), message(0, 0)):
        batch = [[ChatGeneration(message=DETAILED)], [ChatGeneration(message=silent)]]
        assert Usage.of(LLMResult(generations=batch)) is None


def test_text_models_report_beside_their_generations():
    """A text model's usage is in `llm_output`."""
    output = {"token_usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}}
    assert Usage(10, 5) == Usage.of(LLMResult(generations=[[Generation(text="Hi")]], llm_output=output))
    assert Usage.of(LLMResult(generations=[[Generation(text="Hi")]], llm_output=None)) is None
    assert Usage.of(LLMResult(generations=[])) is None


def test_older_integrations_report_in_the_response_metadata():
    """Without `usage_metadata` the provider's own usage may still be there."""
    old = AIMessage("Hi", response_metadata={"token_usage": {"prompt_tokens": 10, "completion_tokens": 5}})
    assert Usage(10, 5) == Usage.of(old)
    raw = AIMessage("Hi", response_metadata={"usage": {"input_tokens": 3, "output_tokens": 5}})
    assert Usage(3, 5) == Usage.of(raw)


def test_a_message_without_usage_is_unknown():
    """Trap: a stream without `stream_usage` ends in a message that reports nothing."""
    assert Usage.of(AIMessage("Hi")) is None
    assert Usage.of(AIMessageChunk("Hi")) is None
    assert Usage.of(message(0, 0)) is None


def test_chunks_add_up_as_langchain_adds_them():
    """Reading the chunks gives what reading their sum gives."""
    chunks = [
        AIMessageChunk("", usage_metadata=metadata(100, 0, {"cache_read": 30})),
        AIMessageChunk("H"),
        AIMessageChunk("i", usage_metadata=metadata(0, 40)),
        AIMessageChunk("", usage_metadata=metadata(0, 10, None, {"reasoning": 20})),
    ]
    whole = chunks[0] + chunks[1] + chunks[2] + chunks[3]
    assert Usage(70, 30, 30, 0, 20) == Usage.of(chunks) == Usage.of(whole)


def test_generation_chunks_add_up_too():
    """A model's own stream yields generations around its chunks."""
    chunks = [
        ChatGenerationChunk(message=AIMessageChunk("H", usage_metadata=metadata(100, 1))),
        ChatGenerationChunk(message=AIMessageChunk("i", usage_metadata=metadata(0, 4))),
    ]
    assert Usage(100, 5) == Usage.of(chunks)


def test_a_broken_off_stream_is_unknown():
    """The first chunk knows the input; without any output it is not the whole report."""
    assert Usage.of([AIMessageChunk("", usage_metadata=metadata(100, 0)), AIMessageChunk("Hi")]) is None
    assert Usage.of([AIMessageChunk("Hi", usage_metadata=metadata(0, 5))]) is None


class Streaming(GenericFakeChatModel):
    """Reports as Anthropic's integration does: input with the first chunk, output with the last."""

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=metadata(10, 0, {"cache_read": 4})))
        yield ChatGenerationChunk(message=AIMessageChunk("Hi"))
        yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=metadata(0, 5)))


def test_a_stream_through_langchain_is_read():
    """What `stream()` yields is what `Usage.of` is given by a metered generator."""
    chunks = list(Streaming(messages=iter([])).stream("Hello"))
    assert Usage(6, 5, 4) == Usage.of(chunks)
    assert Usage.of(chunks[:2]) is None


def test_an_answer_from_the_cache_used_nothing():
    """Trap: a cache hit repeats the full token counts; its cost of 0 gives it away, and it is known to be free."""
    model = GenericFakeChatModel(messages=iter([message(10, 5)]), cache=InMemoryCache())
    first, again = model.invoke("Hello"), model.invoke("Hello")

    assert Usage(10, 5) == Usage.of(first)
    assert 10 == again.usage_metadata["input_tokens"]
    assert Usage() == Usage.of(again)
    assert Usage() == Usage.of([again])


def test_a_cached_prompt_in_a_batch_adds_nothing():
    """Only the prompts that reached the model count."""
    hit = AIMessage("Hi").model_copy(update={"usage_metadata": {**metadata(10, 5), "total_cost": 0}})
    prompts = [[ChatGeneration(message=hit)], [ChatGeneration(message=DETAILED)]]
    assert DISJOINT == Usage.of(LLMResult(generations=prompts))
    assert DISJOINT == Usage.of(LLMResult(generations=prompts[::-1]))
    assert Usage() == Usage.of(LLMResult(generations=prompts[:1]))
