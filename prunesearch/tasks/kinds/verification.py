"""Speaker verification: whether two sounds are of one speaker, by the cosine of their embeddings."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import XVectorOutput

from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.pruning.apply import handle_of
from prunesearch.pruning.families.find import find_encoder
from prunesearch.pruning.families.restoring import frame_owners
from prunesearch.pruning.forward.state import Departure
from prunesearch.pruning.forward.tokens import take_rows
from prunesearch.tasks.base import Forward, Outputs
from prunesearch.tasks.batching.batches import Batch, Inputs
from prunesearch.tasks.kinds.audio import frame_mask
from prunesearch.tasks.kinds.embedding import Similarity
from prunesearch.tasks.kinds.pooled import embeddings

_CLOSE = 1e-4  # between the embeddings of the model and of its wrapper, over the largest number in them
_ROUNDED = 16  # the same in units of what the dtype rounds to, where that is more: half precision


class XVector(nn.Module):
    """A model with an x-vector head (Snyder et al. 2018) that may carry a schedule; `config` is the model's.

    The head's convolutions over time, and its mean and deviation, are of all frames: a merged one has the state of what
    it was merged into, a dropped one that of the frame nearest in time that was not, as CTC has it. A head that adds up
    the states of all layers (`use_weighted_layer_sum`) gets those of each layer through the stages up to it.
    """

    def __init__(self, whole: PreTrainedModel) -> None:
        super().__init__()
        model: Any = whole
        self.config: Any = whole.config
        # the encoder alone adds up nothing, and may be reduced; the sum is this module's
        encoder: Any = whole.base_model
        encoder.config = copy.deepcopy(whole.config)
        encoder.config.use_weighted_layer_sum = False
        self.encoder: Any = encoder
        self.layer_weights = model.layer_weights if self.config.use_weighted_layer_sum else None
        # not `projector`: by that name hooks know the head of a ForSequenceClassification
        self.project, self.tdnn, self.embed = model.projector, model.tdnn, model.feature_extractor
        dilations = zip(self.config.tdnn_kernel, self.config.tdnn_dilation, strict=True)
        self.context: int = sum(dilation * (kernel - 1) for kernel, dilation in dilations)

    @property
    def least(self) -> int:
        """Frames that a sound must have: two are left of them behind the convolutions, which have a deviation."""
        return self.context + 2

    def forward(self, **inputs: Tensor) -> XVectorOutput:
        """Embeddings `[batch, width]`.

        Raises:
            PruneSearchError: for sounds that are too short.
        """
        handle = handle_of(self.encoder)
        departing: AbstractContextManager[list[Departure]] = nullcontext([]) if handle is None else handle.departing()
        with departing as stages:
            found = self.encoder(**inputs, output_hidden_states=self.layer_weights is not None)
        states = found.last_hidden_state
        frames = (stages[0].hidden if stages else states).shape[1]
        if frames < self.least:
            raise PruneSearchError(
                f"sounds must have {self.least} frames for this head, but these have {frames}: take longer ones"
            )
        mask = inputs.get("attention_mask")
        if mask is None:
            real = torch.ones(len(states), frames, dtype=torch.bool, device=states.device)
        else:
            real = frame_mask(self.encoder, mask, frames)
        if self.layer_weights is None:
            return XVectorOutput(embeddings=self._head(_full(states, stages), real))
        weights = self.layer_weights.softmax(dim=-1)
        layers = [_full(layer, stages) for layer in found.hidden_states]
        states = torch.stack([weight * layer for weight, layer in zip(weights, layers, strict=True)]).sum(dim=0)
        return XVectorOutput(embeddings=self._head(states, real))

    def _head(self, states: Tensor, real: Tensor) -> Tensor:
        """Embeddings of all frames' states `[batch, frames, width]`, padding where `real` `[batch, frames]` is not."""
        features = self.project(states)
        for layer in self.tdnn:
            features = layer(features)
        # Frames whose convolutions saw no padding. transformers leaves dilation out of its count, so that a few more
        # of a padded row take part there; here a row in a batch has the embedding that it has alone.
        there = real[:, self.context :, None]
        count, features = there.sum(dim=1), features.float()  # sums of squares are too much for half precision
        mean = features.where(there, 0.0).sum(dim=1) / count
        squares = (features - mean[:, None]).square().where(there, 0.0).sum(dim=1)
        statistics = torch.cat([mean, (squares / (count - 1)).sqrt()], dim=-1)
        embeddings: Tensor = self.embed(statistics.to(states.dtype))
        return embeddings


def _full(states: Tensor, stages: list[Departure]) -> Tensor:
    """States `[batch, left, width]`, of whichever layer, at all the frames there were."""
    left = states.shape[1]
    behind = [stage for stage in stages if stage.hidden.shape[1] > left]  # the others come later: counts only fall
    return take_rows(states, frame_owners(behind, left)) if behind else states


@torch.inference_mode()
def wrapped(whole: Any, inputs: Inputs) -> XVector:
    """Wrap a model, after trying on `inputs` without padding that the wrapper computes what the model does.

    Raises:
        UnsupportedModelError: if it does not, or the encoder cannot be reduced.
    """
    model = XVector(whole).eval()
    find_encoder(model)
    want, found = whole(**inputs).embeddings, model(**inputs).embeddings
    close = max(_CLOSE, _ROUNDED * torch.finfo(want.dtype).eps) * max(1.0, float(want.abs().max()))
    if not torch.allclose(found, want, rtol=0, atol=close):
        raise UnsupportedModelError(
            f"the head of {type(whole).__name__} is not the x-vector head of Wav2Vec2ForXVector, which is what frames "
            "can be brought back for: use a model like that"
        )
    return model


@dataclass
class SpeakerVerification(Similarity):
    """Pairs of sounds: inputs are `[b, 2, n]`, labels 1 for one speaker and 0 for two, and answers cosines `[b]`.

    Embeddings are an x-vector head's, or the mean of an encoder's last states by their sizes.
    """

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """Embeddings `[b, 2, width]`."""
        flat = {name: value.flatten(0, 1) for name, value in batch.inputs.items()}
        return {"state": torch.unflatten(embeddings(forward, self.model, flat), 0, (len(batch), 2))}

    @property
    def answering(self) -> nn.Module:
        """The model; without an x-vector head, with its pooling."""
        return self.model if isinstance(self.model, XVector) else super().answering

    def shown_labels(self, batch: Batch) -> list[str]:
        """Whether the speaker is the same."""
        return ["one speaker" if same else "two speakers" for same in batch.labels]
