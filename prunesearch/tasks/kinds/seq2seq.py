"""Translation and summarisation: the encoder is reduced, the decoder attends to fewer states and writes as before."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.apply import Handle
from prunesearch.tasks.base import Forward, Outputs, Task, output
from prunesearch.tasks.batching.batches import Batch, Inputs
from prunesearch.tasks.libraries import quiet_libraries

_TOP = 64  # log-probabilities that are kept of every position of the unpruned model
_RUNS = 3  # of decoding, timed; their median is told


@dataclass
class Writing(Task):
    """Texts from texts. A batch has the source and, for the decoder, the reference shifted by one; labels are texts.

    What is minimised needs no decoding: the divergence of the next token's probabilities along the reference. The
    metric is of what the model itself writes, greedily.

    Attributes:
        tokenizer: of the model.
        most: tokens that are written at most; None: as the model's own generation settings have it.
        usual: tokens of a reference on average, the number that decoding is timed at.
        timed, beside: what is said of that time: of how many tokens it is, and what latencies are instead.
    """

    timed: ClassVar[str] = "encoding and writing {} tokens"
    beside: ClassVar[str] = "latencies are of encoder and first token alone"
    tokenizer: Any = None
    most: int | None = 64
    usual: int = 32

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """Logits of the next token along the reference, `[b, t, vocabulary]`."""
        options = {"use_cache": False} if forward is self.model else {}
        return {"logits": output(forward(**batch.inputs, **options), "logits")}

    def unable(self, given: Collection[str]) -> str:
        """A forward is of the encoder and one step of the decoder; what is written takes as many steps as tokens."""
        return f"{self.metric} is of texts that are written token by token, and what was exported takes one step"

    def condensed(self, outputs: Outputs) -> Outputs:
        """The 64 most probable tokens of every position and their log-probabilities, `[b, t, 64]`."""
        logp = torch.log_softmax(outputs["logits"].float(), dim=-1)
        found = logp.topk(min(_TOP, logp.shape[-1]), dim=-1)
        return {"logp": found.values, "token": found.indices}

    def divergence(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean KL divergence of the next token over the reference's positions, nats `[b]`.

        Of the unpruned model's 64 most probable tokens and all others together: at most the whole divergence (data
        processing inequality), and nearly it.
        """
        logits = outputs["logits"].float()
        before = reference["logp"]
        after = logits.gather(-1, reference["token"]) - logits.logsumexp(dim=-1, keepdim=True)
        # a rounding error below 0 must not become NaN; in a vocabulary of 64 nothing is left
        rest = [torch.log1p(-x.exp().sum(dim=-1).clamp(max=1 - 1e-6)) for x in (before, after)]
        kl = (before.exp() * (before - after)).sum(dim=-1) + rest[0].exp() * (rest[0] - rest[1])
        return _mean(kl, self.there(batch))

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Share of the reference's positions with the same most probable next token, `[b]`."""
        same = reference["token"][..., 0] == outputs["logits"].argmax(dim=-1)
        return _mean(same.float(), self.there(batch))

    def there(self, batch: Batch) -> Tensor:
        """The real positions of what is compared, bool `[b, t]`."""
        return batch.inputs["decoder_attention_mask"].bool()

    def answers(self, outputs: Outputs, batch: Batch) -> list[str]:
        """What the model writes for every source, greedily, as far as it goes when it is served."""
        written = self._generate(
            self.source(batch.inputs), **({} if self.most is None else {"max_new_tokens": self.most})
        )
        texts: list[str] = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def source(self, inputs: Mapping[str, Tensor]) -> Inputs:
        """Of what a forward takes, what `generate` does."""
        return {name: value for name, value in inputs.items() if not name.startswith("decoder_")}

    def remarks(self, handle: Handle, schedules: Mapping[str, Plan], batch_size: int) -> list[str]:
        """The time to the last token that is written, unpruned and pruned: the columns have that to the first."""
        source = self.timing_inputs(batch_size)
        named = {"unpruned": Plan(), **schedules}
        seconds: dict[str, list[float]] = {name: [] for name in named}
        for _ in range(_RUNS):
            for name, schedule in named.items():  # interleaved, so that a machine's moods hit all alike
                with handle.under(schedule):
                    started = time.perf_counter()
                    self.exactly(source, self.usual).cpu()
                    seconds[name].append(time.perf_counter() - started)
        ms = {name: 1000 * statistics.median(found) for name, found in seconds.items()}
        first = ms.pop("unpruned")
        each = ", ".join(f"{name} {value:.0f} ms ({first / value:.2f}x)" for name, value in ms.items())
        return [
            f"{self.timed.format(self.usual)}, batch {batch_size}: unpruned {first:.0f} ms, "
            f"{1000 * batch_size * self.usual / first:.3g} tokens a second"
            f"{', ' + each if each else ''} (median of {_RUNS}; {self.beside})"
        ]

    def exactly(self, inputs: Mapping[str, Tensor], tokens: int) -> Tensor:
        """What the model writes behind some inputs, greedily, were it to end after so many tokens and no earlier."""
        return self._generate(self.source(inputs), min_new_tokens=tokens, max_new_tokens=tokens)

    @torch.inference_mode()
    def _generate(self, source: Mapping[str, Tensor], **options: int) -> Tensor:
        model: Any = self.model
        with quiet_libraries():  # it warns of every setting of the checkpoint that is overridden
            found: Tensor = model.generate(**source, num_beams=1, do_sample=False, **options)
        return found


def writes_at_most(model: Any, room: int) -> tuple[int | None, str]:
    """How far a model may write: what `Writing.most` is to be, and that in words.

    The lengths of references say nothing of it: a model that is cut in the middle of a word is judged for that.

    Args:
        model: with its generation settings.
        room: tokens for a model whose settings name no limit.
    """
    own = model.generation_config
    if own.max_new_tokens is None and own.max_length is None:
        return room, f"{room} tokens at most"
    limit = own.max_length if own.max_new_tokens is None else own.max_new_tokens
    return None, f"{limit} tokens at most, as its generation settings say"


def _mean(values: Tensor, there: Tensor) -> Tensor:
    """The mean of `[b, t]` over the positions that are `there`."""
    return values.where(there, 0.0).sum(dim=1) / there.sum(dim=1)
