"""The ladder: every rung of one run, what is skipped said, and kept when the same run goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.cost.timing.modes import Eager
from prunesearch.pruning.apply import Handle, apply_, handle_of
from prunesearch.search.costs.bench import Bench
from prunesearch.search.finish.ladder import climb
from prunesearch.study.config import RunConfig
from prunesearch.tasks.base import Task
from prunesearch.tasks.metrics.own import WholeModel

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


def test_plans_that_are_written_alike_are_told_apart(bench: Any, tmp_path: Path) -> None:
    one, other = (Plan(Schedule([Stage(1, keep, "value_norm")])) for keep in (0.501, 0.504))
    assert str(one) == str(other)
    path = tmp_path / "ladder.json"
    first = climb(bench(1.0), {"": ()}, one, path)
    assert climb(bench(1.0), {"": ()}, other, path)[0].ms != first[0].ms


class Copied(Eager):
    """A made-up runtime, whose forwards are not the model's."""

    def forward_of(self, plan: Plan) -> Callable[..., Any]:
        return lambda **inputs: {"logits": self.model(**inputs).logits}


def number_of(model: nn.Module) -> float:
    """An evaluation that tells which plan is in the model."""
    handle = handle_of(model)
    assert handle is not None
    return len(handle.plan) + 10.0 * len(handle.plan.changes)


def test_what_runs_the_model_itself_is_of_the_plan_that_is_judged(vit_task: Task, tmp_path: Path) -> None:
    """And of what is not the model it says nothing."""
    task = replace(vit_task, own=WholeModel(number_of, vit_task.model), metric="number_of")
    row = {"shown": "a copy", "by_torch": False}
    with RUNTIMES.registered("copied", Copied, "of the tests", **row), apply_(task.model, Plan()) as handle:
        rungs = climb(bench_of(task, handle, 1.0), {"": (), "float32": SINGLE}, BEST, tmp_path / "ladder.json")
    known = {(rung.runtime, rung.precision): (rung.quality, rung.plan_quality) for rung in rungs if rung.ms is not None}
    assert known["eager", "float64"] == (0.0, 1.0)
    assert known["eager", "float32"] == (10.0, 11.0)
    assert known["copied", "float64"] == known["copied", "float32"] == (None, None)
    why = [rung.skipped for rung in rungs if rung.runtime == "copied" and rung.skipped]
    assert why == ["its quality: number_of is of the model in torch, which it runs itself"] * 2


def test_the_model_is_left_as_it_was(bench: Any, vit_task: Task, tmp_path: Path) -> None:
    inputs = vit_task.timing_inputs(4)
    with torch.no_grad():
        before = vit_task.model(**inputs).logits
        climb(bench(1.0), {"": (), "float32": SINGLE}, BEST, tmp_path / "ladder.json")
        assert torch.equal(vit_task.model(**inputs).logits, before)
