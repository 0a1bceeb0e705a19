"""What a reader makes of a file: its rows, where they stood, and what was decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from datasets.arrow_dataset import Dataset
from numpy.typing import NDArray

_NAMED = 3  # of what was skipped


@dataclass(frozen=True)
class FileRows:
    """The rows of a file that can be read.

    Attributes:
        rows: in their order.
        notes: what a user should know, in one line each.
        numbers: place in the file of each row, from 0, `[n]`; None: rows 0 to n - 1.
    """

    rows: Dataset
    notes: list[str] = field(default_factory=list)
    numbers: NDArray[np.int64] | None = None


def skipped(bad: Sequence[str], what: str) -> list[str]:
    """A note of how many rows were skipped, and the first few of them; none where there are none.

    Args:
        bad: what a user finds each row by.
        what: they are, as in "damaged rows".
    """
    if not bad:
        return []
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return [f"{len(bad)} {what} skipped: {', '.join(bad[:_NAMED])}{more}"]
