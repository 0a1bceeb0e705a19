"""COCO's average precision, judged by pycocotools and by a loop that follows the words of the definition."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from prunesearch.tasks.metrics.boxes import MOST, OVERLAPS, Objects
from prunesearch.tasks.metrics.metric import find_metric

CLASSES = 4


def corners(random: np.random.Generator, n: int) -> np.ndarray:
    low = random.uniform(0, 60, (n, 2))
    return np.concatenate([low, low + random.uniform(5, 40, (n, 2))], axis=1)


def image(seed: int, crowds: bool) -> tuple[dict[str, torch.Tensor], Objects]:
    """Objects, and detections near some of them, of right and wrong classes, and elsewhere."""
    random = np.random.default_rng(seed)
    n = int(random.integers(0, 6))
    boxes, classes = corners(random, n), random.integers(0, CLASSES, n)
    near = np.repeat(boxes, 2, axis=0) + random.normal(0, 2.5, (2 * n, 4))
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)  # pycocotools ignores boxes of a negative size
    far = corners(random, int(random.integers(1, 8)))
    found = np.concatenate([near, far])
    labels = np.concatenate([np.repeat(classes, 2), random.integers(0, CLASSES, len(far))])
    wrong = random.random(len(labels)) < 0.2
    labels[wrong] = random.integers(0, CLASSES, int(wrong.sum()))
    scores = random.integers(1, 30, len(labels)) / 30  # some are equal
    objects = Objects(boxes, classes, (random.random(n) < 0.3) & crowds, 100, 100, CLASSES)
    tensors = {"scores": torch.tensor(scores).float(), "labels": torch.tensor(labels), "boxes": torch.tensor(found)}
    return tensors, objects


def by_pycocotools(found: list[dict], objects: list[Objects]) -> tuple[float, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results = [], []
    for i, (said, there) in enumerate(zip(found, objects, strict=True)):
        for box, kind, crowd in zip(there.boxes, there.classes, there.crowd, strict=True):
            size = box[2:] - box[:2]
            truth.append(
                {"id": len(truth) + 1, "image_id": i, "category_id": int(kind), "iscrowd": int(crowd)}
                | {"bbox": [*box[:2], *size], "area": float(size.prod())}
            )
        for score, kind, box in zip(said["scores"], said["labels"], said["boxes"].numpy(), strict=True):
            results.append(
                {
                    "image_id": i,
                    "category_id": int(kind),
                    "score": float(score),
                    "bbox": [*box[:2], *(box[2:] - box[:2])],
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(found))],
            "annotations": truth,
            "categories": [{"id": c} for c in range(CLASSES)],
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0]), float(judge.stats[1])


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_pycocotools_says(seed: int, crowds: bool):
    pairs = [image(100 * seed + i, crowds) for i in range(25)]
    found, objects = [p[0] for p in pairs], [p[1] for p in pairs]
    rows = find_metric("map").statistics(found, objects)
    assert rows.shape == (25, 3 * MOST + CLASSES)
    every, half = by_pycocotools(found, objects)
    assert 0.05 < every < half < 1
    assert find_metric("map").value(rows) == pytest.approx(every, abs=1e-6)
    assert find_metric("map50").value(rows) == pytest.approx(half, abs=1e-6)


def slow(found: list[dict], objects: list[Objects], overlap: float) -> float:
    """AP at one overlap: the mean, over classes and 101 recalls, of the best precision at that recall or more."""
    means = []
    for c in range(CLASSES):
        total = sum(int((o.classes == c).sum()) for o in objects)
        if total == 0:
            continue
        said = [
            (-float(s), i, k)
            for i, f in enumerate(found)
            for k, (s, label) in enumerate(zip(f["scores"], f["labels"], strict=True))
            if label == c
        ]
        taken: set[tuple[int, int]] = set()
        hits, curve = 0, []
        for place, (_, i, k) in enumerate(sorted(said), start=1):
            box = found[i]["boxes"][k].numpy()
            options = []
            for g, other in enumerate(objects[i].boxes):
                width = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
                height = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
                share = width * height / (sum(areas) - width * height)
                if objects[i].classes[g] == c and (i, g) not in taken and share >= overlap:
                    options.append((share, g))
            if options:
                taken.add((i, max(options)[1]))
                hits += 1
            curve.append((hits / total, hits / place))
        means.append(np.mean([max([p for r, p in curve if r >= want], default=0) for want in np.linspace(0, 1, 101)]))
    return float(np.mean(means))


def test_it_is_what_the_definition_says():
    pairs = [image(i, crowds=False) for i in range(12)]
    found, objects = [p[0] for p in pairs], [p[1] for p in pairs]
    rows = find_metric("map").statistics(found, objects)
    want = [slow(found, objects, overlap) for overlap in OVERLAPS]
    assert find_metric("map").value(rows) == pytest.approx(np.mean(want), abs=1e-9)
    assert find_metric("map50").value(rows) == pytest.approx(want[0], abs=1e-9)


def test_an_image_drawn_twice_counts_as_two_images():
    pairs = [image(i, crowds=True) for i in range(10)]
    # scores all differ, so that the order within a pair of copies cannot matter
    pairs = [({**f, "scores": torch.rand(len(f["scores"]))}, o) for f, o in pairs]
    metric = find_metric("map")
    rows = metric.statistics(*zip(*pairs, strict=True))
    drawn = metric.resampled(rows, rows)
    assert drawn.shape == (2, 1000)
    assert np.array_equal(drawn[0], drawn[1])
    random = np.random.default_rng(0)
    for value in drawn[0, :20]:
        draw = random.integers(10, size=10)
        assert value == pytest.approx(metric.value(rows[torch.from_numpy(draw)]), abs=0.02)
    value, low, high = metric.interval(rows)
    assert low < value < high


def test_ends_of_the_range():
    _, objects = image(3, crowds=False)
    assert len(objects.classes) > 1
    right = {
        "scores": torch.ones(len(objects.classes)),
        "labels": torch.tensor(objects.classes),
        "boxes": torch.tensor(objects.boxes),
    }
    none = {"scores": torch.zeros(0), "labels": torch.zeros(0), "boxes": torch.zeros(0, 4)}
    metric = find_metric("map")
    assert metric.value(metric.statistics([right], [objects])) == 1
    assert metric.value(metric.statistics([none], [objects])) == 0
    empty = replace(objects, boxes=np.zeros((0, 4)), classes=np.zeros(0, int), crowd=np.zeros(0, bool))
    assert metric.value(metric.statistics([right], [empty])) == 0
