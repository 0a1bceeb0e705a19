"""Plans in fewer bits are judged in the runtime that will run them, against a file that is made and run by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
import transformers as hf
from onnxruntime.quantization import QuantType, quantize_dynamic

from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.graphs.graph_files import trace, write_onnx
from prunesearch.pruning.apply import apply_
from prunesearch.search.costs.in_runtime import answers_elsewhere, forward_in, unjudged_in
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.base import Task
from prunesearch.tasks.metrics.classes import Accuracy
from tests.support.some import some
from tests.support.tiny import make_bert, write_texts

INT8 = Plan(Schedule([Stage(0, 0.5, "value_norm", "drop")]), [Change.parse("int8")])


class RunsTheModel(Accuracy):
    runs_model = True


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    root = tmp_path_factory.mktemp("texts")
    model = make_bert(root / "m", hf.BertForSequenceClassification, initializer_range=0.4)
    write_texts(root / "a.jsonl", 40)
    return load_task(model, root / "a.jsonl", batch_size=8)


def by_hand(task: Task, path: Path) -> list[torch.Tensor]:
    """Logits of each holdout batch, padded to the longest row, of a graph that ONNX Runtime put into int8."""
    batches = [batch.inputs for batch in task.holdout.batches]
    longest = max(inputs["input_ids"].shape[1] for inputs in batches)
    padded = [
        {name: torch.nn.functional.pad(value, (0, longest - value.shape[1])) for name, value in inputs.items()}
        for inputs in batches
    ]
    with apply_(task.model, INT8.schedule):
        write_onnx(trace(task.model, padded[0]), path)
    small = path.with_suffix(".int8.onnx")
    quantize_dynamic(path, small, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    session = onnxruntime.InferenceSession(str(small), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return [torch.from_numpy(session.run(["logits"], {n: p[n].numpy() for n in names})[0]) for p in padded]


@pytest.mark.slow
def test_rows_of_all_lengths_answer_as_the_runtime_does(task: Task, tmp_path: Path) -> None:
    assert task.holdout.padding["input_ids"] == 0
    assert len({batch.inputs["input_ids"].shape[1] for batch in task.holdout.batches}) > 1
    want = by_hand(task, tmp_path / "m.onnx")
    with apply_(task.model, Schedule()) as handle, torch.inference_mode():
        forward = forward_in("onnxruntime", task, INT8, task.holdout)
        assert handle.plan == Plan()
        for batch, logits in zip(some(task.holdout.batches), want, strict=True):
            torch.testing.assert_close(task.outputs(forward, batch)["logits"], logits, rtol=1e-4, atol=1e-5)
        found = Evaluator(task, handle, task.holdout, "onnxruntime").evaluate(INT8)
        in_torch = Evaluator(task, handle, task.holdout).evaluate(INT8)
    labels = torch.cat([batch.labels for batch in task.holdout.batches])
    assert found.quality == pytest.approx(float((torch.cat(want).argmax(-1) == labels).double().mean()))
    assert not torch.equal(found.kl, in_torch.kl)


def test_what_torch_computes_is_judged_in_torch(task: Task) -> None:
    assert answers_elsewhere("onnxruntime", INT8)
    assert not answers_elsewhere("onnxruntime", Plan(INT8.schedule))
    assert not answers_elsewhere("eager", INT8)
    assert unjudged_in("onnxruntime", task) == ""
    own = replace(task, own=RunsTheModel())
    assert unjudged_in("eager", own) == ""
    assert "which it runs itself" in unjudged_in("onnxruntime", own)
