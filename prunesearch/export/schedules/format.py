"""What an exchange format is: a name, a writer and a reader, and what the other tool does differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage


@dataclass(frozen=True)
class ModelShape:
    """The model that a file's counts refer to.

    Args:
        depth: number of blocks.
        tokens: sequence length at the start, protected tokens included.
        protected: how many of them are never reduced here.
        provenance: where a schedule comes from (see `native.provenance_of`); formats with room for it write it down.
    """

    depth: int
    tokens: int
    protected: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    in_order: bool | None = None

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise PruneSearchError(f"`depth >= 1` must hold, but got {self.depth}")
        if not 0 <= self.protected < self.tokens:
            raise PruneSearchError(
                f"`0 <= protected < tokens` must hold, but got {self.protected} protected of {self.tokens} tokens"
            )


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
        protects: tokens at the start of a row that the tool never reduces.
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
    protects: int = 1
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
    return schedule.counts(shape.depth, shape.tokens, shape.protected)


def reducing(schedule: Schedule, shape: ModelShape) -> list[tuple[Stage, int, int]]:
    """The stages that take tokens away at this length, each with the tokens before and after it."""
    counts = [shape.tokens, *leaving(schedule, shape)]
    flows = [(stage, counts[stage.layer], counts[stage.layer + 1]) for stage in schedule]
    return [(stage, before, after) for stage, before, after in flows if after < before]


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
    return Schedule(stage.replace(merge=(merges or {}).get(stage.layer, merge)) for stage in plain)


def shortest(value: float, holds: Callable[[float], bool]) -> float:
    """Round `value` to the fewest decimals with which `holds` is still true; `value` itself if there are none."""
    rounded = (round(value, digits) for digits in range(1, 17))
    return next((candidate for candidate in rounded if holds(candidate)), value)


def commented(body: str, remarks: Sequence[str]) -> str:
    """Put remarks as `#` lines (Python, shell, YAML) over a body."""
    return "".join(f"# {remark}\n" for remark in remarks) + body + "\n"
