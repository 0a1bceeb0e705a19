"""What a reader should know of points that were judged where rows are unlike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunesearch.export.pick import BY_SCORE
from prunesearch.search.finish.robustness import rank_correlation
from prunesearch.study.front_compared import AttackedPlan, StressedPlan
from prunesearch.study.front_items import ClassQuality

_UNPRUNED = "unpruned"


def stress_notes(plans: Sequence[StressedPlan], attacks: Sequence[AttackedPlan]) -> list[str]:
    """What a reader should know: who loses most where, whether the order of plans holds, and what an attack costs."""
    pruned, notes = plans[1:], []
    if pruned and pruned[0].classes:
        worst = min(pruned, key=lambda one: one.classes[0].change)
        notes.append(_loses_most("class by class", worst, worst.classes[0]))
    if pruned and pruned[0].groups:
        worst = min(pruned, key=lambda one: one.groups[0].change)
        notes.append(_loses_most("group by group", worst, worst.groups[0]))
    clean = {one.name: one.quality.value for one in plans}
    moved = {one.name: one.shifted.value for one in plans if one.shifted is not None}
    if moved:
        notes += _order("on the other data", {n: clean[n] for n in moved if n != _UNPRUNED}, moved)
    for attack in dict.fromkeys(one.attack for one in attacks):
        mine = {one.name: one for one in attacks if one.attack == attack}
        own = {name: one.own for name, one in mine.items()}
        notes += _order(f"under {attack} on themselves", {n: clean[n] for n in own if n != _UNPRUNED}, own)
        there = [one.from_unpruned for name, one in mine.items() if name != _UNPRUNED]
        if there:
            notes.append(
                f"{attack} leaves the unpruned model {100 * own[_UNPRUNED]:.1f} %; rows that mislead it leave pruned "
                f"plans {100 * min(there):.1f} to {100 * max(there):.1f} %"
            )
    return [*notes, *_compute(plans, attacks)]


def _loses_most(how: str, worst: StressedPlan, first: ClassQuality) -> str:
    whole = worst.quality.difference
    return (
        f"{how} {worst.name} loses most: {100 * first.change:+.1f} points on {first.rows} rows of {first.name}, where "
        f"all rows together change by {100 * (whole.value if whole else 0.0):+.1f}"
    )


def _order(where: str, clean: Mapping[str, float], found: Mapping[str, float]) -> list[str]:
    """How the order of pruned plans holds, and whether any is better than the unpruned model there."""
    if not clean:
        return []
    best, there = (max(values, key=lambda name: values[name]) for values in (clean, {n: found[n] for n in clean}))
    rank = rank_correlation([clean[n] for n in clean], [found[n] for n in clean])
    if rank is None:
        return []
    same = "stays the best" if best == there else f"is not: {there} is"
    return [
        f"{where} the best pruned plan, {best}, {same}; rank correlation of {len(clean)} plans with clean rows "
        f"{rank:+.2f}"
    ]


def _compute(plans: Sequence[StressedPlan], attacks: Sequence[AttackedPlan]) -> list[str]:
    """What an attack on answers does to what is computed (DeSparsify, Yehezkel et al. 2024, attacks that itself)."""
    if not attacks:
        return []
    tokens = {one.name: one.tokens for one in plans}
    static = [one for one in attacks if one.name not in BY_SCORE]
    notes = []
    if all(abs(one.tokens - tokens[one.name]) < 1e-6 for one in static):
        notes.append("static plans compute on as many tokens whatever is in a row: no attack makes them dearer")
    notes += [
        f"{one.name} computes on {tokens[one.name]:.1f} tokens behind the last block, under {one.attack} on "
        f"{one.tokens:.1f}"
        for one in attacks
        if one.name in BY_SCORE
    ]
    return notes
