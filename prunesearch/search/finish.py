"""From finished trials to the front: held-out quality, re-measured costs, the verdict, and the files of the study."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from prunesearch import __version__
from prunesearch.core.budget import Budget
from prunesearch.core.pareto import non_dominated
from prunesearch.core.schedule import Schedule
from prunesearch.cost.energy import EnergyMeter
from prunesearch.cost.energy_result import EnergyResult
from prunesearch.cost.energy_schedules import measure_schedule_energy
from prunesearch.cost.flops import closed_form_gmacs
from prunesearch.cost.samples import Samples
from prunesearch.cost.table import CostTable
from prunesearch.cost.validate import measure_schedules
from prunesearch.pruning.apply import Handle
from prunesearch.results import front as schema
from prunesearch.results.report import write_report
from prunesearch.results.store import StudyFolder
from prunesearch.search.config import RunConfig
from prunesearch.search.evaluate import Evaluation, Evaluator
from prunesearch.search.illustrate import illustrate
from prunesearch.search.objectives import UNITS, Objective
from prunesearch.search.progress import Reporter
from prunesearch.search.seeds import spread
from prunesearch.search.study import TrialRecord, front_records
from prunesearch.search.verdict import verdict
from prunesearch.tasks.base import Task
from prunesearch.tasks.metrics import paired_difference, wilson


@dataclass(frozen=True)
class Measured:
    """What was measured of one schedule; None where the device, or its counter, is not at hand."""

    latency: Samples | None
    energy: EnergyResult | None


@dataclass
class Finish:
    """Everything the last two steps of a run need; `here`: the device whose costs count is at hand."""

    config: RunConfig
    folder: StudyFolder
    model_id: str
    model_shown: str
    task: Task
    handle: Handle
    table: CostTable
    objectives: list[Objective]
    here: bool
    meter: EnergyMeter | None
    budget: Budget | None
    records: list[TrialRecord]
    unpruned_calibration: float
    search: schema.SearchInfo
    reporter: Reporter

    def go(self) -> schema.Front:
        """Evaluate and re-measure the candidates, drop the dominated ones, and write front and report."""
        candidates = spread(front_records(self.records), self.config.front_points, lambda r: r.predicted_ms)
        evaluations, reference = self._hold_out(candidates)
        measured = self._measure([Schedule(), *(r.schedule for r in candidates)])
        unpruned = self._unpruned(reference, measured[0])
        points = [
            self._point(record, evaluation, reference, costs, unpruned)
            for record, evaluation, costs in zip(candidates, evaluations, measured[1:], strict=True)
        ]
        kept = self._front_of(points, unpruned)
        front = self._front(unpruned, kept, len(points) - len(kept))
        front.save(self.folder.front)
        self._report(front)
        return front

    def _hold_out(self, candidates: list[TrialRecord]) -> tuple[list[Evaluation], Evaluation]:
        split = self.task.holdout
        self.reporter.step(f"holdout: {len(candidates)} candidates on {split.n} rows that the search has not seen")
        evaluator = Evaluator(self.task, self.handle, split)
        with self.reporter.bar("holdout", max(1, len(candidates) * split.n)) as bar:
            found = [evaluator.evaluate(r.schedule, bar.advance) for r in candidates]
        return found, evaluator.unpruned()

    def _measure(self, schedules: list[Schedule]) -> list[Measured]:
        """Re-measure end to end, where the device is at hand."""
        if not self.here:
            self.reporter.step(f"not re-measured: {self.table.device['name']} is not at hand; costs are predictions")
            return [Measured(None, None) for _ in schedules]
        inputs = self.task.timing_inputs(self.config.batch_size)
        quiet = self.reporter.quiet or not self.reporter.console.is_terminal
        self.reporter.step(f"re-measuring {len(schedules)} schedules end to end")
        samples = measure_schedules(
            self.task.model,
            inputs,
            schedules,
            time_budget_s=self.config.table_seconds / 2,
            quiet=quiet,
            label="re-measuring",
            mode=self.config.mode,
            concurrency=self.config.concurrency,
        )
        if self.meter is None:
            return [Measured(latency, None) for latency in samples]
        energies = measure_schedule_energy(
            self.meter,
            self.task.model,
            inputs,
            schedules,
            mode=self.config.mode,
            window_s=self.config.energy_window_s,
            quiet=quiet,
        )
        doubts = {result.why for result in energies.results.values() if not result.valid}
        if doubts:  # points of which some were measured and some were not cannot be compared
            self.reporter.say(f"      energy is not measured validly, and stays predicted: {'; '.join(sorted(doubts))}")
            return [Measured(latency, None) for latency in samples]
        return [Measured(s, energies.results[schedule]) for s, schedule in zip(samples, schedules, strict=True)]

    def _tokens(self, schedule: Schedule) -> list[int]:
        encoder = self.handle.encoder
        return schedule.counts(encoder.depth, self.task.tokens, encoder.protected)

    def _latency(self, schedule: Schedule, samples: Samples | None) -> schema.Latency:
        return schema.Latency(
            predicted_ms=self.table.predict(schedule),
            median_ms=None if samples is None else samples.median_ms,
            p10_ms=None if samples is None else samples.p10_ms,
            p90_ms=None if samples is None else samples.p90_ms,
        )

    def _energy(self, schedule: Schedule, result: EnergyResult | None) -> schema.Energy | None:
        costs = next((o.costs for o in self.objectives if o.name == "energy"), None)
        if costs is None:
            return None
        measured = None
        if result is not None and result.low_mj is not None and result.high_mj is not None:
            measured = schema.Interval(value=result.energy_mj, low=result.low_mj, high=result.high_mj)
        net = None if measured is None or result is None else result.net_mj
        return schema.Energy(predicted_mj=costs.predict(schedule), measured=measured, net_mj=net)

    def _unpruned(self, evaluation: Evaluation, measured: Measured) -> schema.Unpruned:
        return schema.Unpruned(
            quality=_quality(evaluation),
            calibration=schema.Calibration(quality=self.unpruned_calibration, kl=0.0),
            latency=self._latency(Schedule(), measured.latency),
            energy=self._energy(Schedule(), measured.energy),
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
        value, low, high = paired_difference(reference.correct, evaluation.correct)
        latency = self._latency(record.schedule, measured.latency)
        return schema.Point(
            id=f"t{record.number}",
            trial=record.number,
            schedule=record.schedule.to_dict(),
            text=str(record.schedule),
            tokens=self._tokens(record.schedule),
            quality=_quality(evaluation),
            difference=schema.Interval(value=value, low=low, high=high),
            fidelity=schema.Fidelity(kl=evaluation.loss, agreement=float(evaluation.agrees.double().mean())),
            calibration=schema.Calibration(quality=record.quality, kl=record.loss),
            latency=latency,
            energy=self._energy(record.schedule, measured.energy),
            speedup=unpruned.latency.ms / latency.ms,
            gmacs=self._gmacs(record.schedule),
        )

    def _bounds(self, unpruned: schema.Unpruned) -> list[tuple[str, float]]:
        """`(unit, limit)` of the budget; shares and speed-ups are of what the unpruned model was measured at."""
        if self.budget is None:
            return []
        first = self.config.minimised[0]
        unit = "mJ" if (self.budget.kind if self.budget.kind in UNITS else first) == "energy" else "ms"
        return [(unit, self.budget.limit(schema.cost_of(unpruned, unit)))]

    def _front_of(self, points: list[schema.Point], unpruned: schema.Unpruned) -> list[schema.Point]:
        """The points that stand by their final values: not dominated (the unpruned model counts), in budget."""
        bounds = self._bounds(unpruned)
        inside = [
            p
            for p in points
            if p.schedule["stages"] and all(schema.cost_of(p, unit) <= limit for unit, limit in bounds)
        ]
        units = [UNITS[name] for name in self.config.minimised]
        rivals: list[schema.Point | schema.Unpruned] = [*inside, unpruned]
        values = [(*(schema.cost_of(p, u) for u in units), -p.quality.value) for p in rivals]
        stands = non_dominated(values)[:-1]
        kept = sorted((p for p, keep in zip(inside, stands, strict=True) if keep), key=lambda p: -p.latency.ms)
        return [p.model_copy(update={"id": f"p{i}"}) for i, p in enumerate(kept, start=1)]

    def _front(self, unpruned: schema.Unpruned, points: list[schema.Point], dropped: int) -> schema.Front:
        config, encoder, table = self.config, self.handle.encoder, self.table
        bounds = self._bounds(unpruned)
        budget = None
        if self.budget is not None:
            budget = schema.BudgetInfo.model_validate(
                {"text": self.budget.text, "unit": bounds[0][0], "limit": bounds[0][1]}
            )
        quality = schema.CostTable(**table.summary())
        return schema.Front(
            study=self.folder.name,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            prunesearch=__version__,
            config=config.model_dump(mode="json"),
            model=schema.ModelInfo(
                id=self.model_shown,
                class_name=type(self.task.model).__name__,
                family=encoder.family.model_type,
                depth=encoder.depth,
                tokens=self.task.tokens,
                protected=encoder.protected,
            ),
            task=schema.TaskInfo(
                name=self.task.name,
                metric=self.task.metric,
                calibration=self.task.calibration.n,
                holdout=self.task.holdout.n,
                notes=self.task.notes,
            ),
            device=schema.Device(**table.device),
            conditions=schema.Conditions(**{k: v for k, v in table.conditions.items() if k != "device"}),
            cost_table=quality,
            objectives=config.minimised,
            budget=budget,
            unpruned=unpruned,
            points=points,
            dropped=dropped,
            verdict=verdict(
                unpruned,
                points,
                budget,
                config.batch_size,
                self.task.metric,
                config.minimised[0],
                "" if self.here else schema.trust(quality),
            ),
            search=self.search,
        )

    def _report(self, front: schema.Front) -> None:
        pictures, texts = illustrate(self.task, self.handle, front.points, self.model_id)
        trials = [
            {"number": r.number, "predicted_ms": r.predicted_ms, "kl": r.loss, "quality": r.quality}
            for r in self.records
        ]
        write_report(self.folder.report, front, trials, pictures, texts)


def _quality(evaluation: Evaluation) -> schema.Interval:
    value, low, high = wilson(int(evaluation.correct.sum()), len(evaluation.correct))
    return schema.Interval(value=value, low=low, high=high)
