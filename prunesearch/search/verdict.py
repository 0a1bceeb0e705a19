"""One sentence that says what to do, or that nothing need be done."""

from __future__ import annotations

from prunesearch.results.front import BudgetInfo, Point, Unpruned, Verdict, cost_of, digits

TOLERANCE = 0.01  # of the unpruned model's quality
_WORTH_IT = 1.05  # a speed-up below this is within what a machine's mood does


def verdict(
    unpruned: Unpruned,
    points: list[Point],
    budget: BudgetInfo | None,
    batch_size: int,
    metric: str,
    objective: str = "latency",
    trust: str = "",
) -> Verdict:
    """Judge a front.

    The recommended point is the cheapest in the first `objective` that keeps 99 % of the unpruned quality on the
    holdout split. The candidates were chosen on calibration data, a dozen at most, so that reading the last step off
    the holdout split flatters by less than the interval that is printed beside it.

    Args:
        trust: said of every cost that was not measured: `estimated ±20 %`.
    """
    unit = "mJ" if objective == "energy" else "ms"
    base = cost_of(unpruned, unit)
    gains = {p.id: base / cost_of(p, unit) for p in points}
    good = [p for p in points if keeps_quality(p, unpruned) and gains[p.id] >= _WORTH_IT]
    if good:
        point = max(good, key=lambda p: gains[p.id])
        best = "Most frugal" if objective == "energy" else "Fastest"
        return Verdict(
            text=f"{best} schedule within 1 % of the unpruned model: {describe(point, unpruned, metric, unit, trust)}.",
            point=point.id,
        )
    if budget is not None and points:
        point = max(points, key=lambda p: (p.calibration.quality, gains[p.id]))
        return Verdict(
            text=f"Nothing inside {budget.text} ({digits(budget.limit)} {budget.unit}) stays within 1 % of the "
            f"unpruned model; the best that fits: {describe(point, unpruned, metric, unit, trust)}.",
            point=point.id,
        )
    largest = max(gains.values(), default=1.0)
    less = "more frugal" if objective == "energy" else "faster"
    reason = (
        f"the best schedule found gains {largest:.2f}x"
        if largest < _WORTH_IT
        else f"no schedule within 1 % of its {metric} is {_WORTH_IT:.2f}x {less}"
    )
    said = f", {trust}" if trust else ""
    return Verdict(
        text=f"Unpruned is best here (batch {batch_size}{said}): {reason}. A larger batch or longer inputs may change "
        "that."
    )


def keeps_quality(point: Point, unpruned: Unpruned) -> bool:
    """True if 99 % of the unpruned quality is kept on the holdout split."""
    return point.quality.value >= (1 - TOLERANCE) * unpruned.quality.value


def describe(point: Point, unpruned: Unpruned, metric: str, unit: str = "ms", trust: str = "") -> str:
    """A point's numbers in words."""
    d, mine, base = point.difference, cost_of(point, unit), cost_of(unpruned, unit)
    said = f", {trust}" if trust else ""
    return (
        f"{point.id}, {base / mine:.2f}x ({digits(mine)} {unit} against {digits(base)} {unit}{said}), "
        f"{metric} {100 * point.quality.value:.2f} % against "
        f"{100 * unpruned.quality.value:.2f} % (paired difference {100 * d.value:+.2f} points, 95 % interval "
        f"{100 * d.low:+.2f} to {100 * d.high:+.2f})"
    )
