"""Plans: what is done to a model: token stages, changes of the model itself (precision), and weights.

A plan is read where a schedule is, and one of stages alone is equal to its schedule.

A file of a plan is version 2 of that of a schedule, and the reader takes both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunesearch.core.errors import CorruptFileError, PruneSearchError, did_you_mean
from prunesearch.core.files import parse_json
from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.core.plans.schedule import PLAN_FORMAT, PLAN_VERSION, Schedule, read_stages
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.registry import CHANGES, find_table

Value = str | int | float | bool
WEIGHTS = "sha256:"  # what the name of weights in files begins with; the digest of the file follows
HALVES = ("attention", "mlp")
Halves = Mapping[tuple[int, str], "Change"]  # what is done to halves of blocks, by block and half
Options = Mapping[tuple[int, str], Sequence["Change"]]  # what may be
_KEYS = {"stages", "changes", "weights"}
_TOLD = re.compile(r"(?P<block>\d+):(?P<kind>[\w-]+)\((?P<name>\w+)=(?P<value>\w+)\)")


@dataclass(frozen=True, init=False)
class Change:
    """One change of the model itself, beside its tokens.

    Args:
        kind: a name in `CHANGES`.
        block: number of the block that is changed; None for all of the model.
        params: what the kind takes, by name.

    Raises:
        PruneSearchError: for a kind that is in no table, or a block that cannot be.
    """

    kind: str
    block: int | None = None
    params: tuple[tuple[str, Value], ...] = ()

    def __init__(
        self,
        kind: str,
        block: int | None = None,
        params: Mapping[str, Value] | Iterable[tuple[str, Value]] = (),
    ) -> None:
        if not isinstance(kind, str) or kind not in CHANGES:
            known = ", ".join(CHANGES) or "none yet"
            raise PruneSearchError(f"unknown kind of change {kind!r}: this prunesearch has {known}; use a newer one")
        if block is not None and (isinstance(block, bool) or not isinstance(block, int) or block < 0):
            raise PruneSearchError(f"`block` must be an integer >= 0 or None, but got {block!r}")
        row, given = CHANGES.entry(kind), dict(params)
        if row.halves:
            _check_half(kind, block, given)
        if row.names:
            if set(given) != {row.param}:
                raise PruneSearchError(f"a change of {kind} has the parameter `{row.param}`, but got {sorted(given)}")
            find_table(row.names).entry(str(given[row.param]))
        fields = {"kind": kind, "block": block, "params": tuple(sorted(given.items()))}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        """`int8`, `3:int8` of one block; of a kind whose values have no names, `rank(share=0.5)`."""
        where = "" if self.block is None else f"{self.block}:"
        if CHANGES.entry(self.kind).names:
            return f"{where}{self.params[0][1]}"
        said = ", ".join(f"{name}={value}" for name, value in self.params)
        return f"{where}{self.kind}" + (f"({said})" if said else "")

    @property
    def half(self) -> str:
        """Of a change of half a block, `attention` or `mlp`; empty for any other."""
        halves = CHANGES.entry(self.kind).halves
        if not halves:
            return ""
        name, value = self.params[0]
        return halves[name] or str(value)

    @property
    def word(self) -> str:
        """What the half is called in cost tables: `heads4`, `none`; empty of a change of anything else."""
        return (
            CHANGES.entry(self.kind).word.format(name=self.params[0][0], value=self.params[0][1]) if self.half else ""
        )

    @property
    def help(self) -> str:
        """What it does, in one line."""
        row = CHANGES.entry(self.kind)
        return find_table(row.names).entry(str(self.params[0][1])).help if row.names else row.help

    @classmethod
    def parse(cls, text: str) -> Change:
        """Read what a change prints: `int8`, `3:int8`, `3:width(heads=4)`.

        Raises:
            PruneSearchError: for a name that is in no table of theirs.
        """
        told = _TOLD.fullmatch(text.strip())
        if told is not None and told["kind"] in CHANGES and CHANGES.entry(told["kind"]).halves:
            value = int(told["value"]) if told["value"].isdecimal() else told["value"]
            return cls(told["kind"], int(told["block"]), {told["name"]: value})
        block, _, name = text.strip().rpartition(":")
        rows = {kind: CHANGES.entry(kind) for kind in CHANGES}
        tables = {kind: find_table(row.names) for kind, row in rows.items() if row.names}
        found = next((kind for kind, table in tables.items() if name in table), None)
        if found is None or not (block.isdecimal() or not block):
            known = [name for table in tables.values() for name in table]
            raise PruneSearchError(f"unknown change '{text.strip()}' of a model: {did_you_mean(name, known)}")
        return cls(found, int(block) if block else None, {rows[found].param: name})

    def to_dict(self) -> dict[str, Any]:
        """The plain JSON form."""
        return {"kind": self.kind, "block": self.block, "params": dict(self.params)}

    @classmethod
    def from_dict(cls, data: Any) -> Change:
        """Read the plain form.

        Raises:
            CorruptFileError: for a key that is missing, or not known.
            PruneSearchError: as `Change` does.
        """
        if (
            not isinstance(data, dict)
            or set(data) != {"kind", "block", "params"}
            or not isinstance(data["params"], dict)
        ):
            raise CorruptFileError(f"a change has exactly the keys kind, block and params, but got {data!r}")
        return cls(**data)


def _check_half(kind: str, block: int | None, given: dict[str, Value]) -> None:
    """Refuse a change of half a block that says no block, or not one thing of it."""
    halves = CHANGES.entry(kind).halves
    if block is None:
        raise PruneSearchError(f"a change of {kind} is of one block: give its number (`block`)")
    if len(given) != 1 or not set(given) <= set(halves):
        raise PruneSearchError(
            f"a change of {kind} has one of the parameters {sorted(halves)}, but got {sorted(given)}"
        )
    (name, value), *_ = given.items()
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if halves[name] and not whole:
        raise PruneSearchError(f"`{name}` of a change of {kind} must be an integer >= 1, but got {value!r}")
    if not halves[name] and value not in HALVES:
        raise PruneSearchError(f"`{name}` of a change of {kind} must be one of {', '.join(HALVES)}, but got {value!r}")


@dataclass(frozen=True, init=False, eq=False)
class Plan:
    """What is done to a model; the empty plan is the unpruned model.

    Args:
        schedule: the token stages.
        changes: of the model itself, in the order in which they are made.
        weights: name of the weights that belong to it; None for the model's own.

    Raises:
        PruneSearchError: for anything else.
    """

    schedule: Schedule
    changes: tuple[Change, ...]
    weights: str | None

    def __init__(
        self, schedule: Schedule | None = None, changes: Iterable[Change] = (), weights: str | None = None
    ) -> None:
        stages = Schedule() if schedule is None else schedule
        found = tuple(changes)
        if not isinstance(stages, Schedule):
            raise PruneSearchError(f"a plan begins with a Schedule, but got {stages!r}")
        for change in found:
            if not isinstance(change, Change):
                raise PruneSearchError(f"the changes of a plan are a list of Change, but got {change!r}")
        _check_together(stages, found)
        if weights is not None and not (isinstance(weights, str) and weights.strip()):
            raise PruneSearchError(f"`weights` must be a name or None, but got {weights!r}")
        for name, value in (("schedule", stages), ("changes", found), ("weights", weights)):
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        """The schedule as it prints itself, then each change and the weights behind a bar."""
        more = [*map(str, self.changes), *([] if self.weights is None else [f"weights {self.weights[:15]}"])]
        return " | ".join([str(self.schedule), *more])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Schedule):
            return not self.changes and self.weights is None and self.schedule == other
        return isinstance(other, Plan) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self.schedule) if not self.changes and self.weights is None else hash(self._parts)

    @property
    def _parts(self) -> tuple[Any, ...]:
        return self.schedule, self.changes, self.weights

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.schedule)

    def __len__(self) -> int:
        return len(self.schedule)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of its schedule."""
        return self.schedule.stages

    @property
    def variant(self) -> str:
        """What is done to all of the model beside its tokens, in a word or two: `int8`; empty where nothing is."""
        return variant_of(self.changes)

    @property
    def on_own_weights(self) -> Plan:
        """The same on the weights that the model has already."""
        return Plan(self.schedule, self.changes)

    @property
    def shortened(self) -> Plan:
        """Its stages, and the halves of blocks that it leaves out."""
        return Plan(self.schedule, (change for change in self.changes if CHANGES.entry(change.kind).removes))

    @property
    def shaped(self) -> Plan:
        """Its stages, and the halves of blocks that are smaller or left out: what of it weights are trained under."""
        halves = (change for change in self.changes if change.half and not CHANGES.entry(change.kind).keeps)
        return Plan(self.schedule, halves)

    @property
    def whole(self) -> tuple[Change, ...]:
        """Its changes but those of half a block."""
        return whole_of(self.changes)

    @property
    def halves(self) -> dict[tuple[int, str], Change]:
        """Its changes of half a block, by block and half."""
        return {(change.block or 0, change.half): change for change in self.changes if change.half}

    @property
    def skips(self) -> frozenset[tuple[int, str]]:
        """The halves of blocks that are left out."""
        return frozenset(half for half, change in self.halves.items() if CHANGES.entry(change.kind).removes)

    @property
    def kept(self) -> frozenset[tuple[int, str]]:
        """The halves of blocks that stay as they are where the rest is in fewer bits."""
        return frozenset(half for half, change in self.halves.items() if CHANGES.entry(change.kind).keeps)

    @property
    def done(self) -> str:
        """What is done beside tokens, for people: `int8, 3 half blocks smaller, 1 left out`; empty: nothing."""
        out, kept = len(self.skips), len(self.kept)
        counts = ((len(self.halves) - out - kept, "smaller"), (out, "left out"), (kept, "kept whole"))
        said = [f"{n} half block{'s'[: n > 1]} {what}" for n, what in counts if n]
        return ", ".join(filter(None, (self.variant, *said)))

    def flow(self, geometry: Geometry) -> Flow:
        """How tokens flow; see `Schedule.flow`."""
        return self.schedule.flow(geometry)

    def counts(self, depth: int, tokens: int, protected: int) -> list[int]:
        """Tokens leaving each block; see `Schedule.counts`."""
        return self.schedule.counts(depth, tokens, protected)

    @property
    def tokens_only(self) -> Schedule:
        """The schedule of a plan that does nothing else.

        Raises:
            PruneSearchError: for a plan that does: nothing here could carry it out.
        """
        if self.changes or self.weights is not None:
            what = self.variant or f"weights {self.weights}"
            raise PruneSearchError(
                f"token stages alone are asked for, but the plan has more ({what}): plan.schedule has its stages"
            )
        return self.schedule

    @classmethod
    def of(cls, given: Plan | Schedule) -> Plan:
        """A plan as it is, or that of a schedule."""
        return given if isinstance(given, Plan) else cls(given)

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Read what a plan prints: `3:0.70 cls_attention+fuse | int8`; weights are in no text.

        Raises:
            PruneSearchError: naming what cannot be read.
        """
        stages, *changes = text.split("|")
        return cls(parse_schedule(stages), map(Change.parse, changes))

    # -- JSON -------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the versioned plain form that `from_dict` reads back without loss."""
        return {
            "format": PLAN_FORMAT,
            "version": PLAN_VERSION,
            "stages": [stage.to_dict() for stage in self.schedule],
            "changes": [change.to_dict() for change in self.changes],
            "weights": self.weights,
        }

    def to_json(self, indent: int | None = 2) -> str:
        """Return the versioned JSON text; floats round-trip exactly."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, data: Any) -> Plan:
        """Read the plain form of a plan, or of a schedule of version 1.

        Raises:
            CorruptFileError: for a wrong format, another version or an unknown key.
            PruneSearchError: for a rule that a part breaks.
        """
        schedule = Schedule(read_stages(data))
        if data["format"] != PLAN_FORMAT:
            return cls(schedule)
        if missing := _KEYS - data.keys():
            raise CorruptFileError(f"a plan has the keys {sorted(_KEYS)}, but lacks {sorted(missing)}")
        if not isinstance(data["changes"], list):
            raise CorruptFileError('"changes" must be a list of objects')
        return cls(schedule, map(Change.from_dict, data["changes"]), data["weights"])

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read JSON text written by `to_json`, or by a schedule's."""
        try:
            data = parse_json(text)
        except ValueError as error:
            raise CorruptFileError(f"not a JSON plan: {error}") from None
        return cls.from_dict(data)


def whole_of(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Of some changes, those that are not of half a block."""
    return tuple(change for change in changes if not change.half)


def variant_of(changes: Iterable[Change]) -> str:
    """The key of some changes in cost tables, and how people read them: `int8`; empty for none of the whole model."""
    return " | ".join(map(str, whole_of(changes)))


def _check_together(stages: Schedule, changes: Iterable[Change]) -> None:
    """Refuse two changes of one half of a block, and a stage of a block whose attention is left out."""
    seen: set[tuple[int | None, str]] = set()
    for change in changes:
        key = change.block, change.half
        if change.half and key in seen:
            raise PruneSearchError(
                f"a plan has one change of the {change.half} of block {change.block}, but got {change}"
            )
        seen.add(key)
        bare = change.half == HALVES[0] and CHANGES.entry(change.kind).removes
        if bare and any(stage.layer == change.block for stage in stages):
            raise PruneSearchError(
                f"block {change.block} has a stage, which its attention scores: it cannot be left out"
            )
