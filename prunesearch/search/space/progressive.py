"""Progressive schedules: from a first to a last block, the tokens fall along a curve to what is kept at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from optuna.distributions import CategoricalDistribution, IntDistribution
from pydantic import Field, field_validator

from prunesearch.core.plans.flow import Tower
from prunesearch.core.tables.registry import CURVES
from prunesearch.search.space.listed import ListedSpace, Shape, step
from prunesearch.search.space.space import ALONE, Space, SpaceFile


def linear(t: float, end: float) -> float:
    """Fraction kept at the part `t` (0 to 1) of the way to `end`."""
    return 1 - (1 - end) * t


def cosine(t: float, end: float) -> float:
    """As `linear`."""
    return 1 - (1 - end) * (1 - math.cos(math.pi * t)) / 2


def geometric(t: float, end: float) -> float:
    """As `linear`."""
    return float(end**t)


class ProgressiveFile(SpaceFile):
    """A space of kind `progressive`; `keep` holds the fractions at the end, to which those on the way are rounded."""

    kind: Literal["progressive"] = "progressive"
    refused: ClassVar[Mapping[str, str]] = {"input": ALONE, "tower": ALONE}
    max_stages: int = Field(default=512, ge=1)
    curves: list[str] = Field(default_factory=lambda: list(CURVES), min_length=1)

    @field_validator("curves")
    @classmethod
    def _curves(cls, names: list[str]) -> list[str]:
        for name in names:
            CURVES.entry(name)
        return names

    def fit(
        self, depth: int, tokens: int, protected: int, methods: list[str] | None = None, tower: Tower | None = None
    ) -> Space:
        """The space on a model (see `SpaceFile.fit`)."""
        return ProgressiveSpace(self, depth, tokens, protected, methods)


class ProgressiveSpace(ListedSpace):
    """Parameters: the curve, the blocks that it begins and ends at (in either order), the level at its end.

    Where the curve passes more blocks than `max_stages`, it is followed in that many steps.
    """

    file: ProgressiveFile

    def axes(self) -> dict[str, IntDistribution | CategoricalDistribution]:
        """Curve, two ends and a level."""
        ends = IntDistribution(0, len(self.layers) - 1)
        levels = IntDistribution(1, len(self.keeps) - 1)
        return {"curve": CategoricalDistribution(self.file.curves), "first": ends, "last": ends, "level": levels}

    def shape_of(self, params: Mapping[str, Any]) -> Shape:
        """The curve, rounded to levels; a block where the rounded curve does not fall has no stage."""
        curve, end = CURVES[params["curve"]], self.keeps[params["level"]]
        first, last = sorted((params["first"], params["last"]))
        blocks = last - first + 1
        steps = min(blocks, self.max_stages)
        shape: list[tuple[int, int]] = []
        for k in range(1, steps + 1):
            passed = -(-k * blocks // steps)
            keep = curve(passed / blocks, end)
            level = min(range(len(self.keeps)), key=lambda g: abs(self.keeps[g] - keep))
            if level > (shape[-1][1] if shape else 0):
                shape.append((first + passed - 1, level))
        return tuple(shape)

    def smaller(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """The same curve to a lower end."""
        return step(params, "level", len(self.keeps) - 1)
