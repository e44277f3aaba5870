"""The commands of `countwerk-meter`, each from a module of its own."""

from typing import Annotated

import typer

from countwerk_meter import __version__
from countwerk_meter.cli.balance import balance
from countwerk_meter.cli.charges import charges
from countwerk_meter.cli.demo import demo
from countwerk_meter.cli.doctor import doctor
from countwerk_meter.cli.prices import prices
from countwerk_meter.cli.prune import prune
from countwerk_meter.cli.purchase_links import purchase_links
from countwerk_meter.cli.reconcile import app as reconcile
from countwerk_meter.cli.recover import recover
from countwerk_meter.cli.replay import replay
from countwerk_meter.cli.resolve_order import resolve_order
from countwerk_meter.cli.sandbox import sandbox
from countwerk_meter.cli.settle import settle

app = typer.Typer(
    name="countwerk-meter",
    help="Meter an AI product's calls on a CountWerk ledger.",
    epilog="The API key is read from COUNTWERK_API_KEY. "
    "Exit codes: 0 done, 1 the answer is no, or there was none, 2 usage.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    # A defect shows Python's own traceback: a pretty one would print local variables, and one might be a key.
    pretty_exceptions_enable=False,
)

_TRY, _ASK, _RUN = "See what it does", "Ask the ledger", "Run it"

app.command(rich_help_panel=_TRY)(demo)
app.command(rich_help_panel=_TRY)(replay)
app.add_typer(prices, name="price", rich_help_panel=_TRY)
app.command(rich_help_panel=_TRY)(sandbox)
app.command(rich_help_panel=_ASK)(balance)
app.command("resolve-order", rich_help_panel=_ASK)(resolve_order)
app.command("purchase-links", rich_help_panel=_ASK)(purchase_links)
app.add_typer(charges, name="charges", rich_help_panel=_RUN)
app.command(rich_help_panel=_RUN)(settle)
app.command(rich_help_panel=_RUN)(recover)
app.add_typer(reconcile, name="reconcile", rich_help_panel=_RUN)
app.command(rich_help_panel=_RUN)(prune)
app.command(rich_help_panel=_RUN)(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"countwerk-meter {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Meter an AI product's calls on a CountWerk ledger."""
