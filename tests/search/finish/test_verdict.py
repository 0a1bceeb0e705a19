"""Verdicts by hand: what is promised, what the estimates alone would say, and what is said of both."""

from __future__ import annotations

import numpy as np
import pytest

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.search.finish.verdict import Judge, in_order, promised, with_promises
from prunesearch.study.front_items import Point, Unpruned
from prunesearch.study.front_records import BudgetInfo, ConstraintInfo
from tests.support.synthetic_front import latency


def interval(value: float, half: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


UNPRUNED = Unpruned.model_validate(
    {
        "qualities": {"accuracy": interval(0.8)},
        "costs": {"latency": latency(20.0), "macs": {"predicted": 1.0}},
        "tokens": [9, 9],
    },
)


def point(
    name: str, ms: float, quality: float, half: float = 0.001, base: float = 0.8, seen: float | None = None
) -> Point:
    """A point whose difference to the unpruned model is sure to `half`; `seen` is its calibration quality."""
    schedule = Schedule([Stage(0, 0.5)])
    difference = {**interval(quality - base, half), "at_least": quality - base - half}
    calibration = quality if seen is None else seen
    return Point.model_validate(
        {
            "id": name,
            "trial": int(name.strip("pt")),
            "plan": schedule.to_dict(),
            "text": str(schedule),
            "tokens": [5, 5],
            "qualities": {
                "accuracy": {
                    **interval(quality),
                    "at_least": quality - half,
                    "difference": difference,
                    "calibration": calibration,
                }
            },
            "fidelity": {
                "kl": 0.1,
                "agreement": 0.9,
                "agreement_at_least": 0.9 - half,
                "calibration_kl": 1 - calibration,
            },
            "costs": {"latency": latency(ms), "macs": {"predicted": 0.5}},
            "speedup": 20.0 / ms,
        }
    )


def test_the_fastest_within_one_percent_is_recommended_with_its_numbers() -> None:
    points = [point("p1", 16.0, 0.8), point("p2", 10.0, 0.793), point("p3", 5.0, 0.79)]
    found = Judge(UNPRUNED, "accuracy", 8).verdict(points)
    assert (found.point, found.by_estimate) == ("p2", "p2")
    assert found.text.startswith("Fastest schedule within 1 % of the unpruned model at 95 % confidence: p2, 2.00x")
    assert "by point estimate" not in found.text
    for words in ("2.00x", "10 ms against 20 ms", "79.30 %", "80.00 %", "-0.70 points"):
        assert words in found.text


def test_within_one_percent_of_a_negative_quality_is_below_it() -> None:
    """A correlation of -0.2: 99 % of it is -0.202."""
    unpruned = UNPRUNED.model_copy(update={"qualities": {"mcc": UNPRUNED.quality.model_copy(update={"value": -0.2})}})
    rows = (("p1", 16.0, -0.2), ("p2", 10.0, -0.2015), ("p3", 5.0, -0.21))
    points = [point(*row, half=0.0004, base=-0.2) for row in rows]
    assert Judge(unpruned, "mcc", 8).verdict(points).point == "p2"


def test_unpruned_is_best_where_nothing_good_is_faster() -> None:
    found = Judge(UNPRUNED, "accuracy", 8).verdict([point("p1", 19.5, 0.8), point("p2", 10.0, 0.6)])
    assert found.point is None
    assert found.text.startswith("Unpruned is best here (batch 8)")
    assert Judge(UNPRUNED, "accuracy", 8).verdict([]).point is None


def test_a_tight_budget_names_the_best_that_fits_and_says_what_it_costs() -> None:
    budget = BudgetInfo(text="50%", limit=10.0)
    found = Judge(UNPRUNED, "accuracy", 8, budget=budget).verdict([point("p1", 10.0, 0.7), point("p2", 5.0, 0.5)])
    assert (found.point, found.by_estimate) == ("p1", None)
    assert "Nothing inside 50% (10 ms) stays within 1 %" in found.text


def test_a_constraint_on_quality_says_what_is_good_enough() -> None:
    asked = [ConstraintInfo(text="quality >= 0.9*unpruned", limit=0.72, broken=1)]
    found = Judge(UNPRUNED, "accuracy", 8, constraints=asked).verdict([point("p1", 10.0, 0.79), point("p2", 8.0, 0.73)])
    assert found.point == "p2"
    assert found.text.startswith("Fastest schedule with quality >= 0.9*unpruned at 95 % confidence: p2, 2.50x")


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


# -- promises ----------------------------------------------------------------------------------------------


def test_an_estimate_that_cannot_be_promised_is_said_beside_what_can():
    points = [point("p1", 16.0, 0.8), point("p2", 10.0, 0.793, half=0.002)]
    found = Judge(UNPRUNED, "accuracy", 8).verdict(points)
    assert (found.point, found.by_estimate) == ("p1", "p2")
    assert found.text.startswith("Fastest schedule within 1 % of the unpruned model at 95 % confidence: p1, 1.25x")
    assert found.text.endswith(" Fastest by point estimate: p2, 2.00x (-0.70 points, -0.90 to -0.50).")


def test_where_nothing_can_be_promised_nothing_is_recommended_and_the_estimate_is_told():
    found = Judge(UNPRUNED, "accuracy", 8).verdict([point("p1", 10.0, 0.793, half=0.002)])
    assert (found.point, found.by_estimate) == (None, "p1")
    assert "no schedule within 1 % of the unpruned model at 95 % confidence is 1.05x faster" in found.text
    assert "Fastest by point estimate: p1, 2.00x" in found.text
    assert "more holdout rows may make that sure" in found.text


def test_the_first_failure_ends_it():
    """p3 would pass, but p2 before it did not: the luckiest of many must not be picked out."""
    points = [point("p1", 16.0, 0.8), point("p2", 12.0, 0.79), point("p3", 8.0, 0.8)]
    judge = Judge(UNPRUNED, "accuracy", 8)
    seen = [0.8, 0.7995, 0.799]
    points = [point(p.id, p.latency.value, p.quality.value, seen=q) for p, q in zip(points, seen, strict=True)]
    assert judge.promise(points).id == "p1"
    assert judge.promise(points[::2]).id == "p3"


def test_candidates_that_do_not_stand_are_tested_too():
    """p2 is beaten by p3 on the holdout rows, which is no reason to leave it out."""
    points = [point("p1", 16.0, 0.8, seen=0.81), point("p2", 12.0, 0.79, seen=0.80), point("p3", 8.0, 0.8, seen=0.79)]
    judge = Judge(UNPRUNED, "accuracy", 8)
    assert judge.verdict([points[0], points[2]], points).point == "p1"
    assert judge.verdict([points[0], points[2]]).point == "p3"


def test_what_the_calibration_rows_put_aside_is_not_tested():
    """p2 stands for another objective: slower than p3, and worse where nothing was read off the holdout rows."""
    points = [point("p1", 16.0, 0.8, seen=0.81), point("p2", 12.0, 0.7, seen=0.7), point("p3", 8.0, 0.8, seen=0.80)]
    assert [p.id for p in in_order(points, "latency")] == ["p1", "p3"]
    assert Judge(UNPRUNED, "accuracy", 8).promise(points).id == "p3"
    known = [p.difference.promised for p in with_promises(points, "latency")]
    assert known == [pytest.approx(-0.001), None, pytest.approx(-0.001)]


def test_the_order_is_that_of_the_objective():
    """By multiply-adds p1 is the cheaper one."""
    a, b = point("p1", 16.0, 0.8, seen=0.79), point("p2", 10.0, 0.8, seen=0.81)
    lighter = a.model_copy(update={"costs": {**a.costs, "macs": a.costs["macs"].model_copy(update={"predicted": 0.2})}})
    assert [p.id for p in in_order([lighter, b], "macs")] == ["p2", "p1"]


def test_a_promise_is_the_least_bound_so_far():
    assert promised(np.array([0.1, -0.2, 0.3, -0.3])).tolist() == [0.1, -0.2, -0.2, -0.3]


@pytest.mark.parametrize(
    ("text", "sure", "unsure"),
    [
        ("quality >= 0.98*unpruned", 0.79, 0.7845),
        ("quality >= 0.78", 0.79, 0.7805),
        ("agreement >= 0.899", 0.79, None),
    ],
)
def test_constraints_on_quality_are_promised_too(text, sure, unsure):
    asked = [ConstraintInfo(text=text, limit=0.0, broken=0)]
    judge = Judge(UNPRUNED, "accuracy", 8, constraints=asked)
    assert judge.promise([point("p1", 10.0, sure)]) is not None
    if unsure is None:
        tighter = [ConstraintInfo(text="agreement >= 0.8995", limit=0.0, broken=0)]
        assert Judge(UNPRUNED, "accuracy", 8, constraints=tighter).promise([point("p1", 10.0, sure)]) is None
    else:
        assert judge.promise([point("p1", 10.0, unsure)]) is None
