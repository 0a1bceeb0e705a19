"""What the outputs of a classification head say: one class of several, numbers, or which classes are on.

Softmax and argmax describe the first alone: of one number the softmax is 1 whatever it is, and decisions about single
classes flip while the largest logit stays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.base import Forward, Outputs, Task
from prunesearch.tasks.batching.batches import Batch, EvalSet
from prunesearch.tasks.kinds.classification import logits_of
from prunesearch.tasks.metrics.metric import agreement, kl_divergence
from prunesearch.tasks.request import output_names, problem_of
from prunesearch.tasks.table import FLAGS, NUMBERS

_SPREAD_ROWS = 512  # that the spread of a head's numbers is found on
_SAME = 0.1  # of the spread: within it, two numbers are the same answer


@dataclass(frozen=True)
class HeadOutputs(ABC):
    """How outputs `[b, k]` are compared with the unpruned model's, and read; `names` are those of the `k`."""

    names: Sequence[str] = ()
    metrics: ClassVar[tuple[str, ...]]  # of fidelity to the unpruned model, the default first
    labelled: ClassVar[str]  # the metric where there are labels
    said: ClassVar[str]  # of the divergence, for a note

    @abstractmethod
    def fits(self, labels: Any) -> bool:
        """Whether labels have the form of `answers`."""

    @abstractmethod
    def divergence(self, reference: Tensor, logits: Tensor) -> Tensor:
        """How far outputs are from the unpruned model's, `[b]`, 0 where they are equal."""

    @abstractmethod
    def supervised(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss against labels that such heads are trained with, `[b]`."""

    @abstractmethod
    def agrees(self, reference: Tensor, logits: Tensor) -> Tensor:
        """Whether both say the same, bool `[b]`."""

    @abstractmethod
    def answers(self, logits: Tensor) -> Tensor:
        """What outputs say, in the form of labels."""

    @abstractmethod
    def shown(self, answer: Tensor) -> str:
        """One row of `answers`, or of labels, as a reader sees it."""


class OneClass(HeadOutputs):
    """Classes that exclude each other; labels are class ids `[b]`."""

    metrics, labelled, said = ("agreement",), "accuracy", "KL divergence of the classes"

    def fits(self, labels: Any) -> bool:
        """Whether they are class ids `[b]`."""
        return isinstance(labels, Tensor) and labels.ndim == 1 and not labels.is_floating_point()

    def divergence(self, reference: Tensor, logits: Tensor) -> Tensor:
        """KL divergence of the classes, nats."""
        return kl_divergence(reference, logits)

    def supervised(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, nats."""
        return nn.functional.cross_entropy(logits.float(), labels, reduction="none")

    def agrees(self, reference: Tensor, logits: Tensor) -> Tensor:
        """Whether both choose the same class."""
        return agreement(reference, logits)

    def answers(self, logits: Tensor) -> Tensor:
        """The class with the largest logit."""
        return logits.argmax(dim=-1)

    def shown(self, answer: Tensor) -> str:
        """The name of the class."""
        return self.names[int(answer)] if int(answer) < len(self.names) else str(int(answer))


class SomeClasses(HeadOutputs):
    """Decisions about each class by itself; labels are which are on, 0 or 1 `[b, k]`."""

    metrics, labelled, said = ("agreement",), "micro_f1", "KL divergence of every class being on or off"

    def fits(self, labels: Any) -> bool:
        """Whether they are 0 or 1, `[b, k]`."""
        return isinstance(labels, Tensor) and labels.ndim == 2 and bool(((labels == 0) | (labels == 1)).all())

    def divergence(self, reference: Tensor, logits: Tensor) -> Tensor:
        """KL divergence of Bernoulli distributions, summed over the classes, nats."""
        before, after = reference.float(), logits.float()
        on = before.sigmoid() * (nn.functional.logsigmoid(before) - nn.functional.logsigmoid(after))
        off = (-before).sigmoid() * (nn.functional.logsigmoid(-before) - nn.functional.logsigmoid(-after))
        return (on + off).sum(dim=-1)

    def supervised(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of every class being on or off, summed over the classes, nats."""
        each = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
        return each.sum(dim=-1)

    def agrees(self, reference: Tensor, logits: Tensor) -> Tensor:
        """Whether both decide the same of every class."""
        return ((reference > 0) == (logits > 0)).all(dim=-1)

    def answers(self, logits: Tensor) -> Tensor:
        """Which classes have a probability above a half."""
        return (logits > 0).long()

    def shown(self, answer: Tensor) -> str:
        """The names of the classes that are on."""
        on = answer.nonzero().flatten().tolist()
        return ", ".join(self.names[i] if i < len(self.names) else str(i) for i in on) or "none"


@dataclass(frozen=True)
class SomeNumbers(HeadOutputs):
    """One number a row or several; labels are numbers `[b]` or `[b, k]`.

    Attributes:
        spread: standard deviations of the unpruned model's numbers, `[k]`: what errors are measured by.
    """

    metrics, labelled = ("r2", "pearson", "spearman"), "pearson"
    said = "squared error over the variance of the unpruned model's numbers"
    spread: Tensor = field(default_factory=lambda: torch.ones(1))

    def fits(self, labels: Any) -> bool:
        """Whether they are as many numbers."""
        return isinstance(labels, Tensor) and labels[:1].numel() == len(self.spread)

    def divergence(self, reference: Tensor, logits: Tensor) -> Tensor:
        """Squared error over the variance, its mean over the numbers of a row."""
        return (self._scaled(reference, logits) ** 2).mean(dim=-1)

    def supervised(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Squared error over the variance of the unpruned model's numbers."""
        return self.divergence(labels.reshape(logits.shape), logits)

    def agrees(self, reference: Tensor, logits: Tensor) -> Tensor:
        """Whether all numbers are within a tenth of their spread."""
        return (self._scaled(reference, logits).abs() <= _SAME).all(dim=-1)

    def answers(self, logits: Tensor) -> Tensor:
        """The numbers, in double precision, so that two that differ stay different."""
        return logits.double()

    def shown(self, answer: Tensor) -> str:
        """The numbers, with the names of several."""
        values = [f"{float(x):.3g}" for x in answer.flatten()]
        if len(values) == 1 or len(values) != len(self.names):
            return ", ".join(values)
        return ", ".join(f"{name} {value}" for name, value in zip(self.names, values, strict=True))

    def _scaled(self, reference: Tensor, logits: Tensor) -> Tensor:
        return (logits.float() - reference.float()) / self.spread.to(logits.device)


def _as_it_is(outputs: Tensor) -> Tensor:
    return outputs


@dataclass
class Headed(Task):
    """Rows with numbers, or in several classes at once; `head` says which, and answers are outputs `[b, k]`.

    Attributes:
        head: what the outputs say.
        activation: that the checkpoint puts on its outputs, of cross-encoders.
    """

    head: HeadOutputs = field(default_factory=SomeNumbers)
    activation: Callable[[Tensor], Tensor] = _as_it_is

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """The outputs `[b, k]`."""
        return {"logits": self.activation(logits_of(forward(**batch.inputs)))}

    def divergence(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """What fits the head, `[b]`."""
        return self.head.divergence(reference["logits"], outputs["logits"])

    def supervised(self, outputs: Outputs, batch: Batch) -> Tensor:
        """What fits the head, `[b]`."""
        return self.head.supervised(outputs["logits"], torch.as_tensor(batch.labels))

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Whether both say the same, `[b]`."""
        return self.head.agrees(reference["logits"], outputs["logits"])

    def answers(self, outputs: Outputs, batch: Batch) -> Tensor:
        """The outputs."""
        return outputs["logits"]

    def shown(self, outputs: Outputs, batch: Batch) -> list[str]:
        """What the outputs say."""
        return [self.head.shown(answer) for answer in self.head.answers(outputs["logits"])]

    def shown_labels(self, batch: Batch) -> list[str]:
        """The labels."""
        return [self.head.shown(label) for label in torch.as_tensor(batch.labels)]


def activation_of(config: Any, model_id: str) -> Callable[[Tensor], Tensor]:
    """What a checkpoint of sentence-transformers' CrossEncoder puts on its outputs; nothing of other checkpoints.

    Raises:
        PruneSearchError: for another function than the sigmoid and the identity.
    """
    settings = getattr(config, "sentence_transformers", None) or {}
    named = settings.get("activation_fn") or getattr(config, "sbert_ce_default_activation_function", None)
    known: dict[str, Callable[[Tensor], Tensor]] = {"Sigmoid": torch.sigmoid, "Identity": _as_it_is}
    name = str(named or "Identity").rpartition(".")[2]
    if name not in known:
        raise PruneSearchError(
            f"a cross-encoder's outputs go through {' or '.join(known)}, but those of '{model_id}' through {named}: "
            "use another model"
        )
    return known[name]


def head_outputs(config: Any, spread: Callable[[], Tensor]) -> HeadOutputs:
    """What the outputs of a model with this config say.

    Args:
        config: of the model.
        spread: of its numbers, asked where it gives numbers.
    """
    return head_of_problem(problem_of(config), output_names(config), spread)


def head_of_problem(problem: str, names: Sequence[str], spread: Callable[[], Tensor]) -> HeadOutputs:
    """What outputs say, by transformers' word for it; other arguments as `head_outputs` has them."""
    if problem == NUMBERS:
        return SomeNumbers(names, spread())
    return SomeClasses(names) if problem == FLAGS else OneClass(names)


@torch.inference_mode()
def spread_of(outputs: Callable[[Batch], Tensor], split: EvalSet) -> Tensor:
    """Standard deviations `[k]` of the numbers `[b, k]` that the unpruned model gives for the first rows of a split.

    Raises:
        PruneSearchError: if one is the same for all rows, so that nothing can be lost.
    """
    numbers = torch.cat([outputs(batch).float() for batch in split.take(_SPREAD_ROWS).batches])
    spread = numbers.std(dim=0, correction=0)
    if bool((spread <= 1e-6 * numbers.abs().amax(dim=0)).any()):
        raise PruneSearchError(
            f"the model's numbers must differ between rows, but all {len(numbers)} rows of {split.name} have "
            f"{float(numbers[0, int(spread.argmin())]):.4g}: check model, data and columns"
        )
    return spread
