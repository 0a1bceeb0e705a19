"""The comparison itself: every method brought to the latency, judged on the holdout rows, and told in one record."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from prunesearch.core.costs import COSTS, digits
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import say, step, track
from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.rival_table import RIVALS
from prunesearch.cost.costs import Costs
from prunesearch.search.costs.bench import Bench
from prunesearch.search.finish.items import paired_difference_to, value_beside
from prunesearch.search.finish.robustness import judged_rows
from prunesearch.search.rivals.agreement import with_survey
from prunesearch.search.rivals.arena import Arena, Effort, Entrant, LeftOutError
from prunesearch.search.rivals.facts import kernels_a_stage, varies
from prunesearch.search.rivals.meeting import AtTarget, Meeting, Timing
from prunesearch.search.rivals.row_by_row import RowWork, Served, row_work
from prunesearch.search.trials.evaluate import Evaluation, Evaluator
from prunesearch.study.front_compared import Compared, ComparedMethod
from prunesearch.study.front_items import Difference, Measured

_LOOKED_AT = 64  # calibration rows, for how unlike tokens fare in two of them


@dataclass(frozen=True)
class Comparing:
    """Compares methods.

    Attributes:
        arena: what they are compared on.
        timing: what times plans side by side.
        seconds: of timing, in all.
        rows: of the holdout split, at most; None: all.
        row_work: what chooses plans row by row.
    """

    arena: Arena
    timing: Timing
    seconds: float
    rows: int | None = None
    row_work: type[RowWork] = RowWork

    def go(self, names: Sequence[str], budget: str) -> Compared:
        """Compare the methods called `names` at the arena's share of the latency, `budget` as typed."""
        step(f"plans of {len(names)} methods near {budget}")
        entrants, left_out = self._entrants(names)
        step("timing: the plans of all methods, interleaved")
        unpruned, chosen, slow = Meeting(self.arena, self.arena.kept, self.seconds, self.timing).choose(entrants)
        left_out |= slow
        step(f"judging {len(chosen)} plans on holdout rows")
        reference, evaluations = self._judged({name: one.plan for name, one in chosen.items()})
        first = next((name for name in RIVALS if name in evaluations and RIVALS.entry(name).ours), "")
        ours = evaluations.get(first)
        methods = {
            name: self._method(name, chosen[name], entrants[name], found, (reference, ours), unpruned.middle)
            for name, found in track(evaluations.items(), len(evaluations), "what stages do to tokens")
        }
        by_row = [name for name in names if RIVALS.entry(name).by_row]
        if by_row:
            step("plans chosen row by row")
            ours_plan = chosen[first].plan if first else None
            found, missing = self._by_row(by_row, ours_plan, entrants.get(first, Entrant([])))
            methods |= found
            left_out |= missing
        for name, why in left_out.items():
            say(f"{name} is left out: {why}")
        listed = sorted(with_survey(methods).values(), key=lambda one: -one.quality.value)
        return Compared(
            budget=budget,
            share=self.arena.share,
            unpruned=unpruned,
            macs=None if self._macs is None else self._macs.predict(Plan()),
            rows=reference.n,
            methods=listed,
            left_out=left_out,
            table_seconds=self.arena.costing.table.seconds,
            notes=self._notes(),
            verdict=verdict(listed, digits(1 / self.arena.share), self.arena.front.task.metric),
        )

    def _entrants(self, names: Sequence[str]) -> tuple[dict[str, Entrant], dict[str, str]]:
        entrants, left_out = {}, {}
        for name in names:
            if RIVALS.entry(name).by_row:
                continue
            try:
                entrants[name] = RIVALS.load(name)(self.arena, RIVALS.entry(name))
            except LeftOutError as why:
                left_out[name] = str(why)
        return entrants, left_out

    def _judged(self, plans: Mapping[str, Plan]) -> tuple[Evaluation, dict[str, Evaluation]]:
        """The unpruned model and every method on holdout rows."""
        setting = self.arena.setting
        split = judged_rows(setting)
        split = split if self.rows is None else split.take(self.rows * max(1, len(split.views)))
        made: list[Evaluator] = []

        def evaluator() -> Evaluator:
            if not made:
                made.append(Evaluator(setting.task, self.arena.handle, split, setting.config.mode))
            return made[0]

        def of(plan: Plan) -> Evaluation:
            def evaluate() -> Evaluation:
                return evaluator().evaluate(plan) if plan != Plan() else evaluator().unpruned()

            return self.arena.kept.evaluation(plan, split.n, setting.task.scoring, evaluate, split)[0]

        reference = of(Plan())
        return reference, {name: of(plan) for name, plan in track(plans.items(), len(plans), "holdout")}

    def _method(
        self,
        name: str,
        chosen: AtTarget,
        entrant: Entrant,
        found: Evaluation,
        beside: tuple[Evaluation, Evaluation | None],
        unpruned_ms: float,
    ) -> ComparedMethod:
        reference, ours = beside
        task, handle, plan = self.arena.setting.task, self.arena.handle, chosen.plan
        views = {view: paired_difference_to(reference.in_views[view], there) for view, there in found.in_views.items()}
        looked_at = task.splits["calibration"].take(_LOOKED_AT)
        return ComparedMethod(
            name=name,
            plan=plan.to_dict(),
            text=str(plan),
            quality=value_beside(reference, found, None),
            to_ours=None if ours is None or ours is found else paired_difference_to(ours, found),
            latency=chosen.ms,
            speedup=unpruned_ms / chosen.ms.middle,
            macs=None if self._macs is None else self._macs.predict(plan),
            seconds=entrant.effort.seconds,
            rows=entrant.effort.rows,
            stages=len(plan),
            kernels=kernels_a_stage(task, handle, plan),
            varies=varies(task, handle, plan, looked_at) if len(plan) else None,
            views=views,
        )

    def _by_row(
        self, names: Sequence[str], ours: Plan | None, search: Entrant
    ) -> tuple[dict[str, ComparedMethod], dict[str, str]]:
        """Methods whose time hangs on the row, and why others have nothing here."""
        if ours is None:
            return {}, dict.fromkeys(
                names, "what goes row by row is held against the search's plan, and it has none here"
            )
        setting = self.arena.setting
        split = setting.task.splits["holdout"]
        rows = split.n if self.rows is None else min(self.rows, split.n)
        work = row_work(self.arena, ours, search.plans, rows, self.row_work)
        found, left_out = {}, {}
        for name in names:
            try:
                found[name] = self._served(
                    name, RIVALS.load(name)(work, self.arena.share, RIVALS.entry(name)), search.effort
                )
            except PruneSearchError as why:
                left_out[name] = str(why)
        return found, left_out

    def _served(self, name: str, one: Served, search: Effort) -> ComparedMethod:
        task, handle, plan = self.arena.setting.task, self.arena.handle, one.plan
        spent = one.effort + (search if plan is None else Effort())
        looked_at = task.splits["calibration"].take(_LOOKED_AT)
        return ComparedMethod(
            name=name,
            plan=None if plan is None else plan.to_dict(),
            text=one.text,
            quality=value_beside(one.unpruned, one.evaluation, None),
            to_ours=paired_difference_to(one.ours, one.evaluation),
            latency=Measured(value=one.latency.least),
            speedup=one.unpruned_ms / one.latency.least,
            macs=self._macs_of(one),
            seconds=spent.seconds,
            rows=spent.rows,
            stages=one.stages,
            kernels=None if plan is None else kernels_a_stage(task, handle, plan),
            varies=None if plan is None else varies(task, handle, plan, looked_at),
            by_row=one.latency,
        )

    def _macs_of(self, one: Served) -> float | None:
        """On average over inputs; rows of a batch are as wide as its widest."""
        macs = self._macs
        if macs is None:
            return None
        if one.plan is not None:
            return statistics.fmean(macs.under(one.plan.changes).price(flow) for flow in one.flows)
        return sum(share * macs.predict(plan) for plan, share in one.runs.items())

    @cached_property
    def _macs(self) -> Costs | None:
        """What prices multiply-adds; None where no closed form does."""
        found: Costs | None = COSTS.entry("macs").make_pricing().told(Bench(self.arena.setting, self.arena.handle))
        return found

    def _notes(self) -> list[str]:
        """What a reader should know."""
        config, table = self.arena.setting.config, self.arena.costing.table
        found = []
        if config.loads:
            found.append(f"latency is of {config.batch_size} rows, the first of the study's loads")
        if table.broken_promise:
            found.append(f"the cost table does no more than place plans near the target: {table.broken_promise}")
        if self.arena.front.combined is not None:
            found.append("rows that are sent to plans one by one are as they are, in no view")
            found.append(f"other qualities are the {self.arena.front.combined} of the study's views")
        return found


def verdict(methods: Sequence[ComparedMethod], speedup: str, metric: str) -> str:
    """How the search's stages stand beside every other method, by the paired intervals."""
    found = [one for name in RIVALS for one in methods if one.name == name and RIVALS.entry(name).ours]
    others = [one for one in methods if one not in found]
    if not methods:
        return f"No method has a plan at {speedup}x here."
    if not found:
        best = max(methods, key=lambda one: one.quality.value)
        return (
            f"At {speedup}x {best.name} keeps most of {len(methods)}: {_change(best.quality.difference)} of {metric}."
        )
    ours = found[0]
    ahead = [one for one in others if _ends(one)[1] < 0]
    behind = [one for one in others if _ends(one)[0] > 0]
    alike = [one for one in others if one not in ahead and one not in behind]
    said = f"At {speedup}x the search's plan ({ours.name}) changes {metric} by {_change(ours.quality.difference)}"
    parts = [f"better than {len(ahead)} of {len(others)} other methods"] if ahead else []
    parts += [f"worse than {_named(behind)}"] if behind else []
    parts += [f"not told apart from {_named(alike)}"] if alike else []
    said += f". It is {'; '.join(parts)}, at 95 % confidence each." if parts else "."
    return " ".join([said, *(f"{one.name}: {_change(one.quality.difference)}." for one in found[1:])])


def _ends(one: ComparedMethod) -> tuple[float, float]:
    return (None if one.to_ours is None else one.to_ours.ends) or (-1.0, 1.0)


def _named(methods: Sequence[ComparedMethod]) -> str:
    return ", ".join(one.name for one in methods)


def _change(change: Difference | None) -> str:
    """`-1.20 points (95 %: -2.00 to -0.40)`."""
    if change is None:
        return "nothing known"
    around = "" if change.ends is None else f" (95 %: {100 * change.ends[0]:+.2f} to {100 * change.ends[1]:+.2f})"
    return f"{100 * change.value:+.2f} points{around}"
