"""Search spaces: which schedules may be tried, and how a schedule is written as Optuna parameters."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.files import data_folder
from prunesearch.core.plans.amount import kept_count
from prunesearch.core.plans.flow import Geometry, Tower
from prunesearch.core.plans.plan import Change, Options
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import (
    DECODER,
    ENCODER,
    TOP_K,
    Place,
    Stage,
    read_method,
)
from prunesearch.core.tables.registry import SPACES, check_free
from prunesearch.core.tables.token_tables import MERGES, SELECTIONS
from prunesearch.cost.tables.plateaus import Plateau
from prunesearch.search.space.sites import Sites
from prunesearch.study.folder import parse_yaml

ALONE = "stages before the first block, and in a tower, are of kind free"
_ANY = "random"  # the scorer where nothing hangs on it: the cheapest


class SpaceFile(BaseModel):
    """A space as written in YAML; of kind `free` itself, and the keys that all kinds share (docs/search-spaces.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    refused: ClassVar[Mapping[str, str]] = {}  # keys of other kinds that this one has something else for

    format: Literal["prunesearch.space"]
    version: Literal[1]
    kind: str = "free"
    layers: Literal["all"] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = "all"
    keep: list[float] = Field(min_length=1)
    scorers: list[str] = Field(min_length=1)
    merges: list[str] = Field(min_length=1)
    selections: list[str] = Field(default=[TOP_K], min_length=1)
    input: bool = False
    tower: list[str] = []
    max_stages: int = Field(default=4, ge=1)
    free: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, data: dict[str, Any]) -> dict[str, Any]:
        known = set(cls.model_fields) - set(cls.refused)
        for key in data:
            if key in cls.refused:
                raise ValueError(f"key '{key}' is not for this kind: {cls.refused[key]}")
            if key not in known:
                raise ValueError(f"unknown key '{key}': {did_you_mean(str(key), known)}")
        return data

    @field_validator("keep")
    @classmethod
    def _keeps(cls, keep: list[float]) -> list[float]:
        for value in keep:
            if not 0 < value < 1:
                raise ValueError(f"`0 < keep < 1` must hold, but got {value}")
        return sorted(set(keep), reverse=True)

    @field_validator("free")
    @classmethod
    def _freed(cls, names: list[str] | None) -> list[str] | None:
        return None if names is None else check_free(names)

    @field_validator("scorers")
    @classmethod
    def _scorers(cls, names: list[str]) -> list[str]:
        for name in names:
            read_method(f"{name}+drop")
        return names

    @field_validator("merges")
    @classmethod
    def _merges(cls, names: list[str]) -> list[str]:
        for name in names:
            read_method(f"{Stage.scorer}+{name}")
        return names

    @field_validator("tower")
    @classmethod
    def _in_tower(cls, methods: list[str]) -> list[str]:
        for method in methods:
            if Stage(0, 1.0, *read_method(method)).by_row:
                raise ValueError(f"'{method}' leaves every row a count of its own, which a table cannot price")
        return methods

    @field_validator("selections")
    @classmethod
    def _selections(cls, names: list[str]) -> list[str]:
        for name in names:
            if not SELECTIONS.entry(name).static:
                raise ValueError(f"selection '{name}' leaves every row a count of its own, which a table cannot price")
        return names

    @classmethod
    def load(cls, path: Path | None) -> SpaceFile:
        """Read a space: a file, or the name of one that is shipped; None is the default one.

        Raises:
            PruneSearchError: one line that names the file and the key that is wrong.
        """
        path = _find(path)
        try:
            data = parse_yaml(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PruneSearchError(f"space file '{path}' cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise PruneSearchError(f"space file '{path}' is not YAML: {error}") from None
        if not isinstance(data, dict):
            raise PruneSearchError(f"space file '{path}' must be a mapping; see docs/search-spaces.md")
        try:
            return cast(type[SpaceFile], SPACES.load(data.get("kind", "free"))).model_validate(data)
        except ValidationError as error:
            where, message = _first_error(error)
            raise PruneSearchError(f"space file '{path}'{where}: {message}; see docs/search-spaces.md") from None
        except PruneSearchError as error:
            raise PruneSearchError(f"space file '{path}': {error}") from None

    def fit(
        self, depth: int, tokens: int, protected: int, methods: list[str] | None = None, tower: Tower | None = None
    ) -> Space:
        """The space on a model of `depth` blocks and `tokens` tokens, `protected` of which are never reduced.

        Args:
            methods: the methods to offer; None for all of the file.
            tower: in front of a decoder, in which stages may be.

        Raises:
            PruneSearchError: if the space does not fit the model.
        """
        return Space(self, depth, tokens, protected, methods, tower)

    def of_part(self, part: str) -> Self:
        """Itself, where it fits a model whose blocks are in `part`.

        Raises:
            PruneSearchError: for a space with stages before the first block of an encoder.
        """
        if (self.input or self.tower) and part != DECODER:
            key = "input" if self.input else "tower"
            raise PruneSearchError(
                "stages before the first block (input: true), or in a tower, are of models that read pictures in the "
                f"prompt of a decoder, but this model's blocks are in its {part}: leave `{key}` out of the space"
            )
        return self

    def with_scorers(self, names: Sequence[str]) -> Self:
        """The same with more scorers."""
        return self.model_copy(update={"scorers": list(dict.fromkeys([*self.scorers, *names]))})

    def methods(self) -> list[str]:
        """All methods of the space, `scorer+merge@selection`; what ignores the scorer stands once."""
        found = []
        for selection, scorer, merge in itertools.product(self.selections, self.scorers, self.merges):
            row = MERGES.entry(read_method(f"{Stage.scorer}+{merge}").merge)
            if not row.uses_scores:
                scorer, selection = Stage.scorer, TOP_K
            elif row.loses and not SELECTIONS.entry(selection).ranks:
                scorer = _ANY
            found.append(Stage(0, 1.0, *read_method(f"{scorer}+{merge}@{selection}")).method)
        return list(dict.fromkeys(found))


def _first_error(error: ValidationError) -> tuple[str, str]:
    """Where the first error is and what it is; of a key that may be a word or a list, the error of what was given."""
    errors = error.errors()
    key = errors[0]["loc"][:1]
    same = [e for e in errors if e["loc"][:1] == key]
    first = same[0] if isinstance(same[0]["input"], str) else same[-1]
    where = ".".join(str(part) for part in first["loc"] if part in key or isinstance(part, int))
    return f", key '{where}'" if where else "", first["msg"].removeprefix("Value error, ")


def _find(path: Path | None) -> Path:
    """The file that `path` names: itself, or one of `search_spaces/`."""
    shipped = {p.stem: p for p in data_folder("search_spaces").glob("*.yaml")}
    if path is None:
        return shipped["default"]
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    if path.name not in shipped:
        raise PruneSearchError(f"no space file '{path}': {did_you_mean(path.name, shipped)}, or the path of a file")
    return shipped[path.name]


class Space(Sites):
    """A space fitted to a model: layers, keep levels that differ in tokens, methods, and the parameter encoding.

    Level 0 is the whole sequence (keep 1.0); level g is `keeps[g]`. This one is of kind `free`; other kinds derive from
    it. Use `SpaceFile.fit` to make one of the right kind.

    Args:
        file: the space as written.
        depth: blocks of the model.
        tokens: sequence length, protected tokens included.
        protected: tokens that are never reduced.
        methods: the methods to offer; None for all of the file.
        tower: in front of a decoder, in which stages may be.
    """

    def __init__(
        self,
        file: SpaceFile,
        depth: int,
        tokens: int,
        protected: int,
        methods: list[str] | None = None,
        tower: Tower | None = None,
    ) -> None:
        layers = list(range(depth)) if file.layers == "all" else sorted(set(file.layers))
        if layers[-1] >= depth:
            raise PruneSearchError(f"`0 <= layer < {depth}` must hold for this model, but the space has {layers}")
        self.file, self.tokens, self.protected = file, tokens, protected
        super().__init__(depth, layers, file.methods(), file.tower, tower if file.tower else None, file.input, methods)
        self.max_stages = min(file.max_stages, len(self.layers))
        # on a short sequence two fractions may keep the same tokens: only the first is offered
        by_count = {kept_count(k, tokens - protected): k for k in reversed([1.0, *self._grid()])}
        self.counts = sorted((protected + c for c in by_count), reverse=True)
        self.keeps = [by_count[c - protected] for c in self.counts]
        if len(self.keeps) < 2:
            raise PruneSearchError(
                f"no keep fraction of the space removes a token from {tokens - protected} reducible ones: "
                "add smaller fractions"
            )
        self._stages: dict[tuple[int, int, str], Stage] = {}

    @property
    def geometry(self) -> Geometry:
        """Of the model that it is fitted to."""
        part = DECODER if self.named else ENCODER
        return Geometry(self.depth, self.tokens, self.protected, part, self.tower)

    @property
    def schedules(self) -> Space:
        """Itself: what a `PlanSpace` has of this name."""
        return self

    @property
    def variants(self) -> dict[str, tuple[Change, ...]]:
        """As of a `PlanSpace`: a space of schedules changes nothing else."""
        return {"": ()}

    @property
    def options(self) -> Options:
        """As of a `PlanSpace`."""
        return {}

    def without_stages(self) -> Space:
        """The space of the empty schedule."""
        found = copy.copy(self)
        found.max_stages = 0
        return found

    def _grid(self) -> list[float]:
        """Fractions below 1 that a stage may keep, falling."""
        return self.file.keep

    def with_methods(self, methods: list[str]) -> Space:
        """The same space with other methods."""
        return self._fit(self.file, methods)

    def _fit(self, file: SpaceFile, methods: list[str]) -> Space:
        found = file.fit(self.depth, self.tokens, self.protected, methods, self.tower)
        return found if self.max_stages else found.without_stages()

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
        return self._fit(file, self.methods)

    def stage(self, layer: int, level: int, method: str) -> Stage:
        """The stage at a layer, keep level and method."""
        key = (layer, level, method)
        if key not in self._stages:
            where: int | Place = Place.of_site(layer, DECODER) if self.named else layer
            self._stages[key] = Stage(where, self.keeps[level], *read_method(method))
        return self._stages[key]

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
        keeps least counts. A method that cannot be where it is, is at the next place that takes it, or at the last.
        """
        slots = range(self.max_stages)
        sites = sorted((self._site(params, s), s) for s in slots if params[f"level_{s}"] > 0)
        levels = sorted(params[f"level_{s}"] for _, s in sites)
        by_layer = {layer: (level, s) for (layer, s), level in zip(sites, levels, strict=True)}
        stages, last = [], 0
        for layer, (level, slot) in by_layer.items():
            if level > last:
                stages.append(self.stage(self.layers[layer], level, params[f"method_{slot}"]))
                last = level
        return Schedule(stages)

    def _site(self, params: Mapping[str, Any], slot: int) -> int:
        site, method = params[f"layer_{slot}"], self.methods.index(params[f"method_{slot}"])
        if self.takes(site, method):
            return int(site)
        taking = [other for other in range(len(self.layers)) if self.takes(other, method)]
        return next((other for other in taking if other > site), taking[-1])

    def encode(self, schedule: Schedule) -> dict[str, Any] | None:
        """Write a schedule as parameters (the inverse of `decode`); None if it does not lie in the space."""
        if len(schedule) > self.max_stages:
            return None
        sites = []
        for stage in schedule:
            layer = stage.place.site
            if layer not in self.layers or stage.keep not in self.keeps or stage.method not in self.methods:
                return None
            sites.append((self.layers.index(layer), self.keeps.index(stage.keep), stage.method))
        # an empty slot is like the last stage: a sampler that fills it goes on as the schedule was
        layer, _, method = sites[-1] if sites else (0, 0, self.methods[0])
        sites += [(layer, 0, method)] * (self.max_stages - len(sites))
        params: dict[str, Any] = {}
        for slot, site in enumerate(sites):
            params[f"layer_{slot}"], params[f"level_{slot}"], params[f"method_{slot}"] = site
        return params

    def shrink(self, schedule: Schedule) -> Schedule | None:
        """The next smaller schedule: every stage one level further down; None at the bottom."""
        stages, last = [], 0
        for stage in schedule:
            level = min(self.keeps.index(stage.keep) + 1, len(self.keeps) - 1)
            if level > last:
                stages.append(self.stage(stage.place.site, level, stage.method))
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
            params[name] = rng.choice(distribution.choices)
        elif isinstance(distribution, IntDistribution):
            params[name] = min(max(params[name] + rng.choice((-1, 1)), distribution.low), distribution.high)
        return self.decode(params)

    def plain(self, rng: random.Random) -> dict[str, Any]:
        """Parameters of a schedule as one would set it by hand: stages spread evenly, keeps that fall evenly.

        How many stages, to what level and by which one method is drawn.
        """
        stages = rng.randint(min(1, self.max_stages), self.max_stages)
        deepest = rng.randint(1, len(self.keeps) - 1)
        method = rng.choice(self.methods)
        params: dict[str, Any] = {}
        for slot in range(self.max_stages):
            used = slot < stages
            params[f"layer_{slot}"] = (slot + 1) * len(self.layers) // (stages + 1) if used else 0
            params[f"level_{slot}"] = -(-deepest * (slot + 1) // stages) if used else 0
            params[f"method_{slot}"] = method
        return params

    def between(self, params: Mapping[str, Any], name: str) -> tuple[int, int]:
        """The range in which the number `name` may change without passing that of the stage before or after."""
        kind, _, slot = name.rpartition("_")
        own = int(slot)
        top = (len(self.layers) if kind == "layer" else len(self.keeps)) - 1
        if params[f"level_{own}"] == 0:
            return 0, top
        used = [params[f"{kind}_{s}"] for s in range(self.max_stages) if params[f"level_{s}"] > 0 and s != own]
        value = params[name]
        return max((v for v in used if v < value), default=0), min((v for v in used if v > value), default=top)
