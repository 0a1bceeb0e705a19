"""Models whose head answers for every token: the encoder is reduced, and its states are put back in their places."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from prunesearch.core.errors import UnsupportedModelError
from prunesearch.core.schedule import Stage
from prunesearch.pruning.apply import Handle, handle_of
from prunesearch.pruning.assignment import Assignment
from prunesearch.pruning.families import find_encoder
from prunesearch.pruning.tokens import Tokens
from prunesearch.pruning.trace import StageTrace, Trace
from prunesearch.tasks.base import Inputs

_CLOSE = 1e-4  # between the logits of the model and of its wrapper


class Restored(nn.Module):
    """A model with a token head, around an encoder that may carry a schedule; `config` is the model's.

    The last states of the tokens left are brought back to full length through the inverse of every stage: a merged
    token has the state of what it was merged into, a dropped one the state it left with (Length-Adaptive Transformer,
    Kim and Cho 2021).
    """

    def __init__(self, whole: PreTrainedModel) -> None:
        super().__init__()
        self.encoder: Any = whole.base_model
        self.per_token = nn.Sequential(*(part for part in whole.children() if part is not self.encoder))
        self.config: Any = whole.config

    def forward(self, **inputs: Tensor) -> TokenClassifierOutput:
        """Logits `[batch, n, classes]` for all `n` tokens of the input."""
        handle = handle_of(self.encoder)
        if handle is None:
            return TokenClassifierOutput(logits=self.per_token(self.encoder(**inputs).last_hidden_state))
        with traced(handle) as trace:
            hidden = self.encoder(**inputs).last_hidden_state
        # what a pre-norm encoder does to the states behind its last block, dropped ones have to go through as well
        finish = getattr(self.encoder, "final_norm", nn.Identity())
        for stage in reversed(trace.stages):
            hidden = stage.assignment.inverse(hidden, finish(stage.hidden))
        return TokenClassifierOutput(logits=self.per_token(hidden))


class Inverses(Trace):
    """Keeps what the way back needs, and spares the matrices of a full trace."""

    def add(self, stage: Stage, assignment: Assignment, tokens: Tokens, hidden: Tensor) -> None:
        """Note a stage."""
        self.stages.append(StageTrace(stage, assignment, hidden.new_empty(0), hidden))


@contextmanager
def traced(handle: Handle) -> Iterator[Trace]:
    """Within the block, forwards note their stages in what is yielded: the trace that is wanted anyway, if any is."""
    given = handle.trace
    trace = handle.trace = Inverses() if given is None else given
    try:
        yield trace
    finally:
        handle.trace = given


@torch.inference_mode()
def restored(whole: Any, inputs: Inputs) -> Restored:
    """Wrap a model, after trying on `inputs` that the wrapper computes what the model does.

    Raises:
        UnsupportedModelError: if it does not, or the encoder cannot be reduced.
    """
    wrapped = Restored(whole).eval()
    find_encoder(wrapped)
    found = whole(**inputs)
    logits = getattr(found, "logits", None)
    if logits is None:
        logits = torch.stack([found.start_logits, found.end_logits], dim=-1)
    try:
        same = torch.allclose(wrapped(**inputs).logits.float(), logits.float(), atol=_CLOSE)
    except (RuntimeError, TypeError):  # parts that do not follow one another
        same = False
    if not same:
        raise UnsupportedModelError(
            f"the head of {type(whole).__name__} is more than a chain of modules on the last states, which is what can "
            "be restored: use a model like BertForTokenClassification"
        )
    return wrapped
