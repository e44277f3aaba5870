"""
JavaScript's numbers, strings, dates and order of texts, against figures that Node computed.

`vendor.js` in this folder is where they come from (`TZ=UTC`); it and these tests read the same `inputs.json`.
"""

import json
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countwerk_meter.pricing._collation import is_exact, locale_key
from countwerk_meter.pricing._dates import parse_date
from countwerk_meter.pricing._ecmascript import number, string

INPUTS = json.loads((Path(__file__).parent / "inputs.json").read_text(encoding="utf-8"))
NUMBERS = [
    "0",
    "0",
    "0",
    "3",
    "3",
    "3.1",
    "1",
    "3e-7",
    "3e-7",
    "3e-7",
    "0.000001",
    "0.00000123",
    "0.000001",
    "1e-7",
    "1.5e-7",
    "100",
    "100000000000000000000",
    "1e+21",
    "123456789012345680000",
    "1.2345678901234568e+21",
    "0.1",
    "0.30000000000000004",
    "0.1",
    "9007199254740992",
    "5e-324",
    "1.7976931348623157e+308",
    "1e+22",
    "2.5e-10",
    "-1.5",
    "123.456",
    "100000",
    "4.35",
    "0.00023",
    "0.00023",
]
STRINGS = [
    '""',
    '"plain"',
    '"\\"quoted\\\\\\""',
    '"\\b\\t\\n\\f\\r"',
    '"\\u0000\\u0001\\u001f"',
    '"\x7f\x80"',
    '"\u2028\u2029"',
    '"\xe4\u20ac"',
    '"\U0001f600"',
    '"\\ud800"',
    '"a\\udc00b"',
    '"/"',
]
DATES = [
    1735689600000,
    1738368000000,
    1740700800000,
    1740960000000,
    None,
    None,
    None,
    None,
    1735725600000,
    1735725600000,
    1735725600000,
    1735725600123,
    1735725600100,
    None,
    1735776000000,
    None,
    None,
    None,
    None,
    1735725600000,
    1735725600000,
    1735718400000,
    1735734600000,
    None,
    None,
    1735689600000,
    -62198755200000,
    8640000000000000,
    None,
    -62167219200000,
    -59011545600000,
    None,
    None,
    None,
    1709208000000,
    -1,
]
NAMES = [
    " ",
    "_",
    "-",
    ",",
    ";",
    ":",
    "!",
    "?",
    ".",
    "'",
    '"',
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "@",
    "*",
    "/",
    "\\",
    "&",
    "#",
    "%",
    "`",
    "^",
    "+",
    "<",
    "=",
    ">",
    "|",
    "~",
    "$",
    "0",
    "1",
    "\xbd",
    "2",
    "\xb2",
    "9",
    "a",
    "A",
    "\xe4",
    "\xc4",
    "a b",
    "a_b",
    "a-b",
    "a1",
    "a10",
    "a2",
    "ab",
    "aB",
    "Ab",
    "AB",
    "\xe4b",
    "ae",
    "\xe6",
    "af",
    "b",
    "B",
    "cote",
    "cot\xe9",
    "co\u0301te",
    "c\xf4te",
    "e",
    "\xe9",
    "\xe8",
    "f",
    "llm_input_tokens",
    "LLM_INPUT_TOKENS",
    "llm_output_tokens",
    "llm-input-tokens",
    "llm.input",
    "llminput",
    "\xf1",
    "o",
    "\xf5",
    "\xf8",
    "ss",
    "\xdf",
    "st",
    "z",
    "Z",
    "\xfe",
]


@pytest.mark.parametrize(("text", "expected"), list(zip(INPUTS["numbers"], NUMBERS, strict=True)))
def test_numbers_are_written_as_json_stringify_does(text, expected):
    """The double nearest to the decimal, in JavaScript's shortest form."""
    assert expected == number(Decimal(text))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_written_number_reads_back(value):
    """Shortest form or not, it names the same double."""
    assert value == float(number(Decimal(value)))


def test_a_number_beyond_doubles_is_an_error():
    """JavaScript would write null; a profile with such a number is refused at load."""
    with pytest.raises(OverflowError):
        number(10**400)


@pytest.mark.parametrize(("text", "expected"), list(zip(INPUTS["strings"], STRINGS, strict=True)))
def test_strings_are_written_as_json_stringify_does(text, expected):
    """Only quotes, backslashes, controls and lone surrogates are escaped."""
    assert expected == string(text)


@given(st.text(st.characters()))
def test_a_written_string_reads_back(text):
    """Escaping loses nothing."""
    assert text == json.loads(string(text))


@pytest.mark.parametrize(("text", "expected"), list(zip(INPUTS["dates"], DATES, strict=True)))
def test_dates_are_read_as_date_parse_does(text, expected):
    """ISO forms, down to the 31st of February; None is JavaScript's NaN. (Other forms: test_vectors.)"""
    assert expected == parse_date(text)


def test_names_are_ordered_as_locale_compare_does():
    """Punctuation, digits, letters; then accents; then lower before upper case."""
    assert NAMES == sorted(INPUTS["names"], key=locale_key)


def test_printable_ascii_is_ordered_as_locale_compare_does():
    """Every printable character, as Node sorts them."""
    ordered = " _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789aAbBcCdDeEfFgGhHiIjJkKlLmMnNoOpPqQrRsStTuUvVwWxXyYzZ"
    assert 95 == len(ordered)
    assert ordered == "".join(sorted(map(chr, range(32, 127)), key=locale_key))


def test_whole_texts_compare_by_letters_before_accents_before_case():
    """A later letter outweighs an earlier accent, which outweighs any case."""
    for smaller, greater in pairwise(["resume", "Resume", "resum\xe9", "R\xe9sum\xe9", "resumes", "RESUMES"]):
        assert locale_key(smaller) < locale_key(greater)


@pytest.mark.parametrize(
    ("text", "same"), [("a\x01b\x7f", "ab"), ("so\xadft", "soft"), ("\xe9", "e\u0301"), ("", "\0")]
)
def test_some_texts_compare_as_equal(text, same):
    """Controls weigh nothing, and an accent is the same however it is encoded; JavaScript's sort is stable, as ours is."""
    assert locale_key(text) == locale_key(same)


def test_characters_that_are_not_known_come_last_and_are_marked():
    """Rare scripts, compatibility forms and what Unicode has not assigned have a fixed place, but not certainly Node's."""
    unknown = ["\u13e3", "\u3400", "\ua000", "\U00020000"]
    assert ["z", "\u03b4", "\u4e2d", *unknown] == sorted([*unknown[::-1], "\u4e2d", "\u03b4", "z"], key=locale_key)
    assert locale_key("o") < locale_key("o\u07eb") < locale_key("p")
    assert locale_key("\u2167") == locale_key("VIII")
    assert locale_key("\U0001d173") == locale_key("")
    assert all(is_exact(text) for text in ("gpt-5.in\xfc", "\u0394", "\u4e2d\u6587", "L\xb7l", "\U0001f600"))
    assert not any(is_exact(text) for text in (*unknown, "\u2167", "\u0378", "o\u07eb"))
