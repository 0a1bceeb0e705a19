"""Budgets: `10ms` a batch, `40mJ` an input, `60%` of what the unpruned model costs, or `2x` less."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from prunesearch.core.errors import PruneSearchError

_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_UNITS_MJ = {"uj": 1e-3, "mj": 1.0, "j": 1e3}
_PATTERN = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z%]*)\s*$")
_FORMS = (
    "write a latency (10ms, 500us, 0.2s), an energy (40mJ, 1.5J), a share of the unpruned model's (60%) "
    "or a speed-up (2x)"
)


@dataclass(frozen=True)
class Budget:
    """An upper bound on a cost.

    `kind` is `latency` (`value` in ms for a batch), `energy` (in mJ for one input), `share` (0 to 1) or `speedup` (a
    factor); the last two are of what the unpruned model costs.
    """

    kind: str
    value: float
    text: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Parse a budget as typed by a user.

        Raises:
            PruneSearchError: with the accepted forms, for a wrong unit or a value out of range.
        """
        match = _PATTERN.match(text)
        if match is None:
            raise PruneSearchError(f"budget '{text}' is not understood: {_FORMS}")
        value, unit = float(match[1]), match[2].lower()
        if not math.isfinite(value) or value <= 0:
            raise PruneSearchError(f"a budget must be > 0, but got '{text}': {_FORMS}")
        if unit in _UNITS_MS:
            return cls("latency", value * _UNITS_MS[unit], text)
        if unit in _UNITS_MJ:
            return cls("energy", value * _UNITS_MJ[unit], text)
        if unit == "%":
            if value > 100:
                raise PruneSearchError(f"`share <= 100%` must hold, but got '{text}': {_FORMS}")
            return cls("share", value / 100, text)
        if unit == "x":
            if value < 1:
                raise PruneSearchError(f"`speed-up >= 1x` must hold, but got '{text}': {_FORMS}")
            return cls("speedup", value, text)
        shown = f"unit '{match[2]}'" if unit else "a number without a unit"
        raise PruneSearchError(f"budget '{text}' has {shown}: {_FORMS}")

    def limit(self, unpruned: float) -> float:
        """The bound in ms or mJ, given what the unpruned model costs in the same unit."""
        if self.kind in ("latency", "energy"):
            return self.value
        return unpruned * self.value if self.kind == "share" else unpruned / self.value
