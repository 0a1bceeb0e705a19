"""Data without labels: the unpruned model is the measure."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from tests.support.tiny import png, sentence

HALF = Schedule([Stage(0, 0.4, "value_norm", "drop")])


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": sentence(i)}) for i in range(40)))
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images.parquet"
    pq.write_table(pa.table({"image": [{"bytes": png(i), "path": None} for i in range(20)]}), path)
    return path


@pytest.mark.parametrize(
    ("model", "data", "metric"), [("loud_bert", "texts", "agreement"), ("vit", "images", "agreement")]
)
def test_a_head_is_held_against_its_own_answers(model: str, data: str, metric: str, request: pytest.FixtureRequest):
    task = load_task(request.getfixturevalue(model), request.getfixturevalue(data))
    assert (task.name, task.metric) == ("fidelity", metric)
    assert any("no labels" in note and "label=NAME" in note for note in task.notes)
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        unpruned, pruned = evaluator.unpruned(), evaluator.evaluate(HALF)
        whole = evaluator.evaluate(Schedule())
    assert unpruned.quality == whole.quality == 1.0
    assert whole.loss == pytest.approx(0, abs=1e-6)
    assert pruned.loss > 0
    assert pruned.quality == pruned.agreement


def test_a_bare_encoder_is_held_against_its_own_states(bare_bert: str, texts: Path):
    task = load_task(bare_bert, texts)
    assert (task.name, task.metric) == ("fidelity", "cosine")
    batch = task.holdout.batches[0]
    with torch.no_grad():
        hidden, mask = task.model(**batch.inputs).last_hidden_state, batch.inputs["attention_mask"][..., None]
    want = (hidden * mask).sum(1) / mask.sum(1)
    assert torch.allclose(batch.labels, want, atol=1e-6)
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        pruned = evaluator.evaluate(HALF)
        assert evaluator.unpruned().quality == pytest.approx(1.0)
    assert pruned.quality == pytest.approx(1 - pruned.loss)
    assert pruned.quality < 0.9999
    value, low, high = pruned.metric.interval(pruned.statistics)
    assert low < value < high <= 1


def test_what_does_not_fit_is_one_line(bert: str, bare_bert: str, texts: Path, tmp_path: Path):
    for model, metric in ((bert, "cosine"), (bare_bert, "agreement")):
        with pytest.raises(PruneSearchError, match=f"metric {metric} does not fit the outputs"):
            load_task(model, texts, metric=metric)
    two = tmp_path / "n.csv"
    two.write_text("a,b\nfilm,story\ngood,bad\n")
    with pytest.raises(PruneSearchError, match="several columns could be the text"):
        load_task(bert, two, task="fidelity")


def test_a_labelled_set_can_be_asked_for_fidelity(bert: str, tmp_path: Path):
    path = tmp_path / "labelled.jsonl"
    path.write_text("\n".join(json.dumps({"text": sentence(i), "label": i % 2}) for i in range(20)))
    assert load_task(bert, path).name == "text-classification"
    assert load_task(bert, path, task="fidelity").metric == "agreement"
