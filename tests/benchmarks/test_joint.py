"""What `benchmarks/joint.py` prints its table from."""

from __future__ import annotations

from pathlib import Path

from joint import INT8, Tried, best_within, held_by, plans_of, rows_of, table, write_seeds

from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage


class Study:
    """What of a front is read."""

    def __init__(self, *plans: Plan) -> None:
        self.points = [type("At", (), {"to_plan": lambda self, plan=plan: plan})() for plan in plans]


TOKENS = Plan(Schedule([Stage(1, 0.5)]))


def test_the_plans_of_every_way() -> None:
    both, less = Plan(Schedule([Stage(2, 0.5)]), INT8), Plan(changes=[Change.parse("0:width(mlp=32)")])
    found = plans_of({"tokens": Study(TOKENS), "joint": Study(both), "width": Study(less)})  # type: ignore[dict-item]
    assert found["tokens only"] == [Plan(), TOKENS]
    assert found["int8 after tokens"] == [Plan(changes=INT8), Plan(TOKENS.schedule, INT8)]
    assert found["joint"] == [Plan(), both]
    assert found["int8 only"] == [Plan(), Plan(changes=INT8)]
    assert found["width only"] == [Plan(), less]
    assert "all" not in found


def test_a_joint_search_starts_from_what_one_has_after_the_other(tmp_path: Path) -> None:
    plans = plans_of({"tokens": Study(TOKENS)})["int8 after tokens"]  # type: ignore[dict-item]
    paths = write_seeds(plans, tmp_path / "seeds")
    assert [Plan.from_json(Path(path).read_text()) for path in paths] == [Plan(TOKENS.schedule, INT8)]


def test_who_holds_a_plan() -> None:
    assert "hf" in held_by(TOKENS)
    assert "hf" not in held_by(Plan(TOKENS.schedule, INT8))
    assert "onnx" in held_by(Plan(TOKENS.schedule, INT8))


def test_the_best_at_a_latency() -> None:
    slow, fast, faster = Tried(Plan(), 10.0, 0.9), Tried(TOKENS, 5.0, 0.8), Tried(TOKENS, 4.0, 0.85)
    assert best_within([slow, fast, faster], 6.0) is faster
    assert best_within([slow], 6.0) is None
    ways = {"tokens only": [slow, fast], "int8 only": [slow], "int8 after tokens": [faster], "joint": [slow, faster]}
    rows = rows_of(ways, [10.0, 5.0])
    assert rows == [
        {"ms": 10.0, "tokens only": 0.9, "int8 only": 0.9, "int8 after tokens": 0.85, "joint": 0.9},
        {"ms": 5.0, "tokens only": 0.8, "int8 only": None, "int8 after tokens": 0.85, "joint": 0.85},
    ]
    assert table(rows, 10.0).splitlines()[-1] == "| 5.0 | 2.00× | 80.00 | – | 85.00 | 85.00 |"
