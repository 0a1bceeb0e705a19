"""From finished trials to the front: held-out quality, re-measured costs, the verdict, and the files of the study."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from prunesearch import __version__
from prunesearch.core.events import moving, step
from prunesearch.core.schedule import Schedule
from prunesearch.cost.counting.flops import closed_form_gmacs
from prunesearch.cost.tables.percentile import MEDIAN
from prunesearch.cost.timing.samples import Samples
from prunesearch.pruning.apply import Handle
from prunesearch.report.report import write_report
from prunesearch.search.costs.costing import Costing
from prunesearch.search.costs.latency import LoadCosts
from prunesearch.search.finish.candidates import Bounds, blind_note, hypervolume, selection, selection_note, standing
from prunesearch.search.finish.illustrate import illustrate
from prunesearch.search.finish.remeasure import Measured, Remeasurer
from prunesearch.search.finish.verdict import Judge
from prunesearch.search.solve.seed import spread
from prunesearch.search.trials.evaluate import Evaluation, Evaluator
from prunesearch.study import front as schema
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.trials import TrialRecord, front_records
from prunesearch.tasks.base import Task


@dataclass
class Finish:
    """Everything the last two steps of a run need.

    Attributes:
        model_id: folder or Hub id that the model's tokenizer or processor comes from; None if nobody knows it.
        model_shown: what results call the model.
        remeasurer: measures costs; None where the device whose costs count is not at hand.
        records: finished trials, all of them.
        candidates: of them, those that keep the constraints on the rows of the search.
        unpruned_calibration: quality of the unpruned model on these rows, `calibration_rows` of them.
        search: what the search spent.
    """

    config: RunConfig
    folder: StudyFolder
    model_id: str | None
    model_shown: str
    task: Task
    handle: Handle
    costing: Costing
    remeasurer: Remeasurer | None
    records: Sequence[TrialRecord]
    candidates: Sequence[TrialRecord]
    unpruned_calibration: float
    calibration_rows: int
    search: schema.SearchInfo

    def go(self) -> schema.Front:
        """Evaluate and re-measure the candidates, drop the dominated ones, and write front and report."""
        candidates = spread(front_records(self.candidates), self.config.front_points, lambda r: r.predicted_ms)
        evaluations, reference = self._hold_out(candidates)
        measured = self._measure([Schedule(), *(r.schedule for r in candidates)])
        unpruned = self._unpruned(reference, measured[0])
        points = [
            self._point(record, evaluation, reference, costs, unpruned)
            for record, evaluation, costs in zip(candidates, evaluations, measured[1:], strict=True)
        ]
        chosen = selection(
            [r.quality for r in candidates], self.unpruned_calibration, self.calibration_rows, evaluations, reference
        )
        blind = blind_note(self.task.metric, reference, self.task.holdout.labels)
        front = self._front(unpruned, points, chosen, blind)
        self._report(front)
        front.save(self.folder.front)  # last: where it lies, the study is finished
        return front

    def _hold_out(self, candidates: list[TrialRecord]) -> tuple[list[Evaluation], Evaluation]:
        split = self.task.holdout
        step(f"holdout: {len(candidates)} candidates on {split.n} rows that the search has not seen")
        evaluator = Evaluator(self.task, self.handle, split)
        with moving("holdout", max(1, len(candidates) * split.n)) as bar:
            found = [evaluator.evaluate(r.schedule, bar.advance) for r in candidates]
        return found, evaluator.unpruned()

    def _measure(self, schedules: list[Schedule]) -> list[Measured]:
        if self.remeasurer is None:
            device = self.costing.table.device["name"]
            step(f"not re-measured: {device} is not at hand; costs are predictions")
            return [Measured() for _ in schedules]
        return self.remeasurer.measure(schedules)

    def _tokens(self, schedule: Schedule) -> list[int]:
        encoder = self.handle.encoder
        return schedule.counts(encoder.depth, self.task.tokens, encoder.protected)

    def _loads(self, schedule: Schedule, measured: Measured) -> list[schema.Latency]:
        """The latency under every load."""
        loads = self.costing.loads
        if measured.latencies is None:
            return [self._load(load, schedule, None) for load in loads]
        return [self._load(load, schedule, s) for load, s in zip(loads, measured.latencies, strict=True)]

    def _load(self, load: LoadCosts, schedule: Schedule, samples: Samples | None) -> schema.Latency:
        predicted = load.costs.predict(schedule)
        if samples is None:
            return schema.Latency(predicted_ms=predicted, median_ms=None, p10_ms=None, p90_ms=None)
        asked = self.config.percentile
        return schema.Latency(
            predicted_ms=predicted,
            median_ms=samples.median_ms,
            p10_ms=samples.p10_ms,
            p90_ms=samples.p90_ms,
            percentile_ms=None if asked == MEDIAN else samples.quantile_ms(asked / 100),
        )

    def _latency(self, loads: list[schema.Latency], unpruned: list[schema.Latency]) -> schema.Latency:
        """What the loads come to together; `unpruned`: the unpruned model's."""
        across = self.costing.across
        if across is None:
            return loads[0]

        def together(name: str) -> float | None:
            values = [[getattr(latency, name) for latency in latencies] for latencies in (loads, unpruned)]
            return None if None in values[0] else across.combine(*values)

        return schema.Latency(
            predicted_ms=across.combine([x.predicted_ms for x in loads], [x.predicted_ms for x in unpruned]),
            median_ms=together("median_ms"),
            p10_ms=None,
            p90_ms=None,
            percentile_ms=together("percentile_ms"),
        )

    def _energy(self, schedule: Schedule, measured: Measured) -> schema.Energy | None:
        costs, result = self.costing.costs_of("energy"), measured.energy
        if costs is None:
            return None
        interval = None
        if result is not None and result.low_mj is not None and result.high_mj is not None:
            interval = schema.Interval(value=result.energy_mj, low=result.low_mj, high=result.high_mj)
        net = None if interval is None or result is None else result.net_mj
        return schema.Energy(predicted_mj=costs.predict(schedule), measured=interval, net_mj=net)

    def _memory(self, schedule: Schedule, measured: Measured) -> schema.Memory | None:
        costs = self.costing.costs_of("memory")
        if costs is None:
            return None
        return schema.Memory(predicted_mib=costs.predict(schedule), measured_mib=measured.memory_mib)

    def _unpruned(self, evaluation: Evaluation, measured: Measured) -> schema.Unpruned:
        loads = self._loads(Schedule(), measured)
        return schema.Unpruned(
            quality=_quality(evaluation),
            calibration=schema.Calibration(quality=self.unpruned_calibration, kl=0.0),
            latency=self._latency(loads, loads),
            loads=[] if self.costing.across is None else loads,
            energy=self._energy(Schedule(), measured),
            memory=self._memory(Schedule(), measured),
            gmacs=self._gmacs(Schedule()),
            tokens=self._tokens(Schedule()),
        )

    def _gmacs(self, schedule: Schedule) -> float:
        return closed_form_gmacs(self.handle.encoder, schedule, self.task.tokens)

    def _point(
        self,
        record: TrialRecord,
        evaluation: Evaluation,
        reference: Evaluation,
        measured: Measured,
        unpruned: schema.Unpruned,
    ) -> schema.Point:
        schedule = record.schedule
        value, low, high = evaluation.metric.difference(reference.statistics, evaluation.statistics)
        loads = self._loads(schedule, measured)
        latency = self._latency(loads, unpruned.loads)
        return schema.Point(
            id=f"t{record.number}",
            trial=record.number,
            schedule=schedule.to_dict(),
            text=str(schedule),
            tokens=self._tokens(schedule),
            quality=_quality(evaluation),
            difference=schema.Interval(value=value, low=low, high=high),
            fidelity=schema.Fidelity(kl=evaluation.loss, agreement=evaluation.agreement),
            calibration=schema.Calibration(quality=record.quality, kl=record.loss),
            latency=latency,
            loads=[] if self.costing.across is None else loads,
            energy=self._energy(schedule, measured),
            memory=self._memory(schedule, measured),
            speedup=unpruned.latency.ms / latency.ms,
            gmacs=self._gmacs(schedule),
        )

    def _front(
        self,
        unpruned: schema.Unpruned,
        candidates: list[schema.Point],
        chosen: schema.Selection | None,
        blind: str | None,
    ) -> schema.Front:
        config, costing = self.config, self.costing
        first = config.objectives[0]
        bounds = Bounds(config.budget, config.constraints, unpruned, first)
        points = standing(bounds.inside(candidates), unpruned, config.objectives, blind=blind is not None)
        constraints = bounds.constraint_infos([p for p in candidates if p.schedule["stages"]])
        table = schema.CostTable(**costing.table.summary())
        judge = Judge(
            unpruned,
            self.task.metric,
            config.batch_size,
            first,
            bounds.budget_info(),
            constraints,
            "" if self.remeasurer is not None else schema.trust(table),
            blind=blind is not None,
        )
        notes = [blind, selection_note(chosen, self.task.metric), *self._remarks(points)]
        return schema.Front(
            study=self.folder.name,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            prunesearch=__version__,
            config=config.to_dict(),
            model=self._model(),
            task=schema.TaskInfo(
                name=self.task.name,
                metric=self.task.metric,
                calibration=self.task.calibration.n,
                holdout=self.task.holdout.n,
                notes=self.task.notes,
            ),
            device=schema.Device(**costing.table.device),
            conditions=schema.Conditions(**{k: v for k, v in costing.table.conditions.items() if k != "device"}),
            cost_table=table,
            objectives=config.objectives,
            percentile=self._percentile(),
            loads=self._load_infos(),
            across=None if costing.across is None else config.across,
            budget=bounds.budget_info(),
            constraints=constraints,
            unpruned=unpruned,
            points=points,
            dropped=len(candidates) - len(points),
            hypervolume=hypervolume(points, unpruned, first),
            selection=chosen,
            notes=[note for note in notes if note],
            verdict=judge.verdict(points),
            search=self.search,
        )

    def _remarks(self, points: list[schema.Point]) -> list[str]:
        """What this kind of task has to say of the points beside its columns, measured where the device is at hand."""
        if self.remeasurer is None:
            return []
        return self.task.remarks(self.handle, {p.id: p.to_schedule() for p in points}, self.config.batch_size)

    def _model(self) -> schema.ModelInfo:
        encoder = self.handle.encoder
        return schema.ModelInfo(
            id=self.model_shown,
            class_name=type(self.task.model).__name__,
            family=encoder.family.model_type,
            depth=encoder.depth,
            tokens=self.task.tokens,
            protected=encoder.protected,
        )

    def _percentile(self) -> schema.Percentile | None:
        tail = self.costing.loads[0].tail
        if tail is None:
            return None
        return schema.Percentile(
            value=tail.percentile, factor=tail.factor, mape=tail.mape, coverage=tail.coverage, timings=tail.timings
        )

    def _load_infos(self) -> list[schema.Load]:
        if self.costing.across is None:
            return []
        return [
            schema.Load(
                batch_size=load.batch_size, tokens=load.tokens, weight=load.weight, mape=load.table.summary()["mape"]
            )
            for load in self.costing.loads
        ]

    def _report(self, front: schema.Front) -> None:
        rows, traces = illustrate(self.task, self.handle, front.points, self.model_id)
        trials = [
            {
                "number": r.number,
                "predicted_ms": r.predicted_ms,
                "kl": r.loss,
                "quality": r.quality,
                "schedule": r.schedule.to_dict(),
            }
            for r in self.records
        ]
        write_report(self.folder.report, front, trials, rows, traces)


def _quality(evaluation: Evaluation) -> schema.Interval:
    value, low, high = evaluation.metric.interval(evaluation.statistics)
    return schema.Interval(value=value, low=low, high=high)
