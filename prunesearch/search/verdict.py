"""One sentence that says what to do, or that nothing need be done."""

from __future__ import annotations

from prunesearch.results.front import BudgetInfo, Point, Unpruned, Verdict

TOLERANCE = 0.01  # of the unpruned model's quality
_WORTH_IT = 1.05  # a speed-up below this is within what a machine's mood does


def verdict(
    unpruned: Unpruned, points: list[Point], budget: BudgetInfo | None, batch_size: int, metric: str
) -> Verdict:
    """Judge a front.

    The recommended point is the fastest, by the re-measured medians, that keeps 99 % of the unpruned quality on the
    holdout split. The candidates were chosen on calibration data, a dozen at most, so that reading the last step off
    the holdout split flatters by less than the interval that is printed beside it.
    """
    good = [p for p in points if keeps_quality(p, unpruned) and p.speedup >= _WORTH_IT]
    if good:
        point = max(good, key=lambda p: p.speedup)
        return Verdict(
            text=f"Fastest schedule within 1 % of the unpruned model: {describe(point, unpruned, metric)}.",
            point=point.id,
        )
    if budget is not None and points:
        point = max(points, key=lambda p: (p.calibration.quality, p.speedup))
        return Verdict(
            text=f"Nothing inside {budget.text} ({budget.limit_ms:.3g} ms) stays within 1 % of the unpruned model; the "
            f"best that fits: {describe(point, unpruned, metric)}.",
            point=point.id,
        )
    largest = max((p.speedup for p in points), default=1.0)
    reason = (
        f"the fastest schedule found is {largest:.2f}x"
        if largest < _WORTH_IT
        else f"no schedule within 1 % of its {metric} is {_WORTH_IT:.2f}x faster"
    )
    return Verdict(
        text=f"Unpruned is best here (batch {batch_size}): {reason}. A larger batch or longer inputs may change that."
    )


def keeps_quality(point: Point, unpruned: Unpruned) -> bool:
    """True if 99 % of the unpruned quality is kept on the holdout split."""
    return point.quality.value >= (1 - TOLERANCE) * unpruned.quality.value


def describe(point: Point, unpruned: Unpruned, metric: str) -> str:
    """A point's numbers in words."""
    d = point.difference
    return (
        f"{point.id}, {point.speedup:.2f}x ({point.latency.median_ms:.3g} ms against "
        f"{unpruned.latency.median_ms:.3g} ms), {metric} {100 * point.quality.value:.2f} % against "
        f"{100 * unpruned.quality.value:.2f} % (paired difference {100 * d.value:+.2f} points, 95 % interval "
        f"{100 * d.low:+.2f} to {100 * d.high:+.2f})"
    )
