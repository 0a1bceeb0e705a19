"""Reading rows: local files and folders, data sets saved by `datasets`, and the Hub.

Everything becomes one `Source`: named splits, each a `datasets.Dataset`. A file has one split, "all";
two files "a.parquet,b.parquet" are the splits "calibration" and "holdout".
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet
from datasets.arrow_dataset import Dataset
from datasets.dataset_dict import DatasetDict
from datasets.features import ClassLabel
from datasets.load import load_dataset, load_from_disk
from pyarrow.lib import ArrowException

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.events import heard
from prunesearch.tasks.data.beir import is_beir, read_beir
from prunesearch.tasks.data.conll import read_conll
from prunesearch.tasks.hush import quiet_libraries

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")
_MEDIA = {"image": IMAGE_SUFFIXES, "audio": AUDIO_SUFFIXES, "video": VIDEO_SUFFIXES}
HEADER_NAMES = frozenset(
    {"label", "labels", "class", "category", "target", "id", "idx", "index"}
    | {"text", "sentence", "sentence1", "sentence2", "review", "content", "question", "title"}
    | {"description", "premise", "hypothesis", "image", "img", "path", "file"}
)
SPLIT_NAMES = frozenset(("train", "training", "validation", "valid", "val", "dev", "test"))
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """Rows as read. `base` is the folder that relative image paths in a table start from."""

    name: str
    splits: dict[str, Dataset]
    base: Path | None = None
    notes: list[str] = field(default_factory=list)


def load_source(data: str) -> Source:
    """Read `data`: a file, a folder, two files joined by a comma, or a Hub id (`owner/name[:config]`).

    Raises `PruneSearchError` in one line when it is missing, unreadable, empty or of an unknown kind.
    """
    names = [part.strip() for part in data.split(",")] if not Path(data).exists() else [data]
    if len(names) > 2 or not all(names):
        raise PruneSearchError(
            f"data must be one source or 'calibration,holdout', but got '{data}': give at most two files"
        )
    parts = [_load_one(name) for name in names]
    source = parts[0] if len(parts) == 1 else _two_files(data, *parts)
    empty = [name for name, rows in source.splits.items() if len(rows) == 0]
    splits = {name: rows for name, rows in source.splits.items() if name not in empty}
    if not splits or (len(parts) == 2 and empty):
        raise PruneSearchError(f"data must have rows, but '{data}' is empty: give a filled data set")
    return Source(source.name, splits, source.base, source.notes)


def as_source(data: str | Path | Dataset | DatasetDict) -> Source:
    """Rows that a caller made, as they are, or those that `data` names (`load_source`)."""
    if isinstance(data, (str, Path)):
        return load_source(str(data))
    if not isinstance(data, (Dataset, DatasetDict)):
        raise PruneSearchError(
            f"data must be a file, a folder, a Hub id, a datasets.Dataset or a DatasetDict, but got "
            f"{type(data).__name__}: batches of one's own need a model object beside them"
        )
    source = _from_datasets("the data given", data)
    if not sum(map(len, source.splits.values())):
        raise PruneSearchError("data must have rows, but the data set given is empty: give a filled one")
    return source


def _two_files(data: str, first: Source, second: Source) -> Source:
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
    return Source(data, splits, first.base, [*first.notes, *second.notes])


def _load_one(name: str) -> Source:
    """Read one file, folder or Hub data set."""
    path = Path(name).expanduser()
    if path.is_dir():
        return _load_folder(path)
    if path.is_file():
        return _load_file(path)
    looks_local = path.suffix.lower() in (*READERS, ".txt", ".arrow", ".zip", ".gz")
    if looks_local or not HUB_ID.fullmatch(name):
        raise PruneSearchError(f"no file or folder '{name}': check the path (from {Path.cwd()})")
    return _load_hub(name)


def _load_file(path: Path) -> Source:
    """Read one table by its extension."""
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise PruneSearchError(
            f"a data file must end in a known extension, but got '{path.name}': {did_you_mean(suffix, READERS)}"
        )
    try:
        rows, notes = READERS[suffix](path)
    except PruneSearchError:
        raise
    except (OSError, ValueError, TypeError, csv.Error, ArrowException) as error:
        raise PruneSearchError(f"'{path}' cannot be read as {suffix[1:]}: {one_line(error)}") from error
    return Source(str(path), {"all": rows}, path.resolve().parent, notes)


def _read_parquet(path: Path) -> tuple[Dataset, list[str]]:
    """Read a parquet file into memory (through pyarrow, so that no copy lands in a cache folder)."""
    parquet: Any = pyarrow.parquet  # untyped
    return Dataset(parquet.read_table(path)), []


def _read_csv(path: Path) -> tuple[Dataset, list[str]]:
    return _read_delimited(path, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _read_tsv(path: Path) -> tuple[Dataset, list[str]]:
    """Read tab-separated text; a quotation mark is a character like any other."""
    return _read_delimited(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_delimited(path: Path, delimiter: str, quoting: int) -> tuple[Dataset, list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = [row for row in csv.reader(file, delimiter=delimiter, quoting=quoting) if row]  # type: ignore[arg-type]
    if not table:
        return Dataset.from_dict({}), []
    width = len(table[0])
    for number, row in enumerate(table, start=1):
        if len(row) != width:
            raise PruneSearchError(
                f"every row must have {width} columns, but row {number} of '{path}' has {len(row)}: fix that row"
            )
    if _has_header(table):
        names, body, notes = table[0], table[1:], []
    else:
        names, body = _name_columns(table), table
        notes = [f"{path.name} has no header: its columns are taken as {', '.join(names)}"]
    columns = {name: [row[i] for row in body] for i, name in enumerate(names)}
    return Dataset.from_dict(columns), notes


def _has_header(table: list[list[str]]) -> bool:
    """Tell a header from a first row of data.

    A header is made of short, unlike words, and is known by a usual column name, or by none of its cells
    coming again in its column (a label would).
    """
    first = [cell.strip() for cell in table[0]]
    short = all(re.fullmatch(r"[^\W\d][\w .\-/]{0,39}", cell) for cell in first)
    if not short or len(set(first)) < len(first) or len(first) < 2:
        return False
    if any(cell.lower() in HEADER_NAMES for cell in first):
        return True
    return not any(row[i].strip() == cell for row in table[1:] for i, cell in enumerate(first))


def _name_columns(table: list[list[str]]) -> list[str]:
    """Name the columns of a table without a header: fewest values -> label, longest -> text or image."""
    width = len(table[0])
    if width < 2:
        return [f"column_{i}" for i in range(width)]
    columns = range(width)
    label = min(columns, key=lambda i: len({row[i] for row in table}))
    rest = [i for i in columns if i != label]
    text = max(rest, key=lambda i: sum(len(row[i]) for row in table))
    is_path = all(row[text].lower().endswith(IMAGE_SUFFIXES) for row in table)
    names = {label: "label", text: "image" if is_path else "text"}
    return [names.get(i, f"column_{i}") for i in columns]


def _read_json(path: Path) -> tuple[Dataset, list[str]]:
    """Read JSON lines, or one JSON array of objects."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        lines = [line for line in text.split("\n") if line.strip()]
        rows = [_json_line(line, number, path) for number, line in enumerate(lines, start=1)]
    if not all(isinstance(row, dict) for row in rows):
        raise PruneSearchError(f"every row of '{path}' must be a JSON object {{column: value}}")
    return Dataset.from_list(rows), []


def _json_line(line: str, number: int, path: Path) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise PruneSearchError(f"line {number} of '{path}' is not JSON: {one_line(error)}") from error


READERS: dict[str, Callable[[Path], tuple[Dataset, list[str]]]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".conll": read_conll,
}


def _load_folder(path: Path) -> Source:
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
        return Source(str(path), splits, notes=notes)
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    if folders and all(folder.name.lower() in SPLIT_NAMES for folder in folders):
        splits = {folder.name.lower(): _read_classes(folder) for folder in folders}
        if all(len(rows) for rows in splits.values()):
            return Source(str(path), splits)
    rows = _read_classes(path)
    if len(rows):
        return Source(str(path), {"all": rows})
    if any(file.suffix.lower() in READERS for file in path.rglob("*")):
        return _load_hub(str(path))  # a clone of a Hub repository: `datasets` finds its splits
    raise PruneSearchError(
        "a data folder must hold class folders of images, sounds or videos, data files or a saved data set, but "
        f"'{path}' holds none of them"
    )


def _read_classes(path: Path) -> Dataset:
    """List `class/picture.png` files, or sounds or videos, whichever are most; classes are in alphabetical order."""
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    found: dict[str, list[tuple[str, int]]] = {kind: [] for kind in _MEDIA}
    for label, folder in enumerate(folders):
        for file in sorted(folder.rglob("*")):
            kind = next((kind for kind, suffixes in _MEDIA.items() if file.suffix.lower() in suffixes), None)
            if kind is not None:
                found[kind].append((str(file.resolve()), label))
    kind = max(found, key=lambda name: len(found[name]))
    rows = Dataset.from_dict({kind: [file for file, _ in found[kind]], "label": [label for _, label in found[kind]]})
    if not len(rows):
        return rows
    labelled: Dataset = rows.cast_column("label", ClassLabel(names=[folder.name for folder in folders]))
    return labelled


def _load_hub(name: str) -> Source:
    """Load a Hub data set (`owner/name[:config]`) or a folder of data files through `datasets`."""
    local = Path(name).is_dir()
    repository, _, config = (name, "", "") if local else name.partition(":")
    try:
        with quiet_libraries(progress=heard()):
            return _from_datasets(name, load_dataset(repository, config or None))
    except Exception as error:  # network, missing repository, gated, no config named: one line each
        what, way_out = (
            ("the files of the folder", "give one of its files")
            if local
            else ("no local file or folder, and the Hub data set", "check the name and the network")
        )
        raise PruneSearchError(f"{what} '{name}' could not be loaded ({one_line(error)}): {way_out}") from error


def _from_datasets(name: str, loaded: Dataset | DatasetDict) -> Source:
    if isinstance(loaded, DatasetDict):
        return Source(name, {str(split): rows for split, rows in loaded.items()})
    return Source(name, {"all": loaded})


def one_line(error: BaseException, limit: int = 220) -> str:
    """Return the first line of an error's message, cut to `limit` characters."""
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0].strip()
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
