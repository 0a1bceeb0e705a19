"""A folder with a timm model, as transformers saves one and as timm's own checkpoints are, is read by its processor."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from datasets import Dataset
from PIL import Image

from prunesearch.pruning.families.find import find_encoder
from prunesearch.tasks import load_task
from tests.support.small_cases import TIMM

pytest.importorskip("timm", reason=TIMM)
MODEL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
SCALED = {"input_size": [3, 32, 32], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "crop_pct": 1.0}


def images(path: Path, rows: int = 40) -> Path:
    random, cells = np.random.default_rng(0), []
    for _ in range(rows):
        out = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(out, "png")
        cells.append({"bytes": out.getvalue(), "path": None})
    Dataset.from_dict({"image": cells, "label": [i % 3 for i in range(rows)]}).to_parquet(path)
    return path


@pytest.mark.parametrize("style", ["transformers", "timm"])
def test_a_folder_is_read_as_its_own_processor_does(tmp_path: Path, style: str) -> None:
    config = hf.TimmWrapperConfig(architecture="vit_tiny_patch16_224", num_labels=3, model_args=MODEL)
    config.pretrained_cfg = SCALED
    model = hf.TimmWrapperForImageClassification(config)
    model.save_pretrained(tmp_path / "model")
    saved = tmp_path / "model" / "config.json"
    if style == "timm":  # its own config.json names neither a class nor a model_type
        told = json.loads(saved.read_text())
        names = ("architecture", "num_classes", "model_args", "pretrained_cfg")
        saved.write_text(json.dumps({name: told[name] for name in names}))
    data = images(tmp_path / "images.parquet")
    task = load_task(str(tmp_path / "model"), str(data), calibration=16, holdout=16)
    assert task.name == "image-classification"
    assert task.tokens == find_encoder(task.model).protected + 16
    seen = task.timing_inputs(2)["pixel_values"]
    assert seen.shape == (2, 3, 32, 32)
    lowest, highest = (
        torch.tensor([(end - m) / s for m, s in zip(SCALED["mean"], SCALED["std"], strict=True)]) for end in (0, 1)
    )
    assert (seen >= lowest[:, None, None] - 1e-5).all()
    assert (seen <= highest[:, None, None] + 1e-5).all()
    assert seen[:, 0].max() > highest[2]  # red is scaled by more than blue could be
