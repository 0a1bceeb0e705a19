"""Labels that are no single class: numbers, and sets of classes, as columns or lists, in every form that files have."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets.arrow_dataset import Dataset
from datasets.features import List, Value
from torch import Tensor

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.tasks.data.labels import GENERIC, Raw, clean
from prunesearch.tasks.data.split import SplitPart

NUMBER_NAMES = ("label", "labels", "score", "scores", "similarity_score", "similarity", "relatedness_score")
NUMBER_GUESSES = ("rating", "stars", "target", "value", "y")
FLAG_NAMES = ("label", "labels", "classes", "tags", "genres", "topics", "categories")
_FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "0.0": 0, "1.0": 1}
_BETWEEN = ("|", ";", ",")


def number_columns(rows: Dataset, names: Sequence[str]) -> list[str]:
    """The columns of a table that a head of these outputs is to give: one by its usual name, or one an output.

    Args:
        rows: the table.
        names: of the outputs.
    """
    return _named(rows, names) or _usual(rows, (*NUMBER_NAMES, *NUMBER_GUESSES))


def flag_columns(rows: Dataset, names: Sequence[str]) -> list[str]:
    """The columns that say which classes of a head are on: one of 0 and 1 a class, by its name, else one of lists.

    Classes without names (`LABEL_0`) are the columns of 0 and 1, where these are as many, in their order.
    """
    found = _named(rows, names) or _usual(rows, FLAG_NAMES)
    if not found and all(GENERIC.fullmatch(name) for name in names):
        flags = [name for name in rows.column_names if _are_flags(rows, name)]
        found = flags if len(flags) == len(names) else []
    return found


def numbers_of(part: SplitPart, columns: Sequence[str], outputs: int) -> Tensor:
    """The numbers of every row, float64 `[n]`, or `[n, outputs]` of several.

    Raises:
        PruneSearchError: naming the row whose cell is no number, or holds another count of them.
    """
    read = number_lists(part, *columns)
    wrong = next((i for i, row in enumerate(read) if len(row) != outputs), None)
    if wrong is not None:
        raise PruneSearchError(
            f"a row must have {outputs} numbers for this head, but {part.name_of(wrong)} has {len(read[wrong])}: "
            "check the label columns"
        )
    found = torch.tensor(read, dtype=torch.float64)
    return found[:, 0] if outputs == 1 else found


def number_lists(part: SplitPart, *columns: str) -> list[list[float]]:
    """The numbers in a column of lists (or of one number a row), or in several columns, of every row.

    Raises:
        PruneSearchError: naming the row whose cell is no number.
    """
    return _cells(part, columns, _number, "numbers")


def flags_of(part: SplitPart, columns: Sequence[str], names: Sequence[str]) -> Tensor:
    """Which classes are on in every row, 0 or 1, int64 `[n, classes]`.

    Raises:
        PruneSearchError: naming the row with what is no class of the head, or neither 0 nor 1.
    """
    if len(columns) > 1:
        return torch.tensor(_cells(part, columns, _flag, "0 or 1 (true or false)"), dtype=torch.long)
    read = _cells(part, columns, _named_or_on, "classes, by name or number")
    whole = all(len(row) == len(names) and {*row} <= {0, 1} for row in read)
    if whole:
        return torch.tensor(read, dtype=torch.long)
    known: dict[Any, int] = {name.casefold(): i for i, name in enumerate(names)}
    found = torch.zeros(len(read), len(names), dtype=torch.long)
    for place, row in enumerate(read):
        for value in row:
            found[place, _class_of(value, known, names, part.name_of(place))] = 1
    return found


def _class_of(value: Any, known: dict[Any, int], names: Sequence[str], where: str) -> int:
    if isinstance(value, int) and 0 <= value < len(names):
        return value
    place = known.get(str(value).strip().casefold())
    generic = GENERIC.fullmatch(str(value))
    if place is None and generic and int(generic[1]) < len(names):
        place = int(generic[1])
    if place is None:
        raise PruneSearchError(
            f"'{value}' of {where} is not one of the model's {len(names)} classes: {did_you_mean(str(value), names)}"
        )
    return place


def _named(rows: Dataset, names: Sequence[str]) -> list[str]:
    """The columns called as several outputs are, whatever the case; none unless all are there."""
    there = {name.casefold(): name for name in rows.column_names}
    found = [there.get(name.casefold(), "") for name in names]
    return found if len(names) > 1 and all(found) else []


def _usual(rows: Dataset, names: Sequence[str]) -> list[str]:
    there = {name.casefold(): name for name in rows.column_names}
    return [there[name] for name in names if name in there][:1]


def _are_flags(rows: Dataset, name: str) -> bool:
    feature = rows.features[name]
    if isinstance(feature, List) or not isinstance(feature, Value):
        return False
    seen = {str(value).strip().casefold() for value in rows[name][:200]}
    return bool(seen) and seen <= set(_FLAGS)


def _reads(read: Callable[[Any], Any], cell: Any) -> bool:
    try:
        read(cell)
    except (TypeError, ValueError, PruneSearchError):
        return False
    return True


def _cells(part: SplitPart, columns: Sequence[str], read: Callable[[Any], Any], what: str) -> list[list[Any]]:
    """The values of every row: those of several columns, or the list in one."""
    rows = part.rows.select_columns(list(columns))
    found = []
    for place, row in enumerate(rows):
        cells = [row[name] for name in columns] if len(columns) > 1 else _listed(row[columns[0]])
        try:
            found.append([read(cell) for cell in cells])
        except (TypeError, ValueError, PruneSearchError):
            wrong = next(name for name in columns if len(columns) == 1 or not _reads(read, row[name]))
            raise PruneSearchError(
                f"column '{wrong}' must hold {what}, but {part.name_of(place)} has {row[wrong]!r:.40}: mend or leave "
                "out that row, or name another column with columns label=NAME"
            ) from None
    return found


def _listed(cell: Any) -> list[Any]:
    """The values of a cell: a list's, those in a text (`["a", "b"]`, `a|b`, `a;b`, `a,b`), or its only one."""
    if isinstance(cell, (list, tuple)):
        return list(cell)
    if not isinstance(cell, str):
        return [cell]
    text = cell.strip()
    if text.startswith("[") and text.endswith("]"):
        return _literal(text)
    between = next((mark for mark in _BETWEEN if mark in text), None)
    return [text] if between is None else [part.strip() for part in text.split(between) if part.strip()]


def _literal(text: str) -> list[Any]:
    """A list as JSON, Python (`['a', 'b']`) or numpy (`[0 1 1]`) write it."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return list(parse(text))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return [part.strip("'\"") for part in re.split(r"[\s,]+", text[1:-1].strip()) if part]


def _number(cell: Any) -> float:
    value = float(cell)
    if not math.isfinite(value):
        raise ValueError(f"a number must be finite, but got {cell!r:.40}")
    return value


def _named_or_on(cell: Any) -> Raw:
    """A class by name or number, or whether one is on, 0 or 1."""
    return int(cell) if isinstance(cell, bool) else clean(cell)


def _flag(cell: Any) -> int:
    found = _FLAGS.get(str(cell).strip().casefold())
    if found is None:
        raise ValueError(f"a class must be on or off (1 or 0, true or false), but got {cell!r:.40}")
    return found
