"""What an exchange format is: a name, a writer and a reader, and what the other tool does differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.flow import Geometry, Tower
from prunesearch.core.plans.schedule import Schedule, refuse_by_row
from prunesearch.core.plans.stage import ENCODER, INPUT, Place, Stage


@dataclass(frozen=True)
class ModelShape:
    """The model that a file's counts refer to.

    Args:
        depth: number of blocks.
        tokens: sequence length at the start, protected tokens included.
        protected: how many of them are never reduced here.
        provenance: where a schedule comes from (see `native.provenance_of`); formats with room for it write it down.
        in_order: whether the model keeps tokens in order; None where that is not known.
        part: that has the blocks; tokens of a decoder are those of a whole prompt, the reducible ones its pictures'.
        tower: in front of a decoder, where its stages may be.
    """

    depth: int
    tokens: int
    protected: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    in_order: bool | None = None
    part: str = ENCODER
    tower: Tower | None = None

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise PruneSearchError(f"`depth >= 1` must hold, but got {self.depth}")
        if not 0 <= self.protected < self.tokens:
            raise PruneSearchError(
                f"`0 <= protected < tokens` must hold, but got {self.protected} protected of {self.tokens} tokens"
            )

    @property
    def geometry(self) -> Geometry:
        """How tokens flow through it."""
        return Geometry(self.depth, self.tokens, self.protected, self.part, self.tower)

    @property
    def reducible(self) -> int:
        """Tokens that stages may take away."""
        return self.tokens - self.protected


@dataclass(frozen=True)
class Read:
    """What a file says as a schedule, and where prunesearch's words only come near to the other tool's."""

    schedule: Schedule
    notes: tuple[str, ...] = ()


Writer = Callable[[Any, ModelShape, Sequence[str]], str]  # of a schedule; what is lossless takes plans too
Reader = Callable[[str, ModelShape | None, str | None], Read]


@dataclass(frozen=True)
class Format:
    """An exchange format; its row is in `core/tables/export_tables.py`.

    Args:
        name: what `--to` and `--from` take.
        tool: whose format it is, for people.
        write: `(schedule, shape, remarks) -> text`: the nearest that the format can say. Where it has room, `remarks`
            go into the file. What it cannot say is found by reading the text back.
        read: `(text, shape, entry) -> Read`; `entry` picks one of several schedules in a file.
        limits: the rule that makes a schedule inexpressible, as a clause for the refusal.
        variants: how the tool computes the same words differently; said with every export, never a refusal.
        protects: tokens at the start of a row that the tool never reduces; None: all that are no picture's.
        parts: of models whose blocks it is about.
        lossless: True if the format says every schedule, for every model.
        entries: True if a file may hold several schedules.
        source: repository and file that define the format.
    """

    name: str
    tool: str
    write: Writer
    read: Reader
    limits: str
    variants: tuple[str, ...] = ()
    protects: int | None = 1
    parts: tuple[str, ...] = (ENCODER,)
    lossless: bool = False
    entries: bool = False
    source: str = ""


def needed(shape: ModelShape | None) -> ModelShape:
    """Return `shape`; raise with the way out if a reader needs one and there is none."""
    if shape is None:
        raise PruneSearchError(
            "how many tokens it keeps depends on the model: add --model M, or --depth D --tokens N --protected P"
        )
    return shape


def leaving(schedule: Schedule, shape: ModelShape) -> list[int]:
    """Tokens leaving each block, protected ones included."""
    refuse_by_row(schedule, "the file of another tool")
    return schedule.flow(shape.geometry).counts


def reducing(schedule: Schedule, shape: ModelShape) -> list[tuple[Stage, int, int]]:
    """The stages that take tokens away at this length, each with the tokens before and after it."""
    flow = schedule.flow(shape.geometry)
    entry = [] if flow.entry is None else [(flow.entry, shape.tokens, flow.n_in)]
    return [*entry, *((step.stage, step.n_in, step.n_out) for step in flow if step.stage is not None)]


def site(stage: Stage) -> str:
    """Where a stage is, by the number of the block alone; `input` before the first."""
    return INPUT if stage.place.part == INPUT else str(stage.layer)


def from_counts(
    counts: Sequence[int],
    shape: ModelShape,
    scorer: str = Stage.scorer,
    merge: str = "drop",
    merges: Mapping[int, str] | None = None,
) -> Schedule:
    """Build a schedule from the tokens leaving each block; `merges` names the merge of a block where it is another.

    Raises:
        PruneSearchError: if there are not `depth` counts, or they rise, or fall to the protected tokens.
    """
    if len(counts) != shape.depth:
        raise PruneSearchError(f"a model of {shape.depth} blocks needs {shape.depth} counts, but got {len(counts)}")
    plain = Schedule.from_counts(counts, shape.tokens, shape.protected, scorer, merge)
    return Schedule(
        stage.replace(layer=Place(shape.part, stage.layer), merge=(merges or {}).get(stage.layer, merge))
        for stage in plain
    )


def shortest(value: float, holds: Callable[[float], bool]) -> float:
    """Round `value` to the fewest decimals with which `holds` is still true; `value` itself if there are none."""
    rounded = (round(value, digits) for digits in range(1, 17))
    return next((candidate for candidate in rounded if holds(candidate)), value)


def commented(body: str, remarks: Sequence[str]) -> str:
    """Put remarks as `#` lines (Python, shell, YAML) over a body."""
    return "".join(f"# {remark}\n" for remark in remarks) + body + "\n"
