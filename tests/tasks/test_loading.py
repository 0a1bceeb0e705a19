"""What a library falls back to is not taken for the truth: weights drawn at random, a tokenizer of no words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers as hf
from safetensors.torch import load_file, save_file

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks import load_task
from prunesearch.tasks.loading import load
from tests.support.tiny import make_bert, make_vit, write_images, write_texts
from tests.support.tiny_media import make_waves, write_sounds


def rename(folder: str, change) -> None:
    file = Path(folder) / "model.safetensors"
    found = {change(name): value for name, value in load_file(file).items()}
    save_file({name: value for name, value in found.items() if name}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name: f"module.{name}", r"lacks \d+ of them, .* first; it has module\..* and \d+ more"),
        (lambda name: re.sub(r"(layers?)\.1\.", r"\1.9.", name), r"lacks 16 of them, .*layers?\.1\."),
        (lambda name: "" if "layernorm" in name.lower() else name, "(?i)lacks .*layernorm"),
    ],
    ids=["DataParallel", "other layers", "no norms"],
)
def test_weights_of_the_body_that_are_missing_stop_it(change, message: str, tmp_path: Path):
    texts, images = write_texts(tmp_path / "t.jsonl", 30), write_images(tmp_path / "i.parquet", range(30))
    models = [
        (make_bert(tmp_path / "b", hf.BertForSequenceClassification), texts),
        (make_bert(tmp_path / "e", hf.BertModel), texts),
        (make_vit(tmp_path / "v"), images),
    ]
    for model, data in models:
        rename(model, change)
        with pytest.raises(PruneSearchError, match=message) as caught:
            load_task(model, data)
        assert "\n" not in str(caught.value)


def test_a_new_head_is_named_and_what_is_not_used_is_not_missed(tmp_path: Path):
    texts = write_texts(tmp_path / "t.jsonl", 30)
    headless = make_bert(tmp_path / "b", hf.BertForSequenceClassification)
    rename(headless, lambda name: "" if name.startswith("classifier") else name)
    notes = load_task(headless, texts).notes
    assert any("classifier.bias, classifier.weight: this head is new" in note for note in notes)
    unpooled = make_bert(tmp_path / "e", hf.BertModel)
    rename(unpooled, lambda name: "" if "pooler" in name else name)
    assert load_task(unpooled, texts).name == "text-classification"
    waves = make_waves(tmp_path / "w", "Wav2Vec2ForSequenceClassification")
    rename(waves, lambda name: "" if "masked_spec_embed" in name else name)
    sounds = write_sounds(tmp_path / "s.parquet", 12, label=[i % 2 for i in range(12)])
    assert not any("at random" in note for note in load_task(waves, sounds).notes)


def test_a_folder_without_tokenizer_files_is_refused(tmp_path: Path):
    texts = write_texts(tmp_path / "t.jsonl", 30)
    for kind in (hf.BertForSequenceClassification, hf.BertModel):
        folder = Path(make_bert(tmp_path / kind.__name__, kind))
        for file in folder.iterdir():
            if file.name not in ("config.json", "model.safetensors"):
                file.unlink()
        with pytest.raises(PruneSearchError, match="a tokenizer must know words"):
            load_task(folder, texts)


def test_texts_that_the_tokenizer_does_not_know_are_refused(tmp_path: Path):
    model = make_bert(tmp_path / "b", hf.BertForSequenceClassification)
    data = tmp_path / "t.jsonl"
    data.write_text("\n".join(f'{{"text": "Какой фильм {i}", "label": {i % 2}}}' for i in range(30)))
    with pytest.raises(PruneSearchError, match=r"\d+% of the tokens of .* are unknown to its tokenizer"):
        load_task(model, data)


def test_a_package_that_a_processor_needs_is_named(tmp_path: Path):
    class Needs:
        @staticmethod
        def from_pretrained(*_: object, **__: object) -> None:
            raise ImportError("\nVideos requires the Torchvision library but it was not found in your environment.")

    with pytest.raises(PruneSearchError, match=r"pip install torchvision$"):
        load(Needs, str(tmp_path), "processor")
