"""Which frameworks are installed, and the traps of each that metering would fall into."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from countwerk_meter.cli.doctor.finding import Finding

_AREA: Final = "frameworks"
_UNMETERED: Final = "no hook of ours: wrap its calls with meter.reserve(...) or @meter.metered"

# What is worth knowing about a distribution that is installed, whatever else is.
_NOTES: Final = {
    "langchain": "ModelRetryMiddleware, ToolRetryMiddleware and ModelFallbackMiddleware swallow or step around a "
    "denial: let them pass CountwerkError",
    "langgraph": "its default retry policy leaves our denials alone; one of your own must leave RuntimeError alone too",
    "langchain-openai": "streams from a custom base_url report usage only with stream_usage=True; without it a call is "
    "charged as counted",
    "starlette": "use countwerk_meter.asgi.CreditsMiddleware; a BaseHTTPMiddleware around it would buffer streams",
    "openai": _UNMETERED,
    "anthropic": _UNMETERED,
    "google-genai": _UNMETERED,
    "litellm": _UNMETERED,
    "pydantic-ai": _UNMETERED,
    "openai-agents": _UNMETERED,
}


def installed_frameworks() -> list[Finding]:
    """Look at what is installed here."""
    return [*_integrated("langchain-core", "langchain", major="1"), *_integrated("fastapi"), *_tracing(), *_noted()]


def _integrated(framework: str, extra: str = "", *, major: str = "") -> list[Finding]:
    """Look at a framework that a distribution of ours serves; `major`: the only version of it that does."""
    extra = extra or framework
    theirs, ours = _version(framework), _version(f"countwerk-meter-{extra}")
    if theirs is None:
        return []
    name = f"{framework} {theirs}"
    if ours is None:
        advice = f"pip install 'countwerk-meter[{extra}]'"
        return [Finding(_AREA, name, "note", f"countwerk-meter-{extra} is missing", advice)]
    found = [Finding(_AREA, name, "ok", f"metered by countwerk-meter-{extra} {ours}")]
    if major and not theirs.startswith(f"{major}."):
        found = [Finding(_AREA, name, "problem", f"countwerk-meter-{extra} needs {major}.x")]
    meter = _version("countwerk-meter")
    if meter is not None and meter != ours:
        detail = f"belongs to countwerk-meter {ours}, and {meter} is installed"
        advice = f"pip install countwerk-meter-{extra}=={meter}"
        found.append(Finding(_AREA, f"countwerk-meter-{extra} {ours}", "problem", detail, advice))
    return found


def _tracing() -> list[Finding]:
    api, sdk = _version("opentelemetry-api"), _version("opentelemetry-sdk")
    if sdk is not None:
        return [Finding(_AREA, f"opentelemetry-sdk {sdk}", "ok", "spans name the charges")]
    detail = "no SDK: without spans every call gets an id of its own, and a retry of the same step another"
    return [Finding(_AREA, f"opentelemetry-api {api}", "note", detail, "pip install opentelemetry-sdk")]


def _noted() -> list[Finding]:
    found: list[Finding] = []
    for name, note in _NOTES.items():
        installed = _version(name)
        if installed is not None:
            found.append(Finding(_AREA, f"{name} {installed}", "note", note))
    return found


def _version(distribution: str) -> str | None:
    try:
        return re.sub(r"\s", "", version(distribution))
    except PackageNotFoundError:
        return None
