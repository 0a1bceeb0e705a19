import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import ViTForImageClassification

from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.tasks import load_task
from tests.support.tiny import CLASSES, png, write_images


def test_one_parquet_end_to_end(vit: str, tmp_path: Path):
    data = write_images(tmp_path / "a.parquet", range(60))
    task = load_task(vit, data, batch_size=8)
    assert (task.name, task.metric, task.label_names) == ("image-classification", "accuracy", CLASSES)
    assert (task.calibration.n, task.holdout.n) == (20, 40)
    assert task.tokens == 17  # 16 patches and CLS
    assert task.notes[0] == "columns: image=image, label=label"
    assert not task.model.training
    for part in (task.calibration, task.holdout):
        assert torch.cat([b.index for b in part.batches]).tolist() == list(range(part.n))
    assert set(task.calibration.batches[0].inputs) == {"pixel_values"}


def test_rows_keep_their_image_and_label(vit: str, tmp_path: Path):
    """Label = seed % 3, and the sample's pixels are those of one seed: so they must belong together."""
    data = write_images(tmp_path / "a.parquet", range(30))
    task = load_task(vit, data, batch_size=4)
    by_pixels = {png(seed): seed for seed in range(30)}
    assert len(task.samples) == 8
    for sample in task.samples:
        pixels = torch.tensor(list(sample.content.tobytes())).view(16, 16, 3).permute(2, 0, 1) / 255
        batch = task.calibration.batches[sample.index // 4]
        stored = batch.inputs["pixel_values"][sample.index % 4]
        assert torch.allclose(stored, (pixels - 0.5) / 0.5, atol=1e-5)
        assert batch.labels[sample.index % 4] == sample.label
        seed = next(s for raw, s in by_pixels.items() if _pixels(raw) == sample.content.tobytes())
        assert seed % 3 == sample.label


def _pixels(encoded: bytes) -> bytes:
    from prunesearch.tasks.data.image_cells import decode_image

    return decode_image(encoded, None).tobytes()


def test_two_files_class_folders_and_seed(vit: str, tmp_path: Path):
    first = write_images(tmp_path / "a.parquet", range(20))
    second = write_images(tmp_path / "b.parquet", range(15, 40))
    task = load_task(vit, f"{first},{second}")
    assert (task.calibration.n, task.holdout.n) == (15, 25)
    assert any("5 calibration rows were dropped" in note for note in task.notes)
    for seed in range(12):
        folder = tmp_path / "pictures" / CLASSES[seed % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{seed}.png").write_bytes(png(seed))
    folders = [load_task(vit, tmp_path / "pictures", seed=seed) for seed in (0, 0, 1)]
    pixels = [task.holdout.batches[0].inputs["pixel_values"] for task in folders]
    assert torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[0], pixels[2])


def test_timing_inputs_are_real_rows_and_repeat(vit: str, tmp_path: Path):
    task = load_task(vit, write_images(tmp_path / "a.parquet", range(30)), batch_size=4)
    inputs = task.timing_inputs(13)["pixel_values"]
    stored = torch.cat([b.inputs["pixel_values"] for b in task.calibration.batches])
    assert torch.equal(inputs, torch.cat([stored, stored[:3]]))
    assert torch.equal(task.timing_inputs(3)["pixel_values"], stored[:3])


def test_dtype_and_attention_reach_the_model(vit: str, tmp_path: Path):
    data = write_images(tmp_path / "a.parquet", range(9))
    task = load_task(vit, data, dtype="bfloat16", attention="eager")
    batch = task.holdout.batches[0]
    assert batch.inputs["pixel_values"].dtype == torch.bfloat16
    assert task.model.config._attn_implementation == "eager"
    with torch.inference_mode():
        logits = task.logits(task.model(**batch.inputs))
    assert logits.shape == (len(batch), 3)
    assert logits.dtype == torch.bfloat16


def test_labels_outside_the_head_and_explicit_columns(vit: str, tmp_path: Path):
    data = write_images(tmp_path / "a.parquet", range(9), [0, 1, 7] * 3, name="animal")
    with pytest.raises(PruneSearchError, match="0 to 2 for the model's 3 classes, but got 7"):
        load_task(vit, data, columns={"label": "animal"})
    with pytest.raises(PruneSearchError, match="no label column"):
        load_task(vit, data, task="image-classification")
    assert load_task(vit, data).name == "fidelity"


def test_images_that_are_no_images(vit: str, tmp_path: Path):
    folder = tmp_path / "p"
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for i in range(2):
            (folder / name / f"{i}.png").write_bytes(f"{name} {i}".encode())
    with pytest.raises(PruneSearchError, match="cannot be decoded"):
        load_task(vit, folder)


def test_images_of_unlike_size_without_resizing(vit: str, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(vit, model)
    processor = {"image_processor_type": "ViTImageProcessor", "do_resize": False}
    (model / "preprocessor_config.json").write_text(json.dumps(processor))
    folder = tmp_path / "p"
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for i, size in enumerate((16, 20, 24)):
            (folder / name / f"{i}.png").write_bytes(png(i, size + CLASSES.index(name)))
    with pytest.raises(PruneSearchError, match="image processor") as caught:
        load_task(model, folder)
    assert "\n" not in str(caught.value)


def test_checkpoint_without_head_or_with_missing_weights(vit: str, tmp_path: Path):
    data = write_images(tmp_path / "a.parquet", range(9))
    bare = tmp_path / "bare"
    shutil.copytree(vit, bare)
    model = ViTForImageClassification.from_pretrained(vit)
    model.vit.save_pretrained(bare)
    with pytest.raises(UnsupportedModelError, match="needs a checkpoint with that head"):
        load_task(bare, data)
    (bare / "config.json").write_text((Path(vit) / "config.json").read_text())
    task = load_task(bare, data)
    assert any("lacks 2 weights, drawn at random: classifier.bias" in note for note in task.notes)
