"""Options that several commands share. There is none for the API key: arguments stand in process lists."""

from typing import Annotated, TypeAlias

import typer

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
BaseUrl: TypeAlias = Annotated[
    str | None,
    typer.Option("--base-url", envvar="COUNTWERK_BASE_URL", show_envvar=True, help="The ledger.", metavar="URL"),
]
JournalUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--journal",
        envvar="COUNTWERK_JOURNAL",
        show_envvar=True,
        metavar="URL",
        help="sqlite:///path. Default: the file in your state directory.",
    ),
]
Product: TypeAlias = Annotated[
    str | None,
    typer.Option("--product", envvar="COUNTWERK_AI_PRODUCT_ID", show_envvar=True, metavar="ID", help="The AI product."),
]
Timeout: TypeAlias = Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How long the ledger may take.")]
