"""What is around an encoder: a model that counts its tokens cannot do with fewer."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from prunesearch.core.errors import UnsupportedModelError
from prunesearch.pruning.families.rows import AROUND

# models of transformers around encoders of other families that read pooled states alone
_POOLING = (*AROUND, "vision-text-dual-encoder")


def holders(model: nn.Module, base: nn.Module) -> list[nn.Module]:
    """The modules inside `model`, itself included, that have `base` in them, from the outermost to `base`."""
    return [module for module in model.modules() if any(part is base for part in module.modules())]


def check_surroundings(model: nn.Module, base: PreTrainedModel) -> None:
    """Raise `UnsupportedModelError` if something around `base` in `model` counts or masks its tokens."""
    for module in holders(model, base):
        if not isinstance(module, PreTrainedModel) or not type(module).__module__.startswith("transformers."):
            continue
        kind, own = module.config.model_type, base.config.model_type
        if kind not in (own, *_POOLING):
            raise UnsupportedModelError(
                f"{type(module).__name__} counts the tokens that '{own}' inside it gives (placeholders, masks of "
                f"cross-attention), so that none may leave: apply a schedule to a '{own}' by itself"
            )
