"""Metrics of object detection: COCO's average precision, with statistics of every row that can be resampled.

A row is an image. It is kept as its detections (score, class, and at which overlaps they are right) and the number of
objects of every class; the overlaps themselves are settled once, within the image, as pycocotools does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunesearch.tasks.metrics.metric import RESAMPLES, Floats, OfRows

OVERLAPS = np.linspace(0.5, 0.95, 10)
MOST = 100  # detections of an image that count, the most certain ones
_RECALLS = np.linspace(0.0, 1.0, 101)
_BITS = 2 ** np.arange(len(OVERLAPS))
_ABSENT = -1.0  # score of a detection that is not there


@dataclass(frozen=True)
class Objects:
    """The objects of an image: the label of a row.

    Attributes:
        boxes: `[n, 4]` left, top, right, bottom, in pixels of the image.
        classes: `[n]` class ids.
        crowd: bool `[n]`, True for a box around many objects, in which detections are neither right nor wrong.
        height: of the image.
        width: of the image.
        n_classes: how many classes there are.
    """

    boxes: Floats
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    height: int
    width: int
    n_classes: int


class MeanAveragePrecision(OfRows):
    """COCO's AP: precision at 101 recalls, the mean over overlaps from 0.5 to 0.95 and over the classes there are."""

    name = "map"
    overlaps: ClassVar[slice] = slice(None)

    def statistics(self, answers: list[dict[str, Tensor]], wanted: list[Objects]) -> Tensor:
        """Score, class and marks of 100 detections, and the number of objects of every class: `[b, 300 + classes]`.

        Args:
            answers: of every image "scores" `[d]`, "labels" `[d]` and "boxes" `[d, 4]` as in `Objects`.
            wanted: the objects of the same images.
        """
        rows = [_row(found, objects) for found, objects in zip(answers, wanted, strict=True)]
        return torch.from_numpy(np.stack(rows)).float()

    def of_rows(self, rows: Floats) -> float:
        """AP of images `[n, k]`."""
        return _Ranked(rows, self.overlaps).precision(np.ones(len(rows)))

    def resampled(self, *sets: Tensor) -> Floats:
        """Values on resampled images: detections are ranked once, and counted as often as their image was drawn."""
        n, random = len(sets[0]), np.random.default_rng(0)
        times = [np.bincount(random.integers(n, size=n), minlength=n).astype(np.float64) for _ in range(RESAMPLES)]
        ranked = [_Ranked(rows.double().numpy(), self.overlaps) for rows in sets]
        return np.array([[one.precision(weights) for weights in times] for one in ranked])


class AveragePrecision50(MeanAveragePrecision):
    """COCO's AP at an overlap of 0.5, the mean over the classes there are."""

    name, overlaps = "map50", slice(1)


class _Ranked:
    """Detections of all images in one line: class after class, the most certain first.

    Everything is a running sum along that line, less its value where the class begins; so a resample costs no loop.
    """

    def __init__(self, rows: Floats, overlaps: slice) -> None:
        scores, classes, marks = (rows[:, i * MOST : (i + 1) * MOST] for i in range(3))
        self.objects = rows[:, 3 * MOST :]
        image, place = np.nonzero(scores > _ABSENT)
        kind = classes[image, place].astype(np.int64)
        order = np.lexsort((-scores[image, place], kind))
        self.image, kind, code = image[order], kind[order], marks[image, place].astype(np.int64)[order]
        right = (code[None] // _BITS[overlaps, None]) % 2 == 1
        counted = (code[None] // (_BITS[overlaps, None] << len(OVERLAPS))) % 2 == 0
        self.counted = counted[:1] if counted.all() else counted
        # precision is asked for where recall rises, so at right detections alone
        self.hit = np.flatnonzero(right.any(axis=0))
        self.right, self.kind = right[:, self.hit], kind[self.hit]
        self.begin = np.searchsorted(kind, self.kind)
        self.begin_hit = np.searchsorted(self.kind, self.kind)

    def precision(self, weights: Floats) -> float:
        """The mean AP, image i counted `weights[i]` times; 0 where there are no objects."""
        objects, times = weights @ self.objects, weights[self.image]
        if not objects.any():
            return 0.0
        hits = _running(times[self.hit] * self.right)
        hits = hits[:, 1:] - hits[:, self.begin_hit]
        said = _running(times * self.counted)
        said = said[:, self.hit + 1] - said[:, self.begin]
        precision = np.divide(hits, said, out=np.zeros_like(hits), where=said > 0)
        # the best from here to the end of the class: every class lies higher than the next
        above = 2.0 * (objects.size - self.kind)
        best = np.maximum.accumulate((precision + above)[:, ::-1], axis=1)[:, ::-1] - above
        # a class that was not drawn has neither objects nor hits, and its zeros weigh nothing below
        reached = np.searchsorted(_RECALLS, hits / np.maximum(objects[self.kind], 1), side="right")
        steps = np.diff(reached, axis=1, prepend=0)
        first = self.begin_hit == np.arange(len(self.hit))
        steps[:, first] = reached[:, first]
        areas = (best * steps)[:, objects[self.kind] > 0].sum(axis=1) / len(_RECALLS)
        return float(areas.mean() / np.count_nonzero(objects))


def _running(values: Floats) -> Floats:
    """Sums `[t, n + 1]` of the first 0 to n of values `[t, n]`."""
    return np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)


def _row(found: dict[str, Any], objects: Objects) -> Floats:
    """The statistics of one image, `[300 + classes]`."""
    scores, labels, boxes = (found[name].detach().cpu().double().numpy() for name in ("scores", "labels", "boxes"))
    order = np.argsort(-scores, kind="stable")[:MOST]
    row = np.zeros(3 * MOST + objects.n_classes)
    row[:MOST] = _ABSENT
    row[: len(order)] = scores[order]
    row[MOST : MOST + len(order)] = labels[order]
    classes = labels[order].astype(np.int64)
    for c in np.unique(objects.classes):
        mine, theirs = np.flatnonzero(classes == c), objects.classes == c
        marks = match(boxes[order][mine], objects.boxes[theirs], objects.crowd[theirs])
        row[2 * MOST + mine] = marks
        row[3 * MOST + c] = np.count_nonzero(~objects.crowd[theirs])
    return row


def match(found: Floats, boxes: Floats, crowd: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Give every detection of one class, most certain first, the free object that it overlaps most: marks `[d]`.

    Args:
        found: `[d, 4]` corners.
        boxes: `[n, 4]` corners of the objects.
        crowd: bool `[n]`; a detection that fits none but these is ignored, and any number may.

    Returns:
        Bit i is set where it is right at overlap i of `OVERLAPS`, bit 10 + i where it is ignored there.
    """
    overlap = _overlaps(found, boxes, crowd)
    free = np.ones((len(OVERLAPS), len(boxes)), dtype=bool)
    marks, levels = np.zeros(len(found), dtype=np.int64), np.arange(len(OVERLAPS))
    for d in range(len(found)):
        fits = free & (overlap[d] >= np.minimum(OVERLAPS, 1 - 1e-10)[:, None])
        for kind, shift in ((~crowd, 0), (crowd, len(OVERLAPS))):
            allowed = fits & kind
            some = allowed.any(axis=1)
            if not some.any():
                continue
            # of equals the last, as pycocotools
            best = len(boxes) - 1 - np.where(allowed, overlap[d], -1.0)[:, ::-1].argmax(axis=1)
            marks[d] += int((_BITS[some] << shift).sum())
            if shift == 0:
                free[levels[some], best[some]] = False
                fits &= ~some[:, None]
    return marks


def _overlaps(found: Floats, boxes: Floats, crowd: NDArray[np.bool_]) -> Floats:
    """Intersection over union `[d, n]`; with a crowd, over the detection alone."""
    low, high = np.maximum(found[:, None, :2], boxes[:, :2]), np.minimum(found[:, None, 2:], boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    mine, theirs = (np.clip(b[:, 2:] - b[:, :2], 0, None).prod(axis=-1) for b in (found, boxes))
    union = np.where(crowd, mine[:, None], mine[:, None] + theirs - shared)
    overlap: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap
