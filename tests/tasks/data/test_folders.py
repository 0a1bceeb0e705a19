"""Class folders as people have them: what tools leave behind, names that are not the head's, splits of other names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks import load_task
from prunesearch.tasks.data.sources import load_source
from tests.support.tiny import CLASSES, png


def fill(folder: Path, names: list[str], n: int = 8, start: int = 0) -> Path:
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            (folder / name / f"{i}.png").write_bytes(png(start + 100 * k + i))
    return folder


def test_hidden_and_empty_folders_are_no_classes(vit: str, tmp_path: Path):
    folder = fill(tmp_path / "d", CLASSES)
    for name in (".ipynb_checkpoints", "__MACOSX", ".git/cat"):
        (folder / name).mkdir(parents=True)
        (folder / name / "x.png").write_bytes(png(999))
    (folder / CLASSES[0] / ".thumbs").mkdir()
    (folder / CLASSES[0] / ".thumbs" / "0.png").write_bytes(png(998))
    (folder / "later").mkdir()
    source = load_source(str(folder))
    assert len(source.splits["all"]) == 8 * len(CLASSES)
    assert source.notes == ["later: no image files, so no class"]
    task = load_task(vit, folder)
    assert task.label_names == CLASSES


def test_folders_are_mapped_by_name_and_a_part_of_the_classes_is_enough(vit: str, tmp_path: Path):
    task = load_task(vit, fill(tmp_path / "d", ["frog", "DOG"]))
    assert {int(i) for i in task.holdout.labels} == {CLASSES.index("frog"), CLASSES.index("dog")}


@pytest.mark.parametrize("names", [["aeroplane", "lorry", "dogs"], ["lorry", "cat"], ["a", "b", "c", "d"]])
def test_names_that_are_not_the_heads_are_refused_with_both_lists(vit: str, names: list[str], tmp_path: Path):
    with pytest.raises(PruneSearchError, match="is not one of the model's 3 classes") as caught:
        load_task(vit, fill(tmp_path / "d", names))
    said = str(caught.value)
    assert all(name in said for name in {*names} - {*CLASSES})
    assert all(name in said for name in CLASSES)


def test_a_folder_beside_splits_is_refused_unless_nothing_is_in_it(tmp_path: Path):
    folder = tmp_path / "d"
    for k, split in enumerate(("train", "val")):
        fill(folder / split, CLASSES, start=1000 * k)
    (folder / ".cache").mkdir()
    (folder / "empty").mkdir()
    assert set(load_source(str(folder)).splits) == {"train", "val"}
    shutil.copytree(folder / "val", folder / "extra")
    with pytest.raises(PruneSearchError, match="has train, val beside extra: move extra elsewhere"):
        load_source(str(folder))


def test_splits_of_other_names_are_not_taken_for_classes(tmp_path: Path):
    for k, split in enumerate(("part_a", "part_b")):
        fill(tmp_path / "d" / split, CLASSES, start=1000 * k)
    with pytest.raises(PruneSearchError, match=r"part_a, part_b of .* each hold cat, dog, frog: if they are splits"):
        load_source(str(tmp_path / "d"))


def test_a_split_is_there_once(tmp_path: Path):
    folder = fill(tmp_path / "d", ["train/cat", "train/dog", "Train/cat", "Train/dog"])
    with pytest.raises(PruneSearchError, match=r"must hold each split once, but 'Train' .* in other case too"):
        load_source(str(folder))


def test_a_table_beside_the_files_has_their_labels(tmp_path: Path):
    """The form that `datasets` calls imagefolder: `metadata.csv` with `file_name`; folders are splits, no classes."""
    folder = tmp_path / "d"
    for split in ("train", "test"):
        fill(folder, [split], start=50 * len(split))
        rows = "".join(f"{i}.png,{i % 3}\n" for i in range(8))
        (folder / split / "metadata.csv").write_text(f"file_name,label\n{rows}")
    source = load_source(str(folder))
    assert {*source.splits} == {"train", "test"}
    assert source.splits["test"]["label"][:] == [i % 3 for i in range(8)]
