"""
What the LangChain handler adds to one `invoke` of a fake model, beside langchain-core's own UsageMetadataCallbackHandler.

All take turns in one run, each beginning a turn as often, so that whatever else the machine does falls on each. The
ledger is a null one: a shadow meter's, which answers at once, holds and charges nothing. Prints medians in microseconds,
what each adds, and the fastest tenth, which says more where the machine is busy.
"""

import argparse
import json
import statistics
import tempfile
import time

from countwerk_meter_langchain import CountwerkCallbackHandler
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from countwerk_meter import Meter

PRICES = {
    "profileVersionId": "bench-1",
    "eurPerCredit": 0.01,
    "rateRules": [
        {"id": name, "dimensionKey": name, "creditsPerUnit": 0.01} for name in ("llm_input_tokens", "llm_output_tokens")
    ],
}
USAGE = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}


class Fake(BaseChatModel):
    model: str = "fake-1"
    max_tokens: int = 100

    @property
    def _llm_type(self):
        return "fake"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        message = AIMessage("answer", usage_metadata=USAGE, response_metadata={"model_name": "fake-1"})
        return ChatResult(generations=[ChatGeneration(message=message)])


def null_meter(journal):
    # Nobody listens there: a shadow meter asks for balances behind the app, and does without them.
    return Meter(
        "product", api_key="k", base_url="http://127.0.0.1:9", journal=journal, prices=PRICES, enforcement="shadow"
    )


def measure(calls):
    model = Fake()
    with (
        tempfile.TemporaryDirectory() as folder,
        null_meter("memory:") as memory,
        null_meter(f"sqlite:///{folder}/a.db") as sqlite,
    ):
        configs = {
            "no handler": {},
            "UsageMetadataCallbackHandler": {"callbacks": [UsageMetadataCallbackHandler()]},
            "CountwerkCallbackHandler, journal in memory": {
                "callbacks": [CountwerkCallbackHandler(memory, account_id="acct")]
            },
            "CountwerkCallbackHandler, journal in SQLite": {
                "callbacks": [CountwerkCallbackHandler(sqlite, account_id="acct")]
            },
        }
        times = {name: [] for name in configs}
        for turn in range(calls + 50):
            names = [*configs][turn % len(configs) :] + [*configs][: turn % len(configs)]
            for name in names:
                config = configs[name]
                started = time.perf_counter()
                model.invoke("hello", config)
                taken = time.perf_counter() - started
                if turn >= 50:
                    times[name].append(taken)
                # What settles behind the app is no part of the call, nor of the next one's.
                memory.flush(5)
                sqlite.flush(5)
    baseline = statistics.median(times["no handler"])
    return {
        name: {
            "median_us": round(statistics.median(taken) * 1e6),
            "added_us": round((statistics.median(taken) - baseline) * 1e6),
            "fastest_tenth_us": round(statistics.quantiles(taken, n=10)[0] * 1e6),
        }
        for name, taken in times.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=300)
    print(json.dumps(measure(parser.parse_args().calls), indent=2))


if __name__ == "__main__":
    main()
