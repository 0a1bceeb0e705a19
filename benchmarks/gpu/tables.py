"""Cost tables on the device: their error on unseen schedules, the time to build them, plateaus; kept as a profile.

A table goes into its step's record whole. `profile_from` makes a profile of all that came back, which is committed as
`hw_profiles/NAME`; `estimated` says what the estimator had told of the same schedules, at no device time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from gpu.day import Records, Step
from gpu.stand import Stand
from prunesearch.commands.profile import ProfileConfig, grid, open_profile
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.cost.estimate.estimate import estimate_table
from prunesearch.cost.measure import measure_table
from prunesearch.cost.shape import describe_shape
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.device_profile import Profile, spec_called
from prunesearch.cost.tables.plateaus import block_curve, plateaus
from prunesearch.cost.tables.specs import DeviceSpec
from prunesearch.cost.timing.unseen import draw_unseen
from prunesearch.pruning.apply import apply_
from prunesearch.search.space.space import SpaceFile
from prunesearch.tasks.loading import check_dtype
from prunesearch.tasks.shapes import load_shape, random_inputs

PART = "tables"
GOAL = {"mape": 0.015, "rank": 0.995}
UNSEEN = 50
# what runs ask for first: what is deployed, at the batch sizes between which the answer changes
_MODES, _SHAPES = ("cuda-graph", "eager"), ("deit-small", "bert-base", "vit-base", "deit-tiny", "minilm-l6")
_BATCHES, _DTYPES = (8, 32, 1, 128), ("bfloat16", "float32")


def table(stand: Stand, shape: str, rows: int, dtype: str, mode: str) -> dict[str, Any]:
    """Measure one table; what is told of it, and the table without the timings of single forwards."""
    model = load_shape(shape, dtype=check_dtype(dtype), device=stand.device)
    inputs = random_inputs(model, rows)
    methods = stand.size(SpaceFile.load(None).methods(), ["cls_attention+drop", "bipartite"])
    with apply_(model, Schedule()) as handle:
        counts = grid(describe_shape(model, handle, inputs), stand.size(9, 2))
    measured = measure_table(
        model, inputs, counts=counts, methods=methods, time_budget_s=stand.size(15.0, 3.0), mode=mode,
        unseen=stand.size(UNSEEN, 5), min_rounds=3,
    )  # fmt: skip
    named = CostTable(**{**dict(measured), "model": shape, "source": "benchmarks/gpu_day.py"})
    return {**told(named), "counts": counts, "methods": methods, "table": lean(named)}


def lean(found: CostTable) -> dict[str, Any]:
    """A table as plain data, without what makes it large: every timing of every piece."""

    def pruned(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: [] if k in ("samples_us", "pace") else pruned(v) for k, v in value.items()}
        return [pruned(one) for one in value] if isinstance(value, list) else value

    plain: dict[str, Any] = pruned(found.model_dump(mode="json"))
    return plain


def told(found: CostTable) -> dict[str, Any]:
    """Error on unseen schedules, seconds, plateaus of a block (with sizes and without), noise."""
    checked = found.validated()
    return {
        "unpruned_ms": found.predict(Schedule()),
        "mape": checked.mape, "worst": checked.worst, "rank": checked.rank_correlation, "unseen": checked.unseen,
        "within_goal": checked.mape <= GOAL["mape"] and checked.rank_correlation >= GOAL["rank"],
        "seconds": found.seconds,
        "plateaus": {
            name: [[flat.first, flat.last, flat.ms] for flat in plateaus(block_curve(found, biased))]
            for name, biased in (("plain", False), ("with sizes", True))
        },
        "noise": found.noise.why,
    }  # fmt: skip


def estimated(result: Mapping[str, Any], spec: DeviceSpec) -> dict[str, float]:
    """What the estimator says of the schedules that a table was checked on, against what was measured of them.

    Args:
        result: of the table's step.
        spec: the device's datasheet.
    """
    found = CostTable(**result["table"])
    checked, conditions = found.validated(), found.conditions
    model = load_shape(str(found.model))
    inputs = random_inputs(model, conditions["batch_size"])
    guess = estimate_table(
        spec, model, inputs, counts=result["counts"], methods=result["methods"], dtype=conditions["dtype"],
        attention=conditions["attention"], mode=conditions["mode"],
    )  # fmt: skip
    between = not RUNTIMES.entry(conditions["mode"]).compiles
    drawn = draw_unseen(
        found.shape, result["counts"], result["methods"], count=checked.unseen, seed=1, between=between
    )  # their printed form has rounded keeps
    if [str(schedule) for schedule in drawn] != checked.schedules[1:]:
        raise SystemExit(
            f"the schedules that {found.model} was checked on are drawn otherwise now: use the commit told"
        )
    predicted = np.array([guess.predict(schedule) for schedule in (Schedule(), *drawn)])
    error = predicted / np.array(checked.measured_ms) - 1
    said = guess.validation
    return {
        "mape": float(np.abs(error[1:]).mean()), "worst": float(np.abs(error[1:]).max()),
        "bias": float(error[1:].mean()), "rank": float(spearmanr(predicted, checked.measured_ms)[0]),
        "unpruned": float(error[0]), "said": said.mape if said is not None else float("nan"),
    }  # fmt: skip


def tables_in(records: Records) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The results of the tables that came back, each with the session that it was measured in."""
    part = records.parts.get(PART, {"steps": {}})
    for record in part["steps"].values():
        if "result" in record:
            yield part["sessions"][record["session"]], record["result"]


def profile_from(found: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]], root: Path, name: str | None) -> Profile:
    """A profile in `root` of all tables, as `prunesearch profile` writes it; None for the name of the datasheet."""
    made: Profile | None = None
    for session, result in found:
        facts = session["device"]
        if made is None:
            spec = spec_called(facts["name"], facts.get("sm_count"))
            called = name or (spec.name if spec is not None else None)
            made = open_profile(ProfileConfig(name=called, root=root), facts)
        made.put(CostTable(**{**result["table"], "source": f"profile '{made.name}'"}))
    if made is None:
        raise SystemExit("no table came back: there is nothing to make a profile of")
    return made


def steps(stand: Stand) -> Iterator[Step]:
    """A table each, what runs ask for first before the others; the two first above all."""
    real = itertools.product(_MODES, _SHAPES, _BATCHES, _DTYPES)
    small = [("eager", "minilm-l6", 1, "float32")]
    for place, (mode, shape, rows, dtype) in enumerate(stand.size(sorted(real, key=_late), small)):
        worth = 80.0 - place if place < 2 else 45.0 - 0.1 * place
        yield Step(
            PART, f"{shape}, batch {rows}, {dtype}, {mode}", worth, stand.size(22.0, 6.0),
            partial(table, stand, shape, rows, dtype, mode),
        )  # fmt: skip


def _late(cell: tuple[str, str, int, str]) -> int:
    """How late a table comes: the sum of its places in the lists above."""
    mode, shape, rows, dtype = cell
    return 2 * _MODES.index(mode) + _SHAPES.index(shape) + _BATCHES.index(rows) + 2 * _DTYPES.index(dtype)
