"""The survey's second table (weight pruning, quantisation, distillation, token pruning), measured by `joint.py`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunesearch.compress.fits import Fits
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.export_tables import MODEL_FORMATS
from prunesearch.cost.counting.size import SizeCosts
from prunesearch.export.models.write import check_changes, find_model_format
from prunesearch.pruning.apply import apply_
from prunesearch.study.setup import Setting

if TYPE_CHECKING:
    from joint import Tried

STUDENT = "student"
TECHNIQUES = {
    "weight pruning": "width only",
    "quantisation": "int8 only",
    "knowledge distillation": STUDENT,
    "token pruning": "tokens only",
    "tokens and quantisation": "joint",
    "all of it": "all",
}
WITHIN = 0.99  # of the unpruned quality


@dataclass(frozen=True)
class Settings:
    """The model with its data, weights of halves, and what training the student took, seconds."""

    setting: Setting
    fits: Fits
    trained: float


def survey_rows(about: Settings, ways: Mapping[str, Sequence[Tried]], base: Tried) -> list[dict[str, str]]:
    """For each technique alone: its fastest plan within 1 % (on calibration rows), what that saves and what it asks.

    A student is one plan: it is told of as it is.
    """
    size = SizeCosts(about.setting.task.model, about.setting.geometry)
    rows = []
    for name, way in TECHNIQUES.items():
        tried = ways.get(way, ())
        near = [one for one in tried if way == STUDENT or one.seen >= WITHIN * base.seen]
        if not near:
            continue
        best = min(near, key=lambda one: one.ms)
        change, low, high = (100 * end for end in best.over(base))
        saved = 1 - size.predict(best.plan) / size.predict(Plan())
        again = f"training again ({about.trained:.0f} s here)" if way == STUDENT else _switched(about, best.plan)
        rows.append(
            {
                "technique": name,
                "accuracy kept": f"{best.quality / base.quality:.1%} ({change:+.2f} points [{low:+.1f}, {high:+.1f}])",
                "saving": f"{base.ms / best.ms:.2f}x faster, {saved:.0%} smaller",
                "deployment": ", ".join(held_by(best.plan)) or "eager torch alone",
                "adaptivity: another setting takes": again,
                "settings at hand": str(len(tried)),
            }
        )
    return rows


def held_by(plan: Plan) -> list[str]:
    """The model formats that hold a plan."""
    found = []
    for name in MODEL_FORMATS:
        try:
            check_changes(plan, find_model_format(name))
        except PruneSearchError:
            continue
        found.append(name)
    return found


def _switched(about: Settings, plan: Plan) -> str:
    """What it takes to put a plan on the model that is loaded, its weights made ready."""
    with apply_(about.setting.task.model, Plan(), fits=about.fits) as handle:
        begun = time.perf_counter()
        handle.set(plan)
        return f"{(time.perf_counter() - begun) * 1e3:.3g} ms, no training"


def as_table(rows: Sequence[Mapping[str, str]]) -> str:
    """In Markdown."""
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row[name] for name in names)} |" for row in rows)])
