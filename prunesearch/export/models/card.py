"""The model card of an export: what it is, where it comes from, what was measured; and the same for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prunesearch import __version__
from prunesearch.core.costs import COSTS
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.export_tables import MODEL_FORMATS
from prunesearch.core.tables.row_kinds import ModelFormatRow
from prunesearch.export.models.model_format import ModelSource
from prunesearch.export.models.record import ModelExport, save_facts
from prunesearch.export.pick import pick
from prunesearch.export.schedules.native import provenance_of, schedule_json

if TYPE_CHECKING:
    from prunesearch.export.schedules.exchange import Exported
    from prunesearch.study.front import Front


def write_card(done: ModelExport, source: ModelSource) -> None:
    """Write the model card and the provenance of an export into its folder, or beside its file."""
    facts = {**source.provenance, "exported": done.facts(), "exported_by": f"prunesearch {__version__}"}
    save_facts(done.path, schedule_json(source.plan, facts), "prunesearch.json", ".json")
    save_facts(done.path, model_card(source.plan, source.provenance, done), "README.md", ".md")


def schedule_card(front: Front, spec: str, to: str, exported: Exported) -> str:
    """The card of a schedule in the format `to`: of the point that `spec` picks, and what the format changes of it."""
    point = pick(front, spec)
    said = [f"changed: {change}" for change in exported.changes] + [f"note: {loss}" for loss in exported.losses]
    return model_card(point.to_plan(), provenance_of(point, front), remarks=[f"In {to}, {line}." for line in said])


def model_card(
    plan: Plan | Schedule,
    provenance: Mapping[str, Any],
    done: ModelExport | None = None,
    remarks: Sequence[str] = (),
) -> str:
    """Markdown that says what a schedule does, where its numbers come from, and what an export was found to do.

    Args:
        plan: the stages, and what else is done to the model.
        provenance: see `native.provenance_of`; empty for a schedule by hand.
        done: the export; None for a schedule alone.
        remarks: what else to say, a line each.
    """
    plan = Plan.of(plan)
    base = provenance.get("model", {}).get("id")
    lines = [
        *card_head(base),
        "",
        "## Token pruning",
        "",
        f"{base or 'The model'} computes on fewer tokens from block to block:",
        "",
    ]
    lines += plan_lines(plan)
    if provenance:
        lines += ["", *_study_lines(provenance)]
    if done is not None:
        lines += ["", *export_lines(done, MODEL_FORMATS.entry(done.format))]
    if remarks:
        lines += ["", *(f"- {remark}" for remark in remarks)]
    stages = json.dumps([stage.to_dict() for stage in plan])
    lines += ["", f"Found with prunesearch {__version__}. Stages: `{stages}`", ""]
    return "\n".join(lines)


def card_head(base: str | None) -> list[str]:
    """What the Hub reads of a card."""
    return ["---", *([f"base_model: {json.dumps(base)}"] if base else []), "tags: [token-pruning, prunesearch]", "---"]


def plan_lines(plan: Plan) -> list[str]:
    """A table of its stages, and what else it does."""
    lines = ["| block | keep | scorer and merge |", "|---|---|---|"]
    lines += [f"| {s.layer} | {s.amount.words} | {s.method} |" for s in plan] or ["| – | all | – |"]
    lines += [f"\nThe model is in {change}: {change.help}." for change in plan.whole]
    if plan.halves:
        lines += ["", f"Of its blocks, by number: {', '.join(f'`{change}`' for change in plan.halves.values())}."]
    return lines


def _study_lines(p: Mapping[str, Any]) -> list[str]:
    """What the study measured, under which conditions."""
    quality, difference, costs, conditions = (p[k] for k in ("quality", "difference", "costs", "conditions"))
    how = f"predicted ({p['cost_table']} cost table)"
    if costs["latency"]["measured"] is not None:
        how = "measured end to end"
    said = [_cost_line(name, amount) for name, amount in costs.items() if name in COSTS]
    where = ", ".join(f"{k} {v}" for k, v in conditions.items() if v is not None)
    return [
        f"- Study `{p['study']}`, point {p['point']} (trial {p['trial']}), {p['created']}.",
        f"- {p['metric']} {quality['value']:.4f} {_interval(quality)} on held-out rows; against the unpruned model "
        f"{difference['value']:+.4f} {_interval(difference)} (paired, 95 %).",
        f"- {p['speedup']:.2f}x faster, {how} on {p['device']} ({where}); {', '.join(said)}.",
        *_tuned_lines(p),
    ]


def _tuned_lines(p: Mapping[str, Any]) -> list[str]:
    """How the weights were trained, and what the point was before."""
    tuned = p.get("tuned")
    if tuned is None:
        return []
    before, equal, more = (tuned[k] for k in ("before", "equal", "difference"))
    teacher = "the unpruned model's outputs" + (" and labels" if tuned["labels"] else "; labels were not used")
    return [
        f"- Its weights (`{p['weights']}`) were trained under this schedule, by {teacher}: parameters "
        f"{tuned['parameters']}, {tuned['epochs']:.3g} epochs of {tuned['rows']:,} rows of {tuned['data']}, "
        f"{tuned['seconds']:.0f} s, learning rate {tuned['learning_rate']:g}.",
        f"- {p['metric']} of the same schedule before: {before['value']:.4f} {_interval(before)}; of the unpruned "
        f"model after the same training: {equal['value']:.4f} {_interval(equal)}, against which it is "
        f"{more['value']:+.4f} {_interval(more)} (paired, 95 %).",
    ]


def _cost_line(name: str, amount: Mapping[str, Any]) -> str:
    row, measured = COSTS.entry(name), amount["measured"]
    value = amount["predicted"] if measured is None else measured["value"]
    return f"{value:.4g} {row.unit} {row.of}"


def _interval(value: Mapping[str, float]) -> str:
    return "" if value["low"] is None else f"[{value['low']:.4f}, {value['high']:.4f}]"


def _load_line(done: ModelExport, row: ModelFormatRow) -> str:
    """The line of Python (or shell) that runs what was written."""
    names = f"[{done.outputs[0]}]" if len(done.outputs) == 1 else ", ".join(done.outputs)
    words = {
        "FILE": done.path.name,
        "FOLDER": done.path.name,
        "NAMES": names,
        "LIST": ", ".join(f'"{name}"' for name in done.outputs),
    }
    line = row.loading
    for word, value in words.items():
        line = line.replace(word, value)
    return line


def export_lines(done: ModelExport, row: ModelFormatRow) -> list[str]:
    """How to run an export, by the row of its format, and what was found of it."""
    lines = [
        "```python",
        _load_line(done, row),
        "```",
        "",
    ]
    lines.append(f"- {done.tool}: {'; '.join(done.notes)}" if done.notes else f"- {done.tool}")
    rows = ", ".join(map(str, done.checked))
    lines.append(
        f"- In {done.runtime}, {', '.join(done.outputs)} differ by at most {done.error:.2g} from the pruned model in "
        f"torch (largest {done.largest:.3g}; batches of {rows})."
    )
    if done.timing is None:
        lines.append("- Not timed.")
    else:
        lines.append(f"- {timing_text(done)}")
    if done.quality is not None:
        lines.append("- On held-out rows: " + ", ".join(f"{k} {v:.4f}" for k, v in done.quality.items()) + ".")
    if done.unmeasured:
        lines.append(f"- Quality not measured: {done.unmeasured}.")
    return lines


def timing_text(done: ModelExport) -> str:
    """One line: unpruned against pruned in the export's runtime and in eager torch, with the conditions."""
    t = done.timing
    if t is None:
        return "not timed"
    return (
        f"{t.runtime}: unpruned {t.unpruned_ms:.4g} ms, pruned {t.pruned_ms:.4g} ms, {t.speedup:.2f}x; eager torch: "
        f"{t.eager_unpruned_ms:.4g} ms, {t.eager_pruned_ms:.4g} ms, {t.eager_speedup:.2f}x (batch {t.batch_size}, "
        f"{t.threads} threads, {t.device}, {t.rounds} rounds{', noisy: ' + t.noisy if t.noisy else ''})"
    )
