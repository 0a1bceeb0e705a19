"""How much a stage leaves: a fraction, or of every row what its scores say.

The one rounding rule of the project lives here (`kept_count`); runtime, cost model and FLOP counts all call it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from prunesearch.core.errors import PruneSearchError

# Products such as 0.07 * 100 come out a hair above the integer they mean; they must not round up past it.
ROUNDING_SLACK = 1e-9


@lru_cache(maxsize=4096)
def kept_count(keep: float, reducible: int) -> int:
    """Tokens that leave a stage, protected ones apart: `ceil(keep * reducible)`, so at least one if there is any.

    Args:
        keep: fraction in (0, 1] of the reducible tokens the sequence had at the start.
        reducible: number of those tokens (without padding and protected tokens).
    """
    return max(math.ceil(keep * reducible - ROUNDING_SLACK), min(reducible, 1))


class Amount(ABC):
    """How much a stage leaves: one class a kind, frozen, with its own plain form of one key.

    `share` is the fraction of the initial reducible tokens that is left at most; `counts` is the name in `ROW_COUNTS`
    of what counts the tokens of each row that stay, empty where as many are left of every row of a length.
    """

    share: float
    counts: ClassVar[str] = ""
    bounded: ClassVar[bool] = True  # whether its number lies in (0, 1], and more of it leaves more

    def kept(self, reducible: int) -> int:
        """Tokens left of `reducible` ones at the start, protected ones apart; at most."""
        return kept_count(self.share, reducible)

    @property
    @abstractmethod
    def number(self) -> float:
        """What its plain form says."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What is left, where people read it."""

    def to_dict(self) -> dict[str, Any]:
        """The plain form: the kind, and its number."""
        return {next(key for key, kind in AMOUNTS.items() if kind is type(self)): self.number}


@dataclass(frozen=True)
class Keep(Amount):
    """A fraction in (0, 1] of the INITIAL reducible tokens.

    Raises:
        PruneSearchError: for anything else.
    """

    share: float

    def __post_init__(self) -> None:
        if isinstance(self.share, bool) or not isinstance(self.share, (int, float)):
            raise PruneSearchError(f"`keep` must be a number in (0, 1], but got {self.share!r}")
        if not 0.0 < self.share <= 1.0:
            raise PruneSearchError(f"`0 < keep <= 1` must hold, but got keep={self.share!r}")

    def __str__(self) -> str:
        return f"{self.share:.2f}"

    @property
    def number(self) -> float:
        """See `Amount`."""
        return self.share

    @property
    def words(self) -> str:
        """See `Amount`."""
        return f"{self.share:.4g} of the initial tokens"


@dataclass(frozen=True)
class Threshold(Amount):
    """The tokens of a row whose score is at least `least` (LTP, Kim et al. 2022), and the best one in any case.

    Raises:
        PruneSearchError: for a number below 0: scores are never negative.
    """

    least: float
    share: ClassVar[float] = 1.0  # type: ignore[misc]
    counts: ClassVar[str] = "threshold"
    bounded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not _is_number(self.least) or self.least < 0:
            raise PruneSearchError(f"`threshold >= 0` must hold: scores are never negative, but got {self.least!r}")

    def __str__(self) -> str:
        return f"t{self.least:.4g}"

    @property
    def number(self) -> float:
        """See `Amount`."""
        return self.least

    @property
    def words(self) -> str:
        """See `Amount`."""
        return f"tokens that score {self.least:.4g} or more, of each row as many as that are"


@dataclass(frozen=True)
class Cumulative(Amount):
    """The best-scored tokens that hold together a part of the scores of a row's reducible tokens: as few as it takes.

    Raises:
        PruneSearchError: for a part that is not in (0, 1].
    """

    part: float
    share: ClassVar[float] = 1.0  # type: ignore[misc]
    counts: ClassVar[str] = "cumulative"

    def __post_init__(self) -> None:
        if not _is_number(self.part) or not 0.0 < self.part <= 1.0:
            raise PruneSearchError(f"`0 < cumulative <= 1` must hold, but got {self.part!r}")

    def __str__(self) -> str:
        return f"p{self.part:.4g}"

    @property
    def number(self) -> float:
        """See `Amount`."""
        return self.part

    @property
    def words(self) -> str:
        """See `Amount`."""
        return f"the best tokens, of each row as many as hold {self.part:.4g} of its scores"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# kinds of amounts, by the key of their plain form, and by the letter before their number where people type it
AMOUNTS: dict[str, type[Amount]] = {"keep": Keep, "threshold": Threshold, "cumulative": Cumulative}
TYPED: dict[str, type[Amount]] = {"": Keep, "t": Threshold, "p": Cumulative}
