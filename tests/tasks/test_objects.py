"""Batches, metrics and evaluations of the caller's own: what a task made of them says, against the model itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModelForImageClassification, BertConfig, BertForSequenceClassification

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule, Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks.objects import task_of
from prunesearch.tasks.quality import quality_of, unjudged
from tests.tasks.test_given_objects import DEMO, rows


@pytest.fixture(scope="module")
def vit() -> Any:
    return AutoModelForImageClassification.from_pretrained(DEMO / "vit-cifar10")


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(30, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def labels(vit: Any, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        found = vit(pixels).logits.argmax(-1)
    found[::3] = (found[::3] + 1) % 10  # right on two rows of three
    return found


def forms(pixels: Tensor, labels: Tensor) -> dict[str, Any]:
    pairs = list(zip(pixels, labels, strict=True))
    return {
        "tensors": (pixels, labels),
        "dictionary": ({"pixel_values": pixels}, labels),
        "loader": DataLoader(pairs, batch_size=7),
        "loader of dictionaries": DataLoader([{"pixel_values": x, "labels": y} for x, y in pairs], batch_size=7),
        "list of batches": list(zip(pixels.split(11), labels.split(11), strict=True)),
    }


@pytest.mark.parametrize("form", forms(torch.zeros(1, 1), torch.zeros(1)))
def test_every_form_of_batches_gives_the_models_own_accuracy(form: str, vit: Any, pixels: Any, labels: Any) -> None:
    task = task_of(vit, forms(pixels, labels)[form], calibration=10, holdout=20)
    assert (task.name, task.metric, task.tokens) == ("own batches", "accuracy", 65)
    seen = {role: torch.as_tensor(getattr(task, role).labels) for role in ("calibration", "holdout")}
    assert torch.equal(torch.cat(list(seen.values())).sort().values, labels.sort().values)
    with apply_(vit, Schedule()) as handle:
        found = Evaluator(task, handle, task.holdout).unpruned()
        expected = torch.cat(
            [vit(**b.inputs).logits.argmax(-1) == torch.as_tensor(b.labels) for b in task.holdout.batches]
        )
    assert found.quality == pytest.approx(float(expected.float().mean()))
    assert 0 < found.quality < 1


def test_two_splits_are_taken_as_they_are(vit: Any, pixels: Tensor, labels: Tensor) -> None:
    data = {"calibration": (pixels[:10], labels[:10]), "holdout": (pixels[10:], labels[10:])}
    task = task_of(vit, data)
    torch.testing.assert_close(task.calibration.batches[0].inputs["pixel_values"], pixels[:10])
    assert (task.calibration.n, task.holdout.n) == (10, 20)


def test_a_function_of_rows_is_the_metric(vit: Any, pixels: Tensor, labels: Tensor) -> None:
    def margin(outputs: Any, wanted: Tensor) -> Tensor:
        return outputs.logits.gather(1, wanted[:, None])[:, 0]

    task = task_of(vit, (pixels, labels), metric=margin)
    assert task.metric == "margin"
    with apply_(vit, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        pruned = evaluator.evaluate(Schedule([Stage(3, 0.5)]))
        handle.set(Schedule([Stage(3, 0.5)]))
        with torch.inference_mode():
            expected = [margin(vit(**b.inputs), torch.as_tensor(b.labels)) for b in task.holdout.batches]
    assert pruned.quality == pytest.approx(float(torch.cat(expected).mean()), rel=1e-5)
    value, low, high = task.scoring.difference(evaluator.unpruned().statistics, pruned.statistics)
    assert low < value < high
    assert pruned.loss > 0


def test_a_function_of_rows_judges_rows_that_are_loaded_too(vit: Any) -> None:
    task = task_of(vit, rows(), metric=lambda logits, wanted: (logits.argmax(-1) == wanted).float())
    plain = task_of(vit, rows())
    with apply_(vit, Schedule()) as handle:
        mine, theirs = (Evaluator(t, handle, t.holdout).unpruned().quality for t in (task, plain))
    assert mine == pytest.approx(theirs)
    assert task.metric == "score"


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (lambda outputs, wanted: 0.5, "one number a row"),
        (lambda outputs, wanted: torch.full((len(wanted),), float("nan")), "finite numbers"),
    ],
)
def test_a_metric_that_cannot_be_is_refused(metric: Any, words: str, vit: Any, pixels: Any, labels: Any) -> None:
    task = task_of(vit, (pixels, labels), metric=metric)
    with apply_(vit, Schedule()) as handle, pytest.raises(PruneSearchError, match=words):
        Evaluator(task, handle, task.holdout).unpruned()


def test_a_metric_of_outputs_reads_those_of_a_graph_as_the_models(vit: Any, pixels: Any, labels: Any) -> None:
    def confidence(outputs: Any, wanted: Tensor) -> Tensor:
        return outputs.logits.softmax(-1).gather(1, wanted[:, None])[:, 0]

    def graph(**inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": vit(**inputs).logits}

    task = task_of(vit, (pixels, labels), metric=confidence)
    assert quality_of(task, graph, task.holdout).value == quality_of(task, vit, task.holdout).value
    deeper = task_of(vit, (pixels, labels), metric=lambda outputs, wanted: outputs.states)
    with pytest.raises(
        PruneSearchError, match="must find what it reads in the outputs, but got AttributeError: states"
    ):
        quality_of(deeper, graph, task.holdout)
    whole = task_of(vit, (pixels, labels), evaluate=lambda model: 0.5)
    assert unjudged(whole, ("logits",)) == "score is of the model in torch, which it runs itself"
    assert unjudged(task, ("logits",)) == ""


def test_an_evaluation_of_the_whole_model_is_called_once_a_schedule(vit: Any, pixels: Any, labels: Any) -> None:
    calls = []

    def mine(model: nn.Module) -> float:
        with torch.inference_mode():
            hits = model(pixels).logits.argmax(-1) == labels
        calls.append(float(hits.float().mean()))
        return calls[-1]

    task = task_of(vit, (pixels, labels), evaluate=mine, batch_size=4)
    with apply_(vit, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        assert evaluator.unpruned().quality == pytest.approx(calls[0])
        assert evaluator.evaluate(Schedule([Stage(3, 0.3)])).quality == pytest.approx(calls[1])
    assert len(calls) == 2
    assert any("no interval" in note for note in task.notes)


def test_an_evaluation_of_the_whole_model_is_of_the_precision_too(vit: Any, pixels: Any, labels: Any) -> None:
    """A model in int8 is another one: its number is not that of the same stages in float32."""

    def mine(model: nn.Module) -> float:
        with torch.inference_mode():
            return float(model(pixels).logits.softmax(-1).gather(1, labels[:, None]).mean())

    task = task_of(vit, (pixels, labels), evaluate=mine)
    int8 = Plan(changes=[Change.parse("int8")])
    with apply_(vit, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        whole, reduced = evaluator.unpruned().quality, evaluator.evaluate(int8).quality
        with handle.under(int8):
            assert reduced == pytest.approx(mine(vit))
    assert reduced != whole


def test_without_labels_batches_are_held_against_the_model_itself(vit: Any, pixels: Tensor) -> None:
    task = task_of(vit, (pixels, None))
    assert (task.name, task.metric) == ("fidelity", "agreement")
    with apply_(vit, Schedule()) as handle:
        assert Evaluator(task, handle, task.holdout).unpruned().quality == 1.0


def test_texts_are_padded_to_their_batch_and_timed_without_padding() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=3, **sizes)).eval()
    lengths = [5 + i % 12 for i in range(24)]
    ids, mask = torch.zeros(24, 16, dtype=torch.long), torch.zeros(24, 16, dtype=torch.long)
    for i, n in enumerate(lengths):
        ids[i, :n], mask[i, :n] = torch.randint(5, 50, (n,)), 1
    with torch.inference_mode():
        wanted = model(input_ids=ids, attention_mask=mask).logits.argmax(-1)
    task = task_of(model, ({"input_ids": ids, "attention_mask": mask}, wanted), batch_size=4)
    with apply_(model, Schedule()) as handle:
        assert Evaluator(task, handle, task.holdout).unpruned().quality == 1.0
    timed = task.timing_inputs(5)
    assert timed["input_ids"].shape == (5, task.tokens)
    assert bool(timed["attention_mask"].all())
    widths = {b.inputs["input_ids"].shape[1] for b in task.holdout.batches}
    assert len(widths) > 1


def test_a_module_around_a_model_is_taken(vit: Any, pixels: Tensor, labels: Tensor) -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = vit

        def forward(self, picture: Tensor) -> Tensor:
            return self.inner(picture).logits

    task = task_of(Around(), (pixels, labels))
    assert set(task.holdout.batches[0].inputs) == {"picture"}
    assert task.tokens == 65


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (3, "data must be a file"),
        ([], "must have rows"),
        ([(torch.zeros(3, 3, 32, 32), torch.zeros(2))], "rows first"),
        ({"train": 1}, "calibration and holdout"),
        ([torch.zeros(2, 3, 32, 32)], "a batch is"),
        ((torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)), "give more rows"),
    ],
)
def test_what_is_no_data_is_refused(data: Any, words: str, vit: Any) -> None:
    with pytest.raises(PruneSearchError, match=words):
        task_of(vit, data)


def test_a_folder_and_batches_do_not_go_together(pixels: Tensor, labels: Tensor) -> None:
    with pytest.raises(PruneSearchError, match="model object"):
        task_of(DEMO / "vit-cifar10", (pixels, labels))


def test_metric_and_evaluation_do_not_go_together(vit: Any, pixels: Tensor) -> None:
    with pytest.raises(PruneSearchError, match="got both"):
        task_of(vit, (pixels, None), metric="accuracy", evaluate=lambda model: 1.0)
