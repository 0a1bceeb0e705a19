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
_LONGEST = 100  # characters of a name
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
    tabs = path.suffix.lower() == ".tsv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        text = file.read()
    delimiter = reading.delimiter or ("\t" if tabs else _find_delimiter(text))
    numbered = list(_parse(text, delimiter, quotes=not tabs))
    if not numbered:
        return FileRows(Dataset.from_dict({}))
    _check_closed(text, numbered[-1], path, quotes=not tabs)
    width = len(numbered[0][1])
    bad = [(line, row) for line, row in numbered if len(row) != width]
    for line, row in bad[:1]:
        if not reading.skip_bad:
            raise PruneSearchError(
                f"every row must have {width} columns, but that of line {line} of '{path}' has {len(row)}: fix that "
                f"row, leave such rows out with --skip-bad, or say what sets columns apart (taken: {delimiter!r})"
            )
    table = [row for _, row in numbered if len(row) == width]
    header = _has_header(table, reading.columns) if reading.header is None else reading.header
    if header:
        names, body = _unlike(table[0]), table[1:]
        sure = reading.header or {*map(str.lower, names)} & HEADER_NAMES or {*names} & {*reading.columns}
        notes = [] if sure else [f"{path.name}: the first row is taken for a header ({_shown(names)})"]
    else:
        names, body = _name_columns(table), table
        notes = [f"{path.name} has no header: its columns are taken as {', '.join(names)}"]
    notes += skipped([f"line {line} of '{path}'" for line, _ in bad], "rows of another width were")
    places = np.flatnonzero([len(row) == width for _, row in numbered[header:]])
    columns = {name: [row[i] for row in body] for i, name in enumerate(names)}
    return FileRows(Dataset.from_dict(columns), notes, places)


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
    """Rows that are not empty, each with the number of the line that it begins in, from 1."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    rows, begins = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting), 1
    for row in rows:
        if row:
            yield begins, row
        begins = rows.line_num + 1


def _find_delimiter(text: str) -> str:
    """The first of the usual delimiters by which all rows have the same number of columns, two at least; else a comma.

    `csv.Sniffer` takes letters that every row has for one, and commas within texts.
    """
    for delimiter in _DELIMITERS:
        try:
            widths = {len(row) for _, row in islice(_parse(text, delimiter), _TRIED)}
        except csv.Error:
            continue
        if len(widths) == 1 and widths != {1}:
            return delimiter
    return ","


def _has_header(table: Rows, wanted: Collection[str]) -> bool:
    """Whether the first row can be a header: columns may have any names, but not what is plainly a value."""
    first = [cell.strip() for cell in table[0]]
    if {*first} & {*wanted} or {cell.lower() for cell in first} & HEADER_NAMES:
        return True
    if not any(first) or len(first) < 2:
        return False
    return not any(_is_value(cell, [row[i].strip() for row in table[1:]]) for i, cell in enumerate(first) if cell)


def _is_value(cell: str, others: list[str]) -> bool:
    """Whether a cell is one of its column's values: it comes again, is a number among numbers, a sentence or a file."""
    if len(cell) > _LONGEST or "\n" in cell or _SENTENCE.fullmatch(cell) or _FILE.fullmatch(cell) or cell in others:
        return True
    filled = [other for other in others if other]
    return bool(NUMBER.fullmatch(cell)) and bool(filled) and all(NUMBER.fullmatch(other) for other in filled)


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
