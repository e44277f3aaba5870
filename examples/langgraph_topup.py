"""
A LangGraph graph that pauses when credits run out, and goes on after the user has bought, in another process.

    python examples/langgraph_topup.py

The first process runs out of credits in the middle of the graph: instead of failing, the graph is interrupted, and its
checkpoint is in a SQLite file. The user buys credits. A second process resumes the thread: what had been paid for is
not paid again, and the call that was denied is paid under the charge id that it was denied under.

Starts a sandbox ledger of its own. The model is a fake one: no key of a provider is needed.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from countwerk_meter_langchain import CountwerkCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from countwerk_meter import Meter

PRICES = Path(__file__).with_name("prices.json")
ACCOUNT, PRODUCT, THREAD = "acct_demo", "prod_demo", "conversation-1"


class FakeChatModel(BaseChatModel):
    """Answers at once, and reports its usage as a real model does."""

    model: str = "gpt-5"
    max_tokens: int = 1_000

    @property
    def _llm_type(self) -> str:
        return "fake"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        usage = {"input_tokens": 1_200, "output_tokens": 800, "total_tokens": 2_000}
        return ChatResult(generations=[ChatGeneration(message=AIMessage("Done.", usage_metadata=usage))])


def research(_: MessagesState) -> dict[str, Any]:
    print("  research: the model is called")
    return {"messages": [FakeChatModel().invoke("Research this.")]}


def write(_: MessagesState) -> dict[str, Any]:
    answer = FakeChatModel().invoke("Write it down.")
    print("  write:    the model was called")
    return {"messages": [answer]}


def work(url: str, key: str, folder: Path, *, resume: bool) -> None:
    """One process: run the graph, or resume it."""
    # LangChain logs every refusal of a handler; here the interrupt says it.
    logging.getLogger("langchain_core.callbacks.manager").setLevel(logging.ERROR)
    graph = StateGraph(MessagesState)
    graph.add_node("research", research)
    graph.add_node("write", write)
    graph.add_edge(START, "research")
    graph.add_edge("research", "write")
    journal = f"sqlite:///{folder / 'journal.db'}"
    with (
        Meter(PRODUCT, api_key=key, base_url=url, journal=journal, prices=PRICES) as meter,
        SqliteSaver.from_conn_string(str(folder / "checkpoints.db")) as checkpointer,
    ):
        handler = CountwerkCallbackHandler(meter, account_id=ACCOUNT, on_insufficient="interrupt")
        config: Any = {"callbacks": [handler], "configurable": {"thread_id": THREAD}}
        app = graph.compile(checkpointer=checkpointer)
        given: Any = Command(resume="the user has bought credits") if resume else {"messages": [("human", "Go.")]}
        answer = app.invoke(given, config)
        for pause in answer.get("__interrupt__", ()):
            payload = pause.value
            print(f"  paused:   {payload['status']} {payload['code']}, {payload['detail']}")
            # The checkpoint holds no purchase URL. What the user is shown is fetched now.
            links = meter.purchase_links(payload["data"]["account_id"])
            print(f"  to show:  {len(links.enabled)} ways to buy; denied as {payload['usage_event_id']}")
        meter.flush()
        for charge in reversed(meter.charges("settled")):
            print(f"  charged:  {charge.amount} credits, {charge.usage_event_id}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--process", nargs=4, metavar=("STEP", "URL", "KEY", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args().process
    if given:
        step, url, key, folder = given
        work(url, key, Path(folder), resume=step == "resume")
        return
    from countwerk_meter.sandbox import SandboxServer

    with SandboxServer() as sandbox, tempfile.TemporaryDirectory() as folder:
        own = [sys.executable, __file__, "--process"]
        sandbox.control.account(ACCOUNT, balance=3, ai_product_id=PRODUCT, order_id="order_demo")
        print("the first process runs the graph", flush=True)
        subprocess.run([*own, "run", sandbox.url, sandbox.api_key, folder], check=True)
        print("the user buys credits", flush=True)
        sandbox.control.account(ACCOUNT, balance=100, ai_product_id=PRODUCT, order_id="order_demo")
        print("a second process resumes the thread", flush=True)
        subprocess.run([*own, "resume", sandbox.url, sandbox.api_key, folder], check=True)
        books = sandbox.control.books(ACCOUNT)
        print(f"books: {books['spent']} spent, {books['reserved']} held, {books['available']} left")


if __name__ == "__main__":
    main()
