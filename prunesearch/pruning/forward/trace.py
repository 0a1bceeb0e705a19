"""Which inputs every surviving token holds, stage by stage, and the way back to full length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.forward.assignment import Assignment
from prunesearch.pruning.forward.tokens import Tokens


@dataclass(frozen=True)
class StageTrace:
    """One stage of the latest forward.

    `source` `[batch, n_out, n_start]` is the fraction of every input that each token holds after the stage (columns of
    dropped inputs and of padding are zero); `hidden` `[batch, n_in, width]` are the features the stage was given.
    """

    stage: Stage
    assignment: Assignment
    source: Tensor
    hidden: Tensor


class Trace:
    """The stages of the latest forward, in order."""

    def __init__(self) -> None:
        self.stages: list[StageTrace] = []

    def clear(self) -> None:
        """Forget the forward before."""
        self.stages.clear()

    def add(self, stage: Stage, assignment: Assignment, tokens: Tokens, hidden: Tensor) -> None:
        """Note a stage that turned `tokens` with features `hidden` into what `assignment` says."""
        step = assignment.matrix(tokens.mass if tokens.valid is None else tokens.mass * tokens.valid)
        source = step
        if self.stages:
            before = self.stages[-1].source
            wide = torch.promote_types(step.dtype, before.dtype)
            source = step.to(wide) @ before.to(wide)
        self.stages.append(StageTrace(stage, assignment, source, hidden))

    @property
    def source(self) -> Tensor | None:
        """`[batch, n_final, n_start]` after the last stage; None if no stage reduced anything."""
        return self.stages[-1].source if self.stages else None

    def restore(self, y: Tensor) -> Tensor:
        """Bring final features `y` `[batch, n_final, width]` back to `[batch, n_start, width]`.

        A merged input takes the features of the token that holds most of it; a dropped one keeps the hidden state it
        had when it left (Length-Adaptive Transformer). So `y` must be of the width of the hidden states.
        """
        for stage in reversed(self.stages):
            y = stage.assignment.inverse(y, stage.hidden)
        return y
