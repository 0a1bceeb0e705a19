"""Overlays over pictures and marks on words, from source maps small enough to check by eye."""

from __future__ import annotations

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from prunesearch.core.errors import PruneSearchError
from prunesearch.report.pictures import overlay_svg, owners, to_data_uri, token_spans

# CLS and 2 x 2 patches: patch 0 kept, patches 1 and 3 merged, patch 2 dropped.
SOURCE = np.array([[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 1]])
OWNER = [0, 1, 2, -1, 2]
SVG = "{http://www.w3.org/2000/svg}"


def marks(owner, grid, leading=1):
    """`(column, row) -> (colour, opacity)` of the patches that are covered, and the outlines."""
    root = ElementTree.fromstring(overlay_svg(owner[leading:], grid, owner))
    boxes = {
        (int(r.get("x")), int(r.get("y"))): (r.get("fill"), float(r.get("opacity"))) for r in root.iter(f"{SVG}rect")
    }
    return boxes, [p.get("d") for p in root.iter(f"{SVG}path")]


def test_owners():
    assert owners(SOURCE) == OWNER
    assert owners(np.array([[1.0, 0, 0.3], [0, 1, 0.7]])) == [0, 1, 1]  # the larger share


def test_kept_bare_dropped_dark_merged_in_one_colour():
    boxes, _ = marks(OWNER, (2, 2))
    assert set(boxes) == {(1, 0), (0, 1), (1, 1)}
    assert boxes[0, 1][0] == "#000"
    assert boxes[0, 1][1] > 0.8
    assert boxes[1, 0] == boxes[1, 1]
    assert boxes[1, 0][0] != "#000"


def test_a_group_is_outlined_outside_but_not_between_its_patches():
    _, outlines = marks(OWNER, (2, 2))
    upper, lower = outlines
    assert upper.count("M") == 3  # top, left, right; the patch below is of the same group
    assert lower.count("M") == 3
    assert "M1 0.045H2" in upper
    assert "M1 1.955H2" in lower


def test_nothing_reduced_covers_nothing():
    assert marks(list(range(17)), (4, 4)) == ({}, [])


def test_groups_have_different_colours_and_keep_them():
    first, _ = marks([0, 1, 1, -1, -1, 2, 2, -1, -1], (2, 4))
    later, _ = marks([0, 1, 1, -1, -1, 2, 2, 2, -1], (2, 4))
    assert first[0, 0] != first[0, 1]
    assert first[0, 1] == later[0, 1] == later[2, 1]


def test_a_patch_that_went_into_cls_is_merged():
    boxes, _ = marks([0, 1, 0, 2, 3], (2, 2))
    assert set(boxes) == {(1, 0)}


def test_patches_that_do_not_fit_the_grid():
    with pytest.raises(PruneSearchError, match="a grid of 3 x 3 has 9 patches, but got 4"):
        overlay_svg(OWNER[1:], (3, 3), OWNER)


@pytest.mark.parametrize(("size", "kind"), [(32, "png"), (224, "jpeg")])
def test_data_uri_is_the_same_picture(size, kind):
    image = Image.new("RGB", (size, size), (200, 100, 0))
    head, _, body = to_data_uri(image).partition(",")
    assert head == f"data:image/{kind};base64"
    again = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB")).astype(int)
    assert abs(again - np.asarray(image).astype(int)).max() <= 2


def test_token_spans():
    words = ["[CLS]", "a", "b", "c", "d"]
    spans = token_spans(words, OWNER, [True, False, False, False, False])
    assert [s["text"] for s in spans] == words
    assert [s["state"] for s in spans] == ["protected", "kept", "merged", "dropped", "merged"]
    assert [s["group"] for s in spans] == [None, None, 0, None, 0]


def test_token_spans_check_their_lengths():
    with pytest.raises(PruneSearchError, match="got 2, 5 and 5"):
        token_spans(["a", "b"], OWNER, [False] * 5)
