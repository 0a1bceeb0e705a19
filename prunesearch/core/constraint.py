"""Constraints as typed: `quality >= 0.99*unpruned`, `agreement >= 0.98`, `latency <= 10ms`, `macs <= 60%`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from prunesearch.core.budget import Budget
from prunesearch.core.costs import COSTS, find_cost
from prunesearch.core.errors import PruneSearchError, did_you_mean

AGREEMENT = "agreement"
QUALITIES = ("quality", AGREEMENT)  # bounded from below, as costs are of which more is better
_PATTERN = re.compile(r"([A-Za-z_]*)(?:@(\w+))?\s*(<=|>=|=<|=>|==|<|>|=)\s*(.*)")
_RELATIVE = re.compile(r"^(?:([^*]*)\*)?\s*unpruned(?:@(\w+))?$", re.IGNORECASE)
_FORMS = "write 'quality >= 0.99*unpruned', 'agreement >= 0.98', 'latency <= 10ms' or 'macs <= 60%'"


@dataclass(frozen=True)
class Constraint:
    """A bound on a quality (from below) or a cost (from above, unless more of it is better).

    Attributes:
        name: `quality`, `agreement` (the share of rows with the unpruned model's answer), or a row of `COSTS`.
        value: the bound: a fraction for a quality, in the cost's unit for a cost; of a `relative` one, the factor.
        relative: whether the bound is `value` times what the unpruned model has, as `relative_bound` says.
        text: as typed, blanks made regular.
        view: of `quality@fog`, the view of the rows that it is in; empty: what all of them come to.
    """

    name: str
    value: float
    relative: bool
    text: str
    view: str = ""

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Parse a constraint as typed by a user.

        Raises:
            PruneSearchError: in one line, for an unknown name, the wrong direction, or a bound that cannot be.
        """
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise PruneSearchError(f"constraint '{text}' is not understood: {_FORMS}")
        name, view, sign, bound = match[1].lower(), (match[2] or "").lower(), match[3], match[4]
        known = (*QUALITIES, *COSTS)
        if name not in known:
            raise PruneSearchError(f"constraint '{text}': unknown name '{match[1]}', {did_you_mean(name, known)}")
        needed = "<=" if name in COSTS and COSTS.entry(name).smaller_is_better else ">="
        if sign != needed:
            raise PruneSearchError(
                f"`{name} {needed} bound` is what can be asked for, but got '{text}': write '{name} {needed} {bound}'"
            )
        other = _RELATIVE.match(bound)
        if view and name not in QUALITIES:
            raise PruneSearchError(f"a quality has views, a cost has none, but got '{text}': leave '@{view}' out")
        if other is not None and other[2] is not None and other[2].lower() != view:
            raise PruneSearchError(
                f"a bound is on one view, but got '{text}': write '{name}@{other[2]} {sign} {bound}'"
            )
        value, relative = _quality(name, bound, text) if name in QUALITIES else _cost(name, bound, text)
        return cls(name, value, relative, f"{name}{f'@{view}' if view else ''} {sign} {bound}", view)

    @property
    def on_quality(self) -> bool:
        """Whether it bounds a quality, which only an evaluation can tell."""
        return self.name in QUALITIES

    @property
    def on_agreement(self) -> bool:
        """Whether it bounds the agreement with the unpruned model, not a metric."""
        return self.name == AGREEMENT

    def limit(self, unpruned: float) -> float:
        """The bound, given what the unpruned model has."""
        return relative_bound(self.value, unpruned) if self.relative else self.value

    def violation(self, value: float, unpruned: float) -> float:
        """How far `value` is beyond the bound; 0 or less where the constraint is kept."""
        limit = self.limit(unpruned)
        from_below = self.on_quality or not find_cost(self.name).smaller_is_better
        return limit - value if from_below else value - limit


def relative_bound(factor: float, unpruned: float) -> float:
    """What `factor*unpruned` means as a bound: what the unpruned model has, less `1 - factor` of its size.

    It is the product where `unpruned` is not negative. A correlation may be: 0.99 times -0.2 is more than -0.2, and
    would ask for more than the unpruned model has; this is -0.202.
    """
    return unpruned - (1 - factor) * abs(unpruned)


def _factor(bound: str, text: str) -> float | None:
    """The factor of `0.99*unpruned`; None if the bound is not of that form."""
    match = _RELATIVE.match(bound)
    if match is None:
        return None
    try:
        factor = 1.0 if match[1] is None else float(match[1])
    except ValueError:
        factor = math.nan
    if not 0 < factor <= 1:
        raise PruneSearchError(f"`0 < factor <= 1` must hold before '*unpruned', but got '{text}': {_FORMS}")
    return factor


def _quality(name: str, bound: str, text: str) -> tuple[float, bool]:
    factor = _factor(bound, text)
    if factor is not None:
        return factor, name == "quality"  # the unpruned model agrees with itself on every row
    try:
        value = float(bound)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        way_out = " (80 % is written 0.8)" if bound.endswith("%") else ""
        raise PruneSearchError(f"`0 <= {name} <= 1` must hold{way_out}, but got '{text}': {_FORMS}")
    return value, False


def _cost(name: str, bound: str, text: str) -> tuple[float, bool]:
    factor = _factor(bound, text)
    if factor is not None:
        return factor, True
    try:
        budget = Budget.parse(bound, searched=False)
    except PruneSearchError as error:
        raise PruneSearchError(f"constraint '{text}': {error}") from None
    row = find_cost(name)
    if budget.relative:
        turned = budget.kind == "speedup" and not row.smaller_is_better  # twice as good is twice as much
        return (budget.value if turned else budget.limit(1.0)), True
    if budget.kind != name:
        raise PruneSearchError(
            f"{name} is bounded in {row.unit} or as a share (60%), but got '{text}', which is "
            f"{find_cost(budget.kind).a_noun}"
        )
    return budget.value, False
