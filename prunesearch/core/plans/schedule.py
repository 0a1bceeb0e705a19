"""Schedules: which blocks reduce tokens, to how many, scored by what, dropped or merged how.

A plan (`core.plans.plan`) is a schedule and what else is done to a model; its files are read here where they hold no
more.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import parse_json
from prunesearch.core.plans.flow import Flow, Geometry, Part
from prunesearch.core.plans.stage import ENCODER, Stage
from prunesearch.core.tables.token_tables import MERGES

SCHEDULE_FORMAT, SCHEDULE_VERSION = "prunesearch.schedule", 1
PLAN_FORMAT, PLAN_VERSION = "prunesearch.plan", 2
_VERSION_1 = {"layer", "keep", "scorer", "merge"}  # all that a stage could say


class Schedule:
    """A sparse list of stages in the order of their places; `keep` falls strictly from stage to stage.

    It does so among stages that count the same tokens: those of one part, and of a decoder and its input. Amounts that
    hang on what is in a row (`Stage.by_row`) may stand anywhere among them.

    Immutable, hashable and comparable; an empty schedule is the unpruned model. A stage with
    `keep == 1.0` is legal and does nothing.

    Raises:
        PruneSearchError: if layers do not rise or keeps do not fall strictly.
    """

    def __init__(self, stages: Iterable[Stage] = ()) -> None:
        self.stages: tuple[Stage, ...] = tuple(stages)
        # the first that leaves every row a count of its own, if there is one
        self.by_row: Stage | None = None
        for stage in self.stages:
            if not isinstance(stage, Stage):
                raise PruneSearchError(f"a schedule is a list of Stage, but got {stage!r}")
        latest: dict[str, Stage] = {}  # by the tokens that it counts
        fixed: dict[str, Stage] = {}  # the same, of those whose amount is a fraction
        before: Stage | None = None
        for stage in self.stages:
            counts = stage.place.tokens_of
            _check_order(before, stage, latest.get(counts))
            if not stage.amount.counts:
                _check_falls(stage, fixed.get(counts))
                fixed[counts] = stage
            if self.by_row is not None:
                _check_behind(stage, self.by_row)
            before = latest[counts] = stage
            self.by_row = self.by_row or (stage if stage.by_row else None)
        self._hash = hash(self.stages)  # asked for over and over: schedules are the keys of what was measured

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)

    def __eq__(self, other: object) -> bool:
        return self.stages == other.stages if isinstance(other, Schedule) else NotImplemented  # a plan may be equal

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Schedule({list(self.stages)!r})"

    def __str__(self) -> str:
        """One short line: `3:0.70 cls_attention+fuse > 6:0.50 bipartite`; `unpruned` when empty."""
        return " > ".join(f"{s.place}:{s.amount} {s.method}" for s in self.stages) or "unpruned"

    def check_depth(self, depth: int) -> None:
        """Raise if a stage names a block that an encoder of `depth` blocks does not have."""
        self.check_parts((Part(ENCODER, depth),))

    def check_parts(self, parts: Sequence[Part]) -> None:
        """Raise if a stage is where a model of these parts, the one with its blocks last, has no block.

        A number alone is a block of the part that has the model's blocks, its encoder or its decoder.
        """
        depths = {part.name: part.depth for part in parts}
        main = parts[-1]
        named = {stage.place.part for stage in self.stages}
        if main.name != ENCODER and ENCODER in named and len(named) > 1:
            bare = next(stage for stage in self.stages if stage.place.part == ENCODER)
            raise PruneSearchError(
                f"all stages must name their parts where one does, but got {self}: write {bare.layer} as "
                f"{main.name}/{bare.layer}"
            )
        for stage in self.stages:
            part = main.name if stage.place.part == ENCODER else stage.place.part
            if part not in depths:
                raise PruneSearchError(
                    f"the model has no part '{part}' but its {' and '.join(reversed(depths))}: leave the stage at "
                    f"{stage.place} out"
                )
            if stage.layer >= depths[part]:
                where = f"a model of {depths[part]} blocks" if part == main.name else f"the part '{part}'"
                raise PruneSearchError(f"`layer < {depths[part]}` must hold for {where}, but got layer={stage.layer}")

    def flow(self, geometry: Geometry) -> Flow:
        """The forward of a model under this schedule, block by block; the same numbers that flow at run time.

        Raises:
            PruneSearchError: if a stage is where the model has no block.
        """
        self.check_parts(geometry.parts)
        return Flow(geometry, self.stages)

    def counts(self, depth: int, tokens: int, protected: int) -> list[int]:
        """Tokens leaving each block (protected ones included) of a sequence of `tokens` without padding; see `flow`.

        Of stages that leave every row a count of its own, the most that there may be.

        Args:
            depth: number of blocks of the model.
            tokens: sequence length at the start, protected tokens included.
            protected: how many of them are never reduced.
        """
        return self.flow(Geometry(depth, tokens, protected)).counts

    # -- conversions: per-layer lists that papers and other tools use ----------------------------------

    @classmethod
    def from_counts(
        cls,
        counts: Sequence[int],
        tokens: int,
        protected: int = 1,
        scorer: str = "cls_attention",
        merge: str = "drop",
    ) -> Schedule:
        """Build a schedule from the tokens leaving each block (protected ones included).

        Blocks that do not reduce get no stage. The fractions are exact: `counts()` gives the list back.

        Raises:
            PruneSearchError: if the counts rise, or fall to the protected tokens or below.
        """
        reducible, current, stages = tokens - protected, tokens, []
        for layer, count in enumerate(counts):
            if count > current:
                raise PruneSearchError(f"kept counts must not rise, but block {layer} keeps {count} of {current}")
            if count <= protected:
                raise PruneSearchError(
                    f"a stage must leave more than the {protected} protected tokens, but block {layer} keeps {count}"
                )
            if count < current:
                keep = (count - protected) / reducible
                stages.append(Stage(layer, keep, scorer, merge))
            current = count
        return cls(stages)

    def to_counts(self, depth: int, tokens: int, protected: int = 1) -> list[int]:
        """Alias of `counts`, the inverse of `from_counts`."""
        return self.counts(depth, tokens, protected)

    @classmethod
    def from_removed(
        cls,
        removed: Sequence[int],
        tokens: int,
        protected: int = 1,
        scorer: str = "cls_attention",
        merge: str = "bipartite",
    ) -> Schedule:
        """Build a schedule from the tokens REMOVED in each block, the form of ToMe's `r` list."""
        counts, current = [], tokens
        for layer, r in enumerate(removed):
            if r < 0:
                raise PruneSearchError(f"tokens removed must be >= 0, but block {layer} has {r}")
            current -= r
            counts.append(current)
        return cls.from_counts(counts, tokens, protected, scorer, merge)

    def to_removed(self, depth: int, tokens: int, protected: int = 1) -> list[int]:
        """Tokens removed in each block; the inverse of `from_removed`."""
        counts = [tokens, *self.counts(depth, tokens, protected)]
        return [before - after for before, after in itertools.pairwise(counts)]

    @classmethod
    def from_ratios(cls, ratios: Sequence[float], scorer: str = "cls_attention", merge: str = "drop") -> Schedule:
        """Build a schedule from per-block MULTIPLICATIVE keep ratios (EViT's 0.7 at three blocks is 1,1,1,0.7,…)."""
        keep, stages = 1.0, []
        for layer, ratio in enumerate(ratios):
            if not 0.0 < ratio <= 1.0:
                raise PruneSearchError(f"`0 < ratio <= 1` must hold, but block {layer} has {ratio!r}")
            if ratio < 1.0:
                keep *= ratio
                stages.append(Stage(layer, keep, scorer, merge))
        return cls(stages)

    def to_ratios(self, depth: int) -> list[float]:
        """Per-block multiplicative keep ratios; the inverse of `from_ratios` up to rounding of the product."""
        self.check_depth(depth)
        refuse_by_row(self, "a list of ratios")
        ratios, keep = [1.0] * depth, 1.0
        for stage in self.stages:
            ratios[stage.layer] = stage.keep / keep
            keep = stage.keep
        return ratios

    # -- JSON -------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the versioned plain form that `from_dict` reads back without loss.

        It is version 1 as long as that can say it, so that files of today and of before are alike; else that of a plan
        without changes.
        """
        stages = [s.to_dict() for s in self.stages]
        if all(set(stage) == _VERSION_1 for stage in stages):
            return {"format": SCHEDULE_FORMAT, "version": SCHEDULE_VERSION, "stages": stages}
        return {"format": PLAN_FORMAT, "version": PLAN_VERSION, "stages": stages, "changes": [], "weights": None}

    def to_json(self, indent: int | None = 2) -> str:
        """Return the versioned JSON text; floats round-trip exactly."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, data: Any) -> Schedule:
        """Read the plain form of a schedule, or of a plan that has no more than one.

        Raises:
            CorruptFileError: for a wrong format, another version or an unknown key.
            PruneSearchError: for a plan with changes or weights, or a rule that a stage breaks.
        """
        if (
            isinstance(data, dict)
            and data.get("format") == PLAN_FORMAT
            and (data.get("changes") or data.get("weights"))
        ):
            raise PruneSearchError(
                "the plan changes more than tokens, but a schedule is asked for: read it with Plan.from_dict"
            )
        return cls(read_stages(data))

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """Read JSON text written by `to_json`."""
        try:
            data = parse_json(text)
        except ValueError as error:
            raise CorruptFileError(f"not a JSON schedule: {error}") from None
        return cls.from_dict(data)


def _check_order(before: Stage | None, after: Stage, counted: Stage | None) -> None:
    """Raise if a stage cannot follow another: `before`, and the last, `counted`, that counts the same tokens."""
    if before is not None and after.place.part != before.place.part and after.place.order < before.place.order:
        raise PruneSearchError(
            f"stages must stand in the order in which tokens pass them, but {after.place} follows {before.place}"
        )
    if counted is None:
        return
    if after.place.order <= counted.place.order:
        raise PruneSearchError(f"layers must rise from stage to stage, but layer {after.place} follows {counted.place}")


def _check_falls(after: Stage, counted: Stage | None) -> None:
    """Raise if a stage does not leave less than the last, `counted`, that counts the same tokens."""
    if counted is not None and after.keep >= counted.keep:
        raise PruneSearchError(
            "keep must fall strictly from stage to stage (it counts the initial tokens), but "
            f"{after.keep} at layer {after.place} follows {counted.keep} at layer {counted.place}"
        )


def _check_behind(stage: Stage, by_row: Stage) -> None:
    """Raise for a stage that cannot follow one which leaves every row a count of its own."""
    merge = MERGES.entry(stage.merge)
    if not merge.uses_scores:
        raise PruneSearchError(
            f"merge '{stage.merge}' at layer {stage.place} needs rows of known counts, but {by_row.amount} at layer "
            f"{by_row.place} leaves each row its own: use drop, fuse, nearest or soft"
        )


def refuse_by_row(schedule: Iterable[Stage], what: str) -> None:
    """Raise where a stage leaves every row a count of its own, which `what` has no place for.

    Raises:
        PruneSearchError: naming the stage, and the way out.
    """
    found = next((stage for stage in schedule if stage.by_row), None)
    if found is not None:
        raise PruneSearchError(
            f"{what} needs counts that are the same for every row, but stage '{found.place}:{found.amount} "
            f"{found.method}' reads each row's own from the data: give it a fraction, as {found.place}:0.7, or run it "
            "eagerly"
        )


def read_stages(data: Any) -> list[Stage]:
    """The stages in the plain form of a schedule (version 1) or a plan (version 2).

    Raises:
        CorruptFileError: for a wrong format, another version or an unknown key.
        PruneSearchError: for a rule that a stage breaks.
    """
    what = {SCHEDULE_FORMAT: ("schedule", SCHEDULE_VERSION), PLAN_FORMAT: ("plan", PLAN_VERSION)}
    found = what.get(str(data.get("format"))) if isinstance(data, dict) else None
    if found is None:
        raise CorruptFileError(f'a schedule must have "format": "{SCHEDULE_FORMAT}" or "{PLAN_FORMAT}"')
    name, version = found
    if data.get("version") != version:
        raise CorruptFileError(
            f"{name} version must be {version}, but got {data.get('version')!r}: "
            "use the prunesearch that wrote it, or a newer one"
        )
    stages = data.get("stages")
    if not isinstance(stages, list) or not all(isinstance(s, dict) for s in stages):
        raise CorruptFileError('"stages" must be a list of objects')
    for stage in stages:
        if version == SCHEDULE_VERSION and set(stage) != _VERSION_1:
            raise CorruptFileError(f"a stage has exactly the keys {sorted(_VERSION_1)}, but got {sorted(stage)}")
    return [Stage.from_dict(stage) for stage in stages]
