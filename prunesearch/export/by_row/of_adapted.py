"""The cascade or router of a study, exported: written, run beside the study's own on holdout rows, and timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunesearch.compress.fits import Fits
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.cost.devices.device import describe_device
from prunesearch.cost.graphs.graph_running import Forward
from prunesearch.export.by_row.row_rule import ByRow, PlanGuess
from prunesearch.export.by_row.rule_card import write_rule_card
from prunesearch.export.by_row.rule_source import RowForward, RuleFormat, RuleSource, find_rule_format
from prunesearch.export.by_row.serving import Server, kept_guesses, time_forwards
from prunesearch.export.models.from_study import TRACED
from prunesearch.export.models.model_format import ModelOptions
from prunesearch.export.models.record import ModelExport, Timing
from prunesearch.export.models.write import check_changes, check_methods, check_output, remove_export, write_format
from prunesearch.export.pick import pick_rule
from prunesearch.pruning.apply import Handle, apply_
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from prunesearch.study.front_records import RowPlans
from prunesearch.study.setup import make_setting
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import EvalSet, Inputs
from prunesearch.tasks.quality import filled, quality_of

_UNPRUNED = "unpruned"  # what `adapt` calls the empty plan
_MOVED = 0.01  # of the rows, or one: those that another runtime's last digits may send to another plan
_FEWEST = 10  # batches that are timed


def export_rule(
    front: Front,
    spec: str,
    to: str | RuleFormat,
    path: Path,
    *,
    options: ModelOptions,
    seconds: float | None = 20.0,
    task: Task | None = None,
    model: nn.Module | None = None,
    weights: Path | None = None,
    fits: Fits | None = None,
) -> ModelExport:
    """Write a cascade or a router, try it on holdout rows beside the one that `adapt` judged, time it, write a card.

    Args:
        front: of a study.
        spec: see `pick_rule`.
        to: a format, or its name in `RULE_FORMATS`.
        path: of the new folder.
        options: of graphs.
        seconds: of timing, in about; None: not timed.
        task, model: of a study of a caller's own model, as `from_study.export_study_model` takes them.
        weights: the study's folder of weights, which has the router's own.
        fits: what the study fitted of the points' changes of halves of blocks.

    Raises:
        PruneSearchError: for an unknown format, a path that is taken, a plan that it cannot hold, or a check that fails
            (nothing is left behind then).
    """
    target, found = (find_rule_format(to) if isinstance(to, str) else to), pick_rule(front, spec)
    if found is None:
        raise PruneSearchError(f"'{spec}' is a point, whose plan is for every row: export it to a model format")
    plans = {name: _plan(front, name) for name in found.plans}
    _check(target, path, options, plans)
    own = {"attention": front.config["attention"]} if task is not None or model is not None else {}
    config = RunConfig(**{**front.config, **TRACED, **own})
    setting = make_setting(config, task=task, model=model)
    task = setting.task
    source = RuleSource(
        model=task.answering if target.single.applied else task.model,
        plans=plans,
        threshold=found.threshold or 0.0,
        by=found.by or "",
        guesses=() if found.block is None else _guesses(front, found, weights),
        block=found.block or 0,
        inputs=task.timing_inputs(config.batch_size),
        model_id=setting.source.id,
        provenance=_provenance(front, found),
        seed=config.seed,
        fits=fits or {},
    )
    split = task.splits["holdout"].take(adapted_rows(front))
    try:
        notes = target.write(source, path, options)
        unpruned = None if seconds is None else _unpruned(source, target)
        with apply_(source.model, Plan(), seed=config.seed, fits=source.fits) as handle:
            work = _Beside(source, target, target.load(path), handle, split)
            done = work.tried(front, found, task, path, notes)
            if unpruned is not None and seconds is not None:
                done = replace(done, timing=work.timed(unpruned, seconds))
    except BaseException:
        remove_export(path)
        raise
    write_rule_card(done, source)
    return done


def adapted_rows(front: Front) -> int:
    """Holdout rows that `adapt` judged on."""
    return 0 if front.adapted is None else front.adapted.rows


def _unpruned_quality(front: Front) -> float:
    """Of the unpruned model, on the rows that `adapt` judged on."""
    contestants = [] if front.adapted is None else front.adapted.contestants
    return next((one.quality.value for one in contestants if one.name == _UNPRUNED), front.unpruned.quality.value)


def _plan(front: Front, name: str) -> Plan:
    point = front.point(name)
    return Plan() if point is None else point.to_plan()


def _guesses(front: Front, found: RowPlans, weights: Path | None) -> tuple[PlanGuess, ...]:
    if found.guesses is None or weights is None:
        raise PruneSearchError(
            f"the weights of study '{front.study}''s {found.name} are not at hand: `prunesearch adapt {front.study}` "
            "finds it again and keeps them"
        )
    return tuple(kept_guesses(weights, found.guesses))


def _check(target: RuleFormat, path: Path, options: ModelOptions, plans: Mapping[str, Plan]) -> None:
    if options.int8:
        raise PruneSearchError("--int8 is of single plans, since thresholds hold for the answers they were chosen on")
    check_output(path, replace(target.single, suffix=""), options)  # before anything is loaded
    for plan in plans.values():
        check_methods(plan.schedule, target.single)
        check_changes(plan, target.single)


def _provenance(front: Front, found: RowPlans) -> dict[str, Any]:
    return {
        "study": front.study,
        "created": front.created,
        "prunesearch": front.prunesearch,
        "model": front.to_dict()["model"],
        "device": front.device.name,
        "metric": front.task.metric,
        "adapted": found.model_dump(),
    }


# -- beside the study's own ----------------------------------------------------------------------------------------


def by_row(source: RuleSource, handle: Handle) -> ByRow:
    """As `adapt` ran it, on the model that is exported."""
    server, plans = Server(source.model, handle), list(source.plans.values())
    if source.guesses:
        return server.router(plans, source.guesses, source.threshold, source.block)
    return server.cascade(plans, source.by, source.threshold)


@dataclass
class SideBySide:
    """Row by row, what was written beside the study's own.

    Attributes:
        wanted, written: what both answer to a batch.
        error: the greatest difference of a logit of rows that ran the same plan.
        largest: the largest logit.
        places, others: of the plan of each row, one tensor a batch.
    """

    wanted: RowForward
    written: RowForward
    error: float = 0.0
    largest: float = 0.0
    places: list[Tensor] = field(default_factory=list)
    others: list[Tensor] = field(default_factory=list)

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The logits of what was written."""
        (want, places), (got, taken) = self.wanted(inputs), self.written(inputs)
        same = places == taken
        off = (got - want).abs()[same]
        self.error = max(self.error, float(off.max()) if len(off) else 0.0)
        self.largest = max(self.largest, float(want.abs().max()))
        self.places.append(taken)
        self.others.append(places)
        return {"logits": got}

    @property
    def moved(self) -> int:
        """Rows that ran another plan."""
        return int((torch.cat(self.places) != torch.cat(self.others)).sum())

    def shares(self, plans: int) -> list[float]:
        """Of the rows that each plan answered in what was written."""
        places = torch.cat(self.places)
        return [float((places == place).double().mean()) for place in range(plans)]


def _unpruned(source: RuleSource, target: RuleFormat) -> Forward:
    """The unpruned model in the format's runtime."""
    single = target.single
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"unpruned{single.suffix}"
        write_format(source.of(Plan()), single, path, ModelOptions())
        return single.load(path)


@dataclass(frozen=True)
class _Beside:
    """What was written, and the study's own under a handle, on rows of the holdout."""

    source: RuleSource
    target: RuleFormat
    written: RowForward
    handle: Handle
    split: EvalSet

    @property
    def lengths(self) -> dict[str, int]:
        """Of graphs: the one length that each input has."""
        inputs = self.source.inputs if self.target.single.applied else {}
        return {name: inputs[name].shape[-1] for name in self.split.padding if name in inputs}

    def tried(self, front: Front, found: RowPlans, task: Task, path: Path, notes: tuple[str, ...]) -> ModelExport:
        """Run both on all rows.

        Raises:
            PruneSearchError: if they differ by more than last digits.
        """
        single, compared = self.target.single, SideBySide(by_row(self.source, self.handle), self.written)
        judged = quality_of(task, compared, self.split, self.lengths)
        exact = not any(plan.whole for plan in self.source.plans.values())  # fewer bits change answers by design
        tolerance = single.tolerance * max(compared.largest, 1.0)
        if exact and (not compared.error <= tolerance or compared.moved > max(1, _MOVED * judged.rows)):
            raise PruneSearchError(
                f"what {single.tool} computes is off by {compared.error:.2g} (at most {tolerance:.2g}), and sends "
                f"{compared.moved} of {judged.rows} rows to another plan: export one of {', '.join(found.plans)}"
            )
        longer = f", {judged.left_out} longer ones left out" if judged.left_out else ""
        shares = compared.shares(len(found.plans))
        each = zip(found.plans, shares, found.shares, strict=True)
        return ModelExport(
            path=path,
            format=self.target.name,
            tool=single.tool,
            runtime=single.ran_in,
            proven=True,
            notes=(
                *notes,
                f"{judged.rows - compared.moved} of {judged.rows} holdout rows run the plan that the study's "
                f"{found.name} gives them{longer}",
                f"shares of the rows (in the study): {', '.join(f'{n} {s:.1%} ({was:.1%})' for n, s, was in each)}",
            ),
            error=compared.error,
            largest=compared.largest,
            checked=tuple(sorted({len(places) for places in compared.places})),
            quality={
                f"{task.metric} unpruned": _unpruned_quality(front),
                f"{found.name} ({adapted_rows(front)} rows)": found.quality.value,
                f"{found.name} in {single.ran_in} ({judged.rows} rows{longer})": judged.value,
            },
        )

    def timed(self, unpruned: Forward, seconds: float) -> Timing:
        """Both models in both runtimes on the same batches of rows, interleaved; the means."""
        source, batches = self.source, self.batches()
        forwards: dict[str, Callable[[Inputs], object]] = {
            "eager": Server(source.model, self.handle).static(Plan()),
            "eager by row": by_row(source, self.handle),
            "unpruned": unpruned,
            "by row": self.written,
        }
        with torch.inference_mode():
            once = time_forwards(forwards, batches[:1], source.seed)
            count = int(seconds / (sum(ms[0] for ms in once.values()) / 1000))
            found = time_forwards(forwards, batches[: max(_FEWEST, count)], source.seed)
        mean = {name: float(torch.tensor(ms).mean()) for name, ms in found.items()}
        return Timing(
            runtime=self.target.single.ran_in,
            device=str(describe_device("cpu")["name"]),
            threads=torch.get_num_threads(),
            batch_size=len(next(iter(batches[0].values()))),
            eager_unpruned_ms=mean["eager"],
            eager_pruned_ms=mean["eager by row"],
            unpruned_ms=mean["unpruned"],
            pruned_ms=mean["by row"],
            rounds=len(found["eager"]),
            noisy="",
        )

    def batches(self) -> list[Inputs]:
        """Rows as they come, as many together as latency was measured at; what is too long for a graph left out."""
        size, split, lengths = len(next(iter(self.source.inputs.values()))), self.split, self.lengths
        size, made = min(size, split.n), []
        for start in range(0, split.n - size + 1, size):
            inputs = split.batches.pick(list(range(start, start + size)), split.padding)[0].inputs
            if all(inputs[name].shape[-1] <= length for name, length in lengths.items()):
                fill = split.padding
                made.append({n: filled(value, lengths.get(n), fill.get(n, 0)) for n, value in inputs.items()})
        if not made:
            raise PruneSearchError(f"no {size} rows together are short enough to be timed: add --no-timing")
        return made
