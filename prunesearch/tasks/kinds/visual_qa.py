"""Questions of pictures, answered by a decoder that reads the pictures in its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prunesearch.tasks.base import Forward, Outputs, output
from prunesearch.tasks.batching.batches import Batch, Inputs
from prunesearch.tasks.batching.encoded_pictures import Features
from prunesearch.tasks.kinds.seq2seq import Writing
from prunesearch.tasks.libraries import quiet_libraries

IGNORED = -100  # labels of what is not an answer
_BEHIND = ("token_type_ids",)  # PaliGemma: 0 in the prompt, which attends in both directions, 1 behind it
LAST = "logits_to_keep"  # the input that says whose logits a prefill gives


@dataclass
class VisualAnswers(Writing):
    """Answers to questions of pictures. A batch has prompts, padded on the left, and behind them the answers that the
    unpruned model writes, which its `labels` name; the batch's labels are the references, a list of texts a row.

    What is minimised is the divergence of the next token along the unpruned model's own answers: no references are
    needed, and one prefill judges a schedule. The metric is of what the model itself writes, greedily. Where each next
    token along the unpruned answer is still the likeliest, that is what it would write: only other rows are written.

    Attributes:
        ends: tokens that end an answer.
        features: of pictures that were encoded.
    """

    timed: ClassVar[str] = "to the last of {} tokens"
    beside: ClassVar[str] = "latencies are those to the first token"
    ends: list[int] = field(default_factory=list)
    features: Features = field(default_factory=Features)

    def served_by(self, model: nn.Module) -> VisualAnswers:
        """The same questions, answered by another model, which looks at the pictures itself."""
        return replace(self, model=model, features=Features())

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """Logits of the next token along the unpruned answer, `[b, t, vocabulary]`."""
        inputs: Mapping[str, Any] = batch.inputs
        if forward is self.model:
            inputs = {**self.features.instead(self.model, batch.inputs), "use_cache": False}
        found = output(forward(**inputs), "logits")
        return {"logits": found[:, len_of_prompt(batch.inputs) - 1 : -1]}

    def there(self, batch: Batch) -> Tensor:
        """The real positions of the answers, bool `[b, t]`."""
        return self._answer(batch) != IGNORED

    def answers(self, outputs: Outputs, batch: Batch) -> list[str]:
        """What the model writes, as it is served: the unpruned answer where every next token is the same."""
        likeliest = outputs["token"][..., 0] if "token" in outputs else outputs["logits"].argmax(dim=-1)
        wanted, there = self._answer(batch), self.there(batch)
        same = ((likeliest == wanted) | ~there).all(dim=1).tolist()
        texts = self.read(wanted.where(there, self.ends[0]))
        rest = [place for place, kept in enumerate(same) if not kept]
        if not rest:
            return texts
        prompt, b = prompt_of(batch.inputs), len(batch)
        if all(len(value) == b for value in prompt.values()):
            prompt = {name: value[rest] for name, value in prompt.items()}
            places = range(len(rest))
        else:  # pictures of several sizes lie behind one another
            places = rest  # type: ignore[assignment]
        written = self.read(self.write(prompt))
        for row, place in zip(rest, places, strict=True):
            texts[row] = written[place]
        return texts

    def write(self, prompt: Inputs) -> Tensor:
        """Tokens that the model writes behind prompts, greedily, `[b, t]`; the end token fills short rows."""
        written = self._generate(prompt, max_new_tokens=self.most or 1)
        return written[:, prompt["input_ids"].shape[1] :]

    def source(self, inputs: Mapping[str, Tensor]) -> Inputs:
        """Of what a forward takes, what `generate` does."""
        return {name: value for name, value in inputs.items() if name != LAST}

    def shown_labels(self, batch: Batch) -> list[str]:
        """The first reference of each."""
        return [str(references[0]) for references in batch.labels]

    def _answer(self, batch: Batch) -> Tensor:
        return batch.inputs["labels"][:, len_of_prompt(batch.inputs) :]

    def read(self, ids: Tensor) -> list[str]:
        """Tokens `[b, t]` as texts, each up to its end."""
        rows = []
        for row in ids.tolist():
            end = next((place for place, token in enumerate(row) if token in self.ends), len(row))
            rows.append(row[:end])
        with quiet_libraries():
            texts: list[str] = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [text.strip() for text in texts]


def len_of_prompt(inputs: Mapping[str, Tensor]) -> int:
    """Tokens before the answers, padding included: answers begin in one column."""
    taught = (inputs["labels"] != IGNORED).any(dim=0)
    return int(taught.int().argmax())


def prompt_of(inputs: Mapping[str, Tensor]) -> Inputs:
    """The inputs without the answers behind the prompts."""
    n, full = len_of_prompt(inputs), inputs["input_ids"].shape
    rest = {name: value for name, value in inputs.items() if name != "labels"}
    return {name: value[:, :n] if value.shape == full else value for name, value in rest.items()}


def with_answers(prompt: Mapping[str, Tensor], answers: list[list[int]], fill: int) -> Inputs:
    """Prompts with answers behind them, and `labels` that name these.

    Args:
        prompt: padded on the left.
        answers: token ids, their ends included; none is empty.
        fill: the token that fills short rows.
    """
    shape, width = prompt["input_ids"].shape, max(map(len, answers))
    device = prompt["input_ids"].device
    ids = torch.tensor([[*row, *[fill] * (width - len(row))] for row in answers], device=device)
    there = torch.arange(width, device=device) < torch.tensor([[len(row)] for row in answers], device=device)
    more = {"input_ids": ids, "attention_mask": there.long(), **{name: torch.ones_like(ids) for name in _BEHIND}}
    found: Inputs = {}
    for name, value in prompt.items():
        behind = more.get(name, torch.zeros_like(ids))  # kinds of tokens: those of text
        found[name] = torch.cat([value, behind.to(value.dtype)], 1) if value.shape == shape else value
    before = torch.full(shape, IGNORED, device=device)
    return {**found, "labels": torch.cat([before, ids.where(there, IGNORED)], 1)}


def ended(row: list[int], ends: list[int]) -> list[int]:
    """What was written up to the first end, that included."""
    first: Any = next((place for place, token in enumerate(row) if token in ends), None)
    return row if first is None else row[: first + 1]
