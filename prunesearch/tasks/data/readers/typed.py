"""Tables whose cells have types of their own: Parquet and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from datasets.arrow_dataset import Dataset

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.files import parse_json
from prunesearch.tasks.data.readers.delimited import TextTable
from prunesearch.tasks.data.readers.file_rows import FileRows, skipped

_KINDS = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
_OUT = "mend it, or leave such rows out with --skip-bad"


def read_parquet(path: Path, reading: TextTable) -> FileRows:
    """Read a parquet file into memory (through pyarrow, so that no copy lands in a cache folder)."""
    parquet: Any = pyarrow.parquet  # untyped
    return FileRows(Dataset(parquet.read_table(path)))


def read_json(path: Path, reading: TextTable) -> FileRows:
    """Read JSON lines, or one JSON array of objects; a row may lack any column.

    Raises:
        PruneSearchError: naming a row that is no JSON object, or has a cell of another kind than the rows before it.
    """
    rows: list[dict[str, Any]] = []
    kinds: dict[str, str] = {}  # by column, of the first cell there
    good, bad = [], []
    for place, (name, row, wrong) in enumerate(_json_rows(path.read_text(encoding="utf-8-sig"))):
        wrong = wrong or _of_another_kind(row, kinds)
        if wrong and not reading.skip_bad:
            raise PruneSearchError(f"{name} of '{path}' {wrong}: {_OUT}")
        if wrong:
            bad.append(f"{name} of '{path}'")
            continue
        for column, cell in row.items():
            if cell is not None:
                kinds.setdefault(column, _KINDS[type(cell)])
        good.append(place)
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    made = Dataset.from_list([{name: row.get(name) for name in names} for row in rows])
    return FileRows(made, skipped(bad, "rows that cannot be read were"), np.array(good, dtype=np.int64))


def _json_rows(text: str) -> Iterator[tuple[str, Any, str]]:
    """What a user finds each row by, the row, and what is wrong with it, which is empty where it is an object."""
    if text.lstrip().startswith("["):
        for number, row in enumerate(parse_json(text, _once), start=1):
            yield f"row {number}", row, _no_object(row)
        return
    if text.lstrip().startswith("{\n"):  # one object over several lines
        yield "row 1", parse_json(text, _once), ""
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = parse_json(line, _once)
            except ValueError as error:
                yield f"line {number}", None, f"is not JSON ({error})"
            else:
                yield f"line {number}", row, _no_object(row)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, none of whose keys comes twice; JSON's own readers keep the last one and say nothing."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(n for n in names if names.count(n) > 1)}' comes twice")
    return found


def _no_object(row: Any) -> str:
    return "" if isinstance(row, dict) else f"must be a JSON object {{column: value}}, but is {json.dumps(row):.40}"


def _of_another_kind(row: dict[str, Any], kinds: dict[str, str]) -> str:
    """What is wrong with a row whose cell is of another kind than the column's first; empty where none is."""
    for column, cell in row.items():
        kind = None if cell is None else _KINDS[type(cell)]
        if kind not in (None, kinds.get(column, kind)):
            return f"has {kind} ({cell!r:.40}) in column '{column}', where rows before it have {kinds[column]}"
    return ""
