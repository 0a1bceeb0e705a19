"""Which columns of a table are the image, the text and the label, and what tells its rows apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.arrow_dataset import Dataset
from datasets.features import ClassLabel, Value

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.tasks.data.audio_cells import AUDIO_NAMES, is_audio, raw_sounds, sound_bytes
from prunesearch.tasks.data.image_cells import image_bytes, is_image, raw_images
from prunesearch.tasks.data.readers.delimited import NUMBER
from prunesearch.tasks.data.sources import DataSource
from prunesearch.tasks.data.video_cells import VIDEO_NAMES, is_video, raw_videos, video_bytes

ROLES = ("image", "audio", "video", "text", "text_pair", "label")
# what kinds of task call them when they say which columns they took: whoever gives that back is understood
_CALLED = {
    **dict.fromkeys(("words", "question", "query", "source"), "text"),
    **dict.fromkeys(("context", "documents"), "text_pair"),
    **dict.fromkeys(
        ("tags", "transcript", "answers", "captions", "relevance", "target", "speaker", "objects"), "label"
    ),
}
_MEDIA = {"video": VIDEO_NAMES, "audio": AUDIO_NAMES}
IMAGE_NAMES = ("image", "img", "picture", "photo")
TEXT_NAMES = (
    "text",
    "sentence",
    "content",
    "review",
    "question",
    "description",
    "document",
    "title",
)
LABEL_NAMES = ("label", "labels", "fine_label")
LABEL_GUESSES = ("class", "category", "target", "intent", "sentiment", "y")
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
)


@dataclass(frozen=True)
class Columns:
    """Names of the columns in use; `image`, `audio`, `video` or `text` is set, `text_pair` only for sentence pairs.

    `label` is None where nothing is asked of labels.
    """

    label: str | None
    image: str | None = None
    text: str | None = None
    text_pair: str | None = None
    audio: str | None = None
    video: str | None = None

    def __str__(self) -> str:
        named = [(role, getattr(self, role)) for role in ROLES]
        return ", ".join(f"{role}={name}" for role, name in named if name is not None)


def content_kind(rows: Dataset, given: dict[str, str]) -> str | None:
    """Say what a table holds: "video", "audio", "image", "text", or None when no such column is found."""
    for kind in (*_MEDIA, "image", "text"):
        if kind in given:
            return kind
    label = guess_label(rows)
    for kind in _MEDIA:
        if media_columns(rows, kind):
            return kind
    if _image_columns(rows):
        return "image"
    return "text" if _text_columns(rows, label) else None


def unlabelled_content(source: DataSource, rows: Dataset, given: dict[str, str]) -> tuple[str, Columns]:
    """What a table holds besides labels, as `content_kind` says it, and the columns of that.

    Raises:
        PruneSearchError: if there is nothing that a model reads.
    """
    kind = content_kind(rows, given)
    if kind is None:
        raise PruneSearchError(
            f"no text, image, audio or video column was recognised in '{source.name}' (its columns: "
            f"{', '.join(rows.column_names)}): name it with columns text=NAME, image=NAME, audio=NAME or video=NAME"
        )
    roles = {role: name for role, name in given.items() if role != "label"}
    return kind, find_columns(source, rows, kind, roles, labelled=False)


def find_columns(
    source: DataSource, rows: Dataset, kind: str, given: dict[str, str], *, labelled: bool = True
) -> Columns:
    """Infer the columns for a task on "image", "audio", "video" or "text"; what is `given` (role -> column) wins.

    Not `labelled`: no label column is looked for.

    Raises `PruneSearchError` for an unknown role or column, and where the choice is not clear.
    """
    check_given(source, rows, given)
    label = (given.get("label") or guess_label(rows)) if labelled else None
    if label is None and labelled:
        raise PruneSearchError(_missing("label", source, rows))
    if kind in _MEDIA:
        found = given.get(kind) or _choose(kind, media_columns(rows, kind), _MEDIA[kind], source, rows)
        return Columns(label=label, **{kind: found})
    if kind == "image":
        image = given.get("image") or _choose("image", _image_columns(rows), IMAGE_NAMES, source, rows)
        return Columns(label=label, image=image)
    if "text" in given:
        return Columns(label=label, text=given["text"], text_pair=given.get("text_pair"))
    texts = _text_columns(rows, label)
    for pair in TEXT_PAIRS:
        if set(pair) <= set(texts) and "text" not in texts:
            return Columns(label=label, text=pair[0], text_pair=given.get("text_pair", pair[1]))
    worded = [name for name in texts if not _only_numbers(rows, name)]
    if texts and not worded:
        raise PruneSearchError(
            f"texts must have words, but column '{texts[0]}' of '{source.name}' holds numbers alone "
            f"({rows[texts[0]][0]!r:.40}): name the column of texts with columns text=NAME (its columns: "
            f"{', '.join(rows.column_names)})"
        )
    text = _choose("text", worded, TEXT_NAMES, source, rows)
    return Columns(label=label, text=text, text_pair=given.get("text_pair"))


def by_role(given: Mapping[str, str]) -> dict[str, str]:
    """Columns as a user names them (`words=tokens`), by role (`text=tokens`).

    Raises:
        PruneSearchError: for a role that is named twice.
    """
    found: dict[str, str] = {}
    for called, name in given.items():
        role = _CALLED.get(called, called)
        if role in found:
            raise PruneSearchError(f"a column role must be named once, but '{called}' is '{role}', which is there too")
        found[role] = name
    return found


def check_given(source: DataSource, rows: Dataset, given: dict[str, str]) -> None:
    """Raise `PruneSearchError` for an unknown role, and for a column that is not there."""
    for role, name in given.items():
        if role not in ROLES:
            raise PruneSearchError(f"unknown column role '{role}': {did_you_mean(role, ROLES)}")
        if name not in rows.column_names:
            raise PruneSearchError(f"no column '{name}' in '{source.name}': {did_you_mean(name, rows.column_names)}")


def check_columns(source: DataSource, rows: Dataset, columns: Columns) -> None:
    """Raise `PruneSearchError` unless another split of the same source has these columns too."""
    for role in ROLES:
        name = getattr(columns, role)
        if name is not None and name not in rows.column_names:
            raise PruneSearchError(
                f"every split of '{source.name}' needs the column '{name}', but one has only "
                f"{', '.join(rows.column_names)}"
            )


def _missing(role: str, source: DataSource, rows: Dataset) -> str:
    listed = ", ".join(rows.column_names)
    return (
        f"no {role} column was recognised in '{source.name}' (its columns: {listed}): name it with columns {role}=NAME"
    )


def _choose(role: str, found: list[str], preferred: tuple[str, ...], source: DataSource, rows: Dataset) -> str:
    """Take the only candidate, or the one with the most usual name."""
    if not found:
        raise PruneSearchError(_missing(role, source, rows))
    named = [name for want in preferred for name in found if name.lower() == want]
    if len(found) > 1 and not named:
        raise PruneSearchError(
            f"several columns could be the {role} ({', '.join(found)}): choose with columns {role}=NAME"
        )
    return (named or found)[0]


def guess_label(rows: Dataset) -> str | None:
    """Return the label column by its name, else the only ClassLabel, else by rarer names; None if there is none."""
    names = {name.lower(): name for name in rows.column_names}
    classes = [name for name, feature in rows.features.items() if isinstance(feature, ClassLabel)]
    usual = [names[name] for name in LABEL_NAMES if name in names]
    rarer = [names[name] for name in LABEL_GUESSES if name in names]
    only = classes if len(classes) == 1 else []
    return next(iter([*usual, *only, *rarer]), None)


def media_columns(rows: Dataset, kind: str) -> list[str]:
    """Names of the columns that hold sounds ("audio") or videos ("video")."""
    holds = is_audio if kind == "audio" else is_video
    return [name for name in rows.column_names if holds(rows, name)]


def _image_columns(rows: Dataset) -> list[str]:
    taken = (*media_columns(rows, "audio"), *media_columns(rows, "video"))
    return [name for name in rows.column_names if name not in taken and is_image(rows, name)]


def _is_string(feature: Any) -> bool:
    return isinstance(feature, Value) and "string" in feature.dtype


def _only_numbers(rows: Dataset, name: str) -> bool:
    """Whether a column of texts, as all are that a CSV file has, holds nothing but numbers (and empty cells)."""
    cells = [cell.strip() for cell in rows[name][:] if cell and cell.strip()]
    return bool(cells) and all(map(NUMBER.fullmatch, cells))


def _text_columns(rows: Dataset, label: str | None) -> list[str]:
    return [name for name, feature in rows.features.items() if _is_string(feature) and name != label]


def digests(
    rows: Dataset, columns: Columns, base: Path | None, name_of: Callable[[int], str] | None = None
) -> Iterator[bytes]:
    """Yield a hash of each row's content (encoded image, sound or video, or text and its pair; not the label).

    Args:
        rows: of a table.
        columns: in use.
        base: folder that relative paths start from.
        name_of: what a user finds a row by, of its place, for the message if it cannot be read.
    """
    for name, stored, encoded in (
        (columns.audio, raw_sounds, sound_bytes),
        (columns.video, raw_videos, video_bytes),
        (columns.image, raw_images, image_bytes),
    ):
        if name is not None:
            for place, row in enumerate(stored(rows, name).select_columns([name])):
                with naming(name_of, place):
                    yield _hash(encoded(row[name], base))
            return
    names = [name for name in (columns.text, columns.text_pair) if name is not None]
    for row in rows.select_columns(names):
        yield _hash("\0".join(str(row[name]) for name in names).encode())


@contextmanager
def naming(name_of: Callable[[int], str] | None, place: int) -> Iterator[None]:
    """Put a row's name before what is wrong with it."""
    try:
        yield
    except PruneSearchError as error:
        raise error if name_of is None else PruneSearchError(f"{name_of(place)}: {error}") from error


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
