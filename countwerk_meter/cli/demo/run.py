"""The demo from beginning to end: two processes, a client, the verdict. Whatever starts here is ended."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import httpx

from countwerk_meter.cli.child import Child, sandbox_process
from countwerk_meter.cli.demo.audit import Verdict, judge
from countwerk_meter.cli.demo.scenario import PRODUCT, SCENARIOS, Client, Observed
from countwerk_meter.cli.demo.tokens import SECRET_VARIABLE
from countwerk_meter.sandbox import DEFAULT_API_KEY, SandboxControl

if TYPE_CHECKING:
    from collections.abc import Mapping

_SETTLES_WITHIN: Final = 15.0
_ASKED_EVERY: Final = 0.2
_PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Shown:
    """All that there is to show."""

    observed: list[Observed]
    books: dict[str, dict[str, Any]]
    charges: list[dict[str, Any]]
    verdict: Verdict
    seconds: float


class Watcher(Protocol):
    """Whoever is shown how far it is."""

    def phase(self, text: str) -> None:
        """Something begins."""
        ...

    def saw(self, observed: Observed) -> None:
        """A scenario is over."""
        ...


def run(model: str | None, watcher: Watcher) -> Shown:
    """Run the demo, on the fake model or on `provider:model`."""
    started = time.monotonic()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="countwerk-demo-")))
        os.environ[SECRET_VARIABLE] = secrets.token_hex(16)
        stack.callback(os.environ.pop, SECRET_VARIABLE)
        watcher.phase("Starting a sandbox ledger")
        ledger: str = stack.enter_context(sandbox_process(directory)).announced["url"]
        watcher.phase("Starting the app under uvicorn")
        app = stack.enter_context(_app_process(directory, ledger, model))
        control = stack.enter_context(SandboxControl(ledger))
        observed, charges = asyncio.run(_as_a_client(app.announced["url"], control, watcher))
        watcher.phase("Reading the sandbox's books")
        books = {seen.account_id: control.books(seen.account_id) for seen in observed}
        requests = control.requests(10_000)["requests"]
    return Shown(observed, books, charges, judge(observed, books, requests), time.monotonic() - started)


def _app_process(directory: Path, ledger: str, model: str | None) -> Child:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COUNTWERK_")},
        SECRET_VARIABLE: os.environ[SECRET_VARIABLE],
        "COUNTWERK_API_KEY": DEFAULT_API_KEY,
        "COUNTWERK_BASE_URL": ledger,
        "COUNTWERK_AI_PRODUCT_ID": PRODUCT,
        "COUNTWERK_JOURNAL": f"sqlite:///{directory / 'journal.db'}",
        **({"COUNTWERK_DEMO_MODEL": model} if model else {}),
    }
    return Child("app", ["countwerk_meter.cli.demo.app"], directory, environment)


async def _as_a_client(
    app: str, control: SandboxControl, watcher: Watcher
) -> tuple[list[Observed], list[dict[str, Any]]]:
    observed: list[Observed] = []
    async with httpx.AsyncClient(base_url=app, timeout=_PATIENCE, trust_env=False) as http:
        client = Client(http, control)
        for scenario in SCENARIOS:
            watcher.phase((scenario.__doc__ or "").rstrip("."))
            seen = await scenario(client)
            observed.append(seen)
            watcher.saw(seen)
        watcher.phase("Waiting until everything is settled")
        return observed, await _settled(http, control, [seen.account_id for seen in observed])


async def _settled(http: httpx.AsyncClient, control: SandboxControl, accounts: list[str]) -> list[dict[str, Any]]:
    """Wait until no credit is held any more, or long enough; return the meter's charges."""
    deadline = time.monotonic() + _SETTLES_WITHIN
    while True:
        said: Mapping[str, Any] = (await http.post("/meter/settle")).json()
        if said["settled"] and not any(control.books(account)["reserved"] for account in accounts):
            return said["charges"]
        if time.monotonic() > deadline:
            return said["charges"]
        await asyncio.sleep(_ASKED_EVERY)
