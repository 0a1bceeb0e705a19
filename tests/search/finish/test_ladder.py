"""The ladder: every rung of one run, what is skipped said, and kept when the same run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.pruning.apply import Handle, apply_
from prunesearch.search.costs.bench import Bench
from prunesearch.search.finish.ladder import climb
from prunesearch.study.config import RunConfig
from prunesearch.tasks.base import Task

SINGLE = (Change.parse("float32"),)  # of a model in float64
BEST = Plan(Schedule([Stage(1, 0.5, "value_norm")]), SINGLE)


class Prepared:
    """What of a `Setting` the ladder reads."""

    def __init__(self, task: Task, seconds: float) -> None:
        self.task, self.config = (
            task,
            RunConfig(batch_size=4, table_seconds=seconds).model_copy(update={"dtype": "float64"}),
        )


@pytest.fixture
def bench(vit_task: Task) -> Any:
    with apply_(vit_task.model, Plan()) as handle:
        yield lambda seconds: bench_of(vit_task, handle, seconds)


def bench_of(task: Task, handle: Handle, seconds: float) -> Bench:
    setting: Any = Prepared(task, seconds)
    return Bench(setting, handle)


def test_every_rung_has_its_latency_and_its_quality(bench: Any, tmp_path: Path) -> None:
    rungs = climb(bench(1.0), {"": (), "float32": SINGLE}, BEST, tmp_path / "ladder.json")
    known = {(rung.runtime, rung.precision): rung for rung in rungs if rung.skipped is None}
    assert list(known) == [("eager", "float64"), ("eager", "float32")]
    first = known["eager", "float64"]
    assert first.speedup == 1.0
    for rung in known.values():
        assert rung.ms is not None
        assert rung.plan_ms is not None
        assert rung.quality is not None
        assert rung.plan_quality is not None
    skipped = {rung.runtime for rung in rungs if rung.skipped}
    cpu = {name for name in RUNTIMES if RUNTIMES.entry(name).speeds and RUNTIMES.entry(name).devices in ((), ("cpu",))}
    assert skipped == cpu - {"eager"}
    assert all("no time was left" in rung.skipped for rung in rungs if rung.skipped)


def test_it_is_kept_and_another_plan_is_measured_anew(bench: Any, tmp_path: Path) -> None:
    path = tmp_path / "ladder.json"
    first = climb(bench(1.0), {"": ()}, BEST, path)
    assert climb(bench(1.0), {"": ()}, BEST, path) == first
    other = climb(bench(1.0), {"": ()}, None, path)
    assert other[0].plan_ms is None
    assert other[0].ms != first[0].ms


def test_the_model_is_left_as_it_was(bench: Any, vit_task: Task, tmp_path: Path) -> None:
    inputs = vit_task.timing_inputs(4)
    with torch.no_grad():
        before = vit_task.model(**inputs).logits
        climb(bench(1.0), {"": (), "float32": SINGLE}, BEST, tmp_path / "ladder.json")
        assert torch.equal(vit_task.model(**inputs).logits, before)
