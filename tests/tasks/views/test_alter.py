"""Rows in views: seeded, kept on disk, with labels and all else as they were; refused where labels would lie."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.batching.batches import Batch, EvalSet, Held
from prunesearch.tasks.batching.mixed_views import mixed
from prunesearch.tasks.data.columns import Columns
from prunesearch.tasks.views.alter import Alterations
from prunesearch.tasks.views.view_table import check_views, views_of


def rows(n: int = 6) -> datasets.Dataset:
    pixels = np.random.default_rng(0).integers(0, 255, (n, 16, 16, 3), dtype=np.uint8)
    pictures = [datasets.Image().encode_example(p) for p in pixels]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": pictures, "label": list(range(n))}, features)


def made(seed: int = 0, severity: int | None = 3) -> dict[str, datasets.Dataset]:
    return dict(Alterations(["fog", "contrast"], severity, seed=seed)(rows(), Columns("label", image="image"), None))


def test_views_are_of_the_same_rows_and_come_from_the_disk_the_second_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    first = made()
    assert list(first) == ["fog", "contrast"]
    assert first["fog"]["label"][:] == list(range(6))
    kept = sorted((tmp_path / "prunesearch-views").iterdir())
    assert len(kept) == 2
    before = [path.stat().st_mtime_ns for path in kept]
    again = made()
    assert again["fog"]["image"][:] == first["fog"]["image"][:]
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert made(seed=1)["fog"]["image"][:] != first["fog"]["image"][:]
    assert len(list((tmp_path / "prunesearch-views").iterdir())) == 4
    # each severity in turn: the third row has the third
    assert made(severity=None)["contrast"]["image"][2] == first["contrast"]["image"][2]
    assert made(severity=None)["contrast"]["image"][0] != first["contrast"]["image"][0]


def test_names_are_of_what_a_model_reads() -> None:
    assert len(views_of(["corruptions"], "image")) == 15
    assert views_of(["noise", "typos"][:1], "audio") == ["white_noise"]
    assert views_of(["fog", "weather"], "image") == ["fog", "snow", "frost", "brightness"]
    with pytest.raises(PruneSearchError, match=r"unknown view 'fgo'.*fog"):
        check_views(["fgo"])
    with pytest.raises(PruneSearchError, match=r"'typos' does not alter what this model reads \(image\): use"):
        views_of(["typos"], "image")
    with pytest.raises(PruneSearchError, match="leave --robust out"):
        views_of(["noise"], "video")


def split(name: str, shift: float) -> EvalSet:
    index = torch.tensor([3, 0, 4, 1, 2])  # sorted by length, say
    pieces = [Batch({"x": i.float()[:, None] + shift}, i * 10, i) for i in index.split(2)]
    return EvalSet(name, Held(pieces))


def test_first_rows_are_in_one_view_each_and_all_of_them_in_every_one() -> None:
    found = mixed({"clean": split("a", 0.0), "fog": split("b", 0.25), "snow": split("c", 0.5)}, "holdout", "worst")
    assert (found.n, found.views, found.over) == (15, ("clean", "fog", "snow"), "worst")
    seen = set()
    for batch in found.batches:
        of, rows = found.batches.view_of(batch.index)
        assert torch.equal(rows, batch.index % 5)
        assert torch.equal(batch.inputs["x"][:, 0], rows + 0.25 * of)
        assert torch.equal(batch.labels, rows * 10)
        seen |= set(zip(rows.tolist(), of.tolist(), strict=True))
    assert len(seen) == 15
    few = found.take(7)
    assert sorted(torch.cat(few.batches.numbers).tolist()) == list(range(7))
    first = torch.cat(found.take(5).batches.numbers)
    assert sorted((first % 5).tolist()) == list(range(5))
    assert found.batches.view_of(first)[0].bincount().tolist() == [2, 2, 1]
    picked = found.batches.pick([6, 1], {})[0]
    assert torch.equal(picked.inputs["x"][:, 0], torch.tensor([1 + 0.5, 1 + 0.25]))
