"""`prunesearch run` from end to end on the device, and flash attention with dropped tokens where its kernels are."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image

from gpu.day import Step
from gpu.stand import Stand
from gpu.subjects import SUBJECTS, schedules
from prunesearch.api.verbs import run as search
from prunesearch.core.events import Note, StepBegun, listening
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.shape import describe_shape
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.pruning.apply import apply_


class Heard:
    """What a run told, and after how many seconds."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.steps: list[tuple[float, str]] = []
        self.notes: list[str] = []

    def __call__(self, event: Any) -> None:
        """Note an event."""
        if isinstance(event, StepBegun):
            self.steps.append((round(time.monotonic() - self.began, 2), event.text))
        elif isinstance(event, Note):
            self.notes.append(event.text)


def _search(model: str | None, data: str | None, root: str, **settings: Any) -> dict[str, Any]:
    heard = Heard()
    with listening(heard):
        study = search(model, data, root=root, patience_s=0.0, **settings)
    took = time.monotonic() - heard.began
    front = json.loads((study.folder.path / "front.json").read_text(encoding="utf-8"))
    return {"seconds": took, "steps": heard.steps, "notes": heard.notes, "front": front}


def demo(stand: Stand) -> dict[str, Any]:
    """The bundled demo, as `prunesearch run --device cuda` searches it, with less time."""
    with tempfile.TemporaryDirectory() as root:
        return _search(
            None, None, root, device=str(stand.device), mode=stand.modes[-1], table_seconds=stand.size(15.0, 4.0),
            batch_size=stand.size(8, 1), timeout_s=stand.size(20.0, 4.0), front_points=stand.size(12, 2),
            **stand.size({}, _FEW),
        )  # fmt: skip


_FEW = {"calibration": 64, "holdout": 64, "search_samples": 64, "sensitivity_samples": 8, "trials": 3}


def vit_small(stand: Stand) -> dict[str, Any]:
    """A ViT-S at 224 px with random weights, label-free: how long a search of a real size takes, and what it gains."""
    rows, batch = stand.size((1024, 32), (64, 2))
    with tempfile.TemporaryDirectory() as scratch:
        folder, images = Path(scratch) / "model", Path(scratch) / "images"
        model = SUBJECTS["deit-small"].build(stand, torch.float32).cpu()
        model.save_pretrained(folder)
        side = model.config.image_size
        hf.ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
        _pictures(images / "any", rows, side)
        return _search(
            str(folder), str(images), scratch, task="fidelity", device=str(stand.device), mode=stand.modes[-1],
            batch_size=batch, dtype=stand.size("bfloat16", "float32"), table_seconds=stand.size(15.0, 4.0),
            timeout_s=stand.size(20.0, 3.0), **stand.size({}, {**_FEW, "calibration": 32, "holdout": 32}),
        )  # fmt: skip


def _pictures(folder: Path, rows: int, side: int) -> None:
    """Coarse random pictures, as JPEG: every one is another, and none is noise alone."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for row in range(rows):
        coarse = Image.fromarray(random.integers(0, 255, (7, 7, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{row:04d}.jpg")


@torch.inference_mode()
def flash(stand: Stand) -> dict[str, Any]:
    """Flash attention with dropped tokens: the same logits as SDPA's within half precision, and how fast."""
    if not hf.utils.is_flash_attn_2_available():
        return {"unavailable": "flash-attn is not installed for this device"}
    subject, rows, found = SUBJECTS["deit-small"], stand.size(32, 2), {}
    for attention in ("sdpa", "flash_attention_2"):
        model = subject.build(stand, torch.bfloat16, attention)
        inputs = subject.inputs(model, rows)
        with apply_(model, Schedule()) as handle:
            every = schedules(subject, describe_shape(model, handle, inputs))
            stride = every["stride"]  # no scorer that a rounding could move
            handle.set(stride)
            logits = model(**inputs).logits.float()
        timed = measure_schedules(model, inputs, [Schedule(), every["drop"]], time_budget_s=2.0)
        found[attention] = (logits, [samples.median_ms for samples in timed])
    sdpa, other = found["sdpa"], found["flash_attention_2"]
    off = float((other[0] - sdpa[0]).norm() / sdpa[0].norm())
    if not off < 2e-2:
        raise AssertionError(f"flash attention's logits are off by {off:.1e}")
    return {"off": off, "ms": {name: ms for name, (_, ms) in found.items()}, "of": ["unpruned", str(every["drop"])]}


def steps(stand: Stand) -> Iterator[Step]:
    """The demo first."""
    for worth, name, seconds, step in (
        (75.0, "demo", stand.size(70.0, 25.0), demo),
        (46.0, "vit-small at 224 px", stand.size(90.0, 30.0), vit_small),
        (64.0, "flash attention with drop", stand.size(10.0, 1.0), flash),
    ):
        yield Step("run", name, worth, seconds, partial(step, stand))
