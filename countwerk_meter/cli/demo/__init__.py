"""
`countwerk-meter demo`: metering at work, in two processes of its own, judged by the sandbox's books.

No key and no network: the model is a fake one, unless `--model` names another.
"""

from importlib.util import find_spec
from typing import Annotated

import typer

from countwerk_meter.cli.answers import NO, USAGE, print_json, refuse, reported
from countwerk_meter.cli.options import AsJson
from countwerk_meter.errors import ConfigurationError

_NEEDED = ("fastapi", "starlette", "uvicorn", "langchain_core", "countwerk_meter_langchain")
_PACKAGES = {"google_genai": "langchain-google-genai", "azure_openai": "langchain-openai"}


def demo(
    *,
    model: Annotated[
        str | None,
        typer.Option(metavar="PROVIDER:NAME", help="A real model, with its provider's key in the environment."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show metering at work: two processes, nine scenarios, and the books. Exit code 1: they are not right."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        what = f"it needs its extra: pip install 'countwerk-meter[demo]' ({', '.join(missing)} missing)"
        refuse("demo", what, USAGE, as_json=as_json)
    from countwerk_meter.cli.child import ended_on_sigterm
    from countwerk_meter.cli.demo import show
    from countwerk_meter.cli.demo.run import run

    with reported("demo", as_json=as_json):
        if model is not None:
            _check(model)
        with ended_on_sigterm(), show.Display(quiet=as_json) as display:
            shown = run(model, display)
    if as_json:
        print_json(show.as_json(shown, model))
    else:
        show.show(shown, model)
    if not shown.verdict.good:
        raise typer.Exit(NO)


def _check(model: str) -> None:
    """Make the model once here, where what is missing can be said in one line."""
    provider = model.partition(":")[0]
    package = _PACKAGES.get(provider, f"langchain-{provider.replace('_', '-')}")
    if ":" not in model:
        raise ConfigurationError("--model is PROVIDER:NAME, as in openai:gpt-5-mini")
    if find_spec("langchain") is None:
        raise ConfigurationError(f"--model needs langchain: pip install langchain {package}")
    from countwerk_meter.cli.demo.model import chat_model

    try:
        chat_model(model)
    except ImportError:
        raise ConfigurationError(f"--model {model} needs its provider's package: pip install {package}") from None
    except Exception as error:  # noqa: BLE001 - of any provider; its text may hold anything, a key included
        what = type(error).__name__
        raise ConfigurationError(f"--model {model} cannot be made ({what}): is the provider's key set?") from None
