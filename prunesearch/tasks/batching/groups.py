"""Which group each row belongs to, by a column of the user's data: who recorded it, where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets.arrow_dataset import Dataset

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.tasks.batching.batches import EvalSet

NOBODY = "(none)"  # where a cell is empty


@dataclass
class Grouping:
    """A column whose cells are read where splits are drawn; nothing else looks at them.

    Attributes:
        column: its name.
        values: of every split that is judged, its rows' groups, by the number of a row.
    """

    column: str
    values: dict[str, list[str]] = field(default_factory=dict)

    def check(self, name: str, splits: Mapping[str, Dataset]) -> None:
        """Refuse a column that no split has.

        Raises:
            PruneSearchError: with the column that may have been meant.
        """
        columns = list(dict.fromkeys(column for rows in splits.values() for column in rows.column_names))
        if self.column not in columns:
            raise PruneSearchError(
                f"groups must be a column of '{name}', but got '{self.column}': {did_you_mean(self.column, columns)}"
            )

    def read(self, parts: Mapping[str, Dataset], name: str) -> None:
        """Take down the groups of the rows of splits.

        Raises:
            PruneSearchError: if the rows that results are of have no such column.
        """
        for role, rows in parts.items():
            if self.column in rows.column_names:
                self.values[role] = [_said(cell) for cell in rows.select_columns([self.column])[self.column]]
        if "holdout" not in self.values:
            raise PruneSearchError(
                f"the holdout rows of '{name}' have no column '{self.column}', which groups are told by: add it, or "
                "leave --group out"
            )


def groups_in(split: EvalSet, values: Sequence[str]) -> list[str]:
    """The groups of a split's rows in the order of its batches; of rows in several views, each as often as it is there.

    Args:
        split: its rows, or the first of them.
        values: groups by the number of a row.
    """
    numbers = torch.cat(split.batches.numbers)
    seen = split.batches.view_of(numbers)
    return [values[number] for number in (numbers if seen is None else seen[1]).tolist()]


def _said(cell: Any) -> str:
    text = "" if cell is None or cell != cell else str(cell).strip()
    return text or NOBODY
