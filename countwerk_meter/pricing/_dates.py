"""
Reading a date as JavaScript's `Date.parse` does in V8, the engine of Node.

Among rules of one priority the newest `createdAt` wins, and the vendor's runtime reads it with `Date.parse`: ISO 8601
first, and what is not quite that by a lenient reader of words and numbers (`Jan 5, 2025 10:00 PM`, `1/2/2025`, `Wed, 01
Jan 2025 00:00:00 GMT`). Both are followed step by step here, and compared with Node in the tests. A time without a zone
is UTC (local time in JavaScript: a server runs in UTC).
"""

from __future__ import annotations

from datetime import date
from typing import Final, NamedTuple

_LATEST_MS: Final = 8_640_000_000_000_000
_EPOCH: Final = date(1970, 1, 1).toordinal()
_MOST_DIGITS: Final = 9
_SPACES: Final = frozenset(
    "\t\n\v\f\r \xa0\u1680\ufeff\u2028\u2029\u202f\u205f\u3000"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_HALVES: Final = {"am": 0, "pm": 12}
_ZONES: Final = {
    "ut": 0,
    "utc": 0,
    "z": 0,
    "gmt": 0,
    "cdt": -5,
    "cst": -6,
    "edt": -4,
    "est": -5,
    "mdt": -6,
    "mst": -7,
    "pdt": -7,
    "pst": -8,
}


class _Token(NamedTuple):
    kind: str
    """`number`, `word`, `space`, `end`, `other`, or the symbol itself."""
    word: str = ""
    number: int = 0
    length: int = 0

    def is_number(self, length: int, least: int, most: int) -> bool:
        """Whether this is a number of exactly so many digits, in the range."""
        return self.kind == "number" and self.length == length and least <= self.number <= most

    @property
    def milliseconds(self) -> int:
        """The number as the digits behind a decimal point of seconds."""
        if self.length <= 3:
            return self.number * 10 ** (3 - self.length)
        return self.number // 10 ** (min(self.length, _MOST_DIGITS) - 3)


class _UnreadableError(Exception):
    """The text is no date."""


class _Reader:
    """What has been read of a text, and the token that comes next."""

    __slots__ = ("at", "day", "has_number", "hour_offset", "iso", "month", "peek", "text", "time", "zone")

    def __init__(self, text: str) -> None:
        self.text = text.partition("\0")[0]
        self.at = 0
        self.day: list[int] = []
        self.month: int | None = None
        self.iso = False
        self.time: list[int] = []
        self.hour_offset: int | None = None
        self.zone: list[int | None] = [None, None, None]
        """Sign, hours and minutes of the offset from UTC."""
        self.has_number = False
        self.peek = self._scan()

    def next(self) -> _Token:
        token, self.peek = self.peek, self._scan()
        return token

    def skip(self, symbol: str) -> bool:
        if self.peek.kind != symbol:
            return False
        self.next()
        return True

    def add_day(self, number: int) -> None:
        if len(self.day) == 3:
            raise _UnreadableError
        self.day.append(number)

    def add_time(self, number: int) -> None:
        if len(self.time) == 4:
            raise _UnreadableError
        self.time.append(number)

    def finish_time(self, number: int) -> None:
        self.time = [*self.time, number, 0, 0, 0][:4]

    def expects_time(self, number: int) -> bool:
        return len(self.time) in {1, 2, 3} and number < (60, 60, 1000)[len(self.time) - 1]

    @property
    def expects_zone_minutes(self) -> bool:
        return self.zone[1] is not None and self.zone[2] is None

    def _scan(self) -> _Token:
        text, start = self.text, self.at
        if start >= len(text):
            return _Token("end")
        character = text[start]
        end = start + 1
        if "0" <= character <= "9":
            while end < len(text) and "0" <= text[end] <= "9":
                end += 1
            digits = text[start:end].lstrip("0")[:_MOST_DIGITS]
            token = _Token("number", number=int(digits or 0), length=end - start)
        elif character in ":-+.)":
            token = _Token(character)
        elif character >= "A" and character not in _SPACES:
            while end < len(text) and text[end] >= "A" and text[end] not in _SPACES:
                end += 1
            token = _Token("word", word=text[start:end].lower())
        elif character in _SPACES:
            token = _Token("space")
        else:
            if character == "(":
                end = _behind_parentheses(text, start)
            token = _Token("other")
        self.at = end
        return token


def parse_date(text: str) -> int | None:
    """Return milliseconds since 1970, None for what JavaScript cannot read."""
    reader = _Reader(text)
    try:
        token = _iso(reader)
        reader.has_number = bool(reader.day)
        while token.kind != "end":
            _legacy(reader, token)
            token = reader.next()
        return _milliseconds(reader)
    except _UnreadableError:
        return None


def _behind_parentheses(text: str, at: int) -> int:
    depth = 0
    while at < len(text):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        at += 1
        if depth == 0:
            break
    return at


def _iso(reader: _Reader) -> _Token:
    """Read an ISO date and return the end, or the first token that does not belong to one."""
    if reader.peek.kind in {"+", "-"}:
        sign = reader.next()
        if not reader.peek.is_number(6, 0, 999_999):
            return sign
        year = reader.next().number
        if sign.kind == "-" and year == 0:
            return sign
        reader.day.append(-year if sign.kind == "-" else year)
    elif reader.peek.is_number(4, 0, 9999):
        reader.day.append(reader.next().number)
    else:
        return reader.next()
    for most in (12, 31):
        if not reader.skip("-"):
            break
        if not reader.peek.is_number(2, 1, most):
            return reader.next()
        reader.day.append(reader.next().number)
    if reader.peek.word == "t":
        reader.next()
        _iso_time(reader)
    elif reader.peek.kind != "end":
        return reader.next()
    else:
        reader.zone = [1, 0, 0]
    reader.iso = True
    return _Token("end")


def _iso_time(reader: _Reader) -> None:
    hour = _fixed(reader, 24)
    most = 0 if hour == 24 else 59
    reader.time.append(hour)
    _wanted(reader.skip(":"))
    reader.time.append(_fixed(reader, most))
    if reader.skip(":"):
        reader.time.append(_fixed(reader, most))
        if reader.skip("."):
            _wanted(reader.peek.kind == "number" and (hour < 24 or reader.peek.number == 0))
            reader.time.append(reader.next().milliseconds)
    if reader.peek.word == "z":
        reader.next()
        reader.zone = [1, 0, 0]
    elif reader.peek.kind in {"+", "-"}:
        sign = 1 if reader.next().kind == "+" else -1
        if reader.peek.is_number(4, 0, 9999):
            hours, minutes = divmod(reader.next().number, 100)
            _wanted(hours < 24 and minutes < 60)
        else:
            hours = _fixed(reader, 23)
            _wanted(reader.skip(":"))
            minutes = _fixed(reader, 59)
        reader.zone = [sign, hours, minutes]
    _wanted(reader.peek.kind == "end")


def _fixed(reader: _Reader, most: int) -> int:
    _wanted(reader.peek.is_number(2, 0, most))
    return reader.next().number


def _wanted(condition: bool) -> None:
    if not condition:
        raise _UnreadableError


def _legacy(reader: _Reader, token: _Token) -> None:
    """Take one token as the lenient reader does."""
    if token.kind == "number":
        reader.has_number = True
        _number(reader, token.number)
    elif token.kind == "word":
        _word(reader, token.word)
    elif token.kind in {"+", "-"} and (reader.zone[1:] == [0, 0] or reader.time):
        _offset(reader, 1 if token.kind == "+" else -1)
    elif token.kind in {"+", "-", ")"}:
        _wanted(not reader.has_number)


def _number(reader: _Reader, number: int) -> None:
    if reader.skip(":"):
        if reader.skip(":"):
            _wanted(not reader.time)
            reader.time = [number, 0]
        else:
            reader.add_time(number)
            reader.skip(".")
    elif reader.skip(".") and reader.expects_time(number):
        reader.add_time(number)
        _wanted(reader.peek.kind == "number")
        reader.finish_time(reader.next().milliseconds)
    elif reader.expects_zone_minutes and number < 60:
        reader.zone[2] = number
    elif reader.expects_time(number):
        reader.finish_time(number)
        _wanted(reader.peek.kind in {"end", "space", "+", "-"} or reader.peek.word == "z")
    else:
        reader.add_day(number)
        reader.skip("-")


def _word(reader: _Reader, word: str) -> None:
    if word in _HALVES and reader.time:
        reader.hour_offset = _HALVES[word]
    elif word[:3] in _MONTHS:
        reader.month = _MONTHS.index(word[:3]) + 1
        reader.skip("-")
    elif word in _ZONES and reader.has_number:
        hours = _ZONES[word]
        reader.zone = [-1 if hours < 0 else 1, abs(hours), 0]
    else:
        # Other words may only stand before the first number, and apart from it.
        _wanted(not reader.has_number and reader.peek.kind != "number")


def _offset(reader: _Reader, sign: int) -> None:
    token = reader.next() if reader.peek.kind == "number" else _Token("number")
    reader.has_number = True
    if reader.peek.kind == ":":
        reader.zone = [sign, token.number, None]
    else:
        _wanted(1 <= token.length <= 4)
        hours, minutes = (token.number, 0) if token.length <= 2 else divmod(token.number, 100)
        reader.zone = [sign, hours, minutes]


def _milliseconds(reader: _Reader) -> int | None:
    _wanted(bool(reader.day))
    year, month, day = _calendar(reader)
    _wanted(1 <= month <= 12 and 1 <= day <= 31)
    hour, minute, second, millisecond = [*reader.time, 0, 0, 0, 0][:4]
    if reader.hour_offset is not None:
        _wanted(hour <= 12)
        hour = hour % 12 + reader.hour_offset
    _wanted((hour < 24 or not (minute or second or millisecond)) and hour <= 24)
    _wanted(minute < 60 and second < 60 and millisecond < 1000)
    # The calendar repeats every 400 years, which reaches the years that `date` lacks. A 31st of February is in March.
    cycle, year = divmod(year - 1, 400)
    days = date(year + 1, month, 1).toordinal() - _EPOCH + day - 1 + cycle * 146_097
    sign, hours, minutes = (part or 0 for part in reader.zone)
    # An absurd offset wraps round in V8's 32 bits.
    offset = (hours * 3600 + minutes * 60) % 2**32
    _wanted(offset < 2**31)
    value = (((days * 24 + hour) * 60 + minute) * 60 + second - sign * offset) * 1000 + millisecond
    return value if abs(value) <= _LATEST_MS else None


def _calendar(reader: _Reader) -> tuple[int, int, int]:
    first, second, third = [*reader.day, 1, 1][:3]
    is_day = 1 <= first <= 31
    if reader.month is not None:
        month = reader.month
        year, day = (second, first) if is_day else (first, second)
    elif reader.iso or not is_day:
        year, month, day = first, second, third
    else:
        year, month, day = third, first, second
    if not reader.iso and 0 <= year <= 99:
        year += 2000 if year < 50 else 1900
    return year, month, day
