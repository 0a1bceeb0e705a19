"""Reading other tools' files: text, Python literals, flags. Nothing in them is ever executed."""

from __future__ import annotations

import ast
import math
import os
import reprlib
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import parse_json

MAX_BYTES = 1_000_000  # DiffRate's whole collection of schedules has 7 kB

# what the standard parsers raise at hostile input: too deep, too long a number, a null byte
HOSTILE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a small UTF-8 file.

    Raises:
        PruneSearchError: if it cannot be read.
        CorruptFileError: if it is no text, or larger than `MAX_BYTES`.
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise PruneSearchError(f"the file cannot be read ({error.strerror}): check the path") from None
    if len(data) > MAX_BYTES:
        raise CorruptFileError(f"a schedule has at most {MAX_BYTES} bytes, but the file has more: is it the right one?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CorruptFileError("a schedule is UTF-8 text, but the file is not: is it the right one?") from None


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        data = parse_json(text)
    except ValueError as error:
        raise CorruptFileError(f"not JSON: {_why(error)}") from None
    if not isinstance(data, dict):
        raise CorruptFileError(f"must be a JSON object, but is {show(data)}")
    return data


def parse_literal(text: str, what: str) -> Any:
    """Read a Python literal, such as `[197, 194]` or `(3, 6, 9)`; names and calls are refused."""
    try:
        with warnings.catch_warnings():  # the compiler's remarks on a stranger's file
            warnings.simplefilter("ignore")
            return ast.literal_eval(text.strip())
    except HOSTILE:
        raise CorruptFileError(f"{what} must be a plain list or number, but got {show(text)}") from None


def parse_assignments(text: str) -> dict[str, Any]:
    """Read lines `name = literal`; `model.r = 13` is `r`, and a literal alone has the name ''."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            statements = ast.parse(text).body
    except HOSTILE as error:
        raise CorruptFileError(f"must be lines NAME = VALUE: {_why(error)}") from None
    values: dict[str, Any] = {}
    for statement in statements:
        name, value = "", statement.value if isinstance(statement, (ast.Assign, ast.Expr)) else statement
        if isinstance(statement, ast.Assign):
            target = statement.targets[-1]
            name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", ast.unparse(target))
        try:
            values[name] = ast.literal_eval(value)
        except HOSTILE:
            raise CorruptFileError(
                f"must be lines NAME = VALUE with plain numbers and lists, but line {statement.lineno} is not"
            ) from None
    return values


def parse_flags(text: str) -> dict[str, str]:
    """Read `--name value`, `--name=value` and `--name` (then '') out of a command line; other words are passed over."""
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise CorruptFileError(f"must be flags as on a command line: {_why(error)}") from None
    flags: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flags[name] = value
        elif name:
            flags[name], name = word, ""
    return flags


def integers(value: Any, what: str) -> list[int]:
    """Return a list or tuple of whole numbers >= 0 as a list."""
    if not isinstance(value, (list, tuple)) or not all(_is_count(n) for n in value):
        raise CorruptFileError(f"{what} must be a list of whole numbers >= 0, but got {show(value)}")
    return list(value)


def integer(value: Any, what: str) -> int:
    """Return a whole number >= 0."""
    if not _is_count(value):
        raise CorruptFileError(f"{what} must be a whole number >= 0, but got {show(value)}")
    return int(value)


def number(value: Any, what: str) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
        raise CorruptFileError(f"{what} must be a number, but got {show(value)}")
    return float(value)


def ratio(value: Any, what: str) -> float:
    """Return a number in (0, 1]."""
    got = number(value, what)
    if not 0 < got <= 1:
        raise CorruptFileError(f"`0 < {what} <= 1` must hold, but got {show(value)}")
    return got


def layers(value: Any, depth: int, what: str) -> list[int]:
    """Return block numbers that rise and exist in a model of `depth` blocks."""
    found = integers(value, what)
    if sorted(set(found)) != found or (found and found[-1] >= depth):
        raise CorruptFileError(
            f"{what} must be rising block numbers below {depth} (the model's blocks), but got {show(value)}"
        )
    return found


def section(data: Mapping[Any, Any], key: str, where: str) -> Mapping[Any, Any]:
    """Return the mapping `data[key]`."""
    value = data.get(key)
    if not isinstance(value, Mapping):
        raise CorruptFileError(f"{where} must have a section '{key}'")
    return value


def show(value: Any) -> str:
    """A value on one short line, for a message."""
    try:
        text = value if isinstance(value, str) else reprlib.repr(value)  # aliases can nest without end
    except HOSTILE:  # a number of more digits than Python prints, a structure too deep
        text = f"a {type(value).__name__} that cannot be printed"
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else f"{line[:57]}...") if isinstance(value, str) else line[:60]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the floats
        return False


def _why(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
