"""From finished trials to the front: held-out quality, re-measured costs, the verdict, and the files of the study."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial

import torch
from torch import Tensor

from prunesearch import __version__
from prunesearch.core.constraint import relative_bound
from prunesearch.core.costs import COSTS
from prunesearch.core.events import moving, step
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.stage import ENCODER
from prunesearch.search.costs.bench import Bench
from prunesearch.search.costs.costing import Costing
from prunesearch.search.finish.candidates import (
    Bounds,
    blind_note,
    hypervolume,
    selection,
    selection_note,
    senseless_note,
    sensible,
    standing,
)
from prunesearch.search.finish.carried import Carried
from prunesearch.search.finish.illustrate import report_study
from prunesearch.search.finish.items import ItemMaker, Reference
from prunesearch.search.finish.kept import Kept
from prunesearch.search.finish.ladder import climb, say_ladder
from prunesearch.search.finish.need import InTurn, prospect_of, rows_at_least, rows_needed, rows_note
from prunesearch.search.finish.remeasure import Remeasured, remeasure
from prunesearch.search.finish.robustness import by_parts, judged_rows, part_notes, robust_notes, with_worst_class
from prunesearch.search.finish.tuned import keep_tuned
from prunesearch.search.finish.verdict import TOLERANCE, Judge, in_sequence, with_promises
from prunesearch.search.handed_on import Run, Searched
from prunesearch.search.solve.seed import spread
from prunesearch.search.trials.constraints import feasible_records
from prunesearch.search.trials.evaluate import Evaluation, Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front, trust
from prunesearch.study.front_items import Point, Unpruned
from prunesearch.study.front_records import (
    Conditions,
    Device,
    LoadInfo,
    ModelInfo,
    Percentile,
    SearchInfo,
    Selection,
    TableInfo,
    TaskInfo,
    TowerInfo,
)
from prunesearch.study.setup import Setting
from prunesearch.study.trials import TrialRecord, evaluation_units, failed_trials, front_records
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import EvalSet


@dataclass(frozen=True)
class Finish:
    """The last two steps of a run: it holds the candidates out, measures them, and writes what came of it.

    Attributes:
        searched: what was searched, and all that this stands on.
        records: finished trials, all of them.
    """

    searched: Searched
    records: Sequence[TrialRecord]

    @property
    def run(self) -> Run:
        """What the run stands on."""
        return self.searched.probed.priced.run

    @property
    def setting(self) -> Setting:
        """What the run is of."""
        return self.run.setting

    @property
    def config(self) -> RunConfig:
        """What was asked for."""
        return self.setting.config

    @property
    def task(self) -> Task:
        """The model with its data."""
        return self.setting.task

    @property
    def costing(self) -> Costing:
        """What schedules cost by prediction."""
        return self.searched.probed.priced.costing

    @cached_property
    def bench(self) -> Bench:
        """What measures costs, where the device is at hand."""
        return Bench(self.setting, self.run.handle, self.costing.loads, self.run.meter, self.config.table_seconds / 2)

    @property
    def here(self) -> bool:
        """Whether the device whose costs count is at hand."""
        return self.setting.target.here

    def go(self) -> Front:
        """Evaluate and re-measure the candidates, drop the dominated ones, and write front and report."""
        candidates = self._candidates()
        split = judged_rows(self.setting)
        rows = self._rows(candidates, split.n)
        evaluations, reference = self._hold_out(
            candidates, split.take(max((n for n, _ in rows), default=split.n)), rows
        )
        base, *measured = self._measure([Plan(), *(r.plan for r in candidates)])
        known = Reference(reference, self._seen.quality)
        maker = ItemMaker(self.costing, self.bench, self.task.metric, known)
        unpruned = maker.unpruned(base)
        points = [
            maker.point(record, evaluation, costs, base)
            for record, evaluation, costs in zip(candidates, evaluations, measured, strict=True)
        ]
        points = by_parts(points, self.task, reference, evaluations, split.take(reference.n))
        carried = self._carried(reference)
        if carried is not None:
            points = [carried.point(point, found) for point, found in zip(points, evaluations, strict=True)]
        common = min((found.n for found in evaluations), default=split.n)
        chosen = (
            None
            if split.views
            else selection(
                [r.quality for r in candidates],
                known.calibration,
                self.searched.probed.split.n,
                [e.first(common) for e in evaluations],
                reference.first(common),
            )
        )
        blind = blind_note(self.task, reference, split.take(reference.n).labels)
        notes = [] if carried is None else [carried.note()]
        front = self._with_ladder(self._front(unpruned, points, chosen, blind, notes))
        if self.run.folder.front.exists():
            front = keep_tuned(front, Front.load(self.run.folder.front), blind=blind is not None)
        if self.setting.weights is not None:
            self.setting.weights.copy_to(self.run.folder.weights)
        report_study(self.run.folder, front, self.setting, self.run.handle, self.records)
        front.save(self.run.folder.front)  # last: where it lies, the study is finished
        return front

    def _with_ladder(self, front: Front) -> Front:
        """With what other runtimes would give the unpruned model here, and the recommended plan's stages on top."""
        if not self.here:
            step("ladder: none, since the device is not at hand")
            return front
        if self.setting.geometry.part != ENCODER:
            step("ladder: none, since no other runtime here takes a decoder with its pictures")
            return front
        step("ladder: the unpruned model in every runtime and precision that is here")
        named = (front.point(name) for name in (front.verdict.point, front.verdict.by_estimate) if name is not None)
        best = next((point.to_plan() for point in named if point is not None and len(point.to_plan())), None)
        rows = max(1, self.searched.probed.split.n // 2)  # fewer where they are slow, or losses are alike on all
        rungs = climb(self.bench, self.costing.space.variants, best, self.run.folder.path / "ladder.json", rows)
        say_ladder(rungs)
        return front.model_copy(update={"ladder": rungs})

    def _candidates(self) -> list[TrialRecord]:
        """Of the front of the search, and the unpruned model with each change of it, which is a rival in any case.

        The unpruned model as it is, the reference, takes no candidate's place.
        """
        feasible = feasible_records(self.searched.study, self.records)
        rivals = [r for r in feasible if r.rows is None and r.plan != Plan() and not len(r.plan)]
        front = [r for r in front_records(feasible) if r.plan != Plan() and r not in rivals]
        chosen = spread(front, max(1, self.config.front_points - len(rivals)), lambda r: r.predicted_ms)
        return sorted([*chosen, *rivals], key=lambda r: -r.predicted_ms)

    def _rows(self, candidates: Sequence[TrialRecord], total: int) -> list[tuple[int, int]]:
        """Holdout rows of every candidate, at most and at least; see `need`."""
        unpruned = self._seen
        kept = self.searched.study.get_trials(deepcopy=False)
        prospects = [prospect_of(kept[r.number].user_attrs.get("per_row"), unpruned) for r in candidates]
        interval = self.config.promise.interval * unpruned.quality
        most = rows_needed(prospects, self._limit(unpruned.quality), interval, total)
        return list(zip(most, rows_at_least(prospects, interval, total), strict=True))

    def _limit(self, base: float) -> float | None:
        """The least change from a quality of `base` that is good enough; None where qualities alone do not say."""
        judge_by, unpruned = [c for c in self.config.constraints if c.on_quality], self._seen
        blind = blind_note(self.task, unpruned, self.searched.probed.split.labels)  # divergences are of the same rows
        if any(c.on_agreement for c in judge_by) or unpruned.quality <= 0 or blind is not None or self.task.views:
            return None
        limits = [c.limit(base) - base for c in judge_by] or [relative_bound(1 - TOLERANCE, base) - base]
        return max(limits)

    def _hold_out(
        self, candidates: list[TrialRecord], split: EvalSet, rows: Sequence[tuple[int, int]]
    ) -> tuple[list[Evaluation], Evaluation]:
        fewest = min((n for n, _ in rows), default=split.n)
        few = "" if fewest == split.n else f"{fewest} to "
        step(f"holdout: {len(candidates)} candidates on {few}{split.n} rows that the search has not seen")
        evaluator, scoring = partial(self._holdout, split.n), self.task.scoring
        reference, _ = self._kept.evaluation(Plan(), split.n, scoring, lambda: evaluator().unpruned(), split)
        turn, tested, found = InTurn(reference, self._limit(reference.quality)), self._sequence(candidates), []
        with moving("holdout", max(1, sum(n for n, _ in rows))) as bar:
            for record, (most, least) in zip(candidates, rows, strict=True):
                n = turn.rows(record.values[0], most, least)
                ends = turn.ends(n, least)
                made = partial(self._evaluate, evaluator, record.plan, n, bar.advance, ends)
                evaluation, before = self._kept.evaluation(record.plan, n, scoring, made, split)
                bar.advance(most - (0 if before else evaluation.n))
                if record.number in tested:
                    turn.read(record.values[0], evaluation)
                found.append(evaluation)
        return found, reference

    def _sequence(self, candidates: Sequence[TrialRecord]) -> set[int]:
        """The trials that promises are tested on, by what they cost by prediction; none where bounds say too."""
        if self.config.budget is not None or any(not c.on_quality for c in self.config.constraints):
            return set()
        seen = [(r.values[0], r.quality, r.loss) for r in candidates]
        return {r.number for r, tested in zip(candidates, in_sequence(seen), strict=True) if tested}

    @cached_property
    def _seen(self) -> Evaluation:
        """The user's model on the rows of the search."""
        if self.setting.weights is None:
            return self.searched.unpruned
        return self._made(self.searched.probed.split).unpruned()

    @cached_property
    def _holdout(self) -> Callable[[int], Evaluator]:
        """What evaluates plans on so many holdout rows, made once: where all is kept from before, none is needed."""
        return cache(lambda rows: self._made(judged_rows(self.setting).take(rows)))

    def _made(self, split: EvalSet) -> Evaluator:
        """Its reference is the user's model."""
        with self.setting.on_own_weights():
            found = Evaluator(self.task, self.run.handle, split, self.config.mode)
            found.unpruned()
        return found

    def _carried(self, reference: Evaluation) -> Carried | None:
        """What makes points carry the weights that the run was given."""
        if self.setting.weights is None:
            return None
        return Carried(self.setting.weights, self.task, self._kept, partial(self._holdout, reference.n), reference)

    @staticmethod
    def _evaluate(
        evaluator: Callable[[], Evaluator],
        plan: Plan,
        rows: int,
        progress: Callable[[int], None],
        ends: Callable[[Tensor], bool],
    ) -> Evaluation:
        return evaluator().evaluate(plan, progress, rows=rows, ends=ends)

    @cached_property
    def _kept(self) -> Kept:
        """Settings that change what is found cannot change in a study; these are what else could."""
        config = self.config
        conditions = {
            "prunesearch": __version__,
            "rows": [self.task.holdout.n, *config.robust, config.severity, config.robust_rows, config.over],
            "metric": self.task.metric,
            "asked": [config.eval_batch_size, config.percentile, config.mode, config.concurrency],
            "machine": [platform.node(), torch.__version__, torch.get_num_threads()],
        }
        return Kept(self.run.folder.path / "finish", conditions)

    def _measure(self, plans: list[Plan]) -> list[Remeasured]:
        if not self.here:
            device = self.costing.table.device["name"]
            step(f"not re-measured: {device} is not at hand; costs are predictions")
            return [Remeasured() for _ in plans]
        step(f"re-measuring {len(plans)} plans end to end")
        return remeasure(self.bench, [name for name in COSTS if name in self.config.costs], plans, self._kept)

    def _front(
        self,
        unpruned: Unpruned,
        candidates: list[Point],
        chosen: Selection | None,
        blind: str | None,
        said: Sequence[str] = (),
    ) -> Front:
        config, costing = self.config, self.costing
        first = config.objectives[0]
        bounds = Bounds(config.budget, config.constraints, unpruned, first)
        constraints = bounds.constraint_infos([p for p in candidates if p.to_plan() != Plan()])
        table = TableInfo(**costing.table.summary())
        judge = Judge(
            unpruned,
            self.task.metric,
            config.batch_size,
            first,
            bounds.budget_info(),
            constraints,
            "" if self.here else trust(table),
            blind=blind is not None,
        )
        tested = with_promises(bounds.affordable(candidates), first)
        inside = bounds.inside(tested)
        answering = sensible(inside, unpruned)
        points = standing(answering, unpruned, config.objectives, blind=blind is not None, keep=judge.promise(tested))
        notes = [blind, rows_note(points), selection_note(chosen, self.task.metric), costing.ranking_note]
        notes += [
            *said,
            senseless_note(len(inside) - len(answering), self.task.metric),
            *robust_notes(points, unpruned),
            *part_notes(points),
            *self._remarks(points),
        ]
        return Front(
            study=self.run.folder.name,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            prunesearch=__version__,
            config=config.to_dict(),
            model=self._model(),
            task=TaskInfo(
                name=self.task.name,
                metric=self.task.metric,
                calibration=self.task.calibration.n,
                holdout=self.task.holdout.n,
                group=config.group,
                notes=self.task.notes,
            ),
            device=Device(**costing.table.device),
            conditions=Conditions(**{k: v for k, v in costing.table.conditions.items() if k != "device"}),
            cost_table=table,
            objectives=config.objectives,
            percentile=self._percentile(),
            loads=self._load_infos(),
            across=None if costing.across is None else config.across,
            combined=config.over if len(unpruned.qualities) > 1 else None,
            budget=bounds.budget_info(),
            constraints=constraints,
            unpruned=unpruned,
            points=points,
            dropped=len(candidates) - len(points),
            hypervolume=hypervolume(points, unpruned, first),
            selection=chosen,
            notes=[note for note in notes if note],
            verdict=with_worst_class(judge.verdict(points, tested), points),
            search=_spent(self.searched, self.records),
        )

    def _remarks(self, points: list[Point]) -> list[str]:
        """What this kind of task has to say of the points beside its columns, measured where the device is at hand."""
        if not self.here:
            return []
        return self.task.remarks(self.run.handle, {p.id: p.to_plan() for p in points}, self.config.batch_size)

    def _model(self) -> ModelInfo:
        encoder, tower = self.run.handle.encoder, self.setting.geometry.tower
        return ModelInfo(
            id=self.setting.source.shown,
            class_name=type(self.task.model).__name__,
            family=encoder.family.model_type,
            depth=encoder.depth,
            tokens=self.task.tokens,
            protected=self.setting.geometry.protected,
            part=encoder.family.part,
            tower=None if tower is None else TowerInfo(**tower._asdict()),
        )

    def _percentile(self) -> Percentile | None:
        tail = self.costing.loads[0].tail
        if tail is None:
            return None
        return Percentile(
            value=tail.percentile, factor=tail.factor, mape=tail.mape, coverage=tail.coverage, timings=tail.timings
        )

    def _load_infos(self) -> list[LoadInfo]:
        if self.costing.across is None:
            return []
        return [
            LoadInfo(
                batch_size=load.batch_size, tokens=load.tokens, weight=load.weight, mape=load.table.summary()["mape"]
            )
            for load in self.costing.loads
        ]


def _spent(searched: Searched, records: Sequence[TrialRecord]) -> SearchInfo:
    """What the search spent, over all sessions; a unit is one evaluation of the unpruned model on the same rows."""
    probed = searched.probed
    spent, saved = evaluation_units(records, probed.priced.costing.unpruned_ms)
    return SearchInfo.model_validate(
        {
            "sampler": probed.priced.run.setting.config.sampler,
            "trials": len(records),
            "seeds": sum(r.source == "seed" for r in records),
            "failed": failed_trials(searched.study),
            "evaluations": spent + probed.sensitivities.passes / probed.split.n,
            "saved": saved,
            "seconds": sum(r.seconds for r in records) + probed.sensitivities.seconds,
            "stopped": searched.stopped,
        }
    )
