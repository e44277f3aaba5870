"""A meter that is installed meters every model call of the process, and asks each whose credits it takes."""

import asyncio
import threading

import pytest
from countwerk_meter_langchain import CountwerkAgentMiddleware, CountwerkCallbackHandler, install
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

import countwerk_meter
from countwerk_meter import ConfigurationError, InsufficientCreditsError


@pytest.fixture
def installed(bench):
    with install(bench.meter) as made:
        yield made


@pytest.fixture
def acct():
    with countwerk_meter.account("acct"):
        yield


both = pytest.mark.parametrize("path", ["sync", "async"])


def run(app, path, given, config=None):
    return app.invoke(given, config) if path == "sync" else asyncio.run(app.ainvoke(given, config))


def agent(model):
    return create_agent(model, [])


def graph(model):
    made = StateGraph(MessagesState)
    made.add_node("node", lambda state: {"messages": [model.invoke("x")]})
    made.add_edge(START, "node")
    return made.compile()


APPS = {
    "model": lambda model: model,
    "chain": lambda model: RunnableLambda(lambda x: x) | model,
    "parallel": lambda model: RunnableParallel(one=model),
    "retry": lambda model: model.with_retry(),
    "agent": agent,
    "graph": graph,
}
WHAT = {"agent": {"messages": [("human", "x")]}, "graph": {"messages": [("human", "x")]}}


@both
@pytest.mark.parametrize("app", APPS)
def test_everything_is_metered(bench, fakes, installed, acct, path, app):
    """Models, chains, agents and graphs, with nothing attached to any of them."""
    model = fakes.Chat()
    run(APPS[app](model), path, WHAT.get(app, "x"))
    assert len(model.calls) == 1
    assert bench.audit().told == [("settled", 6, "provider")]


@both
@pytest.mark.parametrize("app", ["chain", "agent"])
def test_no_account_is_refused(bench, fakes, installed, path, app):
    """A call that nobody pays for is not made."""
    model = fakes.Chat()
    with pytest.raises(ConfigurationError, match="no account"):
        run(APPS[app](model), path, WHAT.get(app, "x"))
    assert model.calls == []
    assert bench.reserves() == 0


@both
def test_two_accounts_are_refused(bench, fakes, installed, path):
    """A block and an account that disagree refuse the call."""
    model = fakes.Chat()
    with bench.meter.reserve("acct", "app.chat", amount=20) as block:
        with countwerk_meter.account("other"), pytest.raises(ConfigurationError, match="different accounts"):
            run(model, path, "x")
        block.cancel()
    assert model.calls == []


@both
@pytest.mark.parametrize("app", ["chain", "agent"])
def test_a_clients_config_cannot_name_another_account(bench, fakes, installed, acct, path, app):
    """What a client passes through counts for nothing."""
    config = {"metadata": {"countwerk_account_id": "victim"}, "configurable": {"countwerk_account_id": "victim"}}
    run(APPS[app](fakes.Chat()), path, WHAT.get(app, "x"), config)
    assert bench.audit().spent == 6
    assert {charge.account_id for charge in bench.meter.charges()} == {"acct"}


@both
def test_a_handler_of_the_apps_own_meters_its_run(bench, fakes, installed, path):
    """Counted once, for the account and under the operation that the app's own handler names."""
    own = CountwerkCallbackHandler(bench.meter, account_id="acct", operation="app.own")
    run(RunnableLambda(lambda x: x) | fakes.Chat(), path, "x", {"callbacks": [own]})
    (charge,) = bench.audit().charges
    assert (charge.operation, charge.amount) == ("app.own", 6)


@both
@pytest.mark.parametrize("where", ["model", "middleware"])
def test_a_second_meter_below_the_run_steps_aside(bench, fakes, installed, acct, path, where):
    """A handler on the model alone, or an agent's middleware, is of the same meter: the call is counted once."""
    if where == "model":
        model = fakes.Chat(callbacks=[CountwerkCallbackHandler(bench.meter, account_id="acct")])
        run(RunnableLambda(lambda x: x) | model, path, "x")
    else:
        run(create_agent(fakes.Chat(), [], middleware=[CountwerkAgentMiddleware(bench.meter)]), path, WHAT["agent"])
    assert bench.audit().spent == 6


def test_draws_on_the_block(bench, fakes, installed):
    """Inside a block no other account is needed."""
    with bench.meter.reserve("acct", "app.chat", amount=50):
        fakes.Chat().invoke("x")
        fakes.Chat().generate([[HumanMessage("x")]] * 2)
    assert bench.reserves() == 1
    assert bench.audit().spent == 18


def test_a_raw_thread_is_metered_too(bench, fakes, installed):
    """It has lost its parent's context, and so says itself whose credits it takes; without that it is refused."""
    model, refused = fakes.Chat(), []

    def work(account):
        try:
            with countwerk_meter.account("acct") if account else countwerk_meter.account("other"):
                model.invoke("x")
        except InsufficientCreditsError as error:
            refused.append(error)

    for account in (True, False):
        thread = threading.Thread(target=work, args=(account,))
        thread.start()
        thread.join()
    assert len(model.calls) == 1
    assert len(refused) == 1
    assert bench.audit().spent == 6


def test_a_graphs_step_keeps_its_identity(bench, fakes, installed, acct):
    """A resumed graph is not charged twice with an installed meter either."""
    model, left = fakes.Chat(), [1]

    def node(state):
        answer = model.invoke("x")
        if left:
            raise ValueError(left.pop())
        return {"messages": [answer]}

    made = StateGraph(MessagesState)
    made.add_node("node", node)
    made.add_edge(START, "node")
    app, config = made.compile(checkpointer=InMemorySaver()), {"configurable": {"thread_id": "t"}}
    with pytest.raises(ValueError, match="1"):
        app.invoke(WHAT["graph"], config)
    app.invoke(None, config)
    assert len(model.calls) == 2
    assert bench.audit().told == [("settled", 6, "provider")]


def test_one_at_a_time_and_uninstalled(bench, make_bench, fakes):
    """A second meter is a mistake; after uninstalling nothing is metered."""
    first = install(bench.meter, account_id="acct")
    with pytest.raises(ConfigurationError, match="uninstall"):
        install(make_bench().meter)
    first.uninstall()
    first.uninstall()
    fakes.Chat().invoke("x")
    with install(bench.meter, account_id="acct"):
        fakes.Chat().invoke("x")
    assert bench.audit().told == [("settled", 6, "provider")]
