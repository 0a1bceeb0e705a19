"""Pictures as model inputs: resized when first used, kept in 8 bits where that changes nothing, scaled at each use.

An image of 224 x 224 is 602 KB of float32 and 151 KB of pixels; the same image as a JPEG is a tenth of that. Rows stay
where the data has them; of what was resized, as much is kept as `CACHE_BYTES` hold, and the rest is prepared anew.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.batching.batches import Inputs
from prunesearch.tasks.data.sources import one_line
from prunesearch.tasks.loading import to_device

CACHE_BYTES = 2**29  # of prepared rows that are kept, a split
_NAME = "pixel_values"
_THREADS = 16  # at most
_AHEAD = 8  # rows in work at a time, for each thread
_AS_THEY_ARE: dict[str, bool] = {"do_rescale": False, "do_normalize": False}
_NO_GEOMETRY: dict[str, bool] = {"do_resize": False, "do_center_crop": False, "do_pad": False}


@dataclass(frozen=True)
class Processor:
    """A model's own image processor, taken apart where that can be: what resizes, and what scales colours.

    Args:
        whole: the processor.
        accepts: names of the inputs that the model takes.
        options: of the processor's call, such as a size.
        frames: of a row: None for an image, a number for a video.
    """

    whole: Any
    accepts: Callable[[Inputs], Inputs]
    options: dict[str, Any] = field(default_factory=dict)
    frames: int | None = None

    def __call__(self, row: Any, **more: bool) -> Inputs:
        """The inputs of one row, an image or a list of frames, with a batch dimension of 1."""
        return self.accepts(dict(self.whole([row], return_tensors="pt", **self.options, **more)))

    def colours(self, row: Any) -> NDArray[np.float32] | None:
        """What scaling makes of each of the 256 levels of a channel, `[channels, 256]`; None if it is no such table.

        It is found by asking, and believed if on `row` it gives exactly what the whole processor gives.
        """
        levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        channels = len(np.atleast_3d(np.asarray(row if self.frames is None else row[0])).transpose(2, 0, 1))
        mode = "L" if channels == 1 else "RGB"
        scale: Any = Image.fromarray(levels).convert(mode)
        scale = scale if self.frames is None else [scale] * self.frames
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an old processor says of every option that it does not know it
                plain, scaled = self(scale, **_NO_GEOMETRY, **_AS_THEY_ARE), self(scale, **_NO_GEOMETRY)
                resized, want = self(row, **_AS_THEY_ARE), self(row)
        except Exception:  # a processor that has no such options: each raises what it likes
            return None
        if {*plain} | {*want} != {_NAME} or any(x[_NAME].dtype != torch.uint8 for x in (plain, resized)):
            return None
        known = plain[_NAME][0].reshape(-1, channels, 256)[0]
        if not torch.equal(known, torch.arange(256, dtype=torch.uint8).expand(channels, 256)):
            return None
        table: NDArray[np.float32] = scaled[_NAME][0].reshape(-1, channels, 256)[0].float().numpy()
        return table if torch.equal(_scaled(resized[_NAME], table), want[_NAME].float()) else None


class Pixels:
    """The inputs of the rows of a split, by their numbers; see the top of this file.

    Args:
        cells: what the data holds of each row.
        name: what a user finds a row by, of its number.
        decode: of a cell, a PIL image or a list of frames; it may run in any thread.
        processor: of the model.
        device: that inputs are moved to.
        dtype: of the inputs there.
        cache_bytes: of prepared rows that are kept.
    """

    def __init__(
        self,
        cells: Sequence[Any],
        name: Callable[[int], str],
        decode: Callable[[Any], Any],
        processor: Processor,
        device: torch.device,
        dtype: torch.dtype,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._cells, self._name, self._decode, self._processor = cells, name, decode, processor
        self._device, self._dtype = device, dtype
        self._room, self._full = cache_bytes, False
        self._kept: dict[int, Inputs] = {}
        self._table: NDArray[np.float32] | None = None

    def check(self) -> Iterator[int]:
        """Decode every row once, so that what is damaged is found now; yields their numbers as they are done.

        Rows are prepared when they are used; of each size of pictures one is tried now.

        Raises:
            PruneSearchError: naming the row that cannot be decoded, or comes out in another shape than the first.
        """
        self._table = self._processor.colours(self._decoded(0))
        first, tried = self._prepared(0), set()
        for number, size in self._each(range(len(self._cells)), lambda n: _size(self._decoded(n))):
            if size not in tried:
                tried.add(size)
                self._check_shape(number, self._prepared(number), first)
            yield number

    def __call__(self, numbers: list[int]) -> Inputs:
        """The inputs of rows, `[b, ...]`, on the device."""
        made = dict(self._each((n for n in numbers if n not in self._kept), self._prepared))
        for number, row in made.items():
            self._keep(number, row)
        rows = [made.get(number) or self._kept[number] for number in numbers]
        stacked = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        if self._table is not None:
            stacked = {_NAME: _scaled(stacked[_NAME], self._table)}
        return to_device(stacked, self._device, self._dtype)

    def _prepared(self, number: int) -> Inputs:
        """One row, decoded and resized; scaled too, where that cannot be told apart."""
        row = self._decoded(number)
        try:
            return self._processor(row, **(_AS_THEY_ARE if self._table is not None else {}))
        except ValueError as error:
            raise PruneSearchError(
                f"the model's image processor refuses {self._name(number)}: {one_line(error)}"
            ) from error

    def _decoded(self, number: int) -> Any:
        try:
            return self._decode(self._cells[number])
        except PruneSearchError as error:
            raise PruneSearchError(f"{self._name(number)}: {error}") from error

    def _check_shape(self, number: int, row: Inputs, first: Inputs) -> None:
        """A batch needs rows of one shape."""
        for name, value in row.items():
            if value.shape != first[name].shape:
                found, usual = (" x ".join(map(str, x.shape[-2:])) for x in (value, first[name]))
                raise PruneSearchError(
                    f"the model's image processor must bring all rows to one size, but makes {found} of "
                    f"{self._name(number)} and {usual} of {self._name(0)}: give images of one size"
                )

    def _keep(self, number: int, row: Inputs) -> None:
        size = sum(value.numel() * value.element_size() for value in row.values())
        self._full = self._full or size > self._room
        if not self._full:
            self._room -= size
            self._kept[number] = row

    def _each(self, numbers: Iterable[int], work: Callable[[int], Any]) -> Iterator[tuple[int, Any]]:
        """Work on rows in threads (PIL decodes and resizes outside the interpreter's lock), in order, few at a time."""
        waiting = iter(numbers)
        with ThreadPoolExecutor(threads := min(_THREADS, os.cpu_count() or 1)) as pool:
            while some := list(islice(waiting, _AHEAD * threads)):
                yield from zip(some, pool.map(work, some), strict=True)


def _size(row: Any) -> tuple[int, ...]:
    """What the shape of a row's inputs hangs on: width and height of an image, the number of frames with it."""
    return tuple(row.size) if isinstance(row, Image.Image) else (len(row), *row[0].size)


def _scaled(pixels: Tensor, table: NDArray[np.float32]) -> Tensor:
    """Colours `[..., channels, height, width]` of 8 bits through the table of each channel, float32."""
    levels = pixels.numpy()
    out = np.empty(levels.shape, np.float32)
    for channel, values in enumerate(table):
        np.take(values, levels[..., channel, :, :], out=out[..., channel, :, :], mode="clip")  # unbuffered
    return torch.from_numpy(out)
