"""
Counting a call's input before it is sent: with tiktoken where it is installed and knows the model, else approximately.

The approximation goes by kind of character and errs high: compared to cl100k_base it counts 1.0 to 2 times as many
tokens for prose in some twenty languages, code, JSON, numbers and emoji (o200k_base needs fewer still). Finnish (by an
eighth) and runs of rare Chinese characters (by a third) can exceed it. Messages add a few tokens of framing each,
attachments (images, files, audio) a flat number, because their bytes say little about their tokens. What a provider
reports wins over all of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from countwerk_meter.estimating.tokenizers import tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKENS_PER_MESSAGE: Final = 8
TOKENS_PER_ATTACHMENT: Final = 2_000

_ATTACHED: Final = frozenset(
    {"base64", "data", "url", "image_url", "input_audio", "file", "file_id", "source", "bytes"}
)
_TEXTUAL: Final = frozenset({"text", "input_text", "output_text", "reasoning", "thinking", "tool_use", "tool_result"})
_BOOKKEEPING: Final = frozenset({"type", "id", "index", "signature", "cache_control"})
_DEEPEST: Final = 32

_PIECES: Final = re.compile(
    r"(?P<opaque>[A-Za-z0-9+/=_-]{40,})|(?P<word>[A-Z]?[a-z]+|[A-Z]+)|(?P<number>[0-9]{1,3})"
    r"|(?P<space>[^\S\n]{2,}|\s*\n\s*|\s(?=[0-9]))|(?P<single>\s)|(?P<sign>[!-/:-@\[-`{-~]+)|(?P<other>[^\x00-\x7f]+)|(?P<control>.)",
    re.DOTALL,
)
# The last code point of a range, and how many tokens a character in it takes (measured, cl100k_base).
_WEIGHTS: Final = (
    (0x024F, 1.0),  # Latin with accents
    (0x036F, 1.0),
    (0x03FF, 1.0),  # Greek
    (0x052F, 0.6),  # Cyrillic
    (0x05FF, 1.25),  # Armenian, Hebrew
    (0x06FF, 1.0),  # Arabic
    (0x08FF, 2.0),
    (0x097F, 1.35),  # Devanagari
    (0x0DFF, 2.5),  # further scripts of India
    (0x0E7F, 1.1),  # Thai
    (0x1DFF, 3.0),  # Georgian, Ethiopic, Khmer and others
    (0x1EFF, 1.5),  # Latin, as Vietnamese writes it
    (0x2E7F, 1.75),  # signs and symbols
    (0xA4CF, 1.3),  # Chinese and Japanese
    (0xD7FF, 1.3),  # Korean
    (0xFFFF, 1.75),
)
_ASTRAL: Final = 3.0


def count_tokens(content: object, model: str | None = None) -> int:
    """
    Return how many input tokens a text or a list of messages takes.

    Args:
        content: A string, a message, or a sequence of messages: mappings or objects with `content`, as the common
            SDKs take them.
        model: Its tokenizer is used if tiktoken is installed and knows it. A tokenizer is loaded behind the app, never
            in the way of a call: until it is there, the approximation counts.

    """
    encode = tokenizer(model)
    messages = 0
    if isinstance(content, Mapping):
        messages = 1
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes | bytearray):
        messages = len(cast("Sequence[object]", content))
    tokens = messages * TOKENS_PER_MESSAGE
    for text in _texts(cast("object", content), 0):
        if text is None:
            tokens += TOKENS_PER_ATTACHMENT
        else:
            tokens += encode(text) if encode is not None else approximate_tokens(text)
    return tokens


def approximate_tokens(text: str) -> int:
    """Return about how many tokens a text takes, rather too many than too few."""
    total = 0.0
    for piece in _PIECES.finditer(text):
        size = piece.end() - piece.start()
        match piece.lastgroup:
            case "word":
                total += 1 if size <= 4 else -(-size // 3)
            case "opaque":
                total += size * 0.75
            case "space":
                total += 1 + size // 8
            case "sign":
                total += size * 0.7 if size > 1 else 1
            case "other":
                total += sum(map(_weight, piece.group()))
            case "single":
                pass
            case _:
                total += 1
    return int(total + 0.999)


def _weight(character: str) -> float:
    point = ord(character)
    return next((weight for last, weight in _WEIGHTS if point <= last), _ASTRAL)


def _texts(value: object, depth: int) -> Iterator[str | None]:
    """Yield every text in a message, and None for each attachment."""
    if isinstance(value, str):
        yield value
    elif value is None or depth > _DEEPEST:
        return
    elif isinstance(value, bytes | bytearray):
        yield None
    elif isinstance(value, Mapping):
        block = cast("Mapping[object, object]", value)
        kind = block.get("type")
        if isinstance(kind, str) and kind not in _TEXTUAL and any(name in block for name in _ATTACHED):
            yield None
            return
        for name, item in block.items():
            if name not in _BOOKKEEPING:
                yield from _texts(item, depth + 1)
    elif isinstance(value, Sequence):
        for item in cast("Sequence[object]", value):
            yield from _texts(item, depth + 1)
    elif hasattr(value, "content"):
        yield from _texts(getattr(value, "content", None), depth + 1)
        yield from _texts(getattr(value, "tool_calls", None), depth + 1)
    else:
        yield str(value)
