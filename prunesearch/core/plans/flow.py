"""A schedule on a model: how many tokens enter and leave each block, which of them carry sizes, where stages take some.

The walk over a forward is here, once; what a forward costs, how it is timed and how it is shown all read it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.stage import ENCODER, INPUT, TOWER, Place, Stage
from prunesearch.core.tables.token_tables import MERGES

if TYPE_CHECKING:
    from collections.abc import Iterable


class Part(NamedTuple):
    """A run of blocks that tokens pass in order."""

    name: str
    depth: int


class Tower(NamedTuple):
    """What makes the tokens of a decoder's pictures, one of each of its reducible ones.

    Attributes:
        depth: number of blocks that a forward runs.
        tokens: of a picture at the start, protected ones included.
        protected: of them, never reduced.
        pictures: of a prompt.
        reach: so many of its blocks lead to the tokens: stages may be in them.
    """

    depth: int
    tokens: int
    protected: int
    pictures: int
    reach: int


def parts_of(part: str, depth: int, reach: int = 0) -> tuple[Part, ...]:
    """The parts of a model whose blocks are in `part`: a decoder's come behind its input, and perhaps its tower.

    `reach`: see `Tower`.
    """
    own = Part(part, depth)
    if part == ENCODER:
        return (own,)
    return (*((Part(TOWER, reach),) if reach else ()), Part(INPUT, 1), own)


@dataclass(frozen=True)
class Geometry:
    """What of a model decides how tokens flow.

    Nothing is said of WHERE in a row the protected tokens are: they may lead, end it, or lie in its middle.

    Args:
        depth: number of blocks.
        tokens: sequence length at the start, protected tokens included, padding left out.
        protected: how many of them are never reduced.
        part: that has the blocks; a decoder's tokens may leave before its first block too.
        tower: in which they may leave as well; None where they may not.

    Raises:
        PruneSearchError: for numbers that no model can have.
    """

    depth: int
    tokens: int
    protected: int
    part: str = ENCODER
    tower: Tower | None = None

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise PruneSearchError(f"`depth >= 1` must hold for a model, but got {self.depth}")
        if not 0 <= self.protected <= self.tokens:
            raise PruneSearchError(f"`0 <= protected <= tokens` must hold, but got {self.protected} of {self.tokens}")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts in the order in which tokens pass them, the one with the blocks last."""
        return parts_of(self.part, self.depth, 0 if self.tower is None else self.tower.reach)

    @cached_property
    def of_tower(self) -> Geometry | None:
        """The tower's own, of one picture."""
        return None if self.tower is None else Geometry(self.tower.depth, self.tower.tokens, self.tower.protected)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every place of a stage, in the order in which tokens pass them."""
        return tuple(Place(part.name, block) for part in self.parts for block in range(part.depth))

    @property
    def reducible(self) -> int:
        """Tokens that stages may take away."""
        return self.tokens - self.protected


class Step(NamedTuple):
    """One block of a forward.

    Attributes:
        place: where it is.
        n_in: tokens that its attention works on, protected ones included.
        n_out: tokens that its MLP works on; at most, behind a stage that leaves every row a count of its own.
        sized: whether its attention adds `log(size)`: some token before it may stand for several.
        stage: what takes tokens away between the two; None where nothing is removed.
    """

    place: Place
    n_in: int
    n_out: int
    sized: bool
    stage: Stage | None

    @property
    def layer(self) -> int:
        """Number of the block in its part."""
        return self.place.block


@dataclass(frozen=True)
class Flow:
    """The blocks of one forward in order; made by `Schedule.flow`.

    Attributes:
        geometry: of the model.
        stages: of the schedule, those that remove nothing at this length included.
    """

    geometry: Geometry
    stages: tuple[Stage, ...]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """One step a block."""
        return tuple(_walk(self.geometry, self.stages))

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def entry(self) -> Stage | None:
        """The stage before the first block, where it removes something."""
        found = next((stage for stage in self.stages if stage.place.part == INPUT), None)
        return found if found is not None and self.n_in < self.n_given else None

    @cached_property
    def in_tower(self) -> Flow | None:
        """The forward of the tower, of one picture; None where none of its tokens may leave."""
        of_tower = self.geometry.of_tower
        if of_tower is None:
            return None
        return Flow(of_tower, tuple(s.replace(layer=s.layer) for s in self.stages if s.place.part == TOWER))

    @cached_property
    def n_given(self) -> int:
        """Tokens of the prompt that the tower leaves, before a stage at the input."""
        return _from_tower(self.geometry, self.stages)

    @cached_property
    def n_in(self) -> int:
        """Tokens that the first block is given."""
        return _given(self.geometry, self.stages)

    @property
    def counts(self) -> list[int]:
        """Tokens leaving each block."""
        return [step.n_out for step in self.steps]

    @property
    def n_out(self) -> int:
        """Tokens that leave the last block."""
        return self.steps[-1].n_out

    def on(self, geometry: Geometry) -> Flow:
        """The same stages on another model, or at another length."""
        return self if geometry == self.geometry else Flow(geometry, self.stages)


@dataclass(frozen=True)
class SeenFlow(Flow):
    """The blocks of a forward that was watched: where rows have counts of their own, its batch says how wide it is.

    Attributes:
        widths: tokens that enter each block, and that leave the last: those of the row that has most.
    """

    widths: tuple[int, ...]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """One step a block."""
        return tuple(_seen(self.geometry, self.stages, self.widths))

    @cached_property
    def n_in(self) -> int:
        """Tokens that the first block is given."""
        return self.widths[0]


def _seen(geometry: Geometry, stages: Iterable[Stage], widths: Sequence[int]) -> Iterator[Step]:
    by_block, sized = _by_block(stages), False
    for block, (n, n_out) in enumerate(itertools.pairwise(widths)):
        stage = by_block.get(block)
        acts = stage is not None and (n_out < n or stage.by_row)
        yield Step(Place(geometry.part, block), n, n_out, sized, stage if acts else None)
        sized = sized or (acts and stage is not None and MERGES.entry(stage.merge).makes_sizes)


def _by_block(stages: Iterable[Stage]) -> dict[int, Stage]:
    return {stage.layer: stage for stage in stages if stage.place.part not in (TOWER, INPUT)}


def _from_tower(geometry: Geometry, stages: Iterable[Stage]) -> int:
    """Tokens of the prompt that the tower leaves: of each picture by itself."""
    tower = geometry.tower
    if tower is None:
        return geometry.tokens
    each = [stage.amount.kept(tower.tokens - tower.protected) for stage in stages if stage.place.part == TOWER]
    return min([geometry.tokens, *(geometry.protected + tower.pictures * left for left in each)])


def _given(geometry: Geometry, stages: Sequence[Stage]) -> int:
    """Tokens that the first block is given."""
    before = [stage.amount.kept(geometry.reducible) for stage in stages if stage.place.part == INPUT]
    return min([_from_tower(geometry, stages), *(geometry.protected + left for left in before)])


def _walk(geometry: Geometry, stages: Iterable[Stage]) -> Iterator[Step]:
    stages = tuple(stages)
    by_block = _by_block(stages)
    n, sized, reducible = _given(geometry, stages), False, geometry.reducible
    for block in range(geometry.depth):
        place, stage = Place(geometry.part, block), by_block.get(block)
        if stage is None:
            yield Step(place, n, n, sized, None)
            continue
        n_out = min(n, geometry.protected + stage.amount.kept(reducible))
        acts = n_out < n or stage.by_row
        yield Step(place, n, n_out, sized, stage if acts else None)
        sized = sized or (acts and MERGES.entry(stage.merge).makes_sizes)
        n = n_out
