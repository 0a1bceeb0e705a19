"""`prunesearch transfer`: a study's schedules on another device: what changes rank, and the regret of reusing them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from prunesearch.core.costs import digits, find_cost
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.plan import Plan
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.study.front import Front, trust
from prunesearch.study.front_items import Point, Unpruned


@dataclass(frozen=True)
class TransferredPoint:
    """A point of the front on both devices.

    `here_ms` is the study's median latency under its first load, `there_ms` the other device's by its table;
    `rank_here`, `rank_there` count from the fastest; `stays`: no other point, and not the unpruned model, is faster
    there at no less quality (and no more of what is the same on every device, where the study minimised it). `regret`
    is how much longer it takes there than the fastest trial of the study, or the unpruned model, that keeps at least
    its calibration quality (0: it is the best choice there too), and `instead` is that schedule.
    """

    id: str
    text: str
    here_ms: float
    there_ms: float
    speedup_here: float
    speedup_there: float
    rank_here: int
    rank_there: int
    stays: bool
    regret: float
    instead: str


@dataclass(frozen=True)
class Transfer:
    """All points, ordered as on the front; `rank_correlation` over the `trials` that have a price there, 3 at least."""

    study: str
    here: str
    there: str
    status: str
    trust: str
    notes: list[str]
    unpruned_here_ms: float
    unpruned_there_ms: float
    points: list[TransferredPoint]
    trials: int
    rank_correlation: float
    mean_regret: float
    worst_regret: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class PricedTrial:
    """A finished trial: its schedule, calibration quality, and latency on the study's device (ms)."""

    plan: Plan
    quality: float
    here_ms: float


def transfer(front: Front, trials: list[PricedTrial], table: CostTable, there: str, said: str) -> Transfer:
    """Price a front and all trials behind it on another device.

    Quality does not depend on the device, so the trials of the study, priced anew, show what a search there could have
    chosen among them.

    Args:
        front: the study's.
        trials: its finished trials.
        table: of the same model on the other device.
        there: name of that device.
        said: how far the table can be trusted.

    Raises:
        PruneSearchError: if the front has no point, or a schedule lies outside the table's grid.
    """
    if not front.points:
        raise PruneSearchError(f"the front of study '{front.study}' has no point to transfer: {front.verdict.text}")
    base_here, base_there = _median_ms(front, front.unpruned), table.predict(Plan())
    price = {t.plan: table.predict(t.plan) for t in trials}
    there_ms = [table.predict(p.to_plan()) for p in front.points]
    here_ms = [_median_ms(front, p) for p in front.points]
    items: list[Point | Unpruned] = [*front.points, front.unpruned]
    same = [name for name in front.objectives if not find_cost(name).on_device]
    values = [
        (ms, *(item.cost(name).value for name in same), -item.quality.value)
        for ms, item in zip([*there_ms, base_there], items, strict=True)
    ]
    stays = non_dominated(values)[:-1]
    choices = list(trials)
    if front.unpruned.quality.calibration is not None:
        choices.append(PricedTrial(Plan(), front.unpruned.quality.calibration, base_here))
        price[Plan()] = base_there
    points = []
    for i, point in enumerate(front.points):
        rivals = [(price[t.plan], str(t.plan)) for t in choices if t.quality >= (point.quality.calibration or 0.0)]
        fastest, instead = min([(there_ms[i], ""), *rivals])
        points.append(
            TransferredPoint(
                id=point.id,
                text=point.text,
                here_ms=here_ms[i],
                there_ms=there_ms[i],
                speedup_here=base_here / here_ms[i],
                speedup_there=base_there / there_ms[i],
                rank_here=1 + sum(ms < here_ms[i] for ms in here_ms),
                rank_there=1 + sum(ms < there_ms[i] for ms in there_ms),
                stays=bool(stays[i]),
                regret=there_ms[i] / fastest - 1,
                instead=instead,
            )
        )
    rank = _rank_correlation([t.here_ms for t in trials], [price[t.plan] for t in trials])
    regrets = [p.regret for p in points]
    return Transfer(
        study=front.study,
        here=front.device.name,
        there=there,
        status=table.status,
        trust=said,
        notes=table.notes,
        unpruned_here_ms=base_here,
        unpruned_there_ms=base_there,
        points=points,
        trials=len(trials),
        rank_correlation=rank,
        mean_regret=sum(regrets) / len(regrets),
        worst_regret=max(regrets),
    )


def _median_ms(front: Front, item: Point | Unpruned) -> float:
    """An item's median latency under the study's first load, which is what the table there is of."""
    latency = item.loads[0]["latency"] if item.loads else item.latency
    if latency.measured is not None:
        return latency.measured.middle
    return latency.value / (front.percentile.factor if front.percentile else 1.0)


def _rank_correlation(here: list[float], there: list[float]) -> float:
    """Spearman's; 1 where too few trials could differ, 0 where all are equal."""
    return float(np.nan_to_num(spearmanr(here, there)[0])) if len(here) > 2 else 1.0


def show_transfer(found: Transfer, front: Front, console: Console | None = None) -> None:
    """Print the points side by side; fits 80 columns."""
    out = console or Console()
    out.print(f"{found.study}: from {found.here} to {found.there} ({found.trust})", markup=False)
    for note in found.notes:
        out.print(note, style="dim", markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    there = "there" if found.status == "measured" else "there (est.)"
    for name in ("", "here", "", there, "", "rank", "front", "regret"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [("unpruned", found.unpruned_here_ms, 1.0, found.unpruned_there_ms, 1.0, "", "", "")]
    for p in found.points:
        rank = f"{p.rank_here} → {p.rank_there}" if p.rank_here != p.rank_there else f"{p.rank_here}"
        stays = "stays" if p.stays else "leaves"
        rows.append((p.id, p.here_ms, p.speedup_here, p.there_ms, p.speedup_there, rank, stays, f"{p.regret:+.1%}"))
    for name, here, fast, other, faster, rank, stays, regret in rows:
        cells = [f"{digits(here)} ms", f"{fast:.2f}×", f"{digits(other)} ms", f"{faster:.2f}×", rank, stays, regret]
        table.add_row(name, *cells)
    out.print(table)
    out.print(
        f"rank correlation over {found.trials} trials {found.rank_correlation:.3f}; regret of reusing the "
        f"front: mean {found.mean_regret:.1%}, worst {found.worst_regret:.1%}",
        markup=False,
    )
    better = [p for p in found.points if p.instead]
    if better:
        worst = max(better, key=lambda p: p.regret)
        out.print(f"instead of {worst.id}, there: {worst.instead}", markup=False)
    out.print(f"search there: prunesearch run --device {found.there} …", style="dim", markup=False)


def trust_of(table: CostTable) -> str:
    """How far a table can be trusted, as fronts say it."""
    from prunesearch.study.front_records import TableInfo as Summary

    return trust(Summary(**table.summary()))
