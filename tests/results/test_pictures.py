"""Pictures of patches and marks on words, from source maps small enough to check by eye."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from prunesearch.core.errors import PruneSearchError
from prunesearch.results.pictures import holders, patch_pictures, to_data_uri, token_spans

# CLS and 2 x 2 patches: patch 0 kept, patches 1 and 3 merged, patch 2 dropped.
SOURCE = np.array([[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 1]])
GREY = Image.new("RGB", (8, 8), (128, 128, 128))


def cells(picture, grid):
    """`[rows, columns, cell, cell, 3]` view of a picture's pixels."""
    pixels = np.asarray(picture).astype(int)
    height, width = pixels.shape[0] // grid[0], pixels.shape[1] // grid[1]
    return pixels.reshape(grid[0], height, grid[1], width, 3).swapaxes(1, 2)


def test_holders():
    owner, members = holders(SOURCE)
    assert owner.tolist() == [0, 1, 2, -1, 2]
    assert members.tolist() == [1, 1, 2, 0, 2]


def test_holders_of_a_spread_token_take_the_largest_share():
    owner, members = holders(np.array([[1.0, 0, 0.3], [0, 1, 0.7]]))
    assert owner.tolist() == [0, 1, 1]
    assert members.tolist() == [1, 2, 2]


def test_kept_plain_dropped_dark_merged_in_one_colour():
    (picture,) = patch_pictures(GREY, [SOURCE], ["stage"], (2, 2), 1)
    assert picture.size == (192, 192)
    assert picture.mode == "RGB"
    patch = cells(picture, (2, 2))
    assert (patch[0, 0] == 128).all()
    assert (patch[1, 0] < 30).all()
    assert np.ptp(patch[1, 0]) == 0
    inside = patch[0, 1][48, 48]
    assert np.ptp(inside) > 30
    assert (inside == patch[1, 1][48, 48]).all()


def test_a_group_is_outlined_outside_but_not_between_its_patches():
    (picture,) = patch_pictures(GREY, [SOURCE], ["stage"], (2, 2), 1)
    patch = cells(picture, (2, 2))
    inside, top, bottom = patch[0, 1][48, 48], patch[0, 1][0, 48], patch[0, 1][-1, 48]
    assert (bottom == inside).all()
    assert not (top == inside).all()
    assert (patch[0, 1][48, 0] == top).all()
    assert (patch[0, 1][48, -1] == top).all()


def test_nothing_reduced_leaves_the_image_as_it_is():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    (picture,) = patch_pictures(image, [np.eye(17)], ["all"], (4, 4), 1)
    assert np.array_equal(np.asarray(picture), np.asarray(image.resize((192, 192), Image.Resampling.NEAREST)))


def test_groups_have_different_colours_and_keep_them():
    first = np.zeros((3, 9))
    first[0, 0] = first[1, [1, 2]] = first[2, [5, 6]] = 1
    later = first.copy()
    later[2, 7] = 1
    one, two = patch_pictures(GREY, [first, later], ["a", "b"], (2, 4), 1)
    a, b = cells(one, (2, 4)), cells(two, (2, 4))
    assert not (a[0, 0][24, 24] == a[1, 0][24, 24]).all()
    assert (a[1, 0][24, 24] == b[1, 0][24, 24]).all()
    assert (b[1, 2][24, 24] == b[1, 0][24, 24]).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_image_modes_sizes_and_grids(mode):
    image = Image.new(mode, (500, 333))
    (picture,) = patch_pictures(image, [np.eye(2 + 21)], ["x"], (3, 7), 2)
    assert picture.size == (196, 84)


def test_shapes_that_do_not_fit():
    with pytest.raises(PruneSearchError, match=r"1 \+ 3 x 3 columns, but got 5"):
        patch_pictures(GREY, [SOURCE], ["x"], (3, 3), 1)
    with pytest.raises(PruneSearchError, match="caption for each stage, but got 0 for 1"):
        patch_pictures(GREY, [SOURCE], [], (2, 2), 1)


def test_data_uri_is_the_same_picture():
    (picture,) = patch_pictures(GREY, [SOURCE], ["stage"], (2, 2), 1)
    head, _, body = to_data_uri(picture).partition(",")
    assert head == "data:image/png;base64"
    again = Image.open(io.BytesIO(base64.b64decode(body)))
    assert np.array_equal(np.asarray(again), np.asarray(picture))


def test_token_spans():
    words = ["[CLS]", "a", "b", "c", "d"]
    spans = token_spans(words, SOURCE, [True, False, False, False, False])
    assert [s["text"] for s in spans] == words
    assert [s["state"] for s in spans] == ["protected", "kept", "merged", "dropped", "merged"]
    assert [s["group"] for s in spans] == [None, None, 0, None, 0]


def test_token_spans_check_their_lengths():
    with pytest.raises(PruneSearchError, match="got 2, 5 and 5"):
        token_spans(["a", "b"], SOURCE, [False] * 5)
