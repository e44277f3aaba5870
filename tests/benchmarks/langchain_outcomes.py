"""
The table of LangChain's entry points and of the ways that a call can end, with what each was charged.

Every cell is run, on the entry points and the fake models of the integration's own tests; a cell that the entry point
does not have is empty. A call of the fake model reports 100 input and 50 output tokens, which are 6 credits.
"""

import contextlib
import io
import logging
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "integrations/langchain/tests"))

from conftest import PRICES, ChatFake, ProviderError, TextFake
from countwerk_meter_langchain import CountwerkCallbackHandler
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from test_langchain_entry_points import CHAT, TEXT

from countwerk_meter import InsufficientCreditsError, Meter
from countwerk_meter.sandbox import SandboxServer

OUTCOMES = {
    "ok": {},
    "denied": {"balance": 3},
    "error before output": {"fail_at": 0},
    "error in mid-stream": {"fail_at": 2},
    "consumer leaves": {"how": "leave"},
    "usage not reported": {"reports": False},
    "from the cache": {"cached": True},
    "flat price 2": {"price": 2},
}


def applies(entry, outcome):
    if outcome == "error in mid-stream":
        return entry.streams and not entry.text
    if outcome == "consumer leaves":
        return entry.leave is not None
    if entry.text:
        return outcome in {"ok", "denied", "error before output"}
    return True


def cell(sandbox, folder, number, entry, outcome):
    given = {"balance": 1000, "how": "run", "cached": False, "price": None, **OUTCOMES[outcome]}
    options = {name: given[name] for name in ("fail_at", "reports") if name in given}
    model = (TextFake if entry.text else ChatFake)(**options)
    account = f"acct{number}"
    sandbox.control.account(account, balance=given["balance"], ai_product_id="prod")
    journal = f"sqlite:///{folder}/{number}.db"
    before = 0
    with Meter("prod", api_key=sandbox.api_key, base_url=sandbox.url, journal=journal, prices=PRICES) as meter:
        handler = CountwerkCallbackHandler(meter, account_id=account, price=given["price"])
        set_llm_cache(InMemoryCache() if given["cached"] else None)
        if given["cached"]:
            entry.run(model, {"callbacks": [handler]})
            meter.flush()
            before = len(meter.charges())
            model.calls.clear()
        with contextlib.suppress(InsufficientCreditsError, ProviderError):
            getattr(entry, given["how"])(model, {"callbacks": [handler]})
        handler.flush()
        meter.flush()
        charges = [one for one in meter.charges()[: len(meter.charges()) - before] if one.parent is None]
        books = sandbox.control.books(account)
    set_llm_cache(None)
    held = f", {books['reserved']} HELD" if books["reserved"] else ""
    told = [f"{one.amount} {one.basis}" for one in charges if one.state == "settled"]
    ran = f"ran {len(model.calls)}x"
    return f"{ran}: {' + '.join(told) if told else '0'}{held}"


def main():
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    print("| entry point | " + " | ".join(OUTCOMES) + " |")
    print("|---" * (len(OUTCOMES) + 1) + "|")
    number = 0
    with SandboxServer() as sandbox, tempfile.TemporaryDirectory() as folder:
        for entry in CHAT + TEXT:
            cells = []
            for outcome in OUTCOMES:
                number += 1
                with contextlib.redirect_stderr(io.StringIO()):
                    cells.append(cell(sandbox, folder, number, entry, outcome) if applies(entry, outcome) else "")
            print(f"| {entry.name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
