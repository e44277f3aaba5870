"""How large a hold is, and what an answer or a broken-off stream is charged for."""

import asyncio
import uuid

import pytest
from countwerk_meter_langchain import CountwerkAgentMiddleware, CountwerkCallbackHandler
from countwerk_meter_langchain.answers import Streamed, consumed, reported, shares_usage
from countwerk_meter_langchain.counting import estimate, input_tokens, message_weight, output_cap, weight
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk, LLMResult
from langchain_core.tools import tool

from countwerk_meter import Usage

USED = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}


def result(message, **output):
    kind = ChatGenerationChunk if isinstance(message, AIMessageChunk) else ChatGeneration
    return LLMResult(generations=[[kind(message=message)]], llm_output=output or None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", 0),
        ("abc", 3),
        ("äöü", 6),
        (None, 0),
        (12, 2),
        ([{"type": "text", "text": "abcd"}], 4),
        ([{"type": "thinking", "thinking": "abcd", "signature": "x" * 99}], 4),
        ([{"type": "image_url", "image_url": {"url": "data:" + "x" * 99999}}], 6000),
        ([{"type": "tool_use", "id": "1", "name": "f", "input": {"q": "abc"}}], 5),
        (["ab", {"type": "text", "text": "c"}], 3),
    ],
)
def test_weight(value, expected):
    """The bytes of text; an attachment counts a flat number, bookkeeping nothing."""
    assert weight(value) == expected


def test_weight_of_tool_calls():
    """A message's tool calls are output like its text."""
    call = {"name": "search", "args": {"query": "abc"}, "id": "1", "type": "tool_call"}
    assert message_weight(AIMessage("x", tool_calls=[call])) > message_weight(AIMessage("x"))
    chunk = AIMessageChunk("", tool_call_chunks=[{"name": "f", "args": '{"a"', "id": "1", "index": 0}])
    assert message_weight(chunk) == 5


def test_input_tokens():
    """Three bytes are a token, rounded up; messages have a frame; tools are input."""
    assert input_tokens("abcd", {}) == 2
    assert input_tokens([HumanMessage("abcd"), HumanMessage("a")], {}) == 2 + 1 + 16
    assert input_tokens("", {"tools": [{"type": "function", "function": {"name": "search"}}]}) > 0


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"max_tokens": 20}, 20),
        ({"max_completion_tokens": 30, "max_tokens": 20}, 30),
        ({"max_output_tokens": 40}, 40),
        ({}, 1024),
        ({"max_tokens": 0, "n": 3}, 3072),
        ({"max_tokens": True}, 1024),
    ],
)
def test_output_cap(params, expected):
    """The call's own cap, for each of its answers, or the stated default."""
    assert output_cap(params, 1024) == expected
    assert estimate(3, params, 1024) == Usage(input_tokens=3, output_tokens=expected)


class Silent:
    """A model that says nothing of itself in the run's metadata, as third parties' may."""

    def _get_ls_params(self, stop=None, **kwargs):
        return {}


CLIENTS = {"ls_max_tokens": 1, "ls_model_name": "cheap"}


@pytest.mark.parametrize("capped", [True, False])
@pytest.mark.parametrize("path", ["chain", "agent"])
def test_a_clients_metadata_cannot_shrink_the_hold(bench, fakes, capped, path):
    """Metadata comes with a client's config: what is held is the request's own cap, or what was learned."""

    class Model(Silent, fakes.Chat):
        max_tokens: int | None = 100 if capped else None

    config = {"metadata": CLIENTS}
    if path == "chain":
        handler = CountwerkCallbackHandler(bench.meter, account_id="acct")
        Model().invoke("x", config | {"callbacks": [handler]})
    else:
        ours = CountwerkAgentMiddleware(bench.meter, account_id="acct", hold=1)

        @tool
        def ask(question: str) -> str:
            """Ask."""
            return Model().invoke(question).text

        class Agent(fakes.Chat):
            def bind_tools(self, tools, **kwargs):
                return self

            def _generate(self, messages, stop=None, run_manager=None, **kwargs):
                result = super()._generate(messages)
                if len(self.calls) == 1:
                    call = {"name": "ask", "args": {"question": "q"}, "id": "1", "type": "tool_call"}
                    result.generations[0].message.tool_calls = [call]
                return result

        create_agent(Agent(), [ask], middleware=[ours]).invoke({"messages": [("human", "x")]}, config)
    held = [fields["amount"] for name, fields in bench.events if name in {"reserved", "topped_up"}]
    assert max(held) >= (11 if capped else 103)
    bench.audit()


@pytest.mark.parametrize("bound", [False, True])
def test_a_clients_metadata_cannot_name_a_cheaper_model(make_bench, fakes, bound):
    """What the request names is priced, also where it was bound: never what a client's config says."""
    rules = [*fakes.PRICES["rateRules"]]
    rules += [
        {**rule, "id": f"{rule['id']}-cheap", "attributesMatch": {"model": ["cheap"]}, "creditsPerUnit": 0.0001}
        for rule in rules
    ]
    bench = make_bench(prices={**fakes.PRICES, "rateRules": rules})

    class Model(Silent, fakes.Chat):
        pass

    model = Model(model="cheap").bind(model="fake-1") if bound else Model()
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct")
    model.invoke("x", {"callbacks": [handler], "metadata": CLIENTS})
    assert bench.audit().spent == 6


def test_the_name_without_its_path_is_priced(bench, fakes):
    """Some providers ask for `models/<name>` and say `<name>`: that is the same model."""

    class Model(fakes.Chat):
        def _get_ls_params(self, stop=None, **kwargs):
            return {"ls_model_name": self.model.removeprefix("models/")}

    handler = CountwerkCallbackHandler(bench.meter, account_id="acct")
    Model(model="models/fake-1").invoke("x", {"callbacks": [handler]})
    assert bench.audit().spent == 6


@pytest.mark.parametrize(("options", "held"), [({}, 11), ({"amount": 5}, 5), ({"price": 2}, 2)])
def test_what_is_held(bench, fakes, options, held):
    """9 input and 100 output tokens make 10.09 credits, held as 11; amount and price are held as they are."""
    fakes.Chat().invoke("x", {"callbacks": [CountwerkCallbackHandler(bench.meter, account_id="acct", **options)]})
    assert [f["amount"] for name, f in bench.events if name == "reserved"] == [held]
    bench.audit()


def test_model_without_a_cap_holds_the_default(bench, fakes):
    """1,024 output tokens are assumed, or what the handler was told."""

    class Uncapped(fakes.Chat):
        max_tokens: None = None

    for options in ({}, {"output_tokens": 10}):
        handler = CountwerkCallbackHandler(bench.meter, account_id="acct", **options)
        Uncapped().invoke("x", {"callbacks": [handler]})
    assert [f["amount"] for name, f in bench.events if name == "reserved"] == [103, 2]
    bench.audit()


def test_model_without_a_cap_holds_what_it_put_out_before(bench, fakes):
    """Once there were fifty such calls of the account: the default is only the beginning."""

    class Uncapped(fakes.Chat):
        max_tokens: None = None

    handler = CountwerkCallbackHandler(bench.meter, account_id="acct", output_tokens=500)
    model = Uncapped()
    for _ in range(51):
        model.invoke("x", {"callbacks": [handler]})
        assert bench.meter.flush(20)
    held = [f["amount"] for name, f in bench.events if name == "reserved"]
    assert set(held[:50]) == {held[0]}
    assert held[50] < held[0] / 5
    bench.audit()


def test_bound_model_name_prices_the_call(bench, fakes):
    """`bind(model=...)` is what is asked for and what is priced, not the model's own name."""
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct")
    fakes.Chat(model="unknown").bind(model="fake-1").invoke("x", {"callbacks": [handler]})
    (charge,) = bench.audit().charges
    assert charge.lines[0]["attributes"] == {"model": "fake-1"}


def test_no_text_in_the_journal(bench, fakes):
    """Neither prompt nor answer is written down."""
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct")
    fakes.Chat().invoke("a very secret prompt", {"callbacks": [handler]})
    written = repr([charge.to_dict() for charge in bench.audit().charges]) + repr(bench.events)
    assert "secret" not in written
    assert "two three" not in written


def test_reported():
    """Reported usage, unknown usage, and an answer from the cache are three things."""
    assert reported(result(AIMessage("x", usage_metadata=USED)), ran=False) == Usage(100, 50)
    assert reported(result(AIMessage("x")), ran=False) is None
    cached = result(AIMessage("x", usage_metadata=USED | {"total_cost": 0}))
    assert reported(cached, ran=False) == Usage()
    assert reported(cached, ran=True) == Usage(100, 50)
    assert reported(result(cached.generations[0][0].message, model_name="m"), ran=False) == Usage(100, 50)
    assert reported(result(AIMessage("x", usage_metadata=None), a=1), ran=True) is None


@pytest.mark.parametrize("llm_output", [{"model_name": "fake-1"}])
def test_same_prompt_twice_in_a_batch_with_a_cache(bench, fakes, llm_output):
    """The second prompt's cache hit marks the first one's answer as free; the first is charged all the same."""
    set_llm_cache(InMemoryCache())
    model = fakes.Chat(llm_output=llm_output)
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct")
    model.generate([[HumanMessage("x")], [HumanMessage("x")]], callbacks=[handler])
    assert len(model.calls) == 1
    assert bench.audit().told == [("cancelled", None, None), ("settled", 6, "provider")]


@pytest.mark.parametrize("path", ["sync", "async"])
def test_an_answer_that_is_served_again_before_it_is_charged(bench, fakes, path):
    """A cache hit marks the very answer that the first caller is just paying for: it is charged all the same."""
    set_llm_cache(InMemoryCache())
    model = fakes.Chat()
    ours = CountwerkCallbackHandler(bench.meter, account_id="acct")

    class Again(BaseCallbackHandler):
        """Asks the same once more, before our handler hears of the end."""

        run_inline = True

        def on_llm_end(self, response, **kwargs):
            model.invoke("x", {"callbacks": [ours]})

    config = {"callbacks": [Again(), ours]}
    model.invoke("x", config) if path == "sync" else asyncio.run(model.ainvoke("x", config))
    assert len(model.calls) == 1
    assert bench.audit().told == [("cancelled", None, None), ("settled", 6, "provider")]


def test_shares_usage():
    """LangChain empties the usage of all prompts of a text batch but the first."""
    answer = [[Generation(text="x")]]
    assert shares_usage(LLMResult(generations=answer, llm_output={"token_usage": {}}))
    assert not shares_usage(LLMResult(generations=answer, llm_output={"token_usage": {"a": 1}}))
    assert not shares_usage(LLMResult(generations=answer))


def chunk(text="", usage=None):
    return ChatGenerationChunk(message=AIMessageChunk(text, usage_metadata=usage))


def test_consumed_of_nothing():
    """What gave nothing used nothing that we know of."""
    assert consumed(Streamed(), None, 9) is None
    assert consumed(Streamed(), LLMResult(generations=[]), 9) is None
    assert consumed(Streamed(), result(AIMessage("an error's metadata")), 9) is None


def test_consumed_as_reported():
    """Increments that chunks report add up."""
    streamed = Streamed()
    streamed.token("a", chunk("a", {"input_tokens": 10, "output_tokens": 1, "total_tokens": 11}))
    streamed.token("b", chunk("b", {"input_tokens": 0, "output_tokens": 2, "total_tokens": 2}))
    assert consumed(streamed, None, 9) == (Usage(10, 3), False)


def test_consumed_with_input_reported_only():
    """Where the stream began with the input, the output is counted."""
    streamed = Streamed()
    streamed.token("", chunk("", {"input_tokens": 10, "output_tokens": 0, "total_tokens": 10}))
    streamed.token("abcd", chunk("abcd"))
    assert consumed(streamed, None, 9) == (Usage(10, 2), True)


def test_consumed_as_counted():
    """Without a report, input and output are counted, from what was heard or from the partial answer."""
    streamed = Streamed()
    streamed.token("abcd", chunk("abcd"))
    assert consumed(streamed, None, 9) == (Usage(9, 2), True)
    assert consumed(Streamed(), result(AIMessageChunk("abcd")), 9) == (Usage(9, 2), True)
    assert consumed(Streamed(), LLMResult(generations=[[GenerationChunk(text="abcd")]]), 9) == (Usage(9, 2), True)
    text = Streamed()
    text.token("abcd", GenerationChunk(text="abcd"))
    assert consumed(text, None, 9) == (Usage(9, 2), True)


def test_consumed_of_events():
    """Protocol events are the same text as chunks, so the larger count stands; a report at the end wins."""
    streamed = Streamed()
    streamed.event({"event": "message-start"})
    assert not streamed.any
    streamed.event({"event": "content-block-start", "content": {"type": "text", "text": ""}})
    streamed.event({"event": "content-block-delta", "delta": {"type": "text-delta", "text": "abcd"}})
    streamed.event(
        {"event": "content-block-delta", "delta": {"type": "block-delta", "fields": {"type": "x", "args": "ab"}}}
    )
    streamed.token("abcdef", chunk("abcdef"))
    assert consumed(streamed, None, 9) == (Usage(9, 2), True)
    streamed.event({"event": "message-finish", "usage": USED})
    assert consumed(streamed, None, 9) == (Usage(100, 50), False)


def test_consumed_to_the_end_without_a_report():
    """A stream that was consumed in full is no broken-off one: unknown, so the hold."""
    streamed = Streamed()
    streamed.event({"event": "content-block-delta", "delta": {"type": "text-delta", "text": "abcd"}})
    streamed.event({"event": "message-finish"})
    assert consumed(streamed, None, 9) is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize("known", [True, False])
def test_text_batch_whose_ends_come_in_any_order(bench, order, known):
    """The report of the first prompt stands for all, whichever end is told first; without one all are unknown."""
    handler = CountwerkCallbackHandler(bench.meter, account_id="acct", amount=5)
    options, ids = {"stop": None}, [uuid.UUID(int=number + 1) for number in range(3)]
    about = {"options": options, "batch_size": 3, "metadata": {"ls_model_name": "fake-1"}}
    for run_id in ids:
        handler.on_llm_start({}, ["x"], run_id=run_id, **about)
    used = {"token_usage": {"prompt_tokens": 300, "completion_tokens": 150, "total_tokens": 450} if known else {}}
    answers = LLMResult(generations=[[Generation(text="x")]] * 3, llm_output=used).flatten()
    for index in order:
        handler.on_llm_end(answers[index], run_id=ids[index])
    audit = bench.audit()
    assert audit.spent == (18 if known else 15)
    assert audit.states.count("cancelled") == (2 if known else 0)
