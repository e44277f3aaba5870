"""
The tokenizers of tiktoken, which this package does not require.

tiktoken fetches an encoding from the network when it first meets it, so it is loaded on a thread of its own: the gate
waits for no download, and one that fails is not tried again.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

Encode: TypeAlias = Callable[[str], int]

_loaded: dict[str, Encode | None] = {}
_lock = threading.Lock()


def tokenizer(model: str | None) -> Encode | None:
    """Return what counts a model's tokens, or None: unknown, not installed, or not loaded yet."""
    name = _encoding_of(model) if model else None
    if name is None:
        return None
    with _lock:
        if name not in _loaded:
            _loaded[name] = None
            threading.Thread(target=_load, args=(name,), name="countwerk-tokenizer", daemon=True).start()
    return _loaded[name]


def _tiktoken() -> Any:
    return importlib.import_module("tiktoken")


@functools.lru_cache(maxsize=256)
def _encoding_of(model: str) -> str | None:
    try:
        name: str = _tiktoken().encoding_name_for_model(model.rpartition("/")[2])
    except (ImportError, KeyError):
        return None
    return name


def _load(name: str) -> None:
    try:
        encoding = _tiktoken().get_encoding(name)
    except Exception:  # noqa: BLE001 - whatever keeps it from loading, the approximation counts
        return
    # Text that looks like a special token is only text.
    _loaded[name] = lambda text: len(encoding.encode(text, disallowed_special=()))
