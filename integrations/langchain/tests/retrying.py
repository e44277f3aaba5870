"""Graphs of which a node fails and is tried again, for the tests of what names a step."""

import asyncio
import operator
from typing import Annotated, TypedDict

import pytest
from countwerk_meter_langchain import CountwerkCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy

SETTLED = ("settled", 6, "provider")
QUICK = RetryPolicy(retry_on=ValueError, initial_interval=0.01, jitter=False)
both = pytest.mark.parametrize("path", ["sync", "async"])


class State(TypedDict):
    said: Annotated[list, operator.add]


def graph(node, *, retry=QUICK, name=None, checkpointer=None):
    """Make a graph of one node."""
    made = StateGraph(State)
    made.add_node("node", node, retry_policy=retry)
    made.add_edge(START, "node")
    return made.compile(checkpointer=checkpointer, name=name)


def outer(node, *, retry=QUICK):
    """Make a graph of one node, with a checkpointer."""
    return graph(node, retry=retry, checkpointer=InMemorySaver())


def config(bench, thread="t", **options):
    handler = CountwerkCallbackHandler(bench.meter, **({"account_id": "acct"} | options))
    return {"callbacks": [handler], "configurable": {"thread_id": thread}}


def run(app, path, given, with_config):
    return app.invoke(given, with_config) if path == "sync" else asyncio.run(app.ainvoke(given, with_config))


def flaky(times=1):
    """Make a function that fails so often."""
    left = [times]

    def fail():
        if left[0]:
            left[0] -= 1
            raise ValueError("again")

    return fail


def asked(agent, fail, path):
    """Make a node that asks an agent, and then fails."""

    def node(state):
        agent.invoke({"messages": [("user", "x")]})
        fail()
        return {"said": []}

    async def anode(state):
        await agent.ainvoke({"messages": [("user", "x")]})
        fail()
        return {"said": []}

    return node if path == "sync" else anode
