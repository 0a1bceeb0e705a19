"""The shape that an import counts on: from a model's configuration (no weights, no memory), or from numbers."""

from __future__ import annotations

from prunesearch.core.errors import PruneSearchError
from prunesearch.export.schedules.format import ModelShape


def model_shape(
    model: str | None = None, *, depth: int | None = None, tokens: int | None = None, protected: int | None = None
) -> ModelShape | None:
    """Return the shape of `model`, or the one that the numbers give; None if there is neither.

    Args:
        model: a built-in shape, a folder or a Hub id; only its configuration is read.
        depth: number of blocks.
        tokens: sequence length at the start; with a text model, which has any length, it is needed too.
        protected: tokens that are never reduced.

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
    return ModelShape(depth, tokens, protected)


def _from_model(model: str, numbers: dict[str, int | None]) -> ModelShape:
    from prunesearch.pruning.families.find import find_encoder
    from prunesearch.tasks.loading import count_tokens
    from prunesearch.tasks.shapes import load_shape, random_inputs

    built = load_shape(model, device="meta")
    encoder = find_encoder(built)
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
