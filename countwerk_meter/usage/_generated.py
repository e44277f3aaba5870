"""
Whether an answer, or a chunk of a stream, holds something that was generated.

A report that counts no output beside a text, or that came before the rest of a stream's text, is not the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from countwerk_meter.usage._report import part

if TYPE_CHECKING:
    from collections.abc import Iterable

# Where OpenAI's choices keep what was said, whole or as a delta; `text` in completions of old.
_SAID: Final = ("content", "tool_calls", "function_call", "refusal", "text")
_THOUGHT: Final = ("reasoning_content", "reasoning")
# Answers of Anthropic and LangChain (`content`), OpenAI's responses (`output`, or `delta` in an event), pydantic-ai.
_HELD: Final = ("content", "tool_calls", "tool_call_chunks", "output", "delta", "parts", "text")
_THINKING: Final = frozenset({"thinking", "redacted_thinking", "reasoning"})


def generated(source: object, *, aloud: bool = False) -> bool:
    """
    Say whether something that the model made can be seen in an answer or a chunk.

    Args:
        source: An answer, or a chunk of a stream.
        aloud: Leave thinking out, which is counted apart.

    """
    if isinstance(source, str):
        return bool(source)
    said = _SAID if aloud else _SAID + _THOUGHT
    if any(_holds(source, name, aloud=aloud) for name in _HELD):
        return True
    for choice in _items(part(source, "choices")):
        for place in (part(choice, "message"), part(choice, "delta"), choice):
            if any(_holds(place, name, aloud=aloud) for name in said):
                return True
    candidates = _items(part(source, "candidates"))
    if any(_holds(part(candidate, "content"), "parts", aloud=aloud) for candidate in candidates):
        return True
    message = part(source, "message")
    if any(_holds(message, name, aloud=aloud) for name in _HELD):
        return True
    return any(_says(answers, aloud=aloud) for answers in _items(part(source, "generations")))


def _says(answers: object, *, aloud: bool) -> bool:
    """Say so of LangChain's answers to one prompt, or of one of them."""
    each = _items(cast("object", answers)) if isinstance(answers, list) else (answers,)
    return any(generated(answer, aloud=aloud) for answer in each)


def _items(value: object) -> Iterable[object]:
    return cast("Iterable[object]", value) if isinstance(value, list | tuple) else ()


def _holds(source: object, name: str, *, aloud: bool) -> bool:
    """Say so of a text that is not empty, or of a list with a block that is not an empty text."""
    value = part(source, name)
    if isinstance(value, str):
        # The delta of an event that brings a piece of a summary of thoughts.
        return bool(value) and not (aloud and "reasoning" in str(part(source, "type")))
    return any(_is_block(block, aloud=aloud) for block in _items(value))


def _is_block(block: object, *, aloud: bool) -> bool:
    if block is None or isinstance(block, str):
        return bool(block)
    kind = part(block, "type") or part(block, "part_kind")
    if aloud and (part(block, "thought") is True or (isinstance(kind, str) and kind in _THINKING)):
        return False
    text = part(block, "text")
    return bool(text) if isinstance(text, str) else True
