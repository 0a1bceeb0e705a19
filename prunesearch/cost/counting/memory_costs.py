"""Peak activation memory as a cost that a search can minimise or bound, by shapes alone.

It is the maximum over the blocks, and does not add up: no dynamic programme solves for it. What one can solve for is a
mean that is never more than the maximum; its solutions are then priced by the maximum itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from prunesearch.core.registry import MERGES
from prunesearch.core.schedule import Schedule
from prunesearch.core.stage import Stage, parse_method
from prunesearch.cost.counting.memory import ByShape
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.borders import watched

_MIB = 2**20
_MARGIN = 1.05
_BEFORE = {False: "position+drop", True: "position+fuse"}  # methods after which token sizes are in play, or are not


class _Block(NamedTuple):
    """What decides the memory of a block.

    `first`: its input is the embeddings, which are held anyway; `biased`: token sizes are in play before it; `method`:
    of its stage, empty for none.
    """

    first: bool
    n_in: int
    n_out: int
    biased: bool
    method: str


class _DoneError(Exception):
    """The block that was asked for is through: the rest of the forward need not run."""


class MemoryCosts:
    """Peak activations of one forward of a batch in MiB, weights and inputs apart; an estimate, see `memory`.

    But for the first, the place of a block does not matter. So every kind of block is run once, as the first or second
    of a forward of which only shapes are computed.

    Args:
        model: in eval mode.
        handle: of the schedule that it carries; left as it is.
        inputs: one batch without padding.
        tokens: sequence length at the start.
    """

    def __init__(self, model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor], tokens: int) -> None:
        self.handle, self.tokens = handle, tokens
        # a mask of ones changes no number, and shapes alone cannot look into it
        self._shapes = ByShape(model, {name: value for name, value in inputs.items() if name != "attention_mask"})
        self._known: dict[_Block, float] = {}
        self._before = 0.0  # peak of what precedes the blocks, MiB

    def predict(self, schedule: Schedule) -> float:
        """A whole schedule."""
        highest = self._before
        for block in dict.fromkeys(self._blocks(schedule)):
            if not block.method or block.n_in == self.tokens or not self._is_lower(block, highest):
                highest = max(highest, self._peak(block))
        return max(highest, self._before)

    def attention(self, n: int, biased: bool) -> float:
        """Nothing: of the mean that is solved for, `mlp` has all."""
        return 0.0

    def mlp(self, n: int) -> float:
        """The peak of a block that `n` tokens enter and leave, divided by the number of blocks.

        A block that more tokens enter needs no less, so the sum over all blocks is at most the maximum.
        """
        first = n == self.tokens
        return self._peak(_Block(first, n, n, False, "")) / self.handle.encoder.depth

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

    def _blocks(self, schedule: Schedule) -> Iterator[_Block]:
        encoder = self.handle.encoder
        stages = {s.layer: s for s in schedule}
        n, biased = self.tokens, False
        for layer, n_out in enumerate(schedule.counts(encoder.depth, self.tokens, encoder.protected)):
            stage = stages.get(layer) if n_out < n else None
            yield _Block(layer == 0, n, n_out, biased, "" if stage is None else stage.method)
            biased = biased or (stage is not None and MERGES.entry(stage.merge).makes_sizes)
            n = n_out

    def _is_lower(self, block: _Block, highest: float) -> bool:
        """Whether the same block with all tokens before it stays well below `highest`: saves running it for each count.

        That one is without token sizes, which are one number a token: the margin is for them.
        """
        return _MARGIN * self._peak(block._replace(first=False, n_in=self.tokens, biased=False)) <= highest

    def _peak(self, block: _Block) -> float:
        if block not in self._known:
            self._known[block] = self._run(block)
        return self._known[block]

    def _run(self, block: _Block) -> float:
        """Run the block by shapes, behind one that brings it its tokens unless it is the first."""
        stages = []
        if block.n_in < self.tokens:
            stages.append(self._stage(0, block.n_in, _BEFORE[block.biased]))
        if block.method:
            stages.append(self._stage(0 if block.first else 1, block.n_out, block.method))
        peaks: list[int] = []
        schedule, trace = self.handle.schedule, self.handle.trace
        self.handle.trace = None
        self.handle.set(Schedule(stages))
        try:
            with self._shapes.recorded() as live:

                def entering() -> None:
                    """Note the peak since the block before was entered."""
                    peaks.append(live.peak)
                    live.peak = live.now
                    if len(peaks) > (1 if block.first else 2):
                        raise _DoneError

                with watched(self.handle, entering):
                    self._shapes.forward()
                peaks.append(live.peak)
        except _DoneError:
            pass
        finally:
            self.handle.set(schedule)
            self.handle.trace = trace
        self._before = peaks[0] / _MIB
        return peaks[1 if block.first else 2] / _MIB

    def _stage(self, layer: int, n: int, method: str) -> Stage:
        protected = self.handle.encoder.protected
        return Stage(layer, (n - protected) / (self.tokens - protected), *parse_method(method))
