"""The costs of schedules, measured end to end on the device at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from prunesearch.core.costs import find_cost
from prunesearch.core.plans.plan import Plan
from prunesearch.search.costs.bench import Bench, Pricing
from prunesearch.search.finish.kept import Kept
from prunesearch.study.front_items import Measured


@dataclass(frozen=True)
class Remeasured:
    """What was measured of one schedule, by the cost's name: under every load, and of the first load alone."""

    costs: dict[str, Measured] = field(default_factory=dict)
    loads: list[dict[str, Measured]] = field(default_factory=list)


def remeasure(
    bench: Bench, names: Sequence[str], schedules: Sequence[Plan], kept: Kept | None = None
) -> list[Remeasured]:
    """Measure every cost in `names` that can be measured here, of all the schedules, or take what was `kept` of it."""
    found = [Remeasured(loads=[{} for _ in bench.setting.loads]) for _ in schedules]
    for name in names:
        row = find_cost(name)
        pricing = row.make_pricing()
        for index in range(len(bench.setting.loads) if row.by_load else 1):
            under = bench.under(index)
            load = repr(bench.setting.loads[index])
            measure = partial(_measure, pricing, under, schedules)
            measured = measure() if kept is None else kept.measured(name, load, schedules, measure)
            for one, amount in zip(found, measured or [], strict=measured is not None):
                (one.loads[index] if row.by_load else one.costs)[name] = amount
    return found


def _measure(
    pricing: Pricing, bench: Bench, schedules: Sequence[Plan], unfinished: Path | None = None
) -> list[Measured] | None:
    return pricing.measure(replace(bench, keep=unfinished), schedules)
