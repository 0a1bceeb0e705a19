"""Constant r: every block removes the same number of tokens (ToMe, Bolya 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from optuna.distributions import CategoricalDistribution, IntDistribution
from pydantic import Field

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.flow import Tower
from prunesearch.cost.tables.plateaus import Plateau
from prunesearch.search.space.listed import ListedSpace, Shape, step
from prunesearch.search.space.space import ALONE, Space, SpaceFile


class ConstantRFile(SpaceFile):
    """A space of kind `constant-r`; `r` lists the numbers of tokens that a block may remove, or is `all`."""

    kind: Literal["constant-r"] = "constant-r"
    keep: list[float] = Field(default=[])
    r: Literal["all"] | Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = "all"
    refused: ClassVar[Mapping[str, str]] = {
        "input": ALONE,
        "tower": ALONE,
        "keep": "what is kept follows from `r`",
        "max_stages": "every block of `layers` removes tokens",
    }

    def fit(
        self, depth: int, tokens: int, protected: int, methods: list[str] | None = None, tower: Tower | None = None
    ) -> Space:
        """The space on a model (see `SpaceFile.fit`)."""
        return ConstantRSpace(self.model_copy(update={"max_stages": depth}), depth, tokens, protected, methods)


class ConstantRSpace(ListedSpace):
    """One parameter: r. As in ToMe, no block removes more than half of the tokens that it may remove."""

    file: ConstantRFile

    def _grid(self) -> list[float]:
        reducible = self.tokens - self.protected
        left = {n for r in self.removed for n in _left(reducible, r, len(self.layers))} - {reducible}
        return [n / reducible for n in sorted(left, reverse=True)]

    @property
    def removed(self) -> list[int]:
        """The numbers to choose from, rising; those beyond half of the tokens are all the same."""
        most = (self.tokens - self.protected) // 2
        asked = range(1, most + 1) if self.file.r == "all" else self.file.r
        found = sorted({min(r, most) for r in asked} - {0})
        if not found:
            raise PruneSearchError(f"a block must have 2 tokens to remove one, but there are {most} to remove")
        return found

    def axes(self) -> dict[str, IntDistribution | CategoricalDistribution]:
        """The index of r."""
        return {"r": IntDistribution(0, len(self.removed) - 1)}

    def shape_of(self, params: Mapping[str, Any]) -> Shape:
        """What every block keeps; blocks that have nothing left to remove have no stage."""
        left = _left(self.tokens - self.protected, self.removed[params["r"]], len(self.layers))
        levels = [self.counts.index(self.protected + n) for n in left]
        return tuple((i, level) for i, level in enumerate(levels) if level > (levels[i - 1] if i else 0))

    def smaller(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """The next larger r."""
        return step(params, "r", len(self.removed) - 1)

    def at_edges(self, plateaus: Sequence[Plateau]) -> Space:
        """Itself: counts that moved would not fall by one r any more."""
        return self


def _left(reducible: int, r: int, blocks: int) -> list[int]:
    """Reducible tokens after each of `blocks` blocks."""
    found, n = [], reducible
    for _ in range(blocks):
        n -= min(r, n // 2)
        found.append(n)
    return found
