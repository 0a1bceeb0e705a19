"""Which models can be reduced, and finding the encoder inside one. The rows are in `rows`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.core.plans.flow import Part, Tower, parts_of
from prunesearch.core.plans.stage import ENCODER
from prunesearch.core.tables.names import Registry, Row, make_table
from prunesearch.pruning.families.family import Family
from prunesearch.pruning.families.in_decoder import of_pictures
from prunesearch.pruning.families.rows import AROUND, NEAREST, REFUSED, ROWS
from prunesearch.pruning.interface import own_config

__all__ = ["FAMILIES", "Encoder", "Family", "check_model_type", "find_encoder", "register_family"]

# before the `model_type` of a model that was exported with its schedule, which is a type of its own
PRUNED = "pruned_"
BY_ROW = "by_row_"  # and behind that, where each row has one of several


def _described(family: Family, help: str = "") -> Row:
    """A family as a row of its table: its line of help is what it protects."""
    return Row(family, f"protects {family.protects}")


def _check(name: str, row: Row, others: Mapping[str, Row]) -> None:
    """Refuse a family under another name than the one that models are known by."""
    if row.target.model_type != name:
        raise PruneSearchError(f"model family '{row.target.model_type}' is registered as '{name}': call it by one name")


# by `config.model_type`; `load` gives the `Family`
FAMILIES: Registry[Row] = make_table(
    "model family", {row.model_type: _described(row) for row in ROWS}, _described, "families", _check
)

# heads whose forward needs the full grid of tokens back
_NEEDS_GRID = (
    "ForMaskedImageModeling",
    "ForSemanticSegmentation",
    "ForSegmentation",
    "ForDepthEstimation",
    "ForPreTraining",
    "Backbone",
)


@dataclass(frozen=True)
class Encoder:
    """A supported encoder found inside a model: its family, its base module and its blocks.

    `blocks` are in the order in which a forward runs through them; one that serves several passes is there several
    times. `cores` are their attention modules. `tower` makes a decoder's pictures, where stages may be in it.
    """

    family: Family
    base: PreTrainedModel
    blocks: list[nn.Module]
    cores: list[nn.Module]
    tower: Encoder | None = None

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Where stages may be, the part with its blocks last; a decoder's come behind its input."""
        return parts_of(self.family.part, self.depth, self.reach)

    @property
    def reach(self) -> int:
        """How many blocks of the tower lead to the tokens of pictures; 0 where no stage may be in it."""
        if self.tower is None:
            return 0
        leads = self.family.tower_leads
        return leads if leads >= 0 else self.tower.depth + 1 + leads

    @property
    def leading(self) -> int:
        """Protected tokens at the start of a row."""
        return self.family.n_leading(self.base.config)

    @property
    def protected(self) -> int:
        """Protected tokens of a row without padding."""
        return self.leading + self.family.trailing

    def protected_in(self, inputs: Mapping[str, Tensor]) -> int:
        """Protected tokens of a row of a batch without padding; in a prompt, of its first row, all but its pictures.

        Raises:
            PruneSearchError: for a prompt that is not given as `input_ids`.
        """
        if self.family.part == ENCODER:
            return self.protected
        ids = inputs.get("input_ids")
        if ids is None:
            raise PruneSearchError(f"a '{self.family.model_type}' reads prompts: give input_ids with their pictures")
        may_leave = of_pictures(self.base.config, ids[:1, :-1])  # the last token of a prompt stays, whatever it is
        return int(ids.shape[1] - may_leave.sum())

    def tower_in(self, inputs: Mapping[str, Tensor]) -> Tower | None:
        """How tokens pass the tower where prompts have the pictures of `inputs`; None where none may leave in it."""
        if self.tower is None:
            return None
        pictures = len(inputs["pixel_values"]) // len(inputs["input_ids"])
        each = int(of_pictures(self.base.config, inputs["input_ids"][0]).sum()) // pictures
        never = self.tower.protected
        return Tower(self.tower.depth, never + each, never, pictures, self.reach)

    @property
    def sizes(self) -> Any:
        """What says the model's sizes, by the names of transformers' configs: its config, unless it wraps a model."""
        return self.base.config if self.family.sizes is None else self.family.sizes

    @property
    def attention_config(self) -> Any:
        """The configuration that says how its blocks attend; an encoder-decoder's encoder may have one of its own."""
        return own_config(getattr(self.cores[0], "config", self.base.config))


def register_family(family: Family) -> None:
    """Add a row to the table of model families, for models whose `config.model_type` it names.

    Args:
        family: the row; `docs/families.md` is the guide.

    Raises:
        PruneSearchError: if the table has a row for that model type.
    """
    FAMILIES.add(family.model_type, _described(family))


def check_model_type(model_type: str, config: Any = None) -> None:
    """Raise `UnsupportedModelError`, naming the nearest supported families and what is missing, if there is no row.

    Args:
        model_type: the `config.model_type` of a model.
        config: that config, to know what the model reads where no family has a name like its own.
    """
    if model_type in FAMILIES or model_type in AROUND:
        return
    close = difflib.get_close_matches(model_type, FAMILIES, n=3, cutoff=0.5)
    alike = next((names for key, names in NEAREST.items() if hasattr(config, key)), ())
    missing = "no row says where its blocks are (ps.register_family, docs/families.md)"
    missing, near = REFUSED.get(model_type, (missing, tuple(close) or alike))
    hint = f"nearest: {', '.join(near)}; " if near else ""
    raise UnsupportedModelError(
        f"model family '{model_type}' is not supported: {missing}; {hint}Known: {', '.join(sorted(FAMILIES))}"
    )


def own_type(config: Any) -> str:
    """The `model_type` that a family is known by."""
    return str(config.model_type).removeprefix(PRUNED).removeprefix(BY_ROW)


def find_encoder(model: nn.Module) -> Encoder:
    """As `find_reduced`, for what knows of encoders alone.

    Raises:
        UnsupportedModelError: for a decoder too.
    """
    found = find_reduced(model)
    if found.family.part != ENCODER:
        raise UnsupportedModelError(
            f"a '{found.family.model_type}' can be reduced (ps.apply_) and searched (prunesearch run) on the device at "
            "hand, and exported (--to hf), but not yet trained, profiled or estimated for others, or given as batches"
        )
    return found


def find_reduced(model: nn.Module) -> Encoder:
    """Find what can be reduced in `model`, which may be a transformers model or a module that wraps one.

    It is an encoder, or the decoder of a model that reads pictures in its prompt. Of a model with two encoders, the
    vision tower is taken.

    Raises:
        UnsupportedModelError: naming the nearest supported families and what stands in the way.
    """
    models = [m for m in model.modules() if isinstance(m, PreTrainedModel)]
    if not models:
        raise UnsupportedModelError(
            f"{type(model).__name__} holds no transformers model: pass a PreTrainedModel or a module around one"
        )
    known = [m for m in models if own_type(m.config) in FAMILIES]
    if not known or (own_type(models[0].config) in REFUSED and known[0] in set(models[0].modules())):
        check_model_type(own_type(models[0].config), models[0].config)
    found = next((m for m in known if not FAMILIES[own_type(m.config)].secondary), known[0])
    _check_class(found)
    row = _unwrapped(found, FAMILIES[own_type(found.config)])
    base = _base_of(found, row)
    why_not = None if row.refuses is None else row.refuses(base.config)
    if why_not is not None:
        raise _refusal(row, why_not)
    family, place = row.for_config(base.config), base.get_submodule(row.blocks)
    blocks = list(place.children()) if row.order is None else row.order(place, base.config)
    tower = find_reduced(base.get_submodule(family.tower_at)) if family.tower_at else None
    return Encoder(family, base, blocks, [b.get_submodule(family.layout.core) for b in blocks], tower)


def _unwrapped(model: PreTrainedModel, row: Family) -> Family:
    """`row` for what `model` wraps, if it does."""
    if row.wraps is None:
        return row
    inside = row.wraps(model)
    if isinstance(inside, str):
        raise _refusal(row, inside)
    return replace(row, **inside)


def _refusal(row: Family, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"this '{row.model_type}' cannot be reduced: {why}")


def _base_of(model: PreTrainedModel, row: Family) -> PreTrainedModel:
    """`model` without its head: the module from which the path of the blocks starts."""
    for base in (cast(PreTrainedModel, model.base_model), model):  # DINOv3 takes a part of itself for its base
        if any(name == row.blocks for name, _ in base.named_modules()):
            return base
    raise UnsupportedModelError(
        f"{type(model).__name__} has no blocks at '{row.blocks}', where those of a '{row.model_type}' are: "
        "pass the model that has them"
    )


def _check_class(model: PreTrainedModel) -> None:
    """Raise `UnsupportedModelError` for a class whose outputs would be wrong or fail on fewer tokens."""
    name = type(model).__name__
    if name.endswith(_NEEDS_GRID):
        raise UnsupportedModelError(
            f"{name} needs every token back in its place: use the encoder or a classification model of the family"
        )
    if getattr(model.config, "is_decoder", False):
        raise UnsupportedModelError(
            f"{name} is configured as a decoder: tokens can be reduced in encoders only (is_decoder=False)"
        )
