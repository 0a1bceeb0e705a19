"""The kinds of rows: the plain facts that others need of a thing without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prunesearch.core.tables.names import Row
from prunesearch.core.tables.params import Param


@dataclass(frozen=True)
class ScorerRow(Row):
    """A scorer. `order_free`: True if it says the same of tokens in whatever order they stand; `attends`: True if it
    reads who attends to whom, so that it needs a block; `tower`: True if in a decoder it reads what the model's tower
    attended to; `learned`: True if it has weights, which lie beside the model; `by_place`: True if it says the same of
    all rows of a length; `params`: the numbers that a stage may set, by name."""

    order_free: bool = False
    attends: bool = False
    tower: bool = False
    learned: bool = False
    by_place: bool = False
    params: Mapping[str, Param] = field(default_factory=dict)


@dataclass(frozen=True)
class LearnedRow(ScorerRow):
    """A scorer with weights that are learned (`prunesearch learn-scorers`).

    Attributes:
        learning: what trains them, as `module:attribute`: a `training.scorers.scene.LearnsScorer`.
        control: it learns nothing, and is what the others are compared with.
    """

    learned: bool = True
    learning: str = ""
    control: bool = False


@dataclass(frozen=True)
class MergeRow(Row):
    """A merge. `uses_scores`: False if the scorer is ignored (matching by similarity alone); `makes_sizes`: True if
    kept tokens may come to stand for several inputs; `loses`: True if it asks of the others neither what they are nor
    how they score; `order_free`, `params`: as of a scorer."""

    uses_scores: bool = True
    loses: bool = False
    makes_sizes: bool = False
    order_free: bool = False
    params: Mapping[str, Param] = field(default_factory=dict)


@dataclass(frozen=True)
class SelectionRow(Row):
    """How scores become kept tokens. `static`: as many for every row of the same length; `reads_scores`: it reads
    nothing but scores; `ranks`: False if scores choose nothing; `frames`: it compares the frames of videos;
    `order_free`, `params`: as of a scorer."""

    static: bool = True
    reads_scores: bool = False
    ranks: bool = True
    frames: bool = False
    order_free: bool = True
    params: Mapping[str, Param] = field(default_factory=dict)


@dataclass(frozen=True)
class ChangeRow(Row):
    """A kind of change; `target` takes a change's parameters and gives what makes the twins of a model's modules
    (`pruning.forward.leaves.MakesTwins`).

    One that changes a half of a block (`halves`) gives what changes a twin of the block instead
    (`pruning.forward.twins.ChangesBlock`).

    Attributes:
        param: the parameter that says it all, whose value stands for the change where people read it.
        names: table of the values that this parameter takes.
        halves: of a change of half a block, `attention` or `mlp`: the half by the one parameter that is given, a whole
            number; empty where the parameter's value is the half.
        word: what the half is called in cost tables then, `{name}` and `{value}` of that parameter filled in.
        removes: the half is left out.
        fitted: it has weights that are fitted on calibration rows.
        keeps: the half stays as it is where the rest of the model is in fewer bits; it comes with `precision`.
    """

    param: str = ""
    names: str = ""
    halves: Mapping[str, str] = field(default_factory=dict)
    word: str = ""
    removes: bool = False
    fitted: bool = False
    keeps: bool = False


@dataclass(frozen=True)
class PrecisionRow(Row):
    """A precision; `target` is a `compress.precision.Precision`.

    Attributes:
        dtype: of activations, a name in `DTYPES`; empty: the model's own.
        bits: of a weight that is computed in it.
        linear: whether the weights of linear layers alone are; the others stay as they are.
    """

    dtype: str = ""
    bits: int = 32
    linear: bool = False


@dataclass(frozen=True)
class ParametersRow(Row):
    """Which parameters of a model are trained; `target` is a `training.trainable.Trainable`. `rate`: learning rate that
    suits them, of AdamW. `replaces`: other modules stand in the places of linear layers while it lasts."""

    rate: float = 1e-4
    replaces: bool = False


@dataclass(frozen=True)
class SamplerRow(Row):
    """A sampler. `solves`: it solves for good schedules itself, so that no seeds are tried before it is asked."""

    solves: bool = False


@dataclass(frozen=True)
class EngineRow(Row):
    """What evaluates schedules.

    Attributes:
        in_process: it evaluates in this process, so that it takes models and data that are objects of the caller's;
            others load them from where they lie.
        workers: it has workers, here or in a cluster (`--workers`, `--ray-address`).
    """

    in_process: bool = True
    workers: bool = False


@dataclass(frozen=True)
class SpaceRow(Row):
    """A kind of search space, as its file is read.

    Attributes:
        solver: what solves it: `(space, costs, limit) -> search.solve.seed.Solves`.
        moves: all that one move makes of a member: `(space, schedule, swaps) -> schedules`.
        halves: its solver takes what may be done to halves of blocks too: `(..., options, whole)`.
    """

    solver: str = "prunesearch.search.solve.dynamic:Solver"
    moves: str = "prunesearch.search.space.moves:stage_moves"
    halves: bool = True


@dataclass(frozen=True)
class AcrossRow(Row):
    """How several numbers become the one that counts; `target`: `(numbers, weights) -> number`, never below their
    weighted mean. `weighted`: whether the weights count."""

    weighted: bool = True


@dataclass(frozen=True)
class RuntimeRow(Row):
    """What runs a model; `target` is the runner that times schedules in it (`modes.Eager` is the pattern).

    Attributes:
        shown: its name for people.
        table: function that measures a cost table in it (`timing.wanted.TableWanted` says what of); none: it runs
            exported models, and no costs are measured in it yet.
        by_torch: it is a mode of torch (`--mode`); else another runtime (`--runtime`).
        devices: kinds of device that it runs on; none: all.
        compiles: it compiles for every new number of tokens, so that only a grid of them is measured.
        launches: the host launches every kernel.
        speeds: people take it to make a model faster, so that a run tells what it gives.
        makes: it writes or compiles a model first, which takes long.
        precisions: in which costs are measured in it, beside the model's own; None: all that torch has on the device.
        quantiser: package beside the runtime's own that puts its graphs into fewer bits; empty: it needs none.
        halves: costs are measured in it of blocks whose halves are smaller or left out.
    """

    shown: str = ""
    table: str = ""
    by_torch: bool = True
    devices: tuple[str, ...] = ()
    compiles: bool = False
    launches: bool = True
    speeds: bool = True
    makes: bool = False
    precisions: tuple[str, ...] | None = None
    quantiser: str = ""
    halves: bool = False


@dataclass(frozen=True)
class AttentionRow(Row):
    """An implementation of attention; `target` is transformers' name of it. `anywhere`: every device has it."""

    anywhere: bool = False


@dataclass(frozen=True)
class EffortRow(Row):
    """How much work goes into a cost table; `target` is how long it is measured, seconds.

    Attributes:
        counts: on how many token counts.
        rounds: how often at least each unseen schedule runs.
        windows: over how many windows energy is measured.
    """

    counts: int = 14
    rounds: int = 5
    windows: int = 3


@dataclass(frozen=True)
class AccuracyRow(Row):
    """How sure a run wants to be; `target` is what it promises, a `core.accuracy.Promise`."""


LEVELS = ("low", "moderate", "high")  # as a survey's table says them


@dataclass(frozen=True)
class SurveyCells:
    """What a survey's table says of a method, each one of `LEVELS`."""

    cost: str
    adaptability: str
    complexity: str


@dataclass(frozen=True)
class RivalRow(Row):
    """A way to reduce tokens that `prunesearch compare` puts beside others at equal latency.

    `target` finds its plans, from slow to fast: `(search.rivals.arena.Arena, RivalRow) -> search.rivals.arena.Entrant`.
    Of one `by_row` it serves rows: `(search.rivals.row_by_row.RowWork, share of the latency, RivalRow) -> Served`.

    Attributes:
        scorer, merge: of all its stages, where it is set by one number.
        shape: what that number sets, keys of a space file; of `sites`, parts of the depth, 1.0 stands for every block.
        amount, selection: of all its stages, where each row has a count of its own: the letter of the amount, and how
            tokens are chosen.
        ours: a search found it; others are compared with the first of these.
        by_row: plans are chosen row by row, so that its time is a distribution.
        survey: what a survey of 2025 says of such methods; None: nothing.
    """

    scorer: str = ""
    merge: str = ""
    shape: Mapping[str, object] = field(default_factory=dict)
    amount: str = ""
    selection: str = "top_k"
    ours: bool = False
    by_row: bool = False
    survey: SurveyCells | None = None


@dataclass(frozen=True)
class PickRow(Row):
    """A way of choosing one point of a front; `target`: `(front, what stands after the @) -> point`.

    Attributes:
        takes: an example of what stands after the @; empty: nothing may.
    """

    takes: str = ""


@dataclass(frozen=True)
class ModelFormatRow(Row):
    """How a model is written with its schedule inside.

    Attributes:
        loading: a line of code that loads it; FILE, FOLDER, NAMES and LIST stand for what an export fills in.
    """

    loading: str = ""


@dataclass(frozen=True)
class LoggerRow(Row):
    """An experiment tracker. `modules`: what serves it, the first that is there; `package`: what to install."""

    modules: tuple[str, ...] = ()
    package: str = ""
