from __future__ import annotations

from prunesearch.core.schedule import Schedule
from prunesearch.core.stage import Stage
from prunesearch.search.finish.verdict import Judge
from prunesearch.study.front import BudgetInfo, ConstraintInfo, Point, Unpruned


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def latency(ms: float) -> dict[str, float]:
    return {"predicted_ms": ms, "median_ms": ms, "p10_ms": ms, "p90_ms": ms}


UNPRUNED = Unpruned.model_validate(
    {"quality": interval(0.8), "latency": latency(20.0), "gmacs": 1.0, "tokens": [9, 9]},
)


def point(name: str, ms: float, quality: float) -> Point:
    schedule = Schedule([Stage(0, 0.5)])
    return Point.model_validate(
        {
            "id": name,
            "trial": 1,
            "schedule": schedule.to_dict(),
            "text": str(schedule),
            "tokens": [5, 5],
            "quality": interval(quality),
            "difference": interval(quality - 0.8),
            "fidelity": {"kl": 0.1, "agreement": 0.9},
            "calibration": {"quality": quality, "kl": 0.1},
            "latency": latency(ms),
            "speedup": 20.0 / ms,
            "gmacs": 0.5,
        }
    )


def test_the_fastest_within_one_percent_is_recommended_with_its_numbers() -> None:
    points = [point("p1", 16.0, 0.8), point("p2", 10.0, 0.793), point("p3", 5.0, 0.79)]
    found = Judge(UNPRUNED, "accuracy", 8).verdict(points)
    assert found.point == "p2"
    for words in ("2.00x", "10 ms against 20 ms", "79.30 %", "80.00 %", "-0.70 points"):
        assert words in found.text


def test_within_one_percent_of_a_negative_quality_is_below_it() -> None:
    """A correlation of -0.2: 99 % of it is -0.202."""
    unpruned = UNPRUNED.model_copy(update={"quality": UNPRUNED.quality.model_copy(update={"value": -0.2})})
    points = [point("p1", 16.0, -0.2), point("p2", 10.0, -0.2015), point("p3", 5.0, -0.21)]
    assert Judge(unpruned, "mcc", 8).verdict(points).point == "p2"


def test_unpruned_is_best_where_nothing_good_is_faster() -> None:
    found = Judge(UNPRUNED, "accuracy", 8).verdict([point("p1", 19.5, 0.8), point("p2", 10.0, 0.6)])
    assert found.point is None
    assert found.text.startswith("Unpruned is best here (batch 8)")
    assert Judge(UNPRUNED, "accuracy", 8).verdict([]).point is None


def test_a_tight_budget_names_the_best_that_fits_and_says_what_it_costs() -> None:
    budget = BudgetInfo(text="50%", limit=10.0)
    found = Judge(UNPRUNED, "accuracy", 8, budget=budget).verdict([point("p1", 10.0, 0.7), point("p2", 5.0, 0.5)])
    assert found.point == "p1"
    assert "Nothing inside 50%" in found.text


def test_a_constraint_on_quality_says_what_is_good_enough() -> None:
    asked = [ConstraintInfo(text="quality >= 0.9*unpruned", limit=0.72, broken=1)]
    found = Judge(UNPRUNED, "accuracy", 8, constraints=asked).verdict([point("p1", 10.0, 0.79), point("p2", 8.0, 0.73)])
    assert found.point == "p2"
    assert found.text.startswith("Fastest schedule with quality >= 0.9*unpruned: p2, 2.50x")


def test_where_no_candidate_keeps_a_constraint_it_is_named() -> None:
    asked = [
        ConstraintInfo(text="quality >= unpruned", limit=0.8, broken=3),
        ConstraintInfo(text="macs <= 60%", limit=0.6, broken=0),
    ]
    found = Judge(UNPRUNED, "accuracy", 8, constraints=asked).verdict([])
    assert found.point is None
    assert found.text.startswith("No candidate keeps quality >= unpruned in the end")


def test_nothing_is_recommended_by_a_quality_that_tells_nothing():
    found = Judge(UNPRUNED, "map", 8, blind=True).verdict([point("p1", 5.0, 0.8)])
    assert found.point is None
    assert found.text == "No recommendation (batch 8): map of the unpruned model, 80.0 %, cannot tell schedules apart."
