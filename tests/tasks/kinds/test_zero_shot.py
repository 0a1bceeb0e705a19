"""Zero-shot classification: the classes are prompts, the image tower is reduced."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from tests.support.some import some
from tests.support.tiny import CLASSES, write_images
from tests.support.tiny_media import SIZE, save

HALF = Schedule([Stage(0, 0.5, "value_norm", "bipartite")])
PICTURE = {**SIZE, "image_size": 16, "patch_size": 4, "initializer_range": 0.3}
WORDS = {**SIZE, "vocab_size": 30, "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 2}
WORDS |= {"pad_token_id": 0, "initializer_range": 0.3}
VOCABULARY = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "a", "photo", "of", "this", "is", "cat", "dog", "frog", "."]


def _folder(folder: Path, kind: str, front: str) -> str:
    torch.manual_seed(0)
    if kind == "Siglip":
        settings = {"text_config": {**WORDS, "projection_size": 32}, "vision_config": PICTURE}
    else:
        settings = {
            "text_config": {**WORDS, "projection_dim": 16, "initializer_factor": 9.0},
            "vision_config": {**PICTURE, "projection_dim": 16, "initializer_factor": 9.0},
            "projection_dim": 16,
        }
    model = getattr(hf, f"{kind}Model")(getattr(hf, f"{kind}Config")(**settings))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    hf.BertTokenizer(str(folder / "vocab.txt"), model_max_length=12).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    return save(folder, model, {"image_processor_type": front, "size": size, "do_center_crop": False})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _folder(tmp_path_factory.mktemp("c"), "CLIP", "CLIPImageProcessor")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _folder(tmp_path_factory.mktemp("s"), "Siglip", "SiglipImageProcessor")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("d") / "d.parquet", range(18), [CLASSES[i % 3] for i in range(18)])


@pytest.mark.parametrize(
    ("name", "prompts", "tokens"),
    [
        ("clip", ["a photo of a cat.", "a photo of a dog.", "a photo of a frog."], 17),
        ("siglip", ["This is a photo of cat.", "This is a photo of dog.", "This is a photo of frog."], 16),
    ],
)
def test_logits_are_those_of_the_whole_model(
    name: str, prompts: list[str], tokens: int, data: Path, request: pytest.FixtureRequest
):
    folder = request.getfixturevalue(name)
    task = load_task(folder, data, batch_size=4)
    assert (task.name, task.tokens, task.label_names) == ("zero-shot-image-classification", tokens, CLASSES)
    assert any(prompts[0] in note for note in task.notes)
    whole = hf.AutoModel.from_pretrained(folder).eval()
    padding = {"padding": "max_length", "max_length": 12} if name == "siglip" else {"padding": True}
    texts = hf.AutoTokenizer.from_pretrained(folder)(prompts, return_tensors="pt", **padding)
    names = ("input_ids",) if name == "siglip" else ("input_ids", "attention_mask")
    texts = {key: texts[key] for key in names}
    with torch.no_grad():
        for batch in some(task.holdout.batches):
            want = whole(**texts, **batch.inputs).logits_per_image
            assert torch.allclose(task.outputs(task.model, batch)["logits"], want, atol=1e-4)
            assert want.std(dim=1).min() > 0


def test_the_image_tower_is_reduced_and_the_text_tower_is_gone(clip: str, data: Path):
    with pytest.raises(PruneSearchError, match="top5 is 1 for every model of 5 classes or fewer, and there are 3"):
        load_task(clip, data, metric="top5")
    task = load_task(clip, data)
    whole = hf.CLIPModel.from_pretrained(clip)
    mine = sum(p.numel() for p in task.model.parameters())
    assert mine == sum(p.numel() for p in whole.vision_model.parameters()) + whole.visual_projection.weight.numel()
    with apply_(task.model, Schedule()) as handle:
        assert handle.encoder.family.model_type == "clip_vision_model"
        evaluator = Evaluator(task, handle, task.holdout)
        pruned = evaluator.evaluate(HALF)
        with torch.no_grad():
            right = [task.model(**b.inputs).logits.argmax(-1) == b.labels for b in some(task.holdout.batches)]
    assert evaluator.unpruned().quality == pytest.approx(torch.cat(right).float().mean().item())
    assert pruned.loss > 0


def test_classes_need_names_and_the_model_two_towers(clip: str, vit: str, tmp_path: Path):
    numbered = write_images(tmp_path / "n.parquet", range(9))
    with pytest.raises(PruneSearchError, match="need names to make prompts of, but got 0, 1, 2"):
        load_task(clip, numbered)
    with pytest.raises(PruneSearchError, match="needs one of clip, siglip"):
        load_task(vit, numbered, task="zero-shot-image-classification")
    assert np.isfinite(json.loads((Path(clip) / "config.json").read_text())["logit_scale_init_value"])
