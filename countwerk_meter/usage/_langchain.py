"""
LangChain's `usage_metadata`, on messages, chunks, chat generations and results.

Normalised: totals include cached tokens and reasoning for every provider. Chunks add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, cast

from countwerk_meter.usage._report import Report, count, has, part, unreadable

Find = Callable[[object], "Report | None"]

_NAMES: Final = frozenset(
    {"input_tokens", "output_tokens", "total_tokens", "input_token_details", "output_token_details", "total_cost"}
)


def read(usage: object) -> Report | None:
    """Read a `UsageMetadata` with details, or a bare one that a cache hit made free."""
    if from_cache(usage) and all(name in _NAMES for name in cast("Mapping[object, object]", usage)):
        return Report(adds=True, free=True)
    if not has(usage, "input_token_details", "output_token_details"):
        return None
    sent = part(usage, "input_token_details")
    made = part(usage, "output_token_details")
    return Report(
        input=count(usage, "input_tokens"),
        output=count(usage, "output_tokens"),
        cache_read=_tiered(sent, "cache_read") or count(sent, "cached_tokens"),
        # Where the lifetimes are told apart, newer releases of langchain-anthropic set `cache_creation` to 0, and older
        # ones leave the sum of them there.
        cache_write=max(
            _tiered(sent, "cache_creation"),
            count(sent, "ephemeral_5m_input_tokens") + count(sent, "ephemeral_1h_input_tokens"),
        ),
        reasoning=_tiered(made, "reasoning") or count(made, "reasoning_tokens"),
        total=count(usage, "total_tokens"),
        adds=True,
        partial=unreadable(usage, "input_tokens", "output_tokens", null=True),
    )


def from_cache(usage: object) -> bool:
    """Say whether the cost is zeroed, as by LangChain's cache in `usage_metadata`; elsewhere it proves nothing."""
    cost = part(usage, "total_cost")
    return isinstance(usage, Mapping) and isinstance(cost, int | float) and not isinstance(cost, bool) and cost == 0


def read_hit(usage: object, find: Find) -> Report:
    """Read a `usage_metadata` from the cache: it is free, and repeats what the call behind it used."""
    repeated = {name: value for name, value in cast("Mapping[str, object]", usage).items() if name != "total_cost"}
    return replace(find(repeated) or Report(), adds=True, free=True)


def read_result(source: object, find: Find) -> Report | None:
    """
    Read a `ChatResult`, or an `LLMResult`, where the prompts add up.

    Several answers to one prompt share one usage, which each of them may repeat: the first of them speaks for all.
    """
    generations = part(source, "generations")
    if not isinstance(generations, list) or not generations:
        return None
    prompts = cast("list[list[object]]", generations if isinstance(generations[0], list) else [generations])
    reports = [find(answers[0]) for answers in prompts if answers]
    known = [report for report in reports if report is not None and report.pools() is not None]
    if not known:
        return None
    total = replace(sum(known[1:], start=known[0]), partial=len(known) < len(reports))
    return _paid(source, known, find) if total.free else total


def _paid(result: object, hits: list[Report], find: Find) -> Report:
    """
    Tell a cache's answer from a call that a later hit marked: the cache zeroes the cost of what it shares in place.

    A hit alone has no `llm_output`; one that counts tokens, or says nothing of them, is of the call behind it.
    """
    output = part(result, "llm_output")
    if not output or (has(output, "token_usage") and not part(output, "token_usage")):
        return hits[0]
    return find(part(output, "token_usage")) or replace(hits[0], free=False)


def read_leftovers(source: object, find: Find) -> Report | None:
    """Read where older integrations leave usage: `llm_output` of a result, `response_metadata` of a message."""
    for place in ("llm_output", "response_metadata"):
        held = part(source, place)
        if held is None or held == {}:
            continue
        for name in ("token_usage", "usage", "usage_metadata"):
            report = find(part(held, name))
            if report is not None:
                return report
    return None


def _tiered(details: object, name: str) -> int:
    """Return the sum of a detail and of its variants by service tier, such as OpenAI's `flex_cache_read`."""
    if not isinstance(details, Mapping):
        return count(details, name)
    keys = [key for key in cast("Mapping[object, object]", details) if isinstance(key, str)]
    return sum(count(cast("object", details), key) for key in keys if key == name or key.endswith("_" + name))
