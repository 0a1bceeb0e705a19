"""Spaces whose members can be listed: a few numbers say at which blocks how much is kept, by one method throughout."""

from __future__ import annotations

import itertools
import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.search.space.space import Space

Shape = tuple[tuple[int, int], ...]  # (index into `space.layers`, keep level), both rising

_METHOD = "method"


class ListedSpace(Space):
    """A space of shapes times methods; a kind says what its parameters are (`axes`) and what they mean (`shape_of`)."""

    @abstractmethod
    def axes(self) -> dict[str, IntDistribution | CategoricalDistribution]:
        """The parameters of a shape; of a number, more means fewer tokens if it is the one that `smaller` steps."""

    @abstractmethod
    def shape_of(self, params: Mapping[str, Any]) -> Shape:
        """The shape that any values of the parameters stand for."""

    @abstractmethod
    def smaller(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """The parameters of the shape in the same manner that keeps less; None at the bottom."""

    @cached_property
    def shapes(self) -> dict[Shape, dict[str, Any]]:
        """Every shape of the space, with the first parameters that stand for it."""
        found: dict[Shape, dict[str, Any]] = {}
        names, axes = list(self.axes()), self.axes().values()
        for values in itertools.product(*map(_values, axes)):
            params = dict(zip(names, values, strict=True))
            found.setdefault(self.shape_of(params), params)
        return found

    def schedule(self, shape: Shape, method: str) -> Schedule:
        """The member with this shape and method."""
        return Schedule(self.stage(self.layers[i], level, method) for i, level in shape)

    def distributions(self) -> dict[str, BaseDistribution]:
        """The parameters of a shape, and the method."""
        return {**self.axes(), _METHOD: CategoricalDistribution(self.methods)}

    def decode(self, params: Mapping[str, Any]) -> Schedule:
        """Read parameters as a schedule; any combination is legal."""
        return self.schedule(self.shape_of(params), params[_METHOD])

    def encode(self, schedule: Schedule) -> dict[str, Any] | None:
        """Write a schedule as parameters (the inverse of `decode`); None if it does not lie in the space."""
        methods = {stage.method for stage in schedule} or {self.methods[0]}
        known = all(stage.place.site in self.layers and stage.keep in self.keeps for stage in schedule)
        if len(methods) != 1 or not methods <= set(self.methods) or not known:
            return None
        shape = tuple((self.layers.index(s.place.site), self.keeps.index(s.keep)) for s in schedule)
        params = self.shapes.get(shape)
        return None if params is None else {**params, _METHOD: methods.pop()}

    def shrink(self, schedule: Schedule) -> Schedule | None:
        """The next smaller schedule in the same manner; None at the bottom."""
        params = self._params(schedule)
        method = params[_METHOD]
        smaller = self.smaller(params)
        while smaller is not None:
            found = self.decode({**smaller, _METHOD: method})
            if found != schedule:  # a step may be lost in rounding to tokens
                return found
            smaller = self.smaller(smaller)
        return None

    def neighbours(self, schedule: Schedule, swaps: Sequence[int]) -> list[Schedule]:
        """Every member that one changed parameter makes: a number one more or less, another curve, another method.

        Args:
            swaps: indices of the methods to change to.
        """
        params = self._params(schedule)
        changed: list[dict[str, Any]] = [{**params, _METHOD: self.methods[m]} for m in swaps]
        for name, axis in self.axes().items():
            if isinstance(axis, IntDistribution):
                near: list[Any] = [v for v in (params[name] - 1, params[name] + 1) if axis.low <= v <= axis.high]
            else:
                near = list(axis.choices)
            changed += [{**params, name: value} for value in near]
        found = dict.fromkeys(map(self.decode, changed))
        found.pop(schedule, None)
        return list(found)

    def plain(self, rng: random.Random) -> dict[str, Any]:
        """Parameters drawn evenly: every member is a schedule that one would set by hand."""
        drawn = {name: rng.choice(_values(axis)) for name, axis in self.axes().items()}
        return {**drawn, _METHOD: rng.choice(self.methods)}

    def between(self, params: Mapping[str, Any], name: str) -> tuple[int, int]:
        """The whole range of the number `name`."""
        axis = self.axes()[name]
        if not isinstance(axis, IntDistribution):
            raise PruneSearchError(f"parameter '{name}' must be a number, but it is a choice of {axis.choices}")
        return axis.low, axis.high

    def _params(self, schedule: Schedule) -> dict[str, Any]:
        params = self.encode(schedule)
        if params is None:
            raise PruneSearchError(f"schedule {schedule} does not lie in the space")
        return params


def step(params: Mapping[str, Any], name: str, top: int) -> dict[str, Any] | None:
    """The parameters with `name` one higher; None if it is `top` already."""
    return {**params, name: params[name] + 1} if params[name] < top else None


def _values(axis: IntDistribution | CategoricalDistribution) -> Sequence[Any]:
    return range(axis.low, axis.high + 1) if isinstance(axis, IntDistribution) else axis.choices


def listed_moves(space: ListedSpace, schedule: Schedule, swaps: Sequence[int]) -> list[Schedule]:
    """`moves.neighbours` in a listed space."""
    return space.neighbours(schedule, swaps)
