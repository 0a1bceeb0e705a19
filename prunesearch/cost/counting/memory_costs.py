"""Peak activation memory as a cost that a search can minimise or bound, by shapes alone.

It is the maximum over the blocks, and does not add up: no dynamic programme solves for it. What one can solve for is a
mean that is never more than the maximum; its solutions are then priced by the maximum itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from prunesearch.core.plans.flow import Flow, Geometry, Step
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage, read_method
from prunesearch.cost.costs import OfOneModel
from prunesearch.cost.counting.memory import ByShape
from prunesearch.cost.shape import block_variants
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.borders import watched

_MIB = 2**20
_MARGIN = 1.05
_BEFORE = {False: "position+drop", True: "position+fuse"}  # methods after which token sizes are in play, or are not


class _Block(NamedTuple):
    """What decides the memory of a block.

    `layer`: the block that stands for all of its kind; 0 is a kind of its own, whose input is the embeddings, which are
    held anyway. `sized`: token sizes are in play before it; `method`: of its stage, empty for none.
    """

    layer: int
    n_in: int
    n_out: int
    sized: bool
    method: str


class _DoneError(Exception):
    """The block that was asked for is through: the rest of the forward need not run."""


class MemoryCosts(OfOneModel):
    """Peak activations of one forward of a batch in MiB, weights and inputs apart; an estimate, see `memory`.

    But for the first, the place of a block of one variant does not matter. So every kind of block is run once, in a
    forward of which only shapes are computed and which ends behind it.

    Args:
        model: in eval mode.
        handle: of the schedule that it carries; left as it is.
        inputs: one batch without padding.
        tokens: sequence length at the start.
    """

    def __init__(self, model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor], tokens: int) -> None:
        encoder = handle.encoder
        self.handle, self.tokens = handle, tokens
        self._geometry = Geometry(encoder.depth, tokens, encoder.protected)
        variants = block_variants(encoder, int(encoder.sizes.hidden_size))
        behind = {variant: layer for layer, variant in reversed(list(enumerate(variants))) if layer > 0}
        self._standing_for = [0, *(behind[variant] for variant in variants[1:])]
        self._like_first = behind.get(variants[0])
        # a mask of ones changes no number, and shapes alone cannot look into it
        self._shapes = ByShape(model, {name: value for name, value in inputs.items() if name != "attention_mask"})
        self._known: dict[_Block, float] = {}
        self._before = 0.0  # peak of what precedes the blocks, MiB

    @property
    def geometry(self) -> Geometry:
        """Of the model."""
        return self._geometry

    def price(self, flow: Flow) -> float:
        """A whole forward."""
        highest = self._before
        for block in dict.fromkeys(map(self._kind, flow)):
            if not block.method or block.n_in == self.tokens or not self._is_lower(block, highest):
                highest = max(highest, self._peak(block))
        return max(highest, self._before)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """Nothing: of the mean that is solved for, `mlp` has all."""
        return 0.0

    def mlp(self, n: int, layer: int) -> float:
        """The peak of a block that `n` tokens enter and leave, divided by the number of blocks.

        A block that more tokens enter needs no less, so the sum over all blocks is at most the maximum.
        """
        variant = self._standing_for[layer] or self._like_first
        if n == self.tokens and variant == self._like_first:
            variant = 0
        if variant is None:  # fewer tokens never enter a block of this kind
            return 0.0
        return self._peak(_Block(variant, n, n, False, "")) / self._geometry.depth

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """Nothing: see `attention`."""
        return 0.0

    @property
    def stem(self) -> float:
        """Nothing: see `attention`."""
        return 0.0

    def head(self, n: int) -> float:
        """Nothing: see `attention`."""
        return 0.0

    def _kind(self, step: Step) -> _Block:
        method = "" if step.stage is None else step.stage.method
        return _Block(self._standing_for[step.layer], step.n_in, step.n_out, step.sized, method)

    def _is_lower(self, block: _Block, highest: float) -> bool:
        """Whether the same block with all tokens before it stays well below `highest`: saves running it for each count.

        That one is without token sizes, which are one number a token: the margin is for them.
        """
        return _MARGIN * self._peak(block._replace(n_in=self.tokens, sized=False)) <= highest

    def _peak(self, block: _Block) -> float:
        if block not in self._known:
            self._known[block] = self._run(block)
        return self._known[block]

    def _run(self, block: _Block) -> float:
        """Run the block by shapes, behind one that brings it its tokens unless it is the first."""
        stages = []
        if block.n_in < self.tokens:
            stages.append(self._stage(0, block.n_in, _BEFORE[block.sized]))
        if block.method:
            stages.append(self._stage(block.layer, block.n_out, block.method))
        peaks: list[int] = []
        try:
            with self.handle.under(Schedule(stages), traced=False), self._shapes.recorded() as live:

                def entering() -> None:
                    """Note the peak since the block before was entered."""
                    peaks.append(live.peak)
                    live.peak = live.now
                    if len(peaks) > block.layer + 1:
                        raise _DoneError

                with watched(self.handle, entering):
                    self._shapes.forward()
                peaks.append(live.peak)
        except _DoneError:
            pass
        self._before = peaks[0] / _MIB
        return peaks[block.layer + 1] / _MIB

    def _stage(self, layer: int, n: int, method: str) -> Stage:
        protected = self.handle.encoder.protected
        return Stage(layer, (n - protected) / (self.tokens - protected), *read_method(method))
