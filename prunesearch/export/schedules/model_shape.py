"""The shape that an import counts on: from a model's configuration (no weights, no memory), or from numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.stage import DECODER, ENCODER
from prunesearch.export.schedules.format import ModelShape

if TYPE_CHECKING:
    from prunesearch.study.front import Front


def model_shape(
    model: str | None = None,
    *,
    depth: int | None = None,
    tokens: int | None = None,
    protected: int | None = None,
    part: str = ENCODER,
) -> ModelShape | None:
    """Return the shape of `model`, or the one that the numbers give; None if there is neither.

    Args:
        model: a built-in shape, a folder or a Hub id; only its configuration is read.
        depth: number of blocks.
        tokens: sequence length at the start; with a text model, which has any length, it is needed too. Of a model
            that reads pictures in its prompt: those of the prompt.
        protected: tokens that are never reduced; of a prompt: those that are no picture's.
        part: that has the blocks, where there is no model to say so.

    Raises:
        PruneSearchError: if numbers are missing, or given beside a model that has its own.
        UnsupportedModelError: if the model's family cannot be reduced.
    """
    numbers = {"--depth": depth, "--tokens": tokens, "--protected": protected}
    if model is not None:
        return _from_model(model, numbers)
    missing = [name for name, value in numbers.items() if value is None]
    if len(missing) == len(numbers):
        return None
    if depth is None or tokens is None or protected is None:
        raise PruneSearchError(f"a shape needs --depth, --tokens and --protected: add {', '.join(missing)}, or --model")
    return ModelShape(depth, tokens, protected, part=part)


def shape_of(front: Front, provenance: Mapping[str, Any]) -> ModelShape:
    """The model of a study."""
    model = front.model
    return ModelShape(
        model.depth, model.tokens, model.protected, provenance, part=model.part, tower=model.geometry.tower
    )


def _of_prompts(model: str, depth: int, numbers: dict[str, int | None]) -> ModelShape:
    tokens, protected = numbers["--tokens"], numbers["--protected"]
    if numbers["--depth"] is not None:
        raise PruneSearchError(f"--model {model} has its own --depth: leave it out, or leave --model out")
    if tokens is None or protected is None:
        raise PruneSearchError(
            f"'{model}' reads prompts of any length: add --tokens N, those of a prompt with its pictures, and "
            "--protected P, how many of them are no picture's"
        )
    return ModelShape(depth, tokens, protected, {"model": {"id": model}}, True, DECODER)


def _from_model(model: str, numbers: dict[str, int | None]) -> ModelShape:
    from prunesearch.pruning.families.find import find_reduced
    from prunesearch.tasks.loading import count_tokens
    from prunesearch.tasks.shapes import build_shape, random_inputs

    built = build_shape(model, device="meta")
    encoder = find_reduced(built)
    if encoder.family.part == DECODER:
        return _of_prompts(model, encoder.depth, numbers)
    is_image = hasattr(encoder.sizes, "image_size")
    own = ["--depth", "--protected", *(["--tokens"] if is_image else [])]
    extra = [name for name in own if numbers[name] is not None]
    if extra:
        raise PruneSearchError(f"--model {model} has its own {', '.join(extra)}: leave it out, or leave --model out")
    tokens = numbers["--tokens"]
    if is_image:
        tokens = count_tokens(built, random_inputs(built, 1))
    if tokens is None:
        raise PruneSearchError(f"'{model}' reads texts of any length: add --tokens N, the length that the file is for")
    longest = getattr(encoder.base.config, "max_position_embeddings", tokens)
    if tokens > longest:
        raise PruneSearchError(f"`tokens <= {longest}` must hold for '{model}', but got {tokens}")
    origin = {"model": {"id": model}}
    return ModelShape(encoder.depth, tokens, encoder.protected, origin, encoder.family.keeps_order)
