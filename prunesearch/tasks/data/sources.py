"""TextTable rows: local files and folders, data sets saved by `datasets`, and the Hub.

Everything becomes one `Source`: named splits, each a `datasets.Dataset`. A file has one split, "all";
two files "a.parquet,b.parquet" are the splits "calibration" and "holdout".
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from datasets.arrow_dataset import Dataset
from datasets.dataset_dict import DatasetDict
from datasets.load import load_dataset, load_from_disk
from numpy.typing import NDArray
from pyarrow.lib import ArrowException

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.events import heard
from prunesearch.tasks.data.hub import data_cached, only_cached
from prunesearch.tasks.data.readers.beir import is_beir, read_beir
from prunesearch.tasks.data.readers.delimited import TextTable
from prunesearch.tasks.libraries import quiet_libraries
from prunesearch.tasks.table import READERS

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")
_MEDIA = {"image": IMAGE_SUFFIXES, "audio": AUDIO_SUFFIXES, "video": VIDEO_SUFFIXES}
SPLIT_NAMES = frozenset(("train", "training", "validation", "valid", "val", "dev", "test"))
_LEFTOVERS = ("__MACOSX", "__pycache__", "@eaDir", "lost+found")
_TABLES_OF_FILES = (
    "metadata.csv",
    "metadata.jsonl",
    "metadata.parquet",
)  # of the form that `datasets` calls imagefolder
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")

Fetch = Callable[[str, str | None], Any]


class GroupReader(Protocol):
    """Takes down what group each row is of."""

    def read(self, parts: Mapping[str, Dataset], name: str) -> None:
        """The rows of splits, by the splits' roles, of data of this name."""


class Views(Protocol):
    """Makes views of rows: `(rows, columns, base)` -> the same rows by the name of each view."""

    @property
    def rows(self) -> int:
        """Of a split, at most."""

    def __call__(self, rows: Dataset, columns: Any, base: Path | None) -> Iterable[tuple[str, Dataset]]:
        """The views of all the rows that are given."""


@dataclass(frozen=True)
class DataSource:
    """Rows as read. `base` is the folder that relative image paths in a table start from.

    `skip_bad` says whether rows that cannot be decoded are left out, and counted, in place of an error.
    `numbers` `[n]` are the places of a split's rows in its file, from 0, where some have been left out already.
    `views` makes other views of rows, of the first `views.rows` of each split that is judged by; None: there are none.
    `grouping` takes down which group rows belong to, when splits are drawn of them.
    """

    name: str
    splits: dict[str, Dataset]
    base: Path | None = None
    notes: list[str] = field(default_factory=list)
    skip_bad: bool = False
    views: Views | None = None
    numbers: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    grouping: GroupReader | None = None

    def select(self, keep: dict[str, NDArray[np.int64]], notes: list[str]) -> DataSource:
        """The rows at the places `keep` `[k]` of each split, with `notes` after its own; splits of none are gone."""
        kept = {split: places for split, places in keep.items() if len(places)}
        numbers = {split: self.numbers[split][at] if split in self.numbers else at for split, at in kept.items()}
        splits = {split: self.splits[split].select(places) for split, places in kept.items()}
        return replace(self, splits=splits, numbers=numbers, notes=[*self.notes, *notes])


def load_source(data: str, reading: TextTable | None = None, fetch: Fetch | None = None) -> DataSource:
    """Read `data`: a file, a folder, two files joined by a comma, or a Hub id (`owner/name[:config]`).

    `reading` says how tables of text are read; None: as they look.
    `fetch(repository, config)` asks the Hub; None: `datasets` does.

    Raises `PruneSearchError` in one line when it is missing, unreadable, empty or of an unknown kind.
    """
    names = [part.strip() for part in data.split(",")] if not Path(data).exists() else [data]
    if len(names) > 2 or not all(names):
        raise PruneSearchError(
            f"data must be one source or 'calibration,holdout', but got '{data}': give at most two files"
        )
    parts = [_load_one(name, reading or TextTable(), fetch) for name in names]
    source = parts[0] if len(parts) == 1 else _two_files(data, *parts)
    empty = [name for name, rows in source.splits.items() if len(rows) == 0]
    splits = {name: rows for name, rows in source.splits.items() if name not in empty}
    if not splits or (len(parts) == 2 and empty):
        raise PruneSearchError(f"data must have rows, but '{data}' is empty: give a filled data set")
    return replace(source, splits=splits, skip_bad=reading is not None and reading.skip_bad)


def as_source(data: str | Path | Dataset | DatasetDict | DataSource, reading: TextTable | None = None) -> DataSource:
    """Rows that a caller made or that are read, as they are, or those that `data` names (`load_source`)."""
    if isinstance(data, DataSource):
        return data
    if isinstance(data, (str, Path)):
        return load_source(str(data), reading)
    if not isinstance(data, (Dataset, DatasetDict)):
        raise PruneSearchError(
            f"data must be a file, a folder, a Hub id, a datasets.Dataset or a DatasetDict, but got "
            f"{type(data).__name__}: batches of one's own need a model object beside them"
        )
    source = _from_datasets("the data given", data)
    if not sum(map(len, source.splits.values())):
        raise PruneSearchError("data must have rows, but the data set given is empty: give a filled one")
    return replace(source, skip_bad=reading is not None and reading.skip_bad)


def _two_files(data: str, first: DataSource, second: DataSource) -> DataSource:
    """Make the calibration file and the holdout file the two splits of one source."""
    for part in (first, second):
        if len(part.splits) != 1:
            raise PruneSearchError(
                f"of two sources each must be one table, but '{part.name}' has the splits "
                f"{', '.join(part.splits)}: give files"
            )
    if first.base != second.base:
        raise PruneSearchError(f"two tables must lie in one folder, but got '{data}': move one of them")
    rows = [next(iter(part.splits.values())) for part in (first, second)]
    splits = {"calibration": rows[0], "holdout": rows[1]}
    both = {"calibration": first, "holdout": second}
    numbers = {split: places for split, part in both.items() for places in part.numbers.values()}
    return DataSource(data, splits, first.base, [*first.notes, *second.notes], numbers=numbers)


def _load_one(name: str, reading: TextTable, fetch: Fetch | None) -> DataSource:
    """Read one file, folder or Hub data set."""
    path = Path(name).expanduser()
    if path.is_dir():
        return _load_folder(path)
    if path.is_file():
        return _load_file(path, reading)
    looks_local = path.suffix.lower() in (*READERS, ".txt", ".arrow", ".zip", ".gz")
    if looks_local or not HUB_ID.fullmatch(name):
        raise PruneSearchError(f"no file or folder '{name}': check the path (from {Path.cwd()})")
    return _load_hub(name, fetch)


def _load_file(path: Path, reading: TextTable) -> DataSource:
    """Read one table by its extension."""
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise PruneSearchError(
            f"a data file must end in a known extension, but got '{path.name}': {did_you_mean(suffix, READERS)}"
        )
    try:
        read = READERS[suffix](path, reading)
    except PruneSearchError:
        raise
    except UnicodeDecodeError as error:
        raise PruneSearchError(
            f"a file of text must be in UTF-8, but byte {error.start + 1} of '{path}' is not: save it in UTF-8"
        ) from error
    except (OSError, ValueError, TypeError, csv.Error, ArrowException) as error:
        raise PruneSearchError(f"'{path}' cannot be read as {suffix[1:]}: {one_line(error)}") from error
    numbers = {} if read.numbers is None else {"all": read.numbers}
    return DataSource(str(path), {"all": read.rows}, path.resolve().parent, read.notes, numbers=numbers)


def _load_folder(path: Path) -> DataSource:
    """Read a folder: saved by `datasets`, in BEIR's form, class folders of images, sounds or videos, or data files."""
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        try:
            return _from_datasets(str(path), load_from_disk(str(path)))
        except Exception as error:  # any library error on a damaged folder becomes one line
            raise PruneSearchError(f"'{path}' cannot be read: {one_line(error)}") from error
    if is_beir(path):
        try:
            splits, notes = read_beir(path)
        except PruneSearchError:
            raise
        except (OSError, ValueError) as error:
            raise PruneSearchError(f"'{path}' cannot be read: {one_line(error)}") from error
        return DataSource(str(path), splits, notes=notes)
    folders = _folders(path)
    if any((folder / name).is_file() for folder in (path, *folders) for name in _TABLES_OF_FILES):
        return _load_hub(str(path))
    named = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    if named:
        read = {folder.name.lower(): _read_classes(folder) for folder in named}
        if all(len(rows) for rows, _ in read.values()):
            _check_splits(path, folders, named)
            notes = [note for _, found in read.values() for note in found]
            return DataSource(str(path), {name: rows for name, (rows, _) in read.items()}, notes=notes)
    rows, notes = _read_classes(path)
    if len(rows):
        _check_classes(path, folders)
        return DataSource(str(path), {"all": rows}, notes=notes)
    if any(file.suffix.lower() in READERS for file in path.rglob("*")):
        return _load_hub(str(path))  # a clone of a Hub repository: `datasets` finds its splits
    raise PruneSearchError(
        "a data folder must hold class folders of images, sounds or videos, data files or a saved data set, but "
        f"'{path}' holds none of them"
    )


def _folders(path: Path) -> list[Path]:
    """The folders in a folder but hidden ones, which tools leave behind."""
    found = (folder for folder in path.iterdir() if folder.is_dir())
    return sorted(folder for folder in found if not folder.name.startswith(".") and folder.name not in _LEFTOVERS)


def _read_classes(path: Path) -> tuple[Dataset, list[str]]:
    """List `class/picture.png` files, or sounds or videos, whichever are most; the label is the folder's name.

    Folders without any are no classes, which a note says.
    """
    found: dict[str, list[tuple[str, str]]] = {kind: [] for kind in _MEDIA}
    folders = _folders(path)
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if any(part.startswith(".") for part in file.relative_to(folder).parts):
                continue
            kind = next((kind for kind, suffixes in _MEDIA.items() if file.suffix.lower() in suffixes), None)
            if kind is not None:
                found[kind].append((str(file.resolve()), folder.name))
    kind = max(found, key=lambda name: len(found[name]))
    files, labels = ([pair[i] for pair in found[kind]] for i in (0, 1))
    empty = [folder.name for folder in folders if folder.name not in {*labels}]
    notes = [f"{', '.join(empty)}: no {kind} files, so no class"] if files and empty else []
    return Dataset.from_dict({kind: files, "label": labels}), notes


def _check_splits(path: Path, folders: list[Path], splits: list[Path]) -> None:
    """Raise `PruneSearchError` for filled folders beside those of splits: nobody knows what they are."""
    names = [folder.name.lower() for folder in splits]
    for folder in splits:
        if names.count(folder.name.lower()) > 1:
            raise PruneSearchError(
                f"'{path}' must hold each split once, but '{folder.name}' is there in other case too"
            )
    others = [folder.name for folder in folders if folder not in splits and any(folder.iterdir())]
    if others:
        raise PruneSearchError(
            f"a folder has splits or classes, but '{path}' has {', '.join(folder.name for folder in splits)} beside "
            f"{', '.join(others)}: move {others[0]} elsewhere, or call it one of {', '.join(sorted(SPLIT_NAMES))}"
        )


def _check_classes(path: Path, folders: list[Path]) -> None:
    """Raise `PruneSearchError` where what look like classes are splits with names of their own, classes in each."""
    inner = [tuple(folder.name for folder in _folders(folder)) for folder in folders]
    if len(folders) > 1 and len(inner[0]) > 1 and len({*inner}) == 1:
        raise PruneSearchError(
            f"the folders {', '.join(folder.name for folder in folders)} of '{path}' each hold {', '.join(inner[0])}: "
            "if they are splits, call them train, validation or test; if they are classes, give each its files alone"
        )


def _load_hub(name: str, fetch: Fetch | None = None) -> DataSource:
    """Load a Hub data set (`owner/name[:config]`) or a folder of data files through `datasets`."""
    local = Path(name).is_dir()
    repository, _, config = (name, "", "") if local else name.partition(":")
    if not local and fetch is None:
        only_cached(repository, "data set", data_cached)
    try:
        with quiet_libraries(progress=heard()):
            return _from_datasets(name, (fetch or load_dataset)(repository, config or None))
    except Exception as error:  # network, missing repository, gated, no config named: one line each
        what, way_out = (
            ("the files of the folder", "give one of its files")
            if local
            else ("no local file or folder, and the Hub data set", "check the name and the network")
        )
        raise PruneSearchError(f"{what} '{name}' could not be loaded ({one_line(error)}): {way_out}") from error


def _from_datasets(name: str, loaded: Dataset | DatasetDict) -> DataSource:
    if isinstance(loaded, DatasetDict):
        return DataSource(name, {str(split): rows for split, rows in loaded.items()})
    return DataSource(name, {"all": loaded})


def one_line(error: BaseException, limit: int = 220) -> str:
    """Return the first line of an error's message, cut to `limit` characters."""
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0].strip()
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
