"""Multi-stage schedules: reductions at fixed sites, by one rate (EViT, DynamicViT) or by one each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from optuna.distributions import CategoricalDistribution, IntDistribution
from pydantic import Field, field_validator

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.amount import kept_count
from prunesearch.core.plans.flow import Tower
from prunesearch.cost.tables.plateaus import Plateau
from prunesearch.search.space.listed import ListedSpace, Shape, step
from prunesearch.search.space.space import ALONE, Space, SpaceFile


class MultiStageFile(SpaceFile):
    """A space of kind `multi-stage`.

    `sites` are block indices, or parts of the depth: 0.25 is block 3 of 12. With `rates: one`, `keep` holds rates, and
    the k-th site keeps rate**k of the initial tokens; with `rates: each`, it holds what any site may keep of them.
    """

    kind: Literal["multi-stage"] = "multi-stage"
    sites: list[int | float] = Field(min_length=1)
    rates: Literal["one", "each"] = "one"
    refused: ClassVar[Mapping[str, str]] = {
        "input": ALONE,
        "tower": ALONE,
        "layers": "its blocks are given by `sites`",
        "max_stages": "it has as many stages as `sites`",
    }

    @field_validator("sites")
    @classmethod
    def _sites(cls, sites: list[int | float]) -> list[int | float]:
        for site in sites:
            if not (0 <= site < 1 if isinstance(site, float) else site >= 0):  # nor NaN
                raise ValueError(f"a site is a block index >= 0, or a part of the depth in [0, 1), but got {site}")
        return sites

    def fit(
        self, depth: int, tokens: int, protected: int, methods: list[str] | None = None, tower: Tower | None = None
    ) -> Space:
        """The space on a model (see `SpaceFile.fit`)."""
        blocks = sorted(int(site * depth) if isinstance(site, float) else site for site in self.sites)
        if blocks[-1] >= depth or len(set(blocks)) < len(blocks):
            raise PruneSearchError(
                f"sites must be different blocks below {depth} on this model, but {self.sites} are {blocks}"
            )
        file = self.model_copy(update={"layers": blocks, "max_stages": len(blocks)})
        kind = OneRateSpace if self.rates == "one" else RatesSpace
        return kind(file, depth, tokens, protected, methods)


class OneRateSpace(ListedSpace):
    """One parameter: the rate."""

    def _grid(self) -> list[float]:
        powers = {rate**k for rate in self.file.keep for k in range(1, len(self.layers) + 1)}
        return sorted(powers, reverse=True)

    def axes(self) -> dict[str, IntDistribution | CategoricalDistribution]:
        """The index of the rate."""
        return {"rate": IntDistribution(0, len(self.file.keep) - 1)}

    def shape_of(self, params: Mapping[str, Any]) -> Shape:
        """The powers of the rate; a site where too few tokens are left to remove one has no stage."""
        rate = self.file.keep[params["rate"]]
        shape: list[tuple[int, int]] = []
        for site in range(len(self.layers)):
            level = self.counts.index(self.protected + kept_count(rate ** (site + 1), self.tokens - self.protected))
            if level > (shape[-1][1] if shape else 0):
                shape.append((site, level))
        return tuple(shape)

    def smaller(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """The next lower rate."""
        return step(params, "rate", len(self.file.keep) - 1)

    def at_edges(self, plateaus: Sequence[Plateau]) -> Space:
        """Itself: counts that moved would not follow one rate any more."""
        return self


class RatesSpace(ListedSpace):
    """A keep level for every site; sorted, so that they fall."""

    def axes(self) -> dict[str, IntDistribution | CategoricalDistribution]:
        """A level for every site; 0: no stage there."""
        levels = IntDistribution(0, len(self.keeps) - 1)
        return {f"level_{site}": levels for site in range(len(self.layers))}

    def shape_of(self, params: Mapping[str, Any]) -> Shape:
        """The levels in rising order; a site at the level of the one before has no stage."""
        shape: list[tuple[int, int]] = []
        for site, level in enumerate(sorted(params[name] for name in self.axes())):
            if level > (shape[-1][1] if shape else 0):
                shape.append((site, level))
        return tuple(shape)

    def smaller(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """Every site one level further down."""
        top = len(self.keeps) - 1
        lower = {name: min(params[name] + 1, top) for name in self.axes()}
        return None if all(params[name] == top for name in lower) else {**params, **lower}
