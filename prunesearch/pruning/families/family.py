"""What a row of the table of model families says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunesearch.core.plans.stage import ENCODER
from prunesearch.pruning.families.blocks import Layout
from prunesearch.pruning.families.positions import Positions
from prunesearch.pruning.forward.state import Host
from prunesearch.pruning.hooks import Hooks

# why a model cannot be reduced
WINDOWS = "it attends within windows of a grid, which need every token in its place"
GRID = "it pools a grid between its stages, which needs every token in its place"

# called with who runs the blocks, the model that `apply_` was given, and what takes its hooks
Attachment = Callable[[Host, nn.Module, Hooks], None]


def hidden_states_alone(x: Tensor, kwargs: dict[str, Any]) -> Any:
    """What most blocks return."""
    return x


@dataclass(frozen=True)
class Family:
    """Where the blocks of a model are, how they compute, and which of its tokens are protected.

    The first five say it all for most families; the others are for what a model does beyond a plain encoder.

    Args:
        model_type: `config.model_type` of the transformers class.
        blocks: path of the list of blocks from the base model.
        layout: how a block computes.
        protects: in words, for people.
        leading: protected tokens at the start of a row; a number, or the config's say.
        trailing: protected tokens at the end of a row.
        cls: place of the CLS token among a row's real tokens (-1: the last), or None (then CLS scorers use the average
            query instead).
        tasks: what its heads are for, in the Hub's words.
        limits: what does not work, in words, for people.
        by_config: fields of this row that hang on the model's config, worked out.
        refuses: why a model with this config cannot be reduced, or None.
        positions: what of a block's inputs speaks of places, and follows the tokens; None if nothing does.
        positional: names of the arguments that the model gives its blocks by position, after hidden states and mask.
        returns: what a block's own forward returns: from the hidden states and the block's keyword arguments.
        order: the blocks as a forward runs through them, given what lies at `blocks` and the config; None: once each.
        start: path of the module that runs the blocks, where a forward may skip the first of them, or runs one twice.
        attachments: hooks on the model around its blocks.
        wraps: of a wrapper around models of another library, given the wrapper: the fields of this row that hang on the
            model inside, or why that one cannot be reduced.
        sizes: what says `hidden_size`, `num_attention_heads`, `hidden_act`, and of images `image_size`, `patch_size`
            and `num_channels`, where the model's config does not; None for the config.
        part: where its blocks are, a name in `PARTS`; of a decoder, tokens of pictures in a prompt may leave.
        merges: whether tokens may be merged.
        videos: whether stages of a decoder are told which of its tokens are of which frame of a video.
        tower: whether stages of a decoder are told what the tower in front of it attended to.
        tower_at: path of that tower, where stages may be in it: its tokens are those of a picture, one by one.
        tower_leads: how many of that tower's blocks lead to the features: an index as `hidden_states` has it.
        whole_tower: why no stage may be in it, in words; of a decoder without `tower_at`.
        space: the search space where none is asked for; None: the default one.
        secondary: True for the one of a model's two encoders that is reduced only when it is passed by itself.
    """

    model_type: str
    blocks: str
    layout: Layout
    protects: str
    leading: int | Callable[[Any], int] = 1
    trailing: int = 0
    cls: int | None = 0
    tasks: tuple[str, ...] = ()
    limits: str = ""
    by_config: Callable[[Any], Mapping[str, Any]] | None = None
    refuses: Callable[[Any], str | None] | None = None
    positions: Positions | None = None
    positional: tuple[str, ...] = ()
    returns: Callable[[Tensor, dict[str, Any]], Any] = hidden_states_alone
    order: Callable[[nn.Module, Any], list[nn.Module]] | None = None
    start: str | None = None
    attachments: tuple[Attachment, ...] = ()
    wraps: Callable[[nn.Module], Mapping[str, Any] | str] | None = None
    sizes: Any = None
    part: str = ENCODER
    merges: bool = True
    tower: bool = False
    videos: bool = False
    tower_at: str = ""
    tower_leads: int = -1
    whole_tower: str = ""
    space: Path | None = None
    secondary: bool = False

    @property
    def keeps_order(self) -> bool:
        """Whether tokens stay in order: blocks are told positions, or tokens at the end of a row are protected."""
        return self.positions is not None or self.trailing > 0

    def n_leading(self, config: Any) -> int:
        """Protected tokens at the start of a row of a model with this config."""
        return self.leading(config) if callable(self.leading) else self.leading

    def for_config(self, config: Any) -> Family:
        """This row for a model with this config: what was to be worked out is."""
        found = self if self.by_config is None else replace(self, **self.by_config(config))
        return replace(found, leading=found.n_leading(config), by_config=None, refuses=None, order=None, wraps=None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Family:
        return self  # nothing in it changes, nor is a part of any model
