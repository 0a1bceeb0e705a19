"""Heads of one number, of several, and of several classes at once: labels in every form, and what fits each head."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification, ViTConfig, ViTForImageClassification

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.kinds.head_outputs import SomeClasses, SomeNumbers
from prunesearch.tasks.objects import task_of
from tests.support.tiny import make_bert, sentence, write_images

NAMES = ["toxic", "obscene", "threat"]
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
MULTI = "multi_label_classification"
HARD = Schedule([Stage(0, 0.3, "value_norm", "drop")])


@pytest.fixture(scope="module")
def number(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("number")
    return make_bert(folder, BertForSequenceClassification, num_labels=1, initializer_range=0.4)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("several")
    head = {"num_labels": 3, "problem_type": MULTI, **LABELS}
    return make_bert(folder, BertForSequenceClassification, initializer_range=0.4, **head)


def flags(i: int) -> list[int]:
    return [int(i % 2 == 0), int(i % 3 == 0), int(i % 5 == 0)]


def on(i: int) -> list[str]:
    return [name for name, flag in zip(NAMES, flags(i), strict=True) if flag]


def columns(i: int, names: list[str] = NAMES) -> dict[str, int]:
    return dict(zip(names, flags(i), strict=True))


def table(path: Path, cells: Any, n: int = 30) -> Path:
    """Rows of a text and what `cells` gives of a row's number."""
    rows = [{"text": f"{sentence(i)} w{i}", **cells(i)} for i in range(n)]
    if path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_number_a_row(number: str, tmp_path: Path):
    data = table(tmp_path / "d.csv", lambda i: {"score": i / 4})
    task = load_task(number, data, calibration=10, holdout=20)
    assert (task.name, task.metric) == ("regression", "pearson")
    assert sorted(task.calibration.labels.tolist() + task.holdout.labels.tolist()) == [i / 4 for i in range(30)]
    assert isinstance(task.head, SomeNumbers)
    with torch.inference_mode():
        said = torch.cat([task.model(**batch.inputs).logits for batch in task.calibration.batches])
    assert task.head.spread.item() == pytest.approx(said.std(correction=0).item(), rel=1e-5)
    with apply_(task.model, Schedule()) as handle:
        found = Evaluator(task, handle, task.holdout).evaluate(HARD)
        with handle.under(HARD), torch.inference_mode():
            cut = torch.cat([task.model(**batch.inputs).logits[:, 0] for batch in task.holdout.batches])
        with torch.inference_mode():
            whole = torch.cat([task.model(**batch.inputs).logits[:, 0] for batch in task.holdout.batches])
    by_hand = ((cut - whole) ** 2 / said.var(correction=0)).sort().values
    assert torch.allclose(found.kl.sort().values, by_hand, rtol=1e-4)
    assert found.loss > 0
    assert found.agreement == pytest.approx(float((by_hand <= 0.01).float().mean()))


@pytest.mark.parametrize("metric", ["pearson", "spearman", "r2"])
def test_every_metric_of_numbers_can_be_asked_for(metric: str, number: str, tmp_path: Path):
    data = table(tmp_path / "d.jsonl", lambda i: {"sentence2": f"{sentence(i + 50)}", "stars": i})
    assert load_task(number, data, metric=metric, columns={"text": "text", "label": "stars"}).metric == metric


def test_several_numbers_a_row(tmp_path: Path):
    kind = {"problem_type": "regression", "id2label": {0: "Warmth", 1: "Depth"}, "label2id": {"Warmth": 0, "Depth": 1}}
    model = make_bert(tmp_path / "m", BertForSequenceClassification, **kind)
    for cells in (lambda i: {"depth": -i, "warmth": i}, lambda i: {"label": [i, -i]}):
        task = load_task(model, table(tmp_path / "d.jsonl", cells))
        assert task.name == "regression"
        assert torch.equal(task.holdout.labels[:, 0], -task.holdout.labels[:, 1])
        assert (task.holdout.labels[:, 0] >= 0).all()
    with pytest.raises(PruneSearchError, match="must have 2 numbers for this head, but row"):
        load_task(model, table(tmp_path / "d.jsonl", lambda i: {"label": [i]}))


FORMS = {
    "columns": (".csv", lambda i: {name.title(): flag for name, flag in reversed(columns(i).items())}),
    "booleans": (".csv", lambda i: {name: bool(flag) for name, flag in columns(i).items()}),
    "lists of names": (".jsonl", lambda i: {"labels": on(i)}),
    "lists of ids": (".jsonl", lambda i: {"labels": [NAMES.index(name) for name in on(i)]}),
    "lists of flags": (".jsonl", lambda i: {"labels": flags(i)}),
    "lists of floats": (".jsonl", lambda i: {"labels": [float(x) for x in flags(i)]}),
    "texts": (".csv", lambda i: {"labels": "|".join(name.upper() for name in on(i)) or "[]"}),
    "python's lists": (".csv", lambda i: {"labels": f'"{on(i)}"'}),
    "numpy's lists": (".csv", lambda i: {"labels": str(flags(i)).replace(",", "")}),
}


@pytest.mark.parametrize("form", FORMS)
def test_several_classes_in_every_form(form: str, several: str, tmp_path: Path):
    suffix, cells = FORMS[form]
    task = load_task(several, table(tmp_path / f"d{suffix}", cells), calibration=10, holdout=20)
    assert (task.name, task.metric) == ("multi-label-classification", "micro_f1")
    rows = [*task.calibration.labels.tolist(), *task.holdout.labels.tolist()]
    assert sorted(rows) == sorted(flags(i) for i in range(30))


def test_classes_without_names_are_the_columns_of_flags(tmp_path: Path):
    model = make_bert(tmp_path / "m", BertForSequenceClassification, num_labels=3, problem_type=MULTI)
    task = load_task(model, table(tmp_path / "d.csv", lambda i: columns(i, ["a", "b", "c"])))
    assert task.name == "multi-label-classification"
    assert any("label=a, b, c" in note for note in task.notes)


def test_decisions_are_compared_one_by_one(several: str, tmp_path: Path):
    """All classes switched off together: softmax and argmax see nothing."""
    task = load_task(several, table(tmp_path / "d.csv", columns))
    before = torch.tensor([[2.0, -1.0, -1.0]])
    after = before - 4
    p, q = before.double().sigmoid(), after.double().sigmoid()
    wanted = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    batch = task.holdout.batches[0]
    assert task.divergence({"logits": before}, {"logits": after}, batch).item() == pytest.approx(
        wanted.item(), rel=1e-5
    )
    assert task.divergence({"logits": before}, {"logits": before}, batch).item() == 0
    assert not task.agrees({"logits": before}, {"logits": after}, batch)
    assert task.head.shown(task.head.answers(before)[0]) == "toxic"


@pytest.mark.parametrize("which", ["number", "several"])
def test_without_labels_it_is_fidelity_that_fits_the_head(which: str, request: pytest.FixtureRequest, tmp_path: Path):
    model = request.getfixturevalue(which)
    task = load_task(model, table(tmp_path / "d.jsonl", lambda i: {"other": i}, n=90))
    assert task.name == "fidelity"
    assert task.metric == ("r2" if which == "number" else "agreement")
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        assert evaluator.unpruned().quality == 1
        assert evaluator.evaluate(Schedule()).loss == 0
        cut = evaluator.evaluate(HARD)
    assert cut.loss > 1e-4
    assert cut.quality < 1
    assert cut.agreement < 1


def test_batches_of_ones_own_fit_the_head_too(number: str, several: str, tmp_path: Path):
    for folder, label, metric in ((number, int, "pearson"), (several, flags, "micro_f1")):
        task = load_task(folder, table(tmp_path / "d.jsonl", lambda i: {"other": i}), batch_size=64)
        batch = task.holdout.batches[0]
        own = task_of(task.model, (batch.inputs, torch.tensor([label(i) for i in range(len(batch))])))
        assert own.metric == metric
        bare = task_of(task.model, [(batch.inputs, None)])
        assert (bare.name, bare.metric) == ("fidelity", "r2" if metric == "pearson" else "agreement")
        outputs = [bare.outputs(own.model, b) for b in bare.holdout.batches]
        with apply_(task.model, HARD):
            cut = [bare.outputs(own.model, b) for b in bare.holdout.batches]
        assert bare.divergence(outputs[0], cut[0], bare.holdout.batches[0]).mean() > 1e-4


def test_images_with_several_classes(tmp_path: Path):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(**shape, image_size=16, patch_size=4, problem_type=MULTI, initializer_range=0.3, **LABELS)
    ViTForImageClassification(config).save_pretrained(tmp_path / "m")
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(processor))
    data = write_images(tmp_path / "i.parquet", range(30), [flags(i) for i in range(30)])
    task = load_task(tmp_path / "m", data)
    assert task.name == "multi-label-classification"
    assert task.samples[0].label in ("none", *(", ".join(on(i)) for i in range(30)))


def test_what_does_not_fit_is_one_line(number: str, several: str, bert: str, tmp_path: Path):
    cases: list[tuple[str, Any, dict, str]] = [
        (number, lambda i: {"score": "much"}, {}, "column 'score' must hold numbers, but row .* has 'much'"),
        (number, lambda i: {"score": 3}, {}, "pearson must depend .*all labels are the same number"),
        (several, lambda i: {"labels": ["rude"]}, {}, "'rude' of row .* is not one of the model's 3 classes"),
        (several, lambda i: {"labels": [7]}, {}, "'7' of row .* is not one of the model's 3 classes"),
        (several, lambda i: dict.fromkeys(NAMES, 2), {}, "column 'toxic' must hold 0 or 1"),
        (several, lambda i: dict.fromkeys(NAMES, 0), {}, "micro_f1 must depend .*no class is on in any row"),
        (
            several,
            lambda i: {"other": i},
            {"task": "multi-label-classification"},
            "needs a column with lists of classes",
        ),
        (number, lambda i: {"other": i}, {"task": "regression"}, "needs a column with a number"),
        (
            number,
            lambda i: {"label": i % 2},
            {"task": "text-classification"},
            "heads for single_label.* use regr",
        ),
        (
            bert,
            lambda i: {"label": i % 2},
            {"task": "regression"},
            "is for single_label_classification: use text",
        ),
        (bert, lambda i: {"label": i % 2}, {"metric": "top5"}, "top5 is 1 for every model of 5 classes or fewer"),
        (bert, lambda i: {"label": 1}, {"metric": "mcc"}, "mcc must depend .*all labels are of one class"),
    ]
    for model, cells, settings, message in cases:
        with pytest.raises(PruneSearchError, match=message) as caught:
            load_task(model, table(tmp_path / "d.jsonl", cells), **settings)
        assert "\n" not in str(caught.value)


def test_a_model_that_answers_nothing_is_refused(tmp_path: Path):
    model = make_bert(tmp_path / "m", BertForSequenceClassification, num_labels=1)
    whole = BertForSequenceClassification.from_pretrained(model)
    torch.nn.init.zeros_(whole.classifier.weight)
    whole.save_pretrained(model)
    with pytest.raises(PruneSearchError, match="numbers must differ between rows, but all"):
        load_task(model, table(tmp_path / "d.jsonl", lambda i: {"score": i}))


def test_the_activation_of_a_cross_encoder_is_part_of_it(number: str, tmp_path: Path):
    data = table(tmp_path / "d.jsonl", lambda i: {"score": i})
    plain = load_task(number, data)
    whole = BertForSequenceClassification.from_pretrained(number)
    for named, wanted in (("Sigmoid", torch.sigmoid), ("Identity", torch.nn.Identity())):
        whole.config.sentence_transformers = {"activation_fn": f"torch.nn.modules.activation.{named}"}
        whole.save_pretrained(tmp_path / named)
        (tmp_path / named / "tokenizer.json").write_bytes((Path(number) / "tokenizer.json").read_bytes())
        (tmp_path / named / "tokenizer_config.json").write_bytes((Path(number) / "tokenizer_config.json").read_bytes())
        task = load_task(tmp_path / named, data)
        batch = task.holdout.batches[0]
        with torch.inference_mode():
            found = task.outputs(task.model, batch)["logits"]
            assert torch.equal(found, wanted(plain.outputs(plain.model, batch)["logits"]))
    whole.config.sentence_transformers = {"activation_fn": "torch.nn.modules.activation.Tanh"}
    whole.config.save_pretrained(tmp_path / "Sigmoid")
    with pytest.raises(PruneSearchError, match=r"go through Sigmoid or Identity, but those of .* through torch"):
        load_task(tmp_path / "Sigmoid", data)


def test_the_names_of_what_fits(several: str):
    assert SomeClasses(NAMES).shown(torch.tensor([1, 0, 1])) == "toxic, threat"
    assert SomeNumbers(["a", "b"]).shown(torch.tensor([1.5, 2.0])) == "a 1.5, b 2"
