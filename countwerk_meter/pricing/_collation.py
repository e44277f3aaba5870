"""
The order of JavaScript's `localeCompare`, for the names that rules carry.

A ruleset's hash depends on the order of its rules, and the vendor sorts them with `localeCompare`, whose order is that
of Unicode's root collation (CLDR): punctuation, symbols, digits, letters; then accents; then lower before upper case.

Why no library: the bindings of ICU (PyICU, icu4py) bring a C++ library, of another Unicode on each machine, for a sort
that is done once at load; pyuca follows plain DUCET, which orders punctuation otherwise, and was last released in 2017.
So `collation.json` holds what Node's own collator (ICU 78) answers about each character, for the scripts of most of
today's languages, punctuation, symbols and emoji; `collation.mjs`, in the tests, makes it. What is not in it (rare
scripts and Han, some compatibility forms) comes last, by code point: stable, but perhaps not as the vendor has it.
`is_exact` says for which texts the order is known.
"""

from __future__ import annotations

import json
import unicodedata
from bisect import bisect_right
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_COMMON: Final = 1
"""The accent-level weight of what has no accent; marks are above it, and what has a weight of its own above those."""
_OWN: Final = 900
_UNKNOWN: Final = 100_000

_Element = tuple[int, int, int]
Key = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class _Letters:
    """Places in the order, by runs of neighbouring characters: there are tens of thousands, and a name has a few."""

    __slots__ = ("_firsts", "_pairs", "_runs")

    def __init__(self, lines: list[str]) -> None:
        runs: list[tuple[int, int, int]] = []
        self._pairs: dict[str, int] = {}
        weight = 1
        for item in " ".join(lines).split():
            first, _, last = item.partition("-")
            if "+" in first:
                self._pairs[_text(first)] = weight
                weight += 1
            else:
                runs.append((int(first, 16), int(last or first, 16), weight))
                weight += runs[-1][1] - runs[-1][0] + 1
        self._runs = sorted(runs)
        self._firsts = [first for first, _, _ in self._runs]

    def weight(self, unit: str) -> int | None:
        """Return the place of a letter, None for what is no letter with a place of its own."""
        if len(unit) > 1:
            return self._pairs.get(unit)
        first, last, weight = self._runs[max(bisect_right(self._firsts, ord(unit)) - 1, 0)]
        return weight + ord(unit) - first if first <= ord(unit) <= last else None

    def pairs(self) -> Iterable[str]:
        return self._pairs


class _Table(NamedTuple):
    letters: _Letters
    others: Mapping[str, tuple[_Element, ...]]
    firsts: frozenset[str]
    """Characters that with a following one may be compared as one."""

    def elements(self, unit: str) -> tuple[_Element, ...] | None:
        """Return what a character or a pair is compared as, None for what is not known."""
        known = self.others.get(unit)
        if known is None and (weight := self.letters.weight(unit)) is not None:
            known = ((weight, _COMMON, 0),)
        return known


def locale_key(text: str) -> Key:
    """Return a sort key: whole strings by their letters first, then by accents, then by case."""
    elements = [element for unit in _units(text, _table()) for element in _elements(unit)]
    return (
        tuple(primary for primary, _, _ in elements if primary),
        tuple(secondary for _, secondary, _ in elements if secondary),
        tuple(tertiary for _, _, tertiary in elements),
    )


def is_exact(text: str) -> bool:
    """Say whether the order is known to be JavaScript's for this text."""
    table = _table()
    # Python must know the character too, to put accents in their order.
    return all(
        table.elements(unit) is not None and unicodedata.category(unit[-1]) != "Cn" for unit in _units(text, table)
    )


def _units(text: str, table: _Table) -> Iterator[str]:
    """Part a text into what is compared as one: characters, and pairs even with other marks between them."""
    left = list(unicodedata.normalize("NFD", text))[::-1]
    while left:
        unit = left.pop()
        if unit in table.firsts:
            passed = 0
            for at, following in enumerate(reversed(left), 1):
                marked = unicodedata.combining(following)
                if table.elements(unit + following) is not None and (at == 1 or marked > passed):
                    unit += left.pop(-at)
                    break
                if not marked:
                    break
                passed = marked
        yield unit


@lru_cache(maxsize=4096)
def _elements(unit: str) -> tuple[_Element, ...]:
    known = _table().elements(unit)
    if known is not None:
        return known
    spelled = unicodedata.normalize("NFKD", unit)
    if spelled != unit:
        return tuple(element for each in spelled for element in _elements(each))
    category = unicodedata.category(unit)
    if category in {"Cc", "Cf"}:
        return ()
    if unicodedata.combining(unit):
        return ((0, _UNKNOWN + ord(unit), 0),)
    return ((_UNKNOWN + ord(unit), _COMMON, 0),)


@lru_cache(maxsize=1)
def _table() -> _Table:
    data = json.loads((files("countwerk_meter.pricing") / "collation.json").read_text(encoding="ascii"))
    letters = _Letters(data["letters"])
    others: dict[str, tuple[_Element, ...]] = dict.fromkeys(_ranges(data["ignored"]), ())
    marks: dict[str, int] = {}
    for weight, group in enumerate(" ".join(data["marks"]).split(), _COMMON + 1):
        for rank, mark in _ranked(group):
            marks[mark] = weight
            others[mark] = ((0, weight, rank),)
    for line in data["others"]:
        spelled, kind, group = line.split("|")
        first, *rest = (letters.weight(_text(letter)) or 0 for letter in spelled.split())
        accent = marks[_text(kind[1:])] if kind.startswith("m") else _OWN + int(kind) if kind else 0
        for rank, unit in _ranked(group):
            between = ((0, accent, rank),) if accent else ()
            others[unit] = ((first, _COMMON, rank), *between, *((weight, _COMMON, rank) for weight in rest))
    items = (item.split("=") for item in " ".join(data["same"]).split())
    same = {_text(unit): _text(spelled) for unit, spelled in items}
    pairs = [unit for unit in (*others, *letters.pairs(), *same) if len(unit) > 1]
    table = _Table(letters, others, frozenset(pair[0] for pair in pairs))
    for unit, spelled in same.items():
        others[unit] = tuple(element for each in _units(spelled, table) for element in table.elements(each) or ())
    return table


def _text(codes: str) -> str:
    return "".join(chr(int(code, 16)) for code in codes.split("+"))


def _ranges(lines: list[str]) -> Iterator[str]:
    for item in " ".join(lines).split():
        first, _, last = item.partition("-")
        if last:
            yield from map(chr, range(int(first, 16), int(last, 16) + 1))
        else:
            yield _text(first)


def _ranked(group: str) -> Iterator[tuple[int, str]]:
    for rank, equals in enumerate(group.split("<")):
        for codes in equals.split("="):
            if codes:
                yield rank, _text(codes)
