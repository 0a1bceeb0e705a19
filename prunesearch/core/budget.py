"""Budgets: `10ms`, `40mJ`, `2GMACs`, `64MiB`, `60%` of the unpruned model's, `2x` less."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from prunesearch.core.costs import COSTS, cost_of_unit
from prunesearch.core.duration import NUMBER, plain_unit
from prunesearch.core.errors import PruneSearchError

_PATTERN = re.compile(rf"({NUMBER})\s*([a-zA-Z\u00b5\u03bc\u00d7%]*)")


@dataclass(frozen=True)
class Budget:
    """An upper bound on a cost.

    `kind` is the name of a cost (`value` in its unit), `share` (0 to 1) or `speedup` (a factor); the last two are of
    what the unpruned model costs.
    """

    kind: str
    value: float
    text: str

    @classmethod
    def parse(cls, text: str, *, searched: bool = True) -> Budget:
        """Parse a budget as typed by a user.

        Args:
            text: as typed.
            searched: refuse costs that no search can keep a bound on.

        Raises:
            PruneSearchError: with the accepted forms, for a wrong unit or a value out of range.
        """
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise PruneSearchError(f"budget '{text}' is not understood: {_forms()}")
        value, unit = float(match[1]), plain_unit(match[2])
        if not math.isfinite(value) or value <= 0:
            raise PruneSearchError(f"a budget must be > 0, but got '{text}': {_forms()}")
        found = cost_of_unit(unit)
        if found is not None:
            row, factor = found
            if searched and not row.searched:
                sign = "<=" if row.smaller_is_better else ">="
                raise PruneSearchError(
                    f"budget '{text}' is of {row.noun}, which no search can keep: bound it in the end, by "
                    f"--constraint '{row.name} {sign} {text}'"
                )
            return cls(row.name, value * factor, text)
        if unit == "%":
            if value > 100:
                raise PruneSearchError(f"`share <= 100%` must hold, but got '{text}': {_forms()}")
            return cls("share", value / 100, text)
        if unit == "x":
            if value < 1:
                raise PruneSearchError(f"`speed-up >= 1x` must hold, but got '{text}': {_forms()}")
            return cls("speedup", value, text)
        shown = f"unit '{match[2]}'" if unit else "a number without a unit"
        raise PruneSearchError(f"budget '{text}' has {shown}: {_forms()}")

    @property
    def relative(self) -> bool:
        """Whether it is a share of the unpruned model's cost, or a speed-up over it."""
        return self.kind in ("share", "speedup")

    def cost(self, first: str) -> str:
        """The name of the cost that is bounded; `first` is the one that shares and speed-ups are of."""
        return first if self.relative else self.kind

    def limit(self, unpruned: float) -> float:
        """The bound in the unit of its cost, given what the unpruned model costs in the same unit."""
        if not self.relative:
            return self.value
        return unpruned * self.value if self.kind == "share" else unpruned / self.value


def _forms() -> str:
    known = ", ".join(f"{row.a_noun} ({row.examples})" for row in COSTS.entries().values() if row.searched)
    return f"write {known}, a share of the unpruned model's cost (60%) or a speed-up (2x)"
