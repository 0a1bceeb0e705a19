"""The sites of a space: where stages may be, and which methods each of them takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from prunesearch.core.plans.flow import Tower
from prunesearch.core.plans.stage import BEFORE, IN_TOWER, Stage, parse_method, read_method
from prunesearch.core.tables.token_tables import MERGES, SCORERS


class Sites:
    """Blocks, the place before the first of a decoder's, and blocks of the tower in front, each with its methods.

    Args:
        depth: blocks of the model.
        blocks: those that may have a stage.
        own: methods of blocks.
        front: methods of a tower's blocks.
        tower: in which stages may be; None: none.
        at_input: whether one may be before the first block.
        methods: those that are offered; None for all.

    Attributes:
        layers: the sites, by their numbers (`Place.site`), in the order in which tokens pass them.
        named: whether stages name their parts: where one does, all do.
    """

    def __init__(
        self,
        depth: int,
        blocks: Sequence[int],
        own: Sequence[str],
        front: Sequence[str],
        tower: Tower | None,
        at_input: bool,
        methods: list[str] | None,
    ) -> None:
        self.depth, self.tower, self.named = depth, tower, at_input or tower is not None
        in_tower = [] if tower is None else [IN_TOWER + block for block in range(tower.reach)]
        self.layers = [*in_tower, *([BEFORE] if at_input else []), *blocks]
        known = [Stage(0, 1.0, *read_method(method)).method for method in front] if tower is not None else []
        self.methods = list(dict.fromkeys([*own, *known])) if methods is None else methods
        self._of_tower = set(known)
        self._of_blocks = {name for name in self.methods if name not in self._of_tower} | {*own}

    @property
    def blocks(self) -> list[int]:
        """Those of its sites that are blocks."""
        return [layer for layer in self.layers if layer > BEFORE]

    @property
    def at_depth(self) -> list[float]:
        """Where each site is: a share of the blocks, of a tower from -2 to -1."""
        deep = 0 if self.tower is None else self.tower.depth
        return [(layer - IN_TOWER) / deep - 2 if layer < BEFORE else layer / self.depth for layer in self.layers]

    def takes(self, site: int, method: int) -> bool:
        """Whether a method can be at a site, an index into `layers`.

        Before the first block nothing attends, and a tower has methods of its own.
        """
        layer, name = self.layers[site], self.methods[method]
        if self.tower is None:
            return layer != BEFORE or not self._attends[method]
        if layer < BEFORE:
            return name in self._of_tower
        return name in self._of_blocks and (layer > BEFORE or not self._attends[method])

    def somewhere(self, method: str) -> int:
        """The first of its sites that takes a method, blocks of its own part before others; its number."""
        place = self.methods.index(method)
        taking = [layer for site, layer in enumerate(self.layers) if self.takes(site, place)]
        return next((layer for layer in taking if layer > BEFORE), taking[0])

    @cached_property
    def in_tower(self) -> list[str]:
        """Its methods that may be in a tower."""
        return [name for name in self.methods if name in self._of_tower]

    @property
    def in_blocks(self) -> list[str]:
        """Its methods that may be in the other blocks."""
        return [name for name in self.methods if name in self._of_blocks]

    @cached_property
    def _attends(self) -> list[bool]:
        pairs = [parse_method(method) for method in self.methods]
        return [MERGES.entry(m).uses_scores and SCORERS.entry(s.partition("@")[0]).attends for s, m in pairs]
