"""Profiles of a device that is known exactly, a real model of the same shape, and the command line in this process."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from prunesearch.cli.app import app
from prunesearch.cli.border import answer
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import parse_method
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.device_profile import Energy, Profile
from prunesearch.cost.tables.energy_fit import EnergyFit
from prunesearch.cost.tables.table_records import Cells, Validation
from tests.support.known_machine import SHAPE, synthetic_walks, table_of, true_total

CONDITIONS = {"device": "cpu", "batch_size": 8, "dtype": "float32", "attention": "sdpa", "mode": "eager"}
POWERS_W = {"attention": 20.0, "mlp": 50.0, "reduce": 10.0, "rest": 30.0}
ROWS = 8
_TABLE: list[CostTable] = []


def known_table(**changes: Any) -> CostTable:
    """The known machine's table with a stored error; `changes` of its facts, those of `conditions` by name."""
    if not _TABLE:
        checked = Validation(mape=0.012, worst=0.034, bias=0.001, rank_correlation=0.997, unseen=30)
        facts = {**dict(table_of(synthetic_walks(400))), "validation": checked, "model": "known"}
        facts["conditions"] = {**facts["conditions"], "cores": 2, "concurrency": 1}
        facts["device"] = {**facts["device"], "date": "2026-11-20T10:00:00+00:00"}
        _TABLE.append(CostTable(**facts))
    facts = dict(_TABLE[0])
    conditions = {name: changes.pop(name) for name in list(changes) if name in facts["conditions"]}
    facts["conditions"] = {**facts["conditions"], **conditions}
    return CostTable(**{**facts, **changes})


def slower(table: CostTable, attention: float = 1.0, reduce: float = 1.0) -> CostTable:
    """The table of a device on which attention and stages take so many times as long."""
    cells = table.cells.model_dump()
    for piece, factor in (("attention", attention), ("reduce", reduce)):
        for cell in cells[piece]:
            cell.update({k: cell[k] * factor for k in ("ms", "median_ms", "p10_ms", "p90_ms")})
    return CostTable(**{**dict(table), "cells": Cells.model_validate(cells)})


def known_energy(valid: bool = True, why: str = "") -> EnergyFit:
    """Powers as in `POWERS_W`."""
    checked = {"mape": 0.01, "worst": 0.02, "schedules": [], "predicted_mj": [], "measured_mj": []}
    return EnergyFit.model_validate(
        {
            "powers_w": POWERS_W,
            "idle_w": 5.0,
            "rows": ROWS,
            "source": {"name": "simulated", "covers": "everything"},
            "windows": 27,
            "seconds": 140.0,
            "temperature_c": None,
            "valid": valid,
            "why": why,
            "validation": {**checked, "low_mj": [], "high_mj": []},
            "date": "2026-11-20T10:00:00+00:00",
        }
    )


def true_mj(table: CostTable, schedule: Schedule) -> float:
    return sum(POWERS_W[kind] * ms for kind, ms in table.breakdown(schedule.flow(table.geometry)).items()) / ROWS


def write_profile(root: Path, name: str, *tables: CostTable, **changes: Any) -> Profile:
    """A profile of the known machine under `root`, on disk."""
    facts = {
        "name": name,
        "status": "measured",
        "device": {"name": "a known machine", "kind": "cpu", "affinity": 2},
        "energy": Energy(status="unavailable", reason="not asked for: add --energy"),
        "folder": root / name,
    }
    found = Profile.model_validate({**facts, **changes})
    found.save()
    for table in tables:
        found.put(table)
    return found


def write_model(root: Path) -> None:
    """`model/`: a random ViT of the known machine's shape; `data.parquet`, labelled by it; `space.yaml`.

    The model is always right unpruned, so that pruning costs quality; the space has methods that the machine prices.
    """
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=32,
        patch_size=4,
        hidden_size=SHAPE.width,
        num_hidden_layers=SHAPE.depth,
        num_attention_heads=SHAPE.heads,
        intermediate_size=SHAPE.mlp_width,
        num_labels=3,
        initializer_range=0.4,
        architectures=["ViTForImageClassification"],
    )
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (60, 32, 32, 3), dtype=np.uint8)
    model = ViTForImageClassification(config).eval()
    with torch.no_grad():  # as the processor does it; centred, so that every class comes up
        logits = model(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1).logits
        model.classifier.bias -= logits.mean(0)
    labels = (logits - logits.mean(0)).argmax(-1).tolist()
    model.save_pretrained(root / "model")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "model")
    rows = []
    for picture, label in zip(pictures, labels, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG")
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": label})
    pd.DataFrame(rows).to_parquet(root / "data.parquet")
    space = {
        "format": "prunesearch.space",
        "version": 1,
        "keep": [0.75, 0.5, 0.25],
        "scorers": ["cls_attention", "value_norm"],
        "merges": ["drop", "fuse"],
        "max_stages": 2,
    }
    (root / "space.yaml").write_text(yaml.safe_dump(space))


@contextmanager
def on_box(root: Path) -> Iterator[Path]:
    """Within the block, `root` is the folder that commands run in, with `write_model`'s files and the device `box`."""
    write_model(root)
    write_profile(root / "profiles", "box", known_table())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESEARCH_PROFILES", str(root / "profiles"))
        patch.chdir(root)
        yield root


def settings(root: Path, **changes: Any) -> dict[str, Any]:
    """Of a run on that model that takes a second or two."""
    small = {
        "batch_size": 8,
        "eval_batch_size": 32,
        "trials": 8,
        "seeds": 6,
        "search_samples": 16,
        "sensitivity_samples": 8,
        "table_seconds": 0.5,
        "front_points": 4,
        "patience_s": 0.0,
    }
    places = {"model": "model", "data": "data.parquet", "space": "space.yaml"}
    return {**small, **{key: str(root / name) for key, name in places.items()}, **changes}


def command(monkeypatch: Any, capsys: Any, *args: str) -> tuple[int, str, str]:
    """Run `prunesearch ARGS` in this process on a terminal of 80 columns: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    code = answer(app, list(args))
    out, err = capsys.readouterr()
    return code, out, err


def one_line(error: BaseException | str, *words: str) -> str:
    """Check that a message is one line that holds all `words`, and return it."""
    text = str(error).strip()
    assert "\n" not in text, text
    assert "Traceback" not in text
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"
    return text


__all__ = [
    "CONDITIONS", "POWERS_W", "ROWS", "SHAPE", "command", "known_energy", "known_table", "one_line", "parse_method",
    "settings", "slower", "true_mj", "true_total", "write_model", "write_profile",
]  # fmt: skip
