"""Groups of rows: of every form of data the group that a row's own cell says, in whatever order batches have rows."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from PIL import Image

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks import load_task
from prunesearch.tasks.batching.groups import NOBODY, Grouping, groups_in

WORDS = ("good", "bad", "film", "the", "a")


def texts() -> pd.DataFrame:
    """The group is the label, in other words, so that each row says itself which group it is of."""
    some = list(itertools.product(WORDS, WORDS, WORDS))[:60]
    said = (" ".join(words[: 1 + i % 3]) + f" {words[0]}" * (i % 7) for i, words in enumerate(some))
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(said)]
    return pd.DataFrame(rows).drop_duplicates("text").assign(region=lambda t: np.where(t.label == 1, "odd", "even"))


@pytest.mark.parametrize("kind", ["csv", "parquet", "dataset"])
def test_a_group_goes_with_its_row_into_batches_of_unlike_lengths(tmp_path: Path, bert: str, kind: str) -> None:
    frame, path = texts(), tmp_path / f"rows.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    data = Dataset.from_pandas(frame, preserve_index=False) if kind == "dataset" else str(path)
    task = load_task(bert, data, batch_size=7, group="region")
    for split in (task.holdout, task.holdout.take(11), task.calibration):
        mine = groups_in(split, task.groups[split.name])
        assert mine == ["odd" if label else "even" for label in torch.as_tensor(split.labels).tolist()]
    assert "groups: column 'region', 2 in the holdout rows" in task.notes


def test_cells_that_say_nothing_are_a_group_of_their_own() -> None:
    made = Grouping("g")
    made.read({"holdout": Dataset.from_dict({"g": ["a", None, " b ", ""]})}, "rows")
    assert made.values == {"holdout": ["a", NOBODY, "b", NOBODY]}
    made = Grouping("g")
    made.read({"holdout": Dataset.from_dict({"g": [1.0, float("nan")]})}, "rows")
    assert made.values == {"holdout": ["1.0", NOBODY]}


def test_a_folder_of_pictures_with_metadata(tmp_path: Path, vit: str) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    made = np.random.default_rng(0)
    rows = []
    for i in range(40):
        Image.fromarray(made.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "label": i % 3, "camera": f"c{i % 3}"})
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    task = load_task(vit, str(folder), group="camera")
    labels = torch.as_tensor(task.holdout.labels).tolist()
    assert groups_in(task.holdout, task.groups["holdout"]) == [f"c{label}" for label in labels]


def test_a_column_that_is_not_there_is_refused_in_a_line(tmp_path: Path, bert: str) -> None:
    texts().to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(PruneSearchError, match=r"^groups must be a column of '.*', but got 'regoin': .*'region'"):
        load_task(bert, str(tmp_path / "rows.csv"), group="regoin")
    other = texts().drop(columns="region")
    other.assign(text=other.text + " a a a a a a a").to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(PruneSearchError, match="have no column 'region', which groups are told by"):
        load_task(bert, f"{tmp_path / 'rows.csv'},{tmp_path / 'other.csv'}", group="region")
