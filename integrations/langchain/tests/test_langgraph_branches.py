"""The branches of a parallel step within a node: a call is known by the key of its branch, however deep it is in it."""

import operator
import threading
from typing import Annotated, TypedDict

from countwerk_meter_langchain import CountwerkCallbackHandler
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy

QUICK = RetryPolicy(retry_on=ValueError, initial_interval=0.01, jitter=False)


class State(TypedDict):
    said: Annotated[list, operator.add]


def run(node, bench):
    made = StateGraph(State)
    made.add_node("node", node, retry_policy=QUICK)
    made.add_edge(START, "node")
    made.compile().invoke({"said": []}, {"callbacks": [CountwerkCallbackHandler(bench.meter, account_id="acct")]})


def test_branches_that_run_in_another_order_in_a_retry(bench, fakes):
    """The dear branch that was not paid yet does not ride on the charge of the other, though it comes first now."""
    one, ended, attempts = fakes.Chat(), threading.Event(), []

    class Dear(fakes.Chat):
        @property
        def _usage(self):
            return {"input_tokens": 1000, "output_tokens": 500, "total_tokens": 1500}

    def last(x):
        if len(attempts) == 2:
            ended.wait(5)
        return x

    def failing(x):
        if len(attempts) == 1:
            ended.wait(5)
            ended.clear()
            raise ValueError("again")
        return x

    end = RunnableLambda(lambda x: ended.set())
    dear = Dear()
    branches = RunnableParallel(
        one=RunnableLambda(last) | one | end,
        two=RunnableLambda(failing) | dear | end,
    )

    def node(state):
        attempts.append(1)
        branches.invoke("x")
        return {"said": ["done"]}

    run(node, bench)
    assert (len(one.calls), len(dear.calls)) == (2, 1)
    assert bench.audit().spent == 6 + 60
