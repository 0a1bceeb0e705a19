"""What `benchmarks/joint.py` prints its tables from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from joint import Tried, best_rows, best_within, plans_of, rows_of, table
from joint_parts import INT8, student_plan, write_seeds
from joint_survey import STUDENT, held_by

from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.tasks.metrics.classes import Accuracy

TOKENS = Plan(Schedule([Stage(1, 0.5)]))


def tried(ms: float, seen: float, right: int, plan: Plan = TOKENS) -> Tried:
    """A plan that is right in so many of ten holdout rows."""
    return Tried(plan, ms, seen, (torch.arange(10) < right).float()[:, None], Accuracy())


def test_the_plans_of_every_way() -> None:
    both, less = Plan(Schedule([Stage(2, 0.5)]), INT8), Plan(changes=[Change.parse("0:width(mlp=32)")])
    found = plans_of({"tokens": [TOKENS], "joint": [both], "width": [less]})
    assert found["tokens only"] == [Plan(), TOKENS]
    assert found["int8 after tokens"] == [Plan(changes=INT8), Plan(TOKENS.schedule, INT8)]
    assert found["joint"] == [Plan(), both]
    assert found["int8 only"] == [Plan(), Plan(changes=INT8)]
    assert found["width only"] == [Plan(), less]
    assert "all" not in found


def test_a_joint_search_starts_from_what_one_has_after_the_other(tmp_path: Path) -> None:
    plans = plans_of({"tokens": [TOKENS]})["int8 after tokens"]
    paths = write_seeds([*plans, *plans], tmp_path / "seeds")
    assert [Plan.from_json(Path(path).read_text()) for path in paths] == [Plan(TOKENS.schedule, INT8)]


def test_who_holds_a_plan() -> None:
    assert "hf" in held_by(TOKENS)
    assert "hf" not in held_by(Plan(TOKENS.schedule, INT8))
    assert "onnx" in held_by(Plan(TOKENS.schedule, INT8))


def test_a_student_has_every_other_block() -> None:
    plan = student_plan(5)
    assert plan.skips == {(block, half) for block in (1, 3) for half in ("attention", "mlp")}
    assert plan.shortened == plan
    assert STUDENT not in plans_of({"tokens": [TOKENS]})


def test_the_choice_at_a_latency_is_made_on_calibration_rows() -> None:
    slow, fast, faster = tried(10, 0.9, 7), tried(5, 0.8, 9), tried(4, 0.85, 8)
    assert best_within([slow, fast, faster], 6) is faster
    assert best_within([slow, fast, faster], 11) is slow
    assert best_within([slow], 6) is None


def test_how_far_what_was_found_together_is_ahead() -> None:
    ways = {"tokens only": [tried(10, 0.9, 7)], "int8 only": [tried(6, 0.9, 9)], "joint": [tried(6, 0.9, 8)]}
    slow, fast = rows_of(ways, [10.0, 7.0])
    assert (slow["tokens only"], fast["tokens only"]) == (pytest.approx(0.7), None)
    value, low, high = slow["joint ahead"]
    assert value == pytest.approx(-0.1)
    assert low < value < high
    assert slow["all ahead"] is None
    said = table([slow, fast], 10.0).splitlines()
    assert said[0] == "| speed-up | ms at most | tokens only | int8 only | joint | joint ahead |"
    assert said[-1].startswith("| 1.43x | 7.0 | – | 90.00 | 80.00 | -10.00 [")


def test_the_fastest_within_a_share() -> None:
    base = tried(10, 0.9, 9, Plan())
    (row,) = best_rows(base, 20.0, {"joint": [base, tried(5, 0.895, 8), tried(2, 0.8, 9)], "all": [tried(1, 0.1, 1)]})
    assert (row["way"], row["same"], row["eager"]) == ("joint", 2.0, 4.0)
    assert row["change"][0] == pytest.approx(-0.1)
