"""Which columns of a table are the image and its objects, and how the cells of objects are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets.arrow_dataset import Dataset
from datasets.features import ClassLabel, List

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.columns import Columns, find_columns
from prunesearch.tasks.data.labels import Raw, clean, head_labels
from prunesearch.tasks.data.sources import DataSource
from prunesearch.tasks.metrics.boxes import Objects

_NAMES = ("objects", "annotations", "faces", "boxes", "bbox")
_OUTSIDE = 1.1  # of the image's width or height, where a box may end: annotators are not exact
_BOXES, _CLASSES = ("bbox", "box", "bboxes"), ("category", "category_id", "label", "labels", "categories")


@dataclass(frozen=True)
class Annotations:
    """The columns of images and objects, and what a cell of objects means.

    Attributes:
        columns: with the image column.
        objects: name of the column of objects.
        boxes: key of the boxes in a cell, [left, top, width, height] in pixels each (COCO's).
        kinds: key of the classes.
        lookup: class ids by class as written.
        names: of the classes, by id.
        notes: what a user should know.
    """

    columns: Columns
    objects: str
    boxes: str
    kinds: str
    lookup: dict[Raw, int]
    names: list[str]
    notes: list[str] = field(default_factory=list)

    def of(self, cell: Any, width: int, height: int) -> Objects:
        """The objects of an image of a width and height in pixels: from lists by key, or a list of objects with keys.

        Raises:
            PruneSearchError: for boxes that are none or reach outside the image, or as many classes as there are not
                boxes.
        """
        lists = _by_key(cell, (self.boxes, self.kinds, "iscrowd"))
        given, kinds = lists[self.boxes], lists[self.kinds]
        crowd = lists["iscrowd"] or [0] * len(given)
        boxes = np.array(given, dtype=np.float64).reshape(-1, 4) if all(len(box) == 4 for box in given) else None
        if boxes is None or len({len(given), len(kinds), len(crowd)}) != 1 or (boxes[:, 2:] < 0).any():
            raise PruneSearchError(
                f"objects must have a box [left, top, width, height] and a class each, but got {cell!s:.80}"
            )
        boxes[:, 2:] += boxes[:, :2]
        ends = boxes[:, 2:] / (width, height)
        if (ends > _OUTSIDE).any():
            raise PruneSearchError(
                f"boxes must be [left, top, width, height] within the image of {width} x {height}, but got "
                f"{given!s:.80}: if they are two corners, subtract the first from the second"
            )
        return Objects(
            boxes=boxes,
            classes=np.array([self.lookup[clean(kind)] for kind in kinds], dtype=np.int64),
            crowd=np.array(crowd, dtype=bool),
            height=height,
            width=width,
            n_classes=len(self.names),
        )


def find_annotations(source: DataSource, given: dict[str, str], id2label: dict[int, str]) -> Annotations:
    """Find the columns, those `given` as image and label first, and map the classes of the data onto the head's.

    Raises:
        PruneSearchError: if there are none, or a class does not fit the head.
    """
    rows = next(iter(source.splits.values()))
    columns = find_columns(source, rows, "image", given, labelled=False)
    objects = given.get("label") or next((name for name in _NAMES if name in rows.column_names), None)
    keys = {} if objects is None else _features(rows.features[objects])
    boxes = next((key for key in _BOXES if key in keys), None)
    kinds = next((key for key in _CLASSES if key in keys), None)
    if objects is None or boxes is None or kinds is None:
        raise PruneSearchError(
            f"object detection needs a column of objects, with bbox and category, but '{source.name}' has "
            f"{', '.join(rows.column_names)}: name it with columns label=NAME"
        )
    raw = {
        clean(kind)
        for split in source.splits.values()
        if objects in split.column_names
        for cell in _cells(split, objects)
        for kind in _by_key(cell, (kinds,))[kinds]
    }
    if not raw:
        raise PruneSearchError(f"data must have objects, but every cell of '{objects}' in '{source.name}' is empty")
    feature = keys[kinds]
    labels = head_labels(raw, list(feature.names) if isinstance(feature, ClassLabel) else None, id2label)
    return Annotations(columns, objects, boxes, kinds, labels.lookup, labels.names, labels.notes)


def _cells(rows: Dataset, objects: str) -> list[Any]:
    cells: list[Any] = rows.select_columns([objects])[:][objects]
    return cells


def _features(feature: Any) -> dict[str, Any]:
    """The keys of a column of objects, each with the feature of one object's value."""
    if isinstance(feature, List) and isinstance(feature.feature, dict):
        return dict(feature.feature)
    if isinstance(feature, dict):
        return {key: value.feature for key, value in feature.items() if isinstance(value, List)}
    return {}


def _by_key(cell: Any, keys: tuple[str, ...]) -> dict[str, list[Any]]:
    """The lists of a cell's values by key, whichever way round it holds them; empty where a key is not there."""
    if isinstance(cell, dict):
        return {key: list(cell.get(key) or []) for key in keys}
    objects = cell or []
    return {key: [one[key] for one in objects if key in one] for key in keys}
