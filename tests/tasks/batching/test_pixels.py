"""Pictures on demand: what comes out is what the model's own processor makes, bit for bit, however much is kept."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.batching.batches import Batch, EvalSet, Held, OnDemand
from prunesearch.tasks.batching.pixels import Pixels, Processor
from prunesearch.tasks.data.image_cells import decode_image
from tests.support.tiny import png

CPU = torch.device("cpu")
PROCESSORS = {
    "vit": (hf.ViTImageProcessorPil, {"size": {"height": 24, "width": 24}}),
    "clip": (hf.CLIPImageProcessorPil, {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}}),
    "no-normalising": (hf.ViTImageProcessorPil, {"size": {"height": 24, "width": 24}, "do_normalize": False}),
    "float": (hf.ViTImageProcessorPil, {"do_resize": False, "do_rescale": False}),
}
CELLS = [png(i, size) for i, size in enumerate((16, 30, 16, 50, 16, 16, 20))]


class Counted:
    """Counts what it decodes."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, cell: bytes) -> Image.Image:
        self.n += 1
        return decode_image(cell, None)


def pixels(whole: Any, cells: list[bytes], cache: int, dtype: torch.dtype = torch.float32) -> tuple[Pixels, Counted]:
    decode = Counted()
    made = Pixels(cells, lambda i: f"row {i + 1}", decode, Processor(whole, dict), CPU, dtype, cache)
    assert list(made.check()) == list(range(len(cells)))
    return made, decode


@pytest.mark.parametrize("cache", [0, 4_000, 2**20])
@pytest.mark.parametrize("name", list(PROCESSORS))
def test_inputs_are_the_whole_processors_to_the_last_bit(name: str, cache: int) -> None:
    make, options = PROCESSORS[name]
    cells = CELLS if name != "float" else [png(i, 16) for i in range(4)]
    whole = make(**options)
    found, _ = pixels(whole, cells, cache)
    order = [3, 0, 2, 1]
    want = whole([decode_image(cells[i], None) for i in order], return_tensors="pt")["pixel_values"]
    assert torch.equal(found(order)["pixel_values"], want.float())
    half, _ = pixels(whole, cells, cache, torch.bfloat16)
    assert torch.equal(half(order)["pixel_values"], want.to(torch.bfloat16))


def test_what_is_kept_is_bounded_and_nothing_is_decoded_twice_that_is_kept() -> None:
    whole = hf.ViTImageProcessorPil(size={"height": 24, "width": 24})
    row = 3 * 24 * 24  # bytes, in 8 bits
    for rows in (0, 3, len(CELLS)):
        found, decode = pixels(whole, CELLS, rows * row)
        first = decode.n
        for _ in range(2):
            found(list(range(len(CELLS))))
        assert decode.n - first == len(CELLS) + (len(CELLS) - rows)


def test_a_processor_that_cannot_be_taken_apart_is_used_as_it_is() -> None:
    def whole(images: list[Image.Image], return_tensors: str) -> dict[str, torch.Tensor]:
        levels = np.stack([np.asarray(image.resize((8, 8))) for image in images])
        noise = torch.arange(64.0).reshape(8, 8, 1)  # depends on the place: no table of levels
        return {"pixel_values": (torch.from_numpy(levels) * noise).permute(0, 3, 1, 2)}

    found, _ = pixels(whole, CELLS, 2**20)
    want = whole([decode_image(CELLS[i], None) for i in (1, 4)], "pt")["pixel_values"]
    assert torch.equal(found([1, 4])["pixel_values"], want)


def test_a_damaged_row_is_named_before_anything_is_searched() -> None:
    whole = hf.ViTImageProcessorPil(size={"height": 24, "width": 24})
    cells = [*CELLS[:5], CELLS[5][:200], CELLS[6]]
    for cache in (0, 2**20):
        with pytest.raises(PruneSearchError, match="row 6: an image cannot be decoded") as caught:
            pixels(whole, cells, cache)
        assert "\n" not in str(caught.value)


def test_grey_images_of_one_channel() -> None:
    whole = hf.ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.3], image_std=[0.7])
    cells = []
    for i in range(3):
        out = io.BytesIO()
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 9), dtype=np.uint8)).save(out, "PNG")
        cells.append(out.getvalue())
    images = [decode_image(cell, None, "L") for cell in cells]
    try:
        want = whole(images, return_tensors="pt")["pixel_values"]
    except ValueError:
        pytest.skip("a transformers whose ViTImageProcessorPil takes images of one channel runs it: 5.23 does not")
    made = Pixels(cells, str, lambda cell: decode_image(cell, None, "L"), Processor(whole, dict), CPU, torch.float32)
    list(made.check())
    assert torch.equal(made([0, 1, 2])["pixel_values"], want)


def test_sets_on_demand_are_taken_from_and_relabelled_as_held_ones() -> None:
    rows = torch.arange(20.0).reshape(10, 2)
    labels = torch.arange(10) * 3
    asked: list[list[int]] = []

    def inputs(numbers: list[int]) -> dict[str, torch.Tensor]:
        asked.append(numbers)
        return {"x": rows[numbers]}

    places = list(torch.split(torch.arange(10), 4))
    held = EvalSet("c", Held([Batch({"x": rows[i]}, labels[i], i) for i in places]))
    lazy = EvalSet("c", OnDemand(inputs, places, labels))
    assert (lazy.n, lazy.labels.tolist()) == (held.n, held.labels.tolist())
    pairs = [(held, lazy), (held.take(7), lazy.take(7))]
    new = [batch.labels + 1 for batch in held.batches]
    pairs.append(tuple(EvalSet("c", split.batches.relabelled(new)) for split in (held, lazy)))  # type: ignore[arg-type]
    assert asked == []  # nothing is made until a batch is taken
    for before, after in pairs:
        assert len(before.batches) == len(after.batches)
        for a, b in zip(before.batches, after.batches, strict=True):
            assert torch.equal(a.inputs["x"], b.inputs["x"])
            assert (a.labels.tolist(), a.index.tolist()) == (b.labels.tolist(), b.index.tolist())
    asked.clear()
    last = lazy.batches[-1]
    assert (asked, last.index.tolist()) == ([[8, 9]], [8, 9])
