"""Checking an exported model that reads pictures in its prompt: what it writes, token for token, also in a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prunesearch.core.errors import PruneSearchError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunesearch.export.models.model_format import ModelSource

TOKENS = 16  # that are written and compared
_LAST = "logits_to_keep"  # the input that says whose logits a prefill gives
_ROWS = 3


def reads_prompts(model: nn.Module) -> bool:
    """Whether a model is a decoder that reads pictures in its prompt."""
    from prunesearch.core.plans.stage import ENCODER
    from prunesearch.pruning.families.find import find_reduced

    return find_reduced(model).family.part != ENCODER


def prompt_batches(inputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """A prompt alone, and a batch of prompts of other lengths, padded on the left."""
    import torch

    batch = len(inputs["input_ids"])
    rows = torch.arange(_ROWS) % batch
    pictures = {name: value for name, value in inputs.items() if name != _LAST and len(value) % batch == 0}
    alone = {name: value[: len(value) // batch] for name, value in pictures.items()}
    many = {}
    for name, value in pictures.items():
        each = len(value) // batch
        many[name] = torch.cat([value[each * int(row) : each * int(row) + each] for row in rows]).clone()
    # the text before the first picture may be padding instead: other rows keep it
    text = int(_leading_text(many["input_ids"]))
    for row in range(1, _ROWS):
        many["attention_mask"][row, : min(row, text)] = 0
    return [alone, many]


def _leading_text(ids: Tensor) -> Tensor:
    """Tokens that all rows begin with before the one that is there most often: a picture's."""
    picture = ids.flatten().mode().values
    return (ids == picture).int().argmax(1).min()


def check_answers(source: ModelSource, written: nn.Module) -> str:
    """Compare what an exported model writes with what the applied one does; returns that it is the same, in words.

    Raises:
        PruneSearchError: at the first token that differs.
    """
    import torch

    from prunesearch.pruning.apply import apply_

    batches = prompt_batches(source.inputs)
    with apply_(source.model, source.plan, seed=source.seed, fits=source.fits):
        wanted = [_said(source.model, batch) for batch in batches]
    if not source.plan.whole:  # in fewer bits the likeliest token may be another, by design
        for batch, want in zip(batches, wanted, strict=True):
            found = _said(written, batch)
            if not torch.equal(found, want):
                first = int((found != want).any(0).nonzero()[0, 0])
                raise PruneSearchError(
                    f"what was written answers otherwise than the plan from token {first} on: another scorer or merge "
                    "may do; the plan alone can be exported with --to json"
                )
    rows = ", ".join(str(len(batch["input_ids"])) for batch in batches)
    return (
        f"{TOKENS} tokens, written greedily with a cache, are those of the plan (batches of {rows}, padded on the left)"
    )


def _said(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    import torch

    from prunesearch.tasks.libraries import quiet_libraries

    with torch.inference_mode(), quiet_libraries():
        out: Tensor = model.generate(
            **batch, min_new_tokens=TOKENS, max_new_tokens=TOKENS, do_sample=False, num_beams=1
        )
    return out[:, batch["input_ids"].shape[1] :]
