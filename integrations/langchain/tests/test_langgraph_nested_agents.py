"""An agent inside of a node that is retried: what it and its tools have paid for is not charged again."""

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from .retrying import SETTLED, asked, both, config, flaky, graph, outer, run


def asking(model):
    def ask(state):
        model.invoke("x")
        return {"said": []}

    return graph(ask, retry=None)


class Asks:
    """Makes models that call a tool so often before they are done, always under one id."""

    def __init__(self, fakes, turns):
        self.calls = calls = []

        class Model(fakes.Chat):
            def bind_tools(self, tools, **kwargs):
                return self

            def _generate(self, messages, *args, **kwargs):
                calls.append("model")
                asked = sum(message.type == "tool" for message in messages) < turns
                result = super()._generate(messages)
                result.generations[0].message = AIMessage(
                    "done",
                    tool_calls=[{"name": "look", "args": {"what": "x"}, "id": "call_1"}] if asked else [],
                    usage_metadata=result.generations[0].message.usage_metadata,
                )
                return result

            async def _agenerate(self, messages, *args, **kwargs):
                return self._generate(messages)

        self.model = Model()

        @tool
        def look(what: str) -> str:
            """Look something up."""
            calls.append("tool")
            return "found"

        self.look = look


@both
@pytest.mark.parametrize("priced_by", ["handler", "middleware"])
def test_the_tools_of_an_agent_in_a_retried_node(bench, fakes, path, priced_by):
    """A priced tool is charged once for each turn, although the model always gives its call the same id."""
    agents = pytest.importorskip("langchain.agents")
    asks, fail, prices = Asks(fakes, turns=2), flaky(), {"look": 2}
    metered = []
    if priced_by == "middleware":
        made_of = pytest.importorskip("countwerk_meter_langchain.middleware")
        metered = [made_of.CountwerkAgentMiddleware(bench.meter, account_id="acct", tool_prices=prices)]
    agent = agents.create_agent(asks.model, [asks.look], middleware=metered)

    options = {"tool_prices": prices} if priced_by == "handler" else {}
    run(outer(asked(agent, fail, path)), path, {"said": []}, config(bench, **options))
    assert asks.calls == ["model", "tool", "model", "tool", "model"] * 2
    charged = [charge.amount for charge in bench.audit().charges if charge.parent is None and charge.amount]
    assert bench.audit().spent == 3 * 6 + 2 * 2, charged


@both
def test_a_middleware_alone_does_not_see_the_node_around(bench, fakes, path):
    """Without a handler on the outer run its attempts cannot be told apart: each is charged."""
    agents = pytest.importorskip("langchain.agents")
    made_of = pytest.importorskip("countwerk_meter_langchain.middleware")
    asks, fail = Asks(fakes, turns=1), flaky()
    metered = made_of.CountwerkAgentMiddleware(bench.meter, account_id="acct", tool_prices={"look": 2})
    agent = agents.create_agent(asks.model, [asks.look], middleware=[metered])

    run(outer(asked(agent, fail, path)), path, {"said": []}, {"configurable": {"thread_id": "t"}})
    assert asks.calls == ["model", "tool", "model"] * 2
    assert bench.audit().spent == 2 * (2 * 6 + 2)


@both
def test_calls_within_a_tool_of_an_agent_in_a_retried_node(bench, fakes, path):
    """Two tools at once, each of which runs a graph: the ids of their calls tell them apart."""
    agents = pytest.importorskip("langchain.agents")
    inside, fail = fakes.Chat(), flaky()
    nested = asking(inside)

    @tool
    def look(what: str) -> str:
        """Look something up."""
        nested.invoke({"said": []})
        return "found"

    class Model(fakes.Chat):
        def bind_tools(self, tools, **kwargs):
            return self

        def _generate(self, messages, *args, **kwargs):
            result = super()._generate(messages)
            looks = [{"name": "look", "args": {"what": each}, "id": each} for each in "ab"]
            result.generations[0].message = AIMessage(
                "done",
                tool_calls=[] if messages[-1].type == "tool" else looks,
                usage_metadata=result.generations[0].message.usage_metadata,
            )
            return result

        async def _agenerate(self, messages, *args, **kwargs):
            return self._generate(messages)

    agent = agents.create_agent(Model(), [look])

    run(outer(asked(agent, fail, path)), path, {"said": []}, config(bench))
    assert len(inside.calls) == 4
    assert bench.audit().told == [SETTLED] * 4
