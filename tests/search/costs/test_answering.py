"""The time to the last token: fitted to answers that take what their caches say, and to a model's own."""

from __future__ import annotations

from pathlib import Path

import pytest

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import Event, Note, listening
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.stage import DECODER
from prunesearch.cost.costs import breakdown
from prunesearch.cost.measure import measure_table
from prunesearch.search.costs.answering import AnswerCosts, AnswerPricing, Writes, fitted
from prunesearch.search.costs.bench import Bench
from prunesearch.search.costs.latency import LoadCosts
from prunesearch.study.config import RunConfig
from prunesearch.study.setup import Setting, make_setting
from tests.support.known_device import known_table, settings, write_model
from tests.support.tiny_vlm import write_questions, write_vlm

STEPS, KEPT = 40.0, 0.02
TEXTS = ("0:0.5 value_norm+drop", "1:0.25 value_norm+drop", "0:0.8 value_norm+drop > 2:0.1 value_norm+drop")
PLANS = [Plan(), *map(Plan.parse, TEXTS)]


def held(plan: Plan, table: object) -> int:
    """Tokens in the caches of all blocks: each has what entered its attention."""
    geometry = table.geometry  # type: ignore[attr-defined]
    counts = plan.flow(geometry).counts
    return sum([geometry.tokens, *counts[:-1]])


def test_answers_that_take_what_caches_say_are_told_to_the_last_digit() -> None:
    table = known_table()
    ms = [table.predict(plan) + STEPS + KEPT * held(plan, table) for plan in PLANS]
    costs = fitted(table, PLANS[:3], ms[:3])
    assert (costs.steps, costs.kept) == pytest.approx((STEPS, KEPT), rel=1e-6)
    for plan, took in zip(PLANS, ms, strict=True):
        assert costs.predict(plan) == pytest.approx(took, rel=1e-9)
        pieces = breakdown(costs, plan.flow(costs.geometry))
        assert sum(pieces.values()) == pytest.approx(took, rel=1e-9)


def test_noise_makes_no_long_cache_faster() -> None:
    table = known_table()
    costs = fitted(table, PLANS, [table.predict(plan) + STEPS - 0.01 * held(plan, table) for plan in PLANS])
    assert costs.kept == 0
    assert costs.steps > 0


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    root = tmp_path_factory.mktemp("answers")
    data = str(write_questions(root / "rows.parquet", 24))
    return make_setting(RunConfig(model=write_vlm(root / "model"), data=data, calibration=8, holdout=8, batch_size=1))


def test_a_forward_of_what_writes_is_a_whole_answer(setting: Setting) -> None:
    inputs = setting.task.timing_inputs(2)
    writes = Writes(setting.task)
    with ps.apply_(setting.task.model, Plan.parse("1:0.25 key_norm+drop")) as handle, handle.observing() as seen:
        written = writes(**inputs)
    assert written.shape == (2, setting.task.tokens + writes.tokens)
    assert writes.tokens >= 2
    assert [x.shape[1] for x in seen][-1] == 1  # the last step is of one token


def test_it_is_fitted_and_measured_on_a_model(setting: Setting) -> None:
    task, geometry = setting.task, setting.geometry
    counts = [task.tokens, task.tokens - 8, task.tokens - 15]
    table = measure_table(
        task.model, task.timing_inputs(1), counts=counts, methods=["key_norm+drop"], time_budget_s=0.3
    )
    assert table.shape.part == geometry.part == DECODER
    with ps.apply_(task.model, Plan()) as handle:
        bench = Bench(setting, handle, [LoadCosts(1, task.tokens, 1.0, table)], seconds=0.2)
        heard: list[Event] = []
        with listening(heard.append):
            costs = AnswerPricing().costs(bench)
        assert isinstance(costs, AnswerCosts)
        assert costs.kept >= 0
        (unpruned,) = AnswerPricing().measure(bench, [Plan()])
    assert unpruned.value > table.predict(Plan())
    assert any("unseen schedules" in event.text for event in heard if isinstance(event, Note))


def test_models_that_write_nothing_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    setting = make_setting(RunConfig(**settings(tmp_path)))
    with ps.apply_(setting.task.model, Plan()) as handle:
        bench = Bench(setting, handle, [LoadCosts(8, setting.task.tokens, 1.0, known_table())])
        with pytest.raises(PruneSearchError, match="but the task is image-classification"):
            AnswerPricing().costs(bench)
