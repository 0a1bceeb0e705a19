"""The quality of graphs, in every kind of task whose answers a graph can hold: that of the applied model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.export.models.model_format import ModelOptions, ModelSource
from prunesearch.export.models.write import find_model_format, write_format
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.base import Task
from prunesearch.tasks.quality import quality_of
from tests.support.tiny import make_bert, write_texts
from tests.support.tiny_media import make_waves, write_sounds
from tests.tasks.kinds.test_ctc import transcript
from tests.tasks.kinds.test_embedding import pairs, queries
from tests.tasks.kinds.test_embedding import write as write_rows
from tests.tasks.kinds.test_qa import row
from tests.tasks.kinds.test_tags import LABELS, write_conll

HALF = Schedule([Stage(0, 0.5, "value_norm", "nearest")])
FORMAT = "torch-export"


def tags(root: Path) -> Task:
    model = make_bert(root / "m", hf.BertForTokenClassification, initializer_range=0.4, num_labels=5, **LABELS)
    return load_task(model, write_conll(root / "a.conll"), length=40)


def answers(root: Path) -> Task:
    model = make_bert(root / "m", hf.BertForQuestionAnswering, initializer_range=0.5)
    rows = [row(i, words=(10, 50)[i % 2]) for i in range(24)]
    return load_task(model, write_rows(root / "a.jsonl", rows), length=40)


def similarity(root: Path) -> Task:
    model = make_bert(root / "m", hf.BertModel, initializer_range=0.4)
    return load_task(model, write_rows(root / "a.jsonl", pairs(30)), length=40)


def retrieval(root: Path) -> Task:
    model = make_bert(root / "m", hf.BertModel, initializer_range=0.4)
    return load_task(model, write_rows(root / "a.jsonl", queries(15)), length=40)


def states(root: Path) -> Task:
    model = make_bert(root / "m", hf.BertModel, initializer_range=0.4)
    data = root / "a.jsonl"
    write_texts(data, 20)
    data.write_text(data.read_text().replace('"label"', '"other"'))
    return load_task(model, data, task="fidelity", length=40)


def speech(root: Path) -> Task:
    model = make_waves(root / "m", "Wav2Vec2ForCTC", do_stable_layer_norm=True)
    return load_task(model, write_sounds(root / "s.parquet", 18, text=[transcript(i) for i in range(18)]), length=48)


def exported(task: Task, path: Path) -> Callable:
    """A forward of the task's model with `HALF` inside, as one graph."""
    source = ModelSource(task.answering, HALF, task.timing_inputs(2))
    to = find_model_format(FORMAT)
    write_format(source, to, path, ModelOptions())
    run = to.load(path)
    return lambda **inputs: run(inputs)


@pytest.mark.parametrize("make", [tags, answers, similarity, retrieval, states, speech], ids=lambda f: f.__name__)
def test_a_graph_has_the_quality_of_the_applied_model(make: Callable[[Path], Task], tmp_path: Path) -> None:
    task = make(tmp_path)
    given = task.timing_inputs(1)
    fixed = {name: given[name].shape[-1] for name in task.holdout.padding}
    found = quality_of(task, exported(task, tmp_path / "g.pt2"), task.holdout, fixed)
    with apply_(task.model, Schedule()) as handle:
        unpruned = Evaluator(task, handle, task.holdout).unpruned()
        pruned = Evaluator(task, handle, task.holdout).evaluate(HALF)
    assert (found.rows, found.left_out) == (task.holdout.n, 0)
    assert found.value == pytest.approx(pruned.quality, abs=1e-4)
    assert pruned.kl.max() > 1e-4  # the schedule shows, so that the graph of the unpruned model would not pass
    assert quality_of(task, task.model, task.holdout).value == pytest.approx(unpruned.quality, abs=1e-6)


def test_rows_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    task = tags(tmp_path).at_length(8)
    forward = exported(task, tmp_path / "g.pt2")
    long = sum(int((b.inputs["attention_mask"].sum(1) > 8).sum()) for b in task.holdout.batches)
    found = quality_of(task, forward, task.holdout, dict.fromkeys(task.holdout.padding, 8))
    assert 0 < long < task.holdout.n
    assert (found.rows, found.left_out) == (task.holdout.n - long, long)
    with pytest.raises(PruneSearchError, match="rows must be 2 long at most"):
        quality_of(task, forward, task.holdout, {"input_ids": 2})


def test_a_quantised_copy_is_a_forward_too(tmp_path: Path) -> None:
    task = tags(tmp_path)
    small = torch.quantization.quantize_dynamic(copy.deepcopy(task.model), {torch.nn.Linear}, dtype=torch.qint8)
    before, after = (quality_of(task, forward, task.holdout) for forward in (task.model, small))
    assert after.rows == before.rows
    batch = task.holdout.batches[0]
    assert not torch.equal(*(task.outputs(f, batch)["logits"] for f in (task.model, small)))


def test_what_a_forward_cannot_answer_is_said(tmp_path: Path) -> None:
    task = similarity(tmp_path)
    assert "gives the states of those that are left" in task.unable(("last_hidden_state",))
    assert task.unable(("embeddings",)) == ""
    assert tags(tmp_path / "t").unable(("logits",)) == ""
    from prunesearch.tasks.kinds.seq2seq import Writing

    writer = Writing("translation", torch.nn.Identity(), {}, 8, lambda b: {}, metric="bleu")
    assert writer.unable(("logits",)).startswith("bleu is of texts that are written token by token")
