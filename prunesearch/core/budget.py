"""Costs and their units, and budgets: `10ms`, `40mJ`, `2GMACs`, `64MiB`, `60%` of the unpruned model's, `2x` less."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from prunesearch.core.errors import PruneSearchError

# Everything that can be minimised or bounded: latency of a batch, energy and multiply-adds of one input, and the peak
# memory of a batch's activations.
UNITS = {"latency": "ms", "energy": "mJ", "macs": "GMACs", "memory": "MiB"}

# what may be typed, in lower case, with its kind and its value in that kind's unit
_TYPED = {
    "us": ("latency", 1e-3),
    "ms": ("latency", 1.0),
    "s": ("latency", 1e3),
    "uj": ("energy", 1e-3),
    "mj": ("energy", 1.0),
    "j": ("energy", 1e3),
    "mmacs": ("macs", 1e-3),
    "gmacs": ("macs", 1.0),
    "tmacs": ("macs", 1e3),
    "kib": ("memory", 2**-10),
    "mib": ("memory", 1.0),
    "gib": ("memory", 2.0**10),
    "kb": ("memory", 1e3 / 2**20),
    "mb": ("memory", 1e6 / 2**20),
    "gb": ("memory", 1e9 / 2**20),
}
_PATTERN = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z%]*)\s*$")
_FORMS = (
    "write a latency (10ms, 500us, 0.2s), an energy (40mJ, 1.5J), multiply-adds (2GMACs, 900MMACs), a memory (64MiB, "
    "0.5GB), a share of the unpruned model's cost (60%) or a speed-up (2x)"
)


@dataclass(frozen=True)
class Budget:
    """An upper bound on a cost.

    `kind` is a name in `UNITS` (`value` in its unit), `share` (0 to 1) or `speedup` (a factor); the last two are of
    what the unpruned model costs.
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
        if unit in _TYPED:
            kind, factor = _TYPED[unit]
            return cls(kind, value * factor, text)
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
