"""The ladder of a front as rows of text, for the terminal and for pages."""

from __future__ import annotations

from prunesearch.core.costs import digits
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.study.front import Front


def rung_head(front: Front) -> list[str]:
    """The titles of `rung_rows`."""
    metric = next(iter(front.unpruned.qualities))
    return ["unpruned in", "", "ms", "speed", f"{metric}, %", "with stages", "speed", "%"]


def rung_note(front: Front) -> str | None:
    """Of how many rows the qualities are, where that is known."""
    rows = next((rung.rows for rung in front.ladder if rung.rows is not None), None)
    clean = "" if front.combined is None else " as they are, in no view"
    return None if rows is None else f"qualities are of {rows:,} of the holdout rows{clean}, the same for all"


def rung_rows(front: Front) -> list[list[str]]:
    """One row a rung that was measured: the unpruned model, then with the stages of the recommended plan."""
    known = [rung for rung in front.ladder if rung.ms is not None]
    first = known[0].ms if known else None

    def speed(ms: float | None) -> str:
        return "" if ms is None or first is None else f"{first / ms:.2f}×"

    def percent(quality: float | None) -> str:
        return "" if quality is None else f"{100 * quality:.1f}"

    return [
        [
            RUNTIMES.entry(rung.runtime).shown,
            rung.precision or "",
            digits(rung.ms or 0.0),
            speed(rung.ms),
            percent(rung.quality),
            "" if rung.plan_ms is None else f"{digits(rung.plan_ms)} ms",
            speed(rung.plan_ms),
            percent(rung.plan_quality),
        ]
        for rung in known
    ]


def rungs_skipped(front: Front) -> list[str]:
    """A line for each rung that was not measured, with the reason."""
    return [
        f"{rung.runtime}{f' in {rung.precision}' if rung.precision else ''}: {rung.skipped}"
        for rung in front.ladder
        if rung.skipped
    ]
