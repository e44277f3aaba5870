"""
The order of JavaScript's `localeCompare`, for the names that rules carry.

A ruleset's hash depends on the order of its rules, and the vendor sorts them with `localeCompare`, whose order is that
of Unicode's root collation (CLDR): punctuation, symbols, digits, letters; then accents; then lower before upper case.
Here it is exact for ASCII and, but for the Catalan pair `l·`, for Latin-1, which is how rule ids and dimension keys are
written. The packages that hold the whole table either need a C library (PyICU) or follow plain DUCET (pyuca), which
orders ASCII punctuation otherwise. Other characters come after these, by code point: stable, but perhaps not as the
vendor has it.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Final

_PRIMARIES: Final = (
    "\t\n\v\f\r\x85 _-,;:!¡?¿.·'\"«»()[]{}§¶@*/\\&#%`´^¯¨¸°©®+±÷×<=>¬|¦~⁄¤¢$£¥0123456789abcdefghijklmnopqrstuvwxyzþµ"  # noqa: RUF001 - the very characters
)
_MARKS: Final = "\u0301\u0300\u0306\u0302\u030c\u030a\u0308\u030b\u0303\u0307\u0338\u0327\u0328\u0304"
_FIRST_UNKNOWN: Final = 1_000
_JOINED: Final = 900
"""The accent-level weight that sets `æ` apart from `ae`."""

_Element = tuple[int, int, int]

_PRIMARY: Final = {character: weight for weight, character in enumerate(_PRIMARIES, 1)}
_MARK: Final = {character: weight for weight, character in enumerate(_MARKS, 2)}
# Compared as other characters: these, a weight after the first of them at the level of accents (0: none), and one for
# each of them at the level of case.
_COMPARED_AS: Final = {
    "\xa0": (" ", 0, 2),
    "ª": ("a", 0, 2),
    "º": ("o", 0, 2),
    "¹": ("1", 0, 2),
    "²": ("2", 0, 2),
    "³": ("3", 0, 2),
    "¼": ("1⁄4", 0, 2),  # noqa: RUF001 - a fraction slash
    "½": ("1⁄2", 0, 2),  # noqa: RUF001 - as above
    "¾": ("3⁄4", 0, 2),  # noqa: RUF001 - as above
    "ø": ("o", _MARK["\u0338"], 0),
    "Ø": ("o", _MARK["\u0338"], 1),
    "ð": ("d", _JOINED, 0),
    "Ð": ("d", _JOINED, 1),
    "æ": ("ae", _JOINED, 0),
    "Æ": ("ae", _JOINED, 1),
    "ß": ("ss", _JOINED, 0),
    "Þ": ("þ", 0, 1),
}

Key = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def locale_key(text: str) -> Key:
    """Return a sort key: whole strings by their letters first, then by accents, then by case."""
    elements = [element for character in unicodedata.normalize("NFD", text) for element in _elements(character)]
    return (
        tuple(primary for primary, _, _ in elements if primary),
        tuple(secondary for _, secondary, _ in elements),
        tuple(tertiary for _, _, tertiary in elements),
    )


def is_exact(text: str) -> bool:
    """Say whether the order is known to be JavaScript's for this text."""
    return all(character <= "\xff" for character in text) and "l·" not in text.lower()


@lru_cache(maxsize=1024)
def _elements(character: str) -> tuple[_Element, ...]:
    if character in _PRIMARY:
        return ((_PRIMARY[character], 1, 0),)
    if "A" <= character <= "Z":
        return ((_PRIMARY[character.lower()], 1, 1),)
    if character in _MARK:
        return ((0, _MARK[character], 0),)
    if character in _COMPARED_AS:
        bases, accent, case = _COMPARED_AS[character]
        first, *others = ((_PRIMARY[base], 1, case) for base in bases)
        return (first, (0, accent, case), *others) if accent else (first, *others)
    if unicodedata.category(character) in {"Cc", "Cf"}:
        return ()
    if unicodedata.combining(character):
        return ((0, _FIRST_UNKNOWN + ord(character), 0),)
    return ((_FIRST_UNKNOWN + ord(character), 1, 0),)
