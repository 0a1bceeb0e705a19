"""A cost table for a runtime of graphs, which cannot be taken apart while they run.

The pieces are graphs of their own, at every token count: a block's two halves, each scorer, each merge. They are timed
interleaved, in random order, the halves with the weights of another block every time, so that these are as cold as in a
forward. What the call of a session costs is taken off. Whole graphs of a few schedules then say what a forward takes
besides, and by which one factor pieces in one graph differ from pieces by themselves; others, unseen, give the error.
Of a model in fewer bits, made so by the runtime's own quantiser, the halves and whole graphs are timed too; scorers and
merges have no weights, and are the same.
"""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.optimize import nnls  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.export import Dim

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import track
from prunesearch.core.plans.plan import Change, Plan, variant_of
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import parse_method
from prunesearch.core.tables.params import all_params
from prunesearch.core.tables.token_tables import MERGES, SCORERS
from prunesearch.cost.devices.device import describe_device, kind_of
from prunesearch.cost.graphs.graph_files import write_piece
from prunesearch.cost.graphs.graph_running import Bind
from prunesearch.cost.shape import Shape, conditions_of, describe_shape, device_of
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.table_records import AttentionCell, Cell, Cells, CountCell, ReduceCell
from prunesearch.cost.timing.build import check_counts, noise_record
from prunesearch.cost.timing.loop import Job, Measurement, measure
from prunesearch.cost.timing.modes import GraphFile, GraphRunner, runner_for
from prunesearch.cost.timing.samples import Samples
from prunesearch.cost.timing.unseen import compare, draw_unseen
from prunesearch.cost.timing.walk import Within, plain_piece, variant_of_piece
from prunesearch.cost.timing.wanted import TableWanted
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.borders import borrowed
from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.pruning.merges.base import MergeInput
from prunesearch.pruning.scorers.base import ScorerInput
from prunesearch.pruning.selections.base import SelectionInput
from prunesearch.pruning.selections.top_k import top_k

UNSEEN = 12  # whole graphs for the error: each takes seconds to make
_MORE_UNSEEN = 4  # with each precision beside the model's own
CALIBRATION = 8  # whole graphs, the unpruned one among them, for the factor
_PAIRS = ((1.0, 0.75), (1.0, 0.5), (1.0, 0.2), (0.6, 0.4), (0.6, 0.2), (0.3, 0.15))  # of the reducible tokens
_ROUNDS = 15
_SCORED = 0.5  # what the stage of a timed scorer would leave
Key = tuple[Any, ...]
Variants = Sequence[tuple[Change, ...]]
Session = Callable[[nn.Module, Sequence[Tensor], Sequence[int], Variants], list[Bind]]


def measure_runtime_table(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    wanted: TableWanted,
    *,
    session: Session | None = None,
    time_jobs: Callable[..., Measurement[Key]] = measure,
) -> CostTable:
    """Measure a cost table of a model in a runtime of graphs, and its error on whole graphs it has not seen.

    Making the graphs takes several times as long as the timing, and is done again by a call that was interrupted; what
    was timed counts.

    Args:
        model: a supported classifier on the CPU in float32; left as it was.
        inputs: a batch without padding.
        wanted: of what; one forward at a time, and 3 to 12 unseen schedules.
        session: makes what runs a piece; None: `GraphSession`.
        time_jobs: as `loop.measure`.

    Raises:
        PruneSearchError: for a count or method that cannot be, a model that no ONNX file can hold, or blocks that take
            more than hidden states and a mask.
    """
    if wanted.concurrency > 1:
        raise PruneSearchError(
            f"--concurrency {wanted.concurrency} is not measured in a runtime of graphs: use the runtime torch"
        )
    unseen = UNSEEN if wanted.unseen is None else min(wanted.unseen, UNSEEN)  # each takes seconds to make
    started, device = time.monotonic(), device_of(inputs)
    kind = kind_of(device)
    with borrowed(model) as handle, tempfile.TemporaryDirectory() as scratch:
        _check_family(handle)
        shape = describe_shape(model, handle, inputs)
        grid = [*check_counts(wanted.counts, shape), shape.tokens]
        seen, held = _whole_plans(shape, grid, wanted, unseen)
        plans = [*itertools.chain(*seen.values()), *held]
        runner = runner_for(wanted.mode, model, handle, inputs)
        made = session or GraphSession(Path(scratch), cast(GraphRunner, runner).file)
        pieces = GraphPieces(handle, shape, inputs, made, wanted.seed)
        jobs = pieces.jobs(grid, wanted.methods, wanted.variants)
        for place, plan in enumerate(track(plans, len(plans), "writing graphs of whole schedules")):
            runner.prepare(plan)  # written now, so that the budget is for timing alone
            jobs["whole", place] = Job(runner.run, partial(runner.prepare, plan))
        ready = kind.make_ready(runner.run, device, wanted.patience_s)
        found = time_jobs(
            jobs, clock=kind.clock(), sentinel=("whole", 0), time_budget_s=wanted.time_budget_s, min_rounds=_ROUNDS,
            tolerance=0.005, seed=wanted.seed, label=wanted.label, keep=wanted.kept(handle, inputs, shape),
        )  # fmt: skip
        conditions = conditions_of(handle, inputs, shape.tokens, wanted.mode)
    whole = {plan: found.samples.pop(("whole", place)) for place, plan in enumerate(plans)}
    facts: dict[str, Any] = {
        "status": "measured",
        "shape": shape,
        "conditions": conditions,
        "device": describe_device(device),
        "noise": noise_record(found.noise).model_copy(update={"waited_s": round(ready.waited_s, 1)}),
        "seconds": time.monotonic() - started,
        "walks": len(whole[Plan()]),
    }
    cells: dict[str, Cells] = {}
    for variant, some in seen.items():
        samples = _samples_of(found.samples, variant)
        alone = CostTable(**facts, cells=price_cells(samples, shape, wanted.methods, Scale(1.0, 0.0)))
        scale = calibrate(alone, [plan.schedule for plan in some], [whole[plan] for plan in some])
        cells[variant] = price_cells(samples, shape, wanted.methods, scale)
    table = CostTable(**facts, cells=cells.pop(""), changed=cells)
    judged = [Plan(), *held]
    pace = [[1.0] * len(whole[plan]) for plan in judged]
    return compare(table, judged, [whole[plan] for plan in judged], pace)


def _check_family(handle: Handle) -> None:
    family = handle.encoder.family
    if family.positions is not None:
        raise PruneSearchError(
            f"a runtime of graphs times blocks of hidden states and mask alone, but those of '{family.model_type}' "
            "take positions too: use the runtime torch"
        )


def _whole_plans(
    shape: Shape, grid: Sequence[int], wanted: TableWanted, unseen: int
) -> tuple[dict[str, list[Plan]], list[Plan]]:
    """Plans to calibrate with, by their variant, and unseen ones for the error, in the variants by turns.

    The first of a variant is of the whole sequence; the schedules are the same in all, since a graph in fewer bits is
    made of the one that was written.
    """
    unseen += _MORE_UNSEEN * (len(wanted.variants) - 1)
    drawn: list[Schedule] = draw_unseen(
        shape, grid, wanted.methods, count=CALIBRATION - 1 + unseen, seed=wanted.seed + 1
    )
    some = [Schedule(), *drawn[: CALIBRATION - 1]]
    seen = {variant_of(changes): [Plan(schedule, changes) for schedule in some] for changes in wanted.variants}
    turns = itertools.cycle(wanted.variants)
    return seen, [Plan(schedule, next(turns)) for schedule in drawn[CALIBRATION - 1 :]]


def _samples_of(samples: Mapping[Key, Samples], variant: str) -> dict[Key, Samples]:
    """Those of the model as it is, or under `variant`, where that has some of its own in their place."""
    mine = {plain_piece(key): found for key, found in samples.items() if variant_of_piece(key) == variant}
    return {key: found for key, found in samples.items() if not variant_of_piece(key)} | mine


@dataclass(frozen=True)
class Scale:
    """A piece in one graph costs `factor` times what it does by itself; a forward costs `rest_ms` besides."""

    factor: float
    rest_ms: float


def calibrate(table: CostTable, schedules: Sequence[Schedule], whole: Sequence[Samples]) -> Scale:
    """Fit `whole = rest + factor x pieces`, errors being relative."""
    real = np.array([s.median_ms for s in whole])
    rows = np.array([[table.predict(s), 1.0] for s in schedules])
    found, _ = nnls(rows / real[:, None], np.ones(len(real)))
    return Scale(float(found[0]), float(found[1]))


def price_cells(samples: Mapping[Key, Samples], shape: Shape, methods: Sequence[str], scale: Scale) -> Cells:
    """The cells of a table from the timings of the pieces; a stage is its scorer and its merge."""
    call = samples["call",].median_ms

    def cell(keys: Sequence[Key]) -> dict[str, Any]:
        parts = [np.asarray(samples[key].ms) - call for key in keys]
        ms = np.maximum(np.sum(parts, axis=0), 0.0) * scale.factor
        low, middle, high = (float(np.quantile(ms, q)) for q in (0.1, 0.5, 0.9))
        return {"ms": middle, "median_ms": middle, "p10_ms": low, "p90_ms": high, "samples": len(ms)}

    reduce = []
    for method in methods:
        scorer, merge = parse_method(method)
        for n_in, n_out in pairs_timed(shape):
            keys: list[Key] = [("merge", merge, n_in, n_out)]
            if MERGES.entry(merge).uses_scores:
                keys.append(("scorer", scorer, n_in))
            reduce.append(ReduceCell(scorer=scorer, merge=merge, n_in=n_in, n_out=n_out, **cell(keys)))
    rest = scale.rest_ms
    seen = len(samples["call",])
    nothing = {"ms": 0.0, "median_ms": 0.0, "p10_ms": 0.0, "p90_ms": 0.0, "samples": seen}
    return Cells(
        stem=Cell(ms=rest, median_ms=rest, p10_ms=rest, p90_ms=rest, samples=seen),
        head=[CountCell(n=shape.tokens, **nothing)],
        attention=[
            AttentionCell(n=key[1], biased=key[2], variant=key[3], **cell([key]))
            for key in samples
            if key[0] == "attention"
        ],
        mlp=[CountCell(n=key[1], variant=key[2], **cell([key])) for key in samples if key[0] == "mlp"],
        reduce=reduce,
    )


def pairs_timed(shape: Shape) -> list[tuple[int, int]]:
    """Tokens before and after the stages that are timed."""
    reducible = shape.tokens - shape.protected
    counts = [tuple(shape.protected + max(1, round(share * reducible)) for share in pair) for pair in _PAIRS]
    return [(before, after) for before, after in dict.fromkeys(counts) if after < before]


class GraphPieces:
    """Makes the graphs of the pieces, and jobs that run them on random features."""

    def __init__(self, handle: Handle, shape: Shape, inputs: Mapping[str, Tensor], session: Session, seed: int) -> None:
        self.handle, self.shape, self.session = handle, shape, session
        self.rows = len(next(iter(inputs.values())))
        self.padded = "attention_mask" in inputs
        self.generator = torch.Generator().manual_seed(seed)

    def jobs(self, grid: Sequence[int], methods: Sequence[str], variants: Variants = ((),)) -> dict[Key, Job]:
        """A job for every piece, of those with weights one for every variant; `("call",)` does nothing."""
        jobs: dict[Key, Job] = {("call",): self._fixed(_Nothing(), [torch.zeros(1)])}
        merges = list(dict.fromkeys(parse_method(method)[1] for method in methods))
        sized = any(MERGES.entry(merge).makes_sizes for merge in merges)
        for kind, biased in (("attention", False), *([("attention", True)] if sized else []), ("mlp", False)):
            jobs.update(self._half(kind, biased, grid, variants))
        scorers = dict.fromkeys(parse_method(m)[0] for m in methods if MERGES.entry(parse_method(m)[1]).uses_scores)
        for scorer, n in itertools.product(scorers, sorted({before for before, _ in pairs_timed(self.shape)})):
            jobs["scorer", scorer, n] = self._scorer(scorer, n)
        for merge, (before, after) in itertools.product(merges, pairs_timed(self.shape)):
            jobs["merge", merge, before, after] = self._merge(merge, before, after)
        return jobs

    def _half(self, kind: str, biased: bool, grid: Sequence[int], variants: Variants) -> Iterator[tuple[Key, Job]]:
        """One graph a block, for any token count; a job takes the next block's of its variant every time."""
        encoder = self.handle.encoder
        widest = self._half_inputs(kind, biased, self.shape.tokens)
        axes = [1, 3][: len(widest)]
        runs: dict[Key, list[Bind]] = {}
        blocks = zip(encoder.blocks, self.shape.blocks, strict=True)
        label = f"writing graphs of the halves of blocks: {kind}{', sized' if biased else ''}"
        for block, variant in track(blocks, len(self.shape.blocks), label):
            half = variant.attention if kind == "attention" else variant.mlp
            made = self.session(_Half(encoder.family.layout, block, kind), widest, axes, variants)
            for changes, bind in zip(variants, made, strict=True):
                within = Within(variant_of(changes))
                runs.setdefault((half, *([within] if within else [])), []).append(bind)
        for n, (name, alike) in itertools.product(grid, runs.items()):
            if biased and n == self.shape.tokens:
                continue  # sizes never meet the whole sequence
            given = self._half_inputs(kind, biased, n)
            turns = itertools.cycle([run(given) for run in random.Random(n).sample(alike, len(alike))])
            key: Key = (kind, n, biased, *name) if kind == "attention" else (kind, n, *name)
            yield key, Job(partial(_next, turns))

    def _fixed(self, module: nn.Module, given: Sequence[Tensor]) -> Job:
        """A job of what has no weights, at one number of tokens."""
        (bind,) = self.session(module, given, (), ((),))
        return Job(bind(given))

    def _half_inputs(self, kind: str, biased: bool, n: int) -> list[Tensor]:
        given = [self.features(n)]
        if kind == "attention" and biased:
            given.append(torch.rand(self.rows, 1, 1, n, generator=self.generator))
        elif kind == "attention" and self.padded:
            given.append(torch.ones(self.rows, 1, 1, n, dtype=torch.bool))
        return given

    def _scorer(self, scorer: str, n: int) -> Job:
        stage = _Scorer(scorer, self, n)
        return self._fixed(stage, [*self._heads(3, n), *self._mask(n)])

    def _merge(self, merge: str, before: int, after: int) -> Job:
        entry = MERGES.entry(merge)
        score = torch.rand(self.rows, before, generator=self.generator)
        sizes = [torch.ones(self.rows, before)] if before < self.shape.tokens and entry.makes_sizes else []
        given = [self.features(before), *self._heads(1, before), score, *sizes, *self._mask(before)]
        return self._fixed(_Merge(merge, self, before, after, bool(sizes)), given)

    def tokens(self, n: int, protected_like: Tensor, size: Tensor | None, mask: Tensor | None) -> Tokens:
        """Tokens in the middle of a forward, `n` in each row."""
        shape, family = self.shape, self.handle.encoder
        start = Tokens.start(protected_like, mask, family.leading, family.family.trailing)
        full = None
        if start.valid is not None:
            full = start.valid.sum(1) * 0 + shape.tokens
        return Tokens(n, shape.tokens, family.leading, family.family.trailing, start.marks, size, start.valid, full)

    def share(self, n: int) -> float:
        """`keep` of a stage that leaves `n` tokens."""
        return (n - self.shape.protected) / (self.shape.tokens - self.shape.protected)

    def features(self, n: int) -> Tensor:
        """Random hidden states of `n` tokens."""
        return torch.randn(self.rows, n, self.shape.width, generator=self.generator)

    def _heads(self, count: int, n: int) -> list[Tensor]:
        size = (self.rows, self.shape.heads, n, self.shape.width // self.shape.heads)
        return [torch.randn(size, generator=self.generator) for _ in range(count)]

    def _mask(self, n: int) -> list[Tensor]:
        return [torch.ones(self.rows, 1, 1, n, dtype=torch.bool)] if self.padded else []


class GraphSession:
    """Makes runs of modules in a runtime; the files of them go to `scratch`."""

    def __init__(self, scratch: Path, file: GraphFile) -> None:
        self.scratch, self.file = scratch, file
        self.numbers = itertools.count()

    def __call__(
        self, module: nn.Module, example: Sequence[Tensor], axes: Sequence[int], variants: Variants
    ) -> list[Bind]:
        """Export `module`; returns, of every variant, what makes a run out of inputs.

        Args:
            module: takes and returns tensors.
            example: its inputs.
            axes: for each input, the axis that has the tokens where their number is free.
            variants: changes that the runtime's own quantiser makes in the file, by the `example` if it looks at any.
        """
        shapes: list[dict[int, Any]] = [{} for _ in example]  # the batch size is that of the table
        for free, axis in zip(shapes, axes, strict=False):
            free[axis] = Dim.DYNAMIC
        path = self.scratch / f"{next(self.numbers)}.onnx"
        write_piece(module, list(example), shapes, path)
        return [self._bind(path, changes, example) for changes in variants]

    def _bind(self, path: Path, changes: Sequence[Change], example: Sequence[Tensor]) -> Bind:
        with tempfile.TemporaryDirectory(dir=self.scratch) as scratch:
            mine = Path(scratch) / f"piece{self.file.suffix}"
            (self.file.convert or shutil.copy)(path, mine)
            for change in changes:
                self.file.change(change, mine, [dict(enumerate(example))])
            return self.file.bind(mine)


def _next(turns: Iterator[Callable[[], object]]) -> object:
    return next(turns)()


class _Nothing(nn.Module):
    """Next to no work: what it takes is the call of a session."""

    def forward(self, given: list[Tensor]) -> Tensor:
        return given[0].neg()


class _Half(nn.Module):
    def __init__(self, layout: Any, block: nn.Module, kind: str) -> None:
        super().__init__()
        self.block, self.layout, self.kind = block, layout, kind

    def forward(self, given: list[Tensor]) -> Tensor:
        out: Tensor
        if self.kind == "mlp":
            out = self.layout.feed(self.block, given[0])
        else:
            out = self.layout.attend(self.block, given[0], given[1] if len(given) > 1 else None, {})
        return out


class _Scorer(nn.Module):
    def __init__(self, name: str, pieces: GraphPieces, n: int) -> None:
        super().__init__()
        self.score, self.pieces, self.n = SCORERS.load(name), pieces, n
        self.params = all_params(SCORERS.entry(name).params)

    def forward(self, given: list[Tensor]) -> Tensor:
        query, key, value, *rest = given
        mask, pieces, encoder = rest[0] if rest else None, self.pieces, self.pieces.handle.encoder
        tokens = pieces.tokens(self.n, key[:, 0], None, mask)
        view = AttentionView(query, key, value, mask, query.shape[-1] ** -0.5, None)
        found: Tensor = self.score(
            ScorerInput(view, tokens, _SCORED, 1, encoder.depth, 0, encoder.family.cls, self.params)
        )
        return found


class _Merge(nn.Module):
    def __init__(self, name: str, pieces: GraphPieces, before: int, after: int, sized: bool) -> None:
        super().__init__()
        self.merge, self.pieces, self.before, self.after, self.sized = MERGES.load(name), pieces, before, after, sized
        self.params = all_params(MERGES.entry(name).params)
        self.selects = MERGES.entry(name).uses_scores

    def forward(self, given: list[Tensor]) -> list[Tensor]:
        pieces, (x, key, score, *rest) = self.pieces, given
        size = rest.pop(0) if self.sized else None
        mask = rest[0] if rest else None
        tokens = pieces.tokens(self.before, x, size, mask)
        view = AttentionView(key, key, key, mask, 1.0, None)
        keep, keep_before = pieces.share(self.after), pieces.share(self.before)
        chosen = top_k(SelectionInput(tokens, view, score, keep, self.after, {})) if self.selects else None
        assignment = self.merge(MergeInput(tokens, view, score, chosen, keep, keep_before, self.after, self.params))
        left = assignment.advance(tokens).attention_mask(x.dtype, additive=False)
        return [assignment.features(x), *([] if left is None else [left])]
