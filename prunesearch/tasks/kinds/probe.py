"""A linear head, fitted on the fly, for an encoder whose checkpoint has none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from prunesearch.core.events import track
from prunesearch.pruning.families.pooling import mean_pool
from prunesearch.tasks.batching.batches import EvalSet
from prunesearch.tasks.metrics.metric import correct

L2 = 0.1  # penalty on standardised features, against the mean cross-entropy
STEPS = 200  # at most, of L-BFGS; it stops when the gradient is small
LEAST_SCALE = 1e-3  # of the median feature


class MeanPoolClassifier(nn.Module):
    """An encoder, the mean of its real tokens, and a linear head; `config` is the encoder's."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.linear = head  # not `head`: by that name hooks know a part of ModernBERT's own classifier
        self.config: Any = encoder.config

    def forward(self, **inputs: Tensor) -> SequenceClassifierOutput:
        """Return logits `[batch, classes]` for the encoder's own inputs."""
        return SequenceClassifierOutput(logits=self.linear(embed(self.encoder, inputs)))


def embed(encoder: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Return the mean over the real tokens `[batch, width]`, weighted by size where tokens were merged."""
    hidden = encoder(**inputs).last_hidden_state
    pooled: Tensor = mean_pool(encoder, hidden, inputs.get("attention_mask"))
    return pooled


def fit_classifier(encoder: nn.Module, sets: dict[str, EvalSet], classes: int) -> tuple[MeanPoolClassifier, str]:
    """Fit a head on the "train" split; return the classifier and a note with its calibration accuracy."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # type: ignore[assignment]  # not used here: it must not be timed either
    embeddings, labels = _embed_all(encoder, sets["train"])
    reference = next(encoder.parameters())
    head = fit_linear(embeddings, labels, classes).to(reference.device, reference.dtype)
    model = MeanPoolClassifier(encoder, head).eval()
    right = []
    calibration = sets["calibration"]
    shown = track(calibration.batches, len(calibration.batches), "Checking the head")
    with torch.inference_mode():
        for batch in shown:
            right.append(correct(model(**batch.inputs).logits, torch.as_tensor(batch.labels)))
    accuracy = torch.cat(right).float().mean().item()
    return model, (
        f"the checkpoint has no classification head: a linear one on mean-pooled embeddings was fitted on "
        f"{sets['train'].n} other rows (accuracy on calibration {accuracy:.1%})"
    )


def fit_linear(embeddings: Tensor, labels: Tensor, classes: int) -> nn.Linear:
    """Fit multinomial logistic regression: `[n, width]`, int64 `[n]` -> a linear layer with frozen weights.

    Features are standardised for the fit, which is convex and therefore needs no seed; the scale is then
    folded into the weights.
    """
    features = embeddings.double()
    mean, scale = features.mean(dim=0), features.std(dim=0, correction=0)
    # what hardly varies is rounding: a weight that blows it up would answer to the rounding of every schedule
    scale = scale.clamp_min(max(float(scale.median()) * LEAST_SCALE, 1e-8))
    features = (features - mean) / scale
    weight = features.new_zeros(classes, features.shape[1], requires_grad=True)
    bias = features.new_zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = nn.functional.cross_entropy(features @ weight.T + bias, labels)
        value = value + 0.5 * L2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    head = nn.Linear(features.shape[1], classes)
    with torch.no_grad():
        head.weight.copy_(weight / scale)
        head.bias.copy_(bias - (weight / scale) @ mean)
    return head.requires_grad_(False)


def _embed_all(encoder: nn.Module, data: EvalSet) -> tuple[Tensor, Tensor]:
    """Return embeddings `[n, width]` and labels `[n]` of a split, in the order of its batches."""
    shown = track(data.batches, len(data.batches), "Embedding texts for the head")
    with torch.no_grad():
        embeddings = [embed(encoder, batch.inputs) for batch in shown]
    return torch.cat(embeddings), torch.as_tensor(data.labels)
