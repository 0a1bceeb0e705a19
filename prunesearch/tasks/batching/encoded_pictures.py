"""Pictures encoded once: what a tower makes of the pictures of a batch is the same under every schedule behind it."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunesearch.core.plans.stage import TOWER, Stage
from prunesearch.pruning.apply import handle_of
from prunesearch.tasks.batching.batches import Inputs

_PIXELS = "pixel_values"
_BYTES = 512 * 2**20  # features are kept up to this size


@dataclass
class Features:
    """What the tower and the projector of one model made of pictures, by the pictures; the first that fit are kept.

    Attributes:
        of: the model, the first that was asked; others, as copies in another precision, encode by themselves.
    """

    of: Any = None
    known: dict[bytes, Any] = field(default_factory=dict)
    left: int = _BYTES

    def instead(self, model: Any, inputs: Inputs) -> dict[str, Any]:
        """The inputs with features in place of pictures, where the model's next forward would make the same.

        It would not where the tower is changed too (another precision, fewer tokens), or asked what it looks at.
        """
        handle = handle_of(model)
        changed = handle is not None and (handle.plan.changes or any(map(_asks, handle.schedule)))
        self.of = model if self.of is None else self.of
        changed = changed or self.of is not model
        if _PIXELS not in inputs or changed or torch.is_grad_enabled():
            return {**inputs}
        key = hashlib.blake2b(inputs[_PIXELS].contiguous().view(torch.uint8).cpu().numpy().tobytes()).digest()
        found = self.known.get(key)
        if found is None:
            takes = inspect.signature(model.get_image_features).parameters
            found = model.get_image_features(**{name: value for name, value in inputs.items() if name in takes})
            size = sum(x.numel() * x.element_size() for x in _tensors(found))
            if size <= self.left:
                self.left -= size
                self.known[key] = found
        rest = {name: value for name, value in inputs.items() if name != _PIXELS}
        return {**rest, "mm_encoder_outputs": {"image": found}}


def _asks(stage: Stage) -> bool:
    """Whether a stage needs the tower to run."""
    return stage.reads_tower or stage.place.part == TOWER


def _tensors(found: Any) -> list[Tensor]:
    """All tensors of an output, lists inside it included."""
    if isinstance(found, Tensor):
        return [found]
    parts = found.values() if hasattr(found, "values") else found if isinstance(found, (list, tuple)) else ()
    return [x for part in parts for x in _tensors(part)]
