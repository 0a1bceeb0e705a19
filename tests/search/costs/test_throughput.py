"""Tokens a second of several requests: counted as a clock says, with real processes, and fitted to known times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import prunesearch as ps
from prunesearch.core.costs import find_cost
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.cost.timing.concurrency import batch_of, build, describe_job
from prunesearch.cost.timing.samples import Samples
from prunesearch.search.costs import throughput
from prunesearch.search.costs.answering import AnswerPricing, Writes, in_cache
from prunesearch.search.costs.throughput import ThroughputPricing, others, rate
from prunesearch.tasks import load_task
from prunesearch.tasks.kinds.visual_qa import VisualAnswers
from tests.support.fakes import LinearCosts
from tests.support.tiny_vlm import write_questions, write_vlm


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> VisualAnswers:
    root = tmp_path_factory.mktemp("throughput")
    data = write_questions(root / "rows.parquet", 24)
    found = load_task(write_vlm(root / "model"), str(data), calibration=4, holdout=4, batch_size=4)
    assert isinstance(found, VisualAnswers)
    return replace(found, usual=4)


def test_a_rate_is_of_whole_answers_over_the_time_that_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])

    def one() -> None:
        now[0] += 0.3

    assert rate(1.0, one) == pytest.approx(4 / 1.2)
    assert rate(0.1, one) == pytest.approx(4 / 1.2)  # a few in any case
    assert rate(2.0, one) == pytest.approx(7 / 2.1)


def test_tokens_a_second_are_said_beside_their_time() -> None:
    row = find_cost("throughput")
    assert row.text(2.5) == "2.5 ms a token, 400 tokens a second"
    assert row.searched
    assert find_cost("latency").text(2.5) == "2.5 ms"


def test_a_request_elsewhere_has_the_pictures_of_this_one(task: VisualAnswers) -> None:
    inputs = task.timing_inputs(2)
    job = describe_job(Writes(task), inputs, "eager")
    twin, made = build(job), batch_of(job)
    assert type(twin) is type(task.model)
    assert torch.equal(made["input_ids"], inputs["input_ids"])
    assert made["pixel_values"].shape == inputs["pixel_values"].shape
    plan = Plan.parse("decoder/1:0.5 key_norm+drop")
    with ps.apply_(twin, plan) as there, ps.apply_(task.model, plan) as here, torch.inference_mode():
        widths = []
        for handle, model, given in ((there, twin, made), (here, task.model, inputs)):
            with handle.observing() as seen:
                model(**given)
            widths.append([x.shape[1] for x in seen])
    assert widths[0] == widths[1]


def test_costs_are_fitted_to_the_time_of_all_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    first = LinearCosts()
    bench: Any = SimpleNamespace(
        config=SimpleNamespace(concurrency=3, batch_size=2, percentile=50.0),
        setting=SimpleNamespace(geometry=replace(first.geometry, part="decoder"), loads=[1]),
        tables=[SimpleNamespace(costs=first, table=SimpleNamespace(cells=SimpleNamespace(reduce=[
            SimpleNamespace(scorer="key_norm", merge="drop")
        ])))],
        task=SimpleNamespace(name="x", exactly=None, usual=5, model=torch.nn.Identity()),
    )  # fmt: skip
    monkeypatch.setattr(LinearCosts, "geometry", bench.setting.geometry)

    def known(self: Any, bench: Any, writes: Any, plans: Any) -> list[Samples]:
        """Milliseconds of a token, where an answer takes the first token, 7 ms, and 0.1 ms a token of the cache."""
        whole = [first.predict(p) + 7.0 + 0.1 * in_cache(p.flow(first.geometry)) for p in plans]
        return [Samples([ms / (3 * 2 * 5)]) for ms in whole]

    monkeypatch.setattr(ThroughputPricing, "_timed", known)
    found = ThroughputPricing().costs(bench)
    plan = Plan.parse("decoder/2:0.3 key_norm+drop")
    expected = first.predict(plan) + 7.0 + 0.1 * in_cache(plan.flow(first.geometry))
    assert found.predict(plan) == pytest.approx(expected / 30, rel=1e-6)


def test_the_time_of_one_request_is_not_asked_among_several() -> None:
    bench: Any = SimpleNamespace(config=SimpleNamespace(concurrency=2))
    with pytest.raises(PruneSearchError, match=r"one request at a time.*use --objective throughput"):
        AnswerPricing().costs(bench)


@pytest.mark.slow
def test_processes_write_under_the_plan_and_are_gone_afterwards(task: VisualAnswers, tmp_path: Path) -> None:
    writes, inputs = Writes(task), task.timing_inputs(1)
    done: list[int] = []

    def one() -> None:
        writes(**inputs)
        done.append(1)

    with ps.apply_(task.model, Plan()), torch.inference_mode(), others(writes, inputs, 1) as beside:
        (process,) = beside._processes
        both = beside.together(Plan.parse("decoder/1:0.5 key_norm+drop"), 0.5, one)
        assert both > len(done) / 60
        assert process.is_alive()
        process.kill()
        process.join()
        with pytest.raises(PruneSearchError, match="ended with code"):
            beside.together(Plan(), 0.1, one)
    assert not process.is_alive()
