"""A whole run on a model that reads pictures in its prompt: its points prune the decoder as its cost table says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.cost.counting.flops import count_macs
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.report.views.parts_samples import _caption
from prunesearch.report.views.shown_samples import ShownSamples
from prunesearch.search.costs.bench import Bench, MacPricing, MemoryPricing
from prunesearch.search.finish.illustrate import illustrate
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from prunesearch.study.setup import Setting, make_setting
from tests.support.tiny_vlm import IMAGES, PATCH, SIDE, write_questions, write_vlm

SMALL = {
    "trials": 4,
    "seeds": 2,
    "search_samples": 12,
    "calibration": 12,
    "holdout": 12,
    "sensitivity_samples": 8,
    "sensitivity_units": 1.0,
    "table_seconds": 0.3,
    "front_points": 2,
    "patience_s": 0.0,
    "precision": ["float32"],
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("pictures")
    return RunConfig(model=write_vlm(root / "model"), data=str(write_questions(root / "rows.parquet", 40)), **SMALL)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def front(asked: RunConfig, root: Path) -> Front:
    return run(asked, "pictures", root=root)


@pytest.fixture(scope="module")
def setting(asked: RunConfig) -> Setting:
    return make_setting(asked)


def test_trials_prune_the_decoder_to_the_tokens_that_they_are_priced_by(
    front: Front, root: Path, setting: Setting
) -> None:
    task, inputs = setting.task, setting.task.timing_inputs(2)
    assert (front.model.tokens - front.model.protected, front.model.depth) == (IMAGES, 4)
    # where the machine is quick, none of so small a model is faster than the unpruned one, and none is tried
    own = Plan.parse("1:0.5 text_attention+drop > 2:0.222 key_norm+drop")
    front_too = Plan.parse("tower/0:0.5 bipartite > tower/1:0.4 key_norm+drop > decoder/2:0.222 key_norm+drop")
    plans = [own, front_too, *(trial.plan for trial in ps.load_study("pictures", root=root).trials)]
    for plan in plans:
        assert {stage.merge for stage in plan if stage.place.part != "tower"} <= {"drop"}
        with ps.apply_(task.model, plan) as handle, torch.inference_mode(), handle.observing() as seen:
            tower: Any = handle.tower
            with tower.observing() as in_front:
                task.model(**inputs)
        flow = plan.flow(front.model.geometry)
        assert flow == plan.flow(setting.geometry)
        # a block is given its tokens before a stage at the input takes some: they leave in it
        assert [x.shape[1] for x in seen] == [front.model.tokens, *flow.counts[:-1]]
        assert flow.in_tower is not None
        assert [x.shape[1] for x in in_front] == [step.n_in for step in flow.in_tower]


def test_its_table_is_of_the_time_to_the_first_token(front: Front, root: Path) -> None:
    table = CostTable.load(root / "pictures" / "cost_table.json")
    assert table.shape.part == "decoder"
    assert table.shape.geometry.reducible == IMAGES
    assert table.predict(Plan.parse("input/0:0.5 key_norm+drop")) > 0
    flow = Plan.parse("tower/0:0.5 bipartite > decoder/1:0.3 key_norm+drop").flow(table.geometry)
    parts, whole = table.breakdown(flow), table.breakdown(Plan().flow(table.geometry))
    assert set(parts) == {"tower", "attention", "mlp", "reduce", "rest"}
    assert all(value > 0 for value in parts.values())
    assert parts["rest"] == pytest.approx(whole["rest"], rel=0.5)
    assert any("time to the first token" in note for note in front.task.notes)
    assert any("to the last of" in note for note in front.notes)
    assert set(front.unpruned.costs) == {"latency"}  # of multiply-adds nothing is said


def test_its_report_shows_which_patches_stay_for_which_question(setting: Setting, asked: RunConfig) -> None:
    task: Any = setting.task
    plan = Plan.parse("input/0:0.5 key_norm+drop > decoder/1:0.25 text_attention+drop")
    with ps.apply_(task.model, plan) as handle:
        rows, traces = illustrate(task, handle, [SimpleNamespace(id="p1", to_plan=lambda: plan)], asked.model)
    samples = ShownSamples(rows=rows, traces=traces)
    assert len(samples.rows) >= 2
    for row in samples.rows:
        batch = next(b for b in task.calibration.batches if row.index in b.index.tolist())
        place = batch.index.tolist().index(row.index)
        ids = batch.inputs["input_ids"][place]
        shown = (ids == task.model.config.image_token_id).nonzero().flatten().tolist()
        assert (row.leading, row.grid, row.tokens) == (shown[0], (SIDE // PATCH, SIDE // PATCH), len(ids))
        assert row.label.startswith("which colour is it")
        assert row.label.endswith(f"? {batch.labels[place][0]}")
    for trace in samples.traces:
        row = samples.row(trace.row)
        text = {*range(row.tokens)}.difference(range(row.leading, row.leading + IMAGES))
        for stage, kept in zip(trace.stages, (8, 4), strict=True):
            stays = {place for place, owner in enumerate(stage.owner) if owner >= 0}
            assert stage.tokens == kept + len(text & stays)
            assert len(stays - text) == kept
    captions = [_caption(stage).partition(":")[0] for stage in samples.traces[0].stages]
    assert captions == ["before the first block", "after block 1"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0:0.5 key_norm+drop",
        "input/0:0.5 position_stride+drop",
        "input/0:0.5 position_stride+drop > decoder/1:0.1 key_norm+drop > decoder/3:0.05 key_norm+drop",
        "tower/1:0.5 position_stride+drop",
        "tower/0:0.8 position_stride+drop > tower/1:0.5 position+drop > decoder/1:0.1 key_norm+drop",
    ],
)
def test_its_multiply_adds_are_those_of_the_whole_prompt(setting: Setting, text: str) -> None:
    task, plan = setting.task, Plan.parse(text) if text else Plan()
    with ps.apply_(task.model, Plan()) as handle:
        costs = MacPricing().costs(Bench(setting, handle, ()))
        with handle.under(plan):
            counted = count_macs(task.model, task.timing_inputs(1)) / 1e9
    assert costs.predict(plan) == pytest.approx(counted, rel=1e-4)


@pytest.mark.parametrize(
    "text", ["", "1:0.5 key_norm+drop", "input/0:0.5 position_stride+drop > decoder/2:0.1 key_norm+drop"]
)
def test_its_memory_is_what_a_prompt_leaves_in_the_cache(setting: Setting, text: str) -> None:
    task, plan, rows = setting.task, Plan.parse(text) if text else Plan(), setting.config.batch_size
    with ps.apply_(task.model, plan) as handle, torch.inference_mode():
        costs = MemoryPricing().costs(Bench(setting, handle, ()))
        layers = task.model(**task.timing_inputs(rows), use_cache=True).past_key_values.layers
    kept = sum(x.nbytes for layer in layers for x in (layer.keys, layer.values))
    assert costs.predict(plan) == pytest.approx(kept / 2**20, rel=1e-9)


def test_costs_that_are_of_encoders_are_refused(asked: RunConfig, root: Path) -> None:
    config = RunConfig(**{**asked.to_dict(), "device": "a100"})
    with pytest.raises(PruneSearchError, match="but not yet trained, profiled or estimated for others"):
        run(config, "refused", root=root)
