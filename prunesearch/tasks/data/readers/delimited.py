"""Tables of text, CSV and TSV: which character sets columns apart, and whether the first row names them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datasets.arrow_dataset import Dataset

from prunesearch.core.errors import PruneSearchError

# where columns have these names, the first row is a header whatever else is in it
HEADER_NAMES = frozenset(
    {"label", "labels", "class", "category", "target", "id", "idx", "index"}
    | {"text", "sentence", "sentence1", "sentence2", "review", "content", "question", "title"}
    | {"description", "premise", "hypothesis", "image", "img", "path", "file"}
)
_DELIMITERS = (",", ";", "\t", "|")
_TRIED = 200  # rows that a delimiter is tried on
_LONGEST = 100  # characters of a name
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
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


def read_delimited(path: Path, reading: TextTable) -> tuple[Dataset, list[str]]:
    """Read a table; TSV knows no quotes, a quotation mark is a character like any other there.

    Returns:
        The rows, all of them text, and what was decided about the header.

    Raises:
        PruneSearchError: naming a row that has another number of columns.
    """
    tabs = path.suffix.lower() == ".tsv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        text = file.read()
    delimiter = reading.delimiter or ("\t" if tabs else _find_delimiter(text))
    table = _parse(text, delimiter, quotes=not tabs)
    if not table:
        return Dataset.from_dict({}), []
    width = len(table[0])
    bad = [number for number, row in enumerate(table, start=1) if len(row) != width]
    for number in bad[:1]:
        if not reading.skip_bad:
            row = table[number - 1]
            raise PruneSearchError(
                f"every row must have {width} columns, but row {number} of '{path}' has {len(row)}: fix that row, "
                f"or say what sets columns apart (taken: {delimiter!r})"
            )
    table = [row for row in table if len(row) == width]
    header = _has_header(table, reading.columns) if reading.header is None else reading.header
    if header:
        names, body = _unlike(table[0]), table[1:]
        sure = reading.header or {*map(str.lower, names)} & HEADER_NAMES or {*names} & {*reading.columns}
        notes = [] if sure else [f"{path.name}: the first row is taken for a header ({_shown(names)})"]
    else:
        names, body = _name_columns(table), table
        notes = [f"{path.name} has no header: its columns are taken as {', '.join(names)}"]
    if bad:
        notes.append(f"{path.name}: {len(bad)} rows of another width were skipped, the first is row {bad[0]}")
    return Dataset.from_dict({name: [row[i] for row in body] for i, name in enumerate(names)}), notes


def _parse(text: str, delimiter: str, *, quotes: bool = True, most: int | None = None) -> Rows:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    rows: Rows = []
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting):
        if row:
            rows.append(row)
        if most is not None and len(rows) == most:
            break
    return rows


def _find_delimiter(text: str) -> str:
    """The first of the usual delimiters by which all rows have the same number of columns, two at least; else a comma.

    `csv.Sniffer` takes letters that every row has for one, and commas within texts.
    """
    for delimiter in _DELIMITERS:
        try:
            widths = {len(row) for row in _parse(text, delimiter, most=_TRIED)}
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
    return bool(_NUMBER.fullmatch(cell)) and bool(filled) and all(_NUMBER.fullmatch(other) for other in filled)


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
