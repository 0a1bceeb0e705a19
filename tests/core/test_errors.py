"""What is said about an error is one line that a terminal shows, whatever it quotes."""

from __future__ import annotations

import pytest

from prunesearch.core.errors import CorruptFileError, PruneSearchError, did_you_mean
from prunesearch.core.files import parse_json


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("a\nb", "a b"),
        ("a \r\n  b\u2028c", "a b c"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("±20\xa0% of µs", "±20\xa0% of µs"),
        ("two  blanks ", "two  blanks "),
    ],
)
def test_an_error_is_one_line(quoted: str, shown: str):
    assert str(CorruptFileError(f"got {quoted}")) == f"got {shown}"
    assert PruneSearchError(f"got {quoted}").args == (f"got {shown}",)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '"\\ud800"', '{"a": "\\udc00 \\ud83d"}', "{", ""])
def test_whatever_is_wrong_with_json_is_a_value_error(text: str):
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_whole_pair_is_a_character():
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("written", [None, 0.5, 3, [None], {"a": 1}, b"x"])
def test_what_is_no_word_is_near_to_none(written: object):
    """A name that a file gives may be a number, a list or nothing."""
    assert did_you_mean(written, ["label", "text"]) == "Known: label, text"
