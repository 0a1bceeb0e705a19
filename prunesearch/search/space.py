"""Search spaces: which schedules may be tried, and how a schedule is written as Optuna parameters."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.files import data_folder
from prunesearch.core.registry import MERGES, SCORERS
from prunesearch.core.schedule import Schedule, Stage, kept_count, parse_method
from prunesearch.cost.plateaus import Plateau


class SpaceFile(BaseModel):
    """A space as written in YAML (`search_spaces/default.yaml` documents every key)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["prunesearch.space"]
    version: Literal[1]
    layers: Literal["all"] | list[int] = "all"
    keep: list[float] = Field(min_length=1)
    scorers: list[str] = Field(min_length=1)
    merges: list[str] = Field(min_length=1)
    max_stages: int = Field(default=4, ge=1, le=16)
    screened_methods: int = Field(default=6, ge=1)

    @field_validator("keep")
    @classmethod
    def _keeps(cls, keep: list[float]) -> list[float]:
        for value in keep:
            if not 0 < value < 1:
                raise ValueError(f"`0 < keep < 1` must hold, but got {value}")
        return sorted(set(keep), reverse=True)

    @field_validator("scorers")
    @classmethod
    def _scorers(cls, names: list[str]) -> list[str]:
        for name in names:
            SCORERS.entry(name)
        return names

    @field_validator("merges")
    @classmethod
    def _merges(cls, names: list[str]) -> list[str]:
        for name in names:
            MERGES.entry(name)
        return names

    @classmethod
    def load(cls, path: Path | None) -> SpaceFile:
        """Read a space; None is the default one.

        Raises:
            PruneSearchError: one line that names the file and the key that is wrong.
        """
        path = data_folder("search_spaces") / "default.yaml" if path is None else path
        try:
            data = yaml.safe_load(path.read_text())
        except OSError as error:
            raise PruneSearchError(f"space file '{path}' cannot be read: {error.strerror}") from None
        except yaml.YAMLError as error:
            line = " ".join(str(error).split())
            raise PruneSearchError(f"space file '{path}' is not YAML: {line}") from None
        if not isinstance(data, dict):
            raise PruneSearchError(f"space file '{path}' must be a mapping; see search_spaces/default.yaml")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise PruneSearchError(
                f"space file '{path}', key '{where}': {message}; see search_spaces/default.yaml"
            ) from None

    def methods(self) -> list[str]:
        """All methods of the space, `scorer+merge`; merges that ignore the scorer stand once."""
        pairs = itertools.product(self.scorers, self.merges)
        return list(dict.fromkeys(Stage(0, 1.0, s, m).method for s, m in pairs))


class Space:
    """A space fitted to a model: layers, keep levels that differ in tokens, methods, and the parameter encoding.

    Level 0 is the whole sequence (keep 1.0); level g is `keeps[g]`.

    Args:
        file: the space as written.
        depth: blocks of the model.
        tokens: sequence length, protected tokens included.
        protected: tokens that are never reduced.
        methods: the methods to offer (after screening); None for all of the file.
    """

    def __init__(
        self, file: SpaceFile, depth: int, tokens: int, protected: int, methods: list[str] | None = None
    ) -> None:
        layers = list(range(depth)) if file.layers == "all" else sorted(set(file.layers))
        if layers and not 0 <= layers[0] <= layers[-1] < depth:
            raise PruneSearchError(f"`0 <= layer < {depth}` must hold for this model, but the space has {layers}")
        self.file, self.depth, self.tokens, self.protected = file, depth, tokens, protected
        self.layers = layers
        self.methods = file.methods() if methods is None else methods
        self.max_stages = min(file.max_stages, len(layers))
        # on a short sequence two fractions may keep the same tokens: only the first is offered
        by_count = {kept_count(k, tokens - protected): k for k in reversed([1.0, *file.keep])}
        self.counts = sorted((protected + c for c in by_count), reverse=True)
        self.keeps = [by_count[c - protected] for c in self.counts]
        if len(self.keeps) < 2:
            raise PruneSearchError(
                f"no keep fraction of the space removes a token from {tokens - protected} reducible ones: "
                "add smaller fractions"
            )

    def with_methods(self, methods: list[str]) -> Space:
        """The same space with other methods."""
        return Space(self.file, self.depth, self.tokens, self.protected, methods)

    def at_edges(self, plateaus: Sequence[Plateau]) -> Space:
        """The same space with every count moved to the right edge of its plateau, where more tokens cost the same.

        A level on the plateau of the whole sequence saves nothing and goes. If all do, the space stays as it is.
        """
        reducible = self.tokens - self.protected
        moved = {n: next((p.last for p in plateaus if p.first <= n <= p.last), n) for n in self.counts[1:]}
        keeps = sorted({(n - self.protected) / reducible for n in moved.values() if n < self.tokens}, reverse=True)
        if not keeps:
            return self
        file = self.file.model_copy(update={"keep": keeps})
        return Space(file, self.depth, self.tokens, self.protected, self.methods)

    def stage(self, layer: int, level: int, method: str) -> Stage:
        """The stage at a layer, keep level and method."""
        return Stage(layer, self.keeps[level], *parse_method(method))

    def distributions(self) -> dict[str, BaseDistribution]:
        """The parameters: `max_stages` slots of (layer, keep level, method); a slot at level 0 is empty."""
        found: dict[str, BaseDistribution] = {}
        for slot in range(self.max_stages):
            found[f"layer_{slot}"] = IntDistribution(0, len(self.layers) - 1)
            found[f"level_{slot}"] = IntDistribution(0, len(self.keeps) - 1)
            found[f"method_{slot}"] = CategoricalDistribution(self.methods)
        return found

    def decode(self, params: Mapping[str, Any]) -> Schedule:
        """Read parameters as a schedule; any combination is legal.

        Slots are sorted by layer and levels among themselves, so that keeps fall; of slots at one layer the one that
        keeps least counts.
        """
        slots = range(self.max_stages)
        sites = sorted((params[f"layer_{s}"], s) for s in slots if params[f"level_{s}"] > 0)
        levels = sorted(params[f"level_{s}"] for _, s in sites)
        by_layer = {layer: (level, s) for (layer, s), level in zip(sites, levels, strict=True)}
        stages, last = [], 0
        for layer, (level, slot) in by_layer.items():
            if level > last:
                stages.append(self.stage(self.layers[layer], level, params[f"method_{slot}"]))
                last = level
        return Schedule(stages)

    def encode(self, schedule: Schedule) -> dict[str, Any] | None:
        """Write a schedule as parameters (the inverse of `decode`); None if it does not lie in the space."""
        if len(schedule) > self.max_stages:
            return None
        params: dict[str, Any] = {}
        for slot in range(self.max_stages):
            params[f"layer_{slot}"], params[f"level_{slot}"], params[f"method_{slot}"] = 0, 0, self.methods[0]
        for slot, stage in enumerate(schedule):
            in_space = stage.layer in self.layers and stage.keep in self.keeps and stage.method in self.methods
            if not in_space:
                return None
            params[f"layer_{slot}"] = self.layers.index(stage.layer)
            params[f"level_{slot}"] = self.keeps.index(stage.keep)
            params[f"method_{slot}"] = stage.method
        return params

    def shrink(self, schedule: Schedule) -> Schedule | None:
        """The next smaller schedule: every stage one level further down; None at the bottom."""
        stages, last = [], 0
        for stage in schedule:
            level = min(self.keeps.index(stage.keep) + 1, len(self.keeps) - 1)
            if level > last:
                stages.append(self.stage(stage.layer, level, stage.method))
                last = level
        smaller = Schedule(stages)
        return None if smaller == schedule else smaller

    def neighbour(self, schedule: Schedule, rng: random.Random) -> Schedule:
        """A schedule one random move away: a slot's layer, level or method changed."""
        params = self.encode(schedule)
        if params is None:
            raise PruneSearchError(f"schedule {schedule} does not lie in the space")
        name, distribution = rng.choice(list(self.distributions().items()))
        if isinstance(distribution, CategoricalDistribution):
            params[name] = rng.choice(self.methods)
        elif isinstance(distribution, IntDistribution):
            params[name] = min(max(params[name] + rng.choice((-1, 1)), distribution.low), distribution.high)
        return self.decode(params)
