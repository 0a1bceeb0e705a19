"""Tables of text, CSV and TSV: which character sets columns apart, and whether the first row names them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from datasets.arrow_dataset import Dataset

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.readers.file_rows import FileRows, skipped

# where columns have these names, the first row is a header whatever else is in it
HEADER_NAMES = frozenset(
    {"label", "labels", "class", "category", "target", "id", "idx", "index"}
    | {"text", "sentence", "sentence1", "sentence2", "review", "content", "question", "title"}
    | {"description", "premise", "hypothesis", "image", "img", "path", "file"}
)
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_DELIMITERS = (",", ";", "\t", "|")
_TRIED = 200  # rows that a delimiter is tried on
_DAMAGED = 0.1  # share of rows that may be of another width; the first of them is named then, as with a comma
_LONGEST = 100  # characters of a name
_SEP = re.compile(r"sep=(.)(?=[\r\n])")  # which Excel reads, and writes on request
_WORD = re.compile(r"[^\W\d]\w*")
_SENTENCE = re.compile(r"\S+\s.*[.!…]")
_FILE = re.compile(r".*\.(png|jpe?g|webp|bmp|gif|tiff?|wav|flac|ogg|mp3|mp4|avi|mkv|mov|webm)", re.IGNORECASE)
Rows = list[list[str]]


@dataclass(frozen=True)
class TextTable:
    """How a user wants a table of text read.

    Attributes:
        delimiter: one character; None: found out.
        header: whether the first row names the columns; None: unless it cannot.
        columns: names that the user gave; a first row with one of them is a header.
        skip_bad: whether rows that cannot be read are left out, and counted, in place of an error.
    """

    delimiter: str | None = None
    header: bool | None = None
    columns: Collection[str] = ()
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise PruneSearchError(f"a delimiter must be one character, but got '{self.delimiter}'")


def read_delimited(path: Path, reading: TextTable) -> FileRows:
    """Read a table; TSV knows no quotes, a quotation mark is a character like any other there.

    Returns:
        The rows, all of them text, and what was decided about the header.

    Raises:
        PruneSearchError: naming the line of a row that has another number of columns, or of a quote that is never
            closed.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        text = file.read()
    tabs = path.suffix.lower() == ".tsv" and "\t" in text
    said = _SEP.match(text)
    if said:  # Excel's own line; its end stays, so that lines keep their numbers
        text = text[said.end() :]
    delimiter = reading.delimiter or (said[1] if said else "\t" if tabs else _find_delimiter(text))
    numbered = list(_parse(text, delimiter, quotes=not tabs))
    if not numbered:
        return FileRows(Dataset.from_dict({}))
    _check_closed(text, numbered[-1], path, quotes=not tabs)
    longer = _lengthen(numbered)
    width = len(numbered[0][1])
    bad = [(line, row) for line, row in numbered if len(row) != width]
    for line, row in bad[:1]:
        if not reading.skip_bad:
            raise PruneSearchError(
                f"every row must have {width} columns, but that of line {line} of '{path}' has {len(row)}: fix that "
                f"row, leave such rows out with --skip-bad, or say what sets columns apart (taken: {delimiter!r})"
            )
    table = [row for _, row in numbered if len(row) == width]
    header = longer or _has_header(table, reading.columns) if reading.header is None else reading.header
    again = [line for line, row in numbered[1:] if header and row == numbered[0][1]]  # of files put together
    if header:
        names, body = _unlike(table[0]), [row for row in table[1:] if row != table[0]]
        sure = reading.header or {*map(str.lower, names)} & HEADER_NAMES or {*names} & {*reading.columns}
        notes = [] if sure else [f"{path.name}: the first row is taken for a header ({_shown(names)})"]
    else:
        names, body = _name_columns(table), table
        notes = [f"{path.name} has no header: its columns are taken as {', '.join(names)}"]
    notes += [f"{path.name}: the header comes again in line {again[0]}, and is no row there"] if again else []
    notes += skipped([f"line {line} of '{path}'" for line, _ in bad], "rows of another width were")
    kept = [len(row) == width and not (header and row == table[0]) for _, row in numbered[header:]]
    columns = {name: [row[i] for row in body] for i, name in enumerate(names)}
    if header:  # what has neither a name nor a cell is a delimiter too many
        columns = {name: c for (name, c), cell in zip(columns.items(), table[0], strict=True) if cell.strip() or any(c)}
    return FileRows(Dataset.from_dict(columns), notes, np.flatnonzero(kept))


def _lengthen(numbered: list[tuple[int, list[str]]]) -> bool:
    """Give a first row that has one cell less than all others its missing one, in place; say whether it was so.

    R names no column for the numbers of rows, and some tools end rows, but not the header, with a delimiter. Where it
    is neither, a comma too many may be in the texts.
    """
    (line, first), rest = numbered[0], [row for _, row in numbered[1:]]
    if len(first) < 2 or not rest or {len(row) for row in rest} != {len(first) + 1}:
        return False
    counted = [row[0] for row in rest] in ([str(i + k) for i in range(len(rest))] for k in (0, 1))
    if counted or not any(row[-1] for row in rest):
        numbered[0] = (line, ["", *first] if counted else [*first, ""])
        return True
    return False


def _check_closed(text: str, last: tuple[int, list[str]], path: Path, *, quotes: bool) -> None:
    """Raise `PruneSearchError` where a quote that is never closed makes one row of the rest of the file."""
    line, _ = last
    rest = text.splitlines()[line - 1 :]
    if quotes and len(rest) > 1 and sum(part.count('"') for part in rest) % 2:
        raise PruneSearchError(
            f"every quote must be closed, but the one that opens in line {line} of '{path}' never is, and {len(rest)} "
            "lines would be one row: mend that line"
        )


def _parse(text: str, delimiter: str, *, quotes: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, each with the number of the line that it begins in, from 1.

    A quote may stand after a delimiter and a blank.
    """
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    spaced = quotes and f'{delimiter} "' in text
    lines = io.StringIO(text, newline="")
    rows, begins = csv.reader(lines, delimiter=delimiter, quoting=quoting, skipinitialspace=spaced), 1
    for row in rows:
        if row:
            yield begins, row
        begins = rows.line_num + 1


def _find_delimiter(text: str) -> str:
    """The first of the usual delimiters by which most rows have as many columns as the first, two at least.

    One by which all have comes before one by which most have; where there is neither, a comma. `csv.Sniffer` takes
    letters that every row has for one, and commas within texts. R sets quoted cells apart by blanks.
    """
    tried: tuple[str, ...] = (*_DELIMITERS, " ") if text.startswith('"') else _DELIMITERS
    best = max(tried, key=lambda delimiter: _even(text, delimiter))  # the first of equals
    return best if _even(text, best) >= 1 - _DAMAGED else ","


def _even(text: str, delimiter: str) -> float:
    """Share of rows that have as many columns as the first, two at least; 0 where that has one."""
    try:
        rows = list(islice(_parse(text, delimiter), _TRIED))
    except csv.Error:
        return 0.0
    if rows:
        _lengthen(rows)
    if not rows or len(rows[0][1]) < 2:
        return 0.0
    return sum(len(row) == len(rows[0][1]) for _, row in rows) / len(rows)


def _has_header(table: Rows, wanted: Collection[str]) -> bool:
    """Whether the first row can be a header: columns may have any names, but not what is plainly a value."""
    first = [cell.strip() for cell in table[0]]
    rest = [row for row in table[1:] if row != table[0]]
    others = [[row[i].strip() for row in rest] for i in range(len(first))]
    again = [bool(cell) and cell in column for cell, column in zip(first, others, strict=True)]
    known = {cell.lower() for cell, twice in zip(first, again, strict=True) if not twice} & HEADER_NAMES
    if {*first} & {*wanted} or known:
        return True
    named = first[1:] if first[0] == "" else first
    if len(named) > 1 and named == [str(i) for i in range(len(named))]:  # pandas' numbers of columns
        return not all(map(_numbers, others))
    pairs = list(zip(first, others, strict=True))
    values = any(_is_value(cell, column) for cell, column in pairs if cell)
    # a word over texts: a column of labels may well be called as one of them (`message,spam`)
    over_texts = any(_WORD.fullmatch(cell) and len(c) > 1 and all(" " in text for text in c) for cell, c in pairs)
    if len(first) < 2 or any(again):
        return over_texts and not values
    return any(first) and not values


def _is_value(cell: str, others: list[str]) -> bool:
    """Whether a cell is plainly one of its column's values: a number among numbers, a sentence, a file, or too long."""
    if len(cell) > _LONGEST or "\n" in cell or _SENTENCE.fullmatch(cell) or _FILE.fullmatch(cell):
        return True
    return bool(NUMBER.fullmatch(cell)) and _numbers(others)


def _numbers(cells: list[str]) -> bool:
    """Whether all cells that are filled are numbers, and there is one."""
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(NUMBER.fullmatch(cell) for cell in filled)


def _unlike(names: list[str]) -> list[str]:
    """Names of columns, none twice and none empty, as pandas makes them: `unnamed_0`, `text.1`."""
    found: list[str] = []
    for i, cell in enumerate(names):
        name = base = cell.strip() or f"unnamed_{i}"
        count = 0
        while name in found:
            count += 1
            name = f"{base}.{count}"
        found.append(name)
    return found


def _name_columns(table: Rows) -> list[str]:
    """Name the columns of a table without a header: fewest values -> label, longest -> text or image."""
    width = len(table[0])
    if width < 2:
        return [f"column_{i}" for i in range(width)]
    columns = range(width)
    label = min(columns, key=lambda i: len({row[i] for row in table}))
    rest = [i for i in columns if i != label]
    text = max(rest, key=lambda i: sum(len(row[i]) for row in table))
    is_path = all(_FILE.fullmatch(row[text]) for row in table)
    names = {label: "label", text: "image" if is_path else "text"}
    return [names.get(i, f"column_{i}") for i in columns]


def _shown(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
