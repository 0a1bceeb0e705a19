"""One reduction site of a schedule: where it is, how much it keeps, scored by what, dropped or merged how.

The one rounding rule of the project lives here (`kept_count`); runtime, cost model and FLOP counts all call it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.registry import MERGES, SCORERS

# Products such as 0.07 * 100 come out a hair above the integer they mean; they must not round up past it.
ROUNDING_SLACK = 1e-9


def kept_count(keep: float, reducible: int) -> int:
    """Tokens that leave a stage, protected ones apart: `ceil(keep * reducible)`, so at least one if there is any.

    Args:
        keep: fraction in (0, 1] of the reducible tokens the sequence had at the start.
        reducible: number of those tokens (without padding and protected tokens).
    """
    return max(math.ceil(keep * reducible - ROUNDING_SLACK), min(reducible, 1))


@dataclass(frozen=True)
class Stage:
    """One reduction site, between the attention and the MLP of block `layer`.

    Args:
        layer: index of the block, from 0.
        keep: fraction in (0, 1] of the INITIAL reducible tokens that leave the stage.
        scorer: a name in `SCORERS`; ignored by merges that match by similarity alone (`bipartite`).
        merge: a name in `MERGES`; what becomes of the tokens that are not kept.
    """

    layer: int
    keep: float
    scorer: str = "cls_attention"
    merge: str = "drop"

    def __post_init__(self) -> None:
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer < 0:
            raise PruneSearchError(f"`layer` must be an integer >= 0, but got {self.layer!r}")
        if isinstance(self.keep, bool) or not isinstance(self.keep, (int, float)):
            raise PruneSearchError(f"`keep` must be a number in (0, 1], but got {self.keep!r}")
        if not 0.0 < self.keep <= 1.0:
            raise PruneSearchError(f"`0 < keep <= 1` must hold, but got keep={self.keep!r}")
        SCORERS.entry(self.scorer)
        MERGES.entry(self.merge)

    @property
    def method(self) -> str:
        """`scorer+merge`, or the merge alone where the scorer is ignored: equal methods reduce alike."""
        return f"{self.scorer}+{self.merge}" if MERGES.entry(self.merge).uses_scores else self.merge

    def to_dict(self) -> dict[str, Any]:
        """Return the plain JSON form."""
        return {
            "layer": self.layer,
            "keep": self.keep,
            "scorer": self.scorer,
            "merge": self.merge,
        }


def parse_method(method: str) -> tuple[str, str]:
    """Split `scorer+merge` (or a merge that needs no scorer) into `(scorer, merge)`, checking both names.

    >>> parse_method("value_norm+fuse"), parse_method("bipartite")
    (('value_norm', 'fuse'), ('cls_attention', 'bipartite'))
    """
    scorer, plus, merge = method.partition("+")
    if not plus:
        scorer, merge = Stage.scorer, method
        if MERGES.entry(merge).uses_scores:
            raise PruneSearchError(
                f"merge '{merge}' needs a scorer: write it as SCORER+{merge}, for example cls_attention+{merge}"
            )
    SCORERS.entry(scorer)
    MERGES.entry(merge)
    return scorer, merge
