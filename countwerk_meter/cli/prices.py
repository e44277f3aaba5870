"""
`countwerk-meter price`: two commands of one name.

`price PROFILE DIMENSION=QTY...` is what one mostly wants, so that it needs no further word; `price lint PROFILE` is the
other. A profile whose file is called `lint` is `./lint`.
"""

import typer

from countwerk_meter.cli.default_command import with_default
from countwerk_meter.cli.price import price
from countwerk_meter.cli.price_lint import lint

_DEFAULT = "usage"

prices = typer.Typer(
    cls=with_default(_DEFAULT),
    help="Price a usage with a price profile, or look the profile over: `price lint PROFILE`.",
)
prices.command(_DEFAULT, epilog="To look the profile itself over: countwerk-meter price lint PROFILE.")(price)
prices.command()(lint)
