"""Augmentation of the usual kind: inputs that mean the same, for teacher and student alike, made while one is trained.

Pictures are mirrored and moved by up to an eighth of their side, as CIFAR's and ImageNet's recipes do. Texts and sounds
stay as they are: dropout serves them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunesearch.tasks.batching.batches import Batch

_MOVED = 8  # a picture moves by up to one of so many parts of its side
_PIXELS = "pixel_values"


def augmented(batch: Batch) -> Batch:
    """The batch with every picture mirrored, or not, and moved, by torch's own random numbers; anything else as it is.

    Args:
        batch: pictures `[b, channels, height, width]` alone are changed; with a mask beside them they are not.
    """
    if set(batch.inputs) != {_PIXELS} or batch.inputs[_PIXELS].ndim != 4:
        return batch
    return Batch({_PIXELS: _moved(_mirrored(batch.inputs[_PIXELS]))}, batch.labels, batch.index)


def _mirrored(pixels: Tensor) -> Tensor:
    on = torch.rand(len(pixels)) < 0.5
    return torch.where(on.to(pixels.device)[:, None, None, None], pixels.flip(-1), pixels)


def _moved(pixels: Tensor) -> Tensor:
    """Each by its own whole number of pixels, what comes in from outside mirrored at the edge."""
    height, width = pixels.shape[-2:]
    far = max(1, height // _MOVED), max(1, width // _MOVED)
    wide = nn.functional.pad(pixels, (far[1], far[1], far[0], far[0]), mode="reflect")
    down, right = (torch.randint(2 * most + 1, (len(pixels),)).tolist() for most in far)
    parts = [wide[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(zip(down, right, strict=True))]
    return torch.stack(parts)
