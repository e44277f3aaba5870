"""
Counting tokens without a tokenizer: an approximation that errs high for prose, so that a hold is rather too large.

A token is taken for three bytes of UTF-8. Tokenizers need about four for English and about three for other scripts and
for code; dense base64 or emoji can exceed the count. Each message adds a few tokens of framing, each attachment (image,
file, audio) a flat number, because its bytes say little about its tokens. What a provider reports wins over all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from countwerk_meter import Usage

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

BYTES_PER_TOKEN: Final = 3
TOKENS_PER_MESSAGE: Final = 8
TOKENS_PER_ATTACHMENT: Final = 2_000
DEFAULT_OUTPUT_TOKENS: Final = 1_024

_ATTACHED: Final = frozenset(
    {"base64", "data", "url", "image_url", "input_audio", "file", "file_id", "source", "bytes"}
)
_TEXTUAL: Final = frozenset(
    {"text", "reasoning", "thinking", "tool_use", "tool_call", "tool_call_chunk", "tool_result"}
)
# Bookkeeping of a block, no content. A block's opaque state (a signature) is input of the next call only.
_BOOKKEEPING: Final = frozenset({"type", "id", "index", "signature", "extras", "cache_control"})


def tokens(quantity: int) -> int:
    """Return how many tokens so many bytes are taken for, rounded up."""
    return -(-quantity // BYTES_PER_TOKEN)


def weight(value: object, depth: int = 0) -> int:
    """Return the bytes of all text in a message's content, a chunk, or a tool's schema."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if value is None or depth > 32:
        return 0
    if isinstance(value, Mapping):
        block = cast("Mapping[object, object]", value)
        if _is_attachment(block):
            return TOKENS_PER_ATTACHMENT * BYTES_PER_TOKEN
        return sum(
            (len(str(name)) if depth > 1 else 0) + weight(item, depth + 1)
            for name, item in block.items()
            if name not in _BOOKKEEPING
        )
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return sum(weight(item, depth + 1) for item in cast("Sequence[object]", value))
    return len(str(value))


def _is_attachment(block: Mapping[object, object]) -> bool:
    kind = block.get("type")
    return isinstance(kind, str) and kind not in _TEXTUAL and any(name in block for name in _ATTACHED)


def message_weight(message: BaseMessage) -> int:
    """Return the bytes of a message's or chunk's text, reasoning and tool calls."""
    content = cast("object", message.content)  # pyright: ignore[reportUnknownMemberType] - a bare dict in its type
    total = weight(content)
    if isinstance(content, str):
        # Providers whose content is a list repeat the calls in it.
        calls = getattr(message, "tool_call_chunks", None) or getattr(message, "tool_calls", None)
        total += weight(calls)
    return total


def input_tokens(messages: Sequence[BaseMessage] | str, params: Mapping[str, Any]) -> int:
    """Return the approximate input of a call: its messages (or a text model's prompt) and the tools it may use."""
    tools = tokens(weight(params.get("tools") or params.get("functions")))
    if isinstance(messages, str):
        return tokens(weight(messages)) + tools
    return sum(tokens(message_weight(message)) + TOKENS_PER_MESSAGE for message in messages) + tools


def requested(params: Mapping[str, Any], options: object) -> dict[str, Any]:
    """Return what a call asks its model for: the model's own parameters, and what the call itself says over them."""
    return {**params, **(cast("Mapping[str, Any]", options) if isinstance(options, Mapping) else {})}


def model_name(metadata: Mapping[str, Any], params: Mapping[str, Any]) -> str | None:
    """
    Return the model's name as it is asked for: the answer's may carry a date that no price rule knows.

    Metadata may be a client's. So its name counts where the request has none, or the same one below a path.
    """
    names = (params.get(key) for key in ("model", "model_name", "model_id"))
    asked = next((name for name in names if isinstance(name, str) and name), None)
    said = metadata.get("ls_model_name")
    if isinstance(said, str) and said and (asked is None or asked.endswith(f"/{said}")):
        return said
    return asked


def output_cap(params: Mapping[str, Any], default: int) -> int:
    """Return the most output tokens that all answers of a call may take, `default` for each if no cap is set."""
    caps = (_number(params.get(key)) for key in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
    return (max(caps) or default) * (_number(params.get("n")) or 1)


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def estimate(input_count: int, params: Mapping[str, Any], default: int) -> Usage:
    """Return what a call is expected to use at most."""
    return Usage(input_tokens=input_count, output_tokens=output_cap(params, default))
