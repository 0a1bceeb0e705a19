"""What one step of a learned scorer's training sees: rows, a block, and what happens when its tokens count for less."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.pruning.scorers.by_probe import probed
from prunesearch.tasks.base import Outputs, Task
from prunesearch.tasks.batching.batches import Batch

GONE = 1e-6  # how much a token counts that is masked: attention to it is as good as none


@dataclass
class Scene:
    """Rows of a step, at one block of the unpruned model, whose tokens may count for less from there on.

    A token of size `m` has `log(m)` added to every later attention to it, as merges do: at `GONE` that is what its
    removal would do to the others, and in between it has gradients.

    Attributes:
        task: the model with its data, frozen.
        handle: on it.
        batch: the rows.
        reference: their unpruned outputs.
        layer: the block.
        entering: `[b, n, width]` what enters it.
        probe: tensors of the scorer at this block, which are trained.
        share: of the reducible tokens that a stage here would keep, drawn for this step.
    """

    task: Task
    handle: Handle
    batch: Batch
    reference: Outputs
    layer: int
    entering: Tensor
    probe: Mapping[str, Tensor]
    share: float
    _seen: tuple[Tensor, Tokens] | None = field(default=None, init=False)

    def divergence(self, size_of: Callable[[Tensor, Tokens], Tensor]) -> Tensor:
        """How far outputs move, `[b]`, when tokens have the sizes `[b, n]` in (0, 1] that `size_of` gives from the
        hidden states `[b, n, width]` and the tokens; protected ones must keep 1."""

        def soften(layer: int, x: Tensor, tokens: Tokens) -> Tensor | None:
            if layer != self.layer:
                return None
            self._seen = x.detach(), tokens
            return size_of(x.detach(), tokens)

        resuming = self.handle.resuming(self.layer, self.entering)
        with self.handle.under(Plan()), resuming, self.handle.softened(soften):
            outputs = self.task.outputs(self.task.model, self.batch)
        return self.task.divergence(self.reference, outputs, self.batch)

    @property
    def seen(self) -> tuple[Tensor, Tokens]:
        """Hidden states and tokens of the latest `divergence`."""
        if self._seen is None:
            raise RuntimeError("no forward has been made yet")
        return self._seen

    def logits(self, x: Tensor, tokens: Tokens) -> Tensor:
        """What the probe says, `[b, n]`, with gradients of the probe alone."""
        return probed(self.probe, x, tokens.reducible, torch.float32)

    @staticmethod
    def among(values: Tensor, tokens: Tokens, rest: float) -> Tensor:
        """The values at reducible tokens, and `rest` elsewhere."""
        return values.where(tokens.reducible, torch.full_like(values, rest))


def standardised(values: Tensor, tokens: Tokens) -> Tensor:
    """Values of each row's reducible tokens with mean 0 and deviation 1; 0 elsewhere."""
    on = tokens.reducible.to(values.dtype)
    count = on.sum(1, keepdim=True).clamp(min=1)
    centred = (values - (values * on).sum(1, keepdim=True) / count) * on
    spread: Tensor = (centred.square().sum(1, keepdim=True) / count).sqrt()
    return centred / spread.clamp(min=1e-12)


class LearnsScorer(Protocol):
    """How the weights of a learned scorer are trained; what a row of `LEARNED` names."""

    def __call__(self, scene: Scene) -> Tensor:
        """The loss of a step, a number with gradients of the probe."""
