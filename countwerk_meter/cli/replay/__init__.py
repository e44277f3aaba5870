"""
`countwerk-meter replay`: what a product's own traffic would cost its users, before going live.

Each row of the trace becomes a metered call through the real Meter. Afterwards the ledger's books are compared with the
meter's journal, charge by charge.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from countwerk_meter.cli.answers import NO, USAGE, print_json, refuse, reported
from countwerk_meter.cli.options import AsJson
from countwerk_meter.errors import ConfigurationError
from countwerk_meter.pricing import PriceProfile

_ENOUGH = "enough for every call"


def replay(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE", help="CSV: input_tokens, output_tokens; timestamp, account, model, ...")
    ],
    *,
    prices: Annotated[
        str, typer.Option(envvar="COUNTWERK_PRICES", show_envvar=True, metavar="PROFILE", help="The price profile.")
    ],
    accounts: Annotated[
        int, typer.Option(min=1, max=10_000, help="Accounts that share the calls in turn, where the trace names none.")
    ] = 10,
    concurrency: Annotated[int, typer.Option(min=1, max=1_000, help="Calls at once.")] = 32,
    speed: Annotated[
        float, typer.Option(min=0, help="1: the recorded pace; 60: a minute in a second; 0: as fast as it goes.")
    ] = 0.0,
    fault_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the sandbox's answers that go wrong, in six ways.")
    ] = 0.0,
    balance: Annotated[
        int | None, typer.Option(min=0, metavar="CREDITS", help="Of each account.", show_default=_ENOUGH)
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model of rows that name none.")] = None,
    hold_output: Annotated[
        int, typer.Option(min=1, metavar="TOKENS", help="Output that each call holds credits for.")
    ] = 1_000,
    rounding: Annotated[
        Literal["ceil", "carry"], typer.Option(help="Each charge up, or an account's fraction carried on.")
    ] = "ceil",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    drain: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long settlement may take at the end.")] = (
        60.0
    ),
    seed: Annotated[int, typer.Option(min=0, help="What the faults are drawn with.")] = 0,
    base_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Another ledger than a sandbox of its own; charges its accounts."),
    ] = None,
    product: Annotated[str, typer.Option(metavar="ID", help="The AI product.")] = "replay",
    journal: Annotated[
        str | None, typer.Option(metavar="URL", help="sqlite:///path. Default: a temporary one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay a product's own traffic, and compare every charge with the ledger's books."""
    try:
        from countwerk_meter.cli.child import ended_on_sigterm
        from countwerk_meter.cli.replay import show
        from countwerk_meter.cli.replay.run import Plan, run
        from countwerk_meter.cli.replay.trace import read_trace
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        missing = f"it needs its extra: pip install 'countwerk-meter[cli,sandbox]' ({package} is missing)"
        refuse("replay", missing, USAGE, as_json=as_json)
    with reported("replay", as_json=as_json):
        if base_url is not None and (fault_rate or balance is not None):
            raise ConfigurationError("--fault-rate and --balance are for the sandbox, not for a ledger of your own")
        rows = read_trace(trace, accounts=accounts, model=model, limit=limit)
        if speed and rows[0].at is None:
            raise ConfigurationError("--speed needs a timestamp in every row of the trace")
        plan = Plan(
            rows=rows,
            prices=PriceProfile.load(prices),
            hold_output=hold_output,
            concurrency=concurrency,
            speed=speed,
            rounding=rounding,
            drain=drain,
            balance=balance,
            fault_rate=fault_rate,
            seed=seed,
            base_url=base_url,
            product=product,
            journal=journal,
        )
        with ended_on_sigterm(), show.Display(len(rows), quiet=as_json) as display:
            outcome = run(plan, display)
    if as_json:
        print_json(show.as_json(plan, outcome))
    else:
        show.show(plan, outcome)
    if not show.accounted_for(outcome):
        raise typer.Exit(NO)
