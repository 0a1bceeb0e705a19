"""What came back from a day, in tables; and what needs no GPU: the estimates' errors, the profile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gpu.day import Records
from gpu.pays import from_batch
from gpu.tables import estimated, profile_from, tables_in
from prunesearch.cost.tables.device_profile import spec_called


def report(folder: Path) -> None:
    """Print all parts."""
    records, console = Records.open(folder), Console(width=150)
    for part in records.parts.values():
        for number, session in enumerate(part["sessions"]):
            stand_in = "STAND-IN, says nothing of a GPU: " if session["stand_in"] else ""
            device, versions = session["device"], session["versions"]
            software = f"torch {versions['torch']}, transformers {versions['transformers']}, {session['commit']}"
            where = f"{device['name']}, driver {device.get('driver')}"
            console.print(f"{part['part']} [{number}]: {stand_in}{where}, {software}")
    for kind, show in SHOWN.items():
        for table in show(dict(_results(records, kind))):
            console.print(table)
    for name, record in _failures(records):
        console.print(f"FAILED {name}: {record['error'].strip().splitlines()[-1]}", markup=False)
    _estimates(records, console)


def write_profile(folder: Path, root: Path, name: str | None) -> None:
    """Write the profile of all tables that came back."""
    made = profile_from(tables_in(Records.open(folder)), root, name)
    print(f"{made.folder}: {len(made.tables)} tables")


def _results(records: Records, part: str) -> Iterator[tuple[str, Any]]:
    for name, record in records.parts.get(part, {"steps": {}})["steps"].items():
        if "result" in record:
            yield name, record["result"]


def _failures(records: Records) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in records.parts.values():
        yield from ((f"{part['part']}: {name}", step) for name, step in part["steps"].items() if "error" in step)


def _table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place else "left")
    return made


def _correctness(found: dict[str, Any]) -> Iterator[Table]:
    table = _table("correctness", "step", "methods", "worst error", "rows with other tokens", "wrong", "the first")
    for name, result in found.items():
        by_dtype = result.get("dtypes", {})
        worst = ", ".join(f"{d['worst']:.0e}" for d in by_dtype.values()) or f"{result.get('worst', 0.0):.0e}"
        flipped = ", ".join(f"{d['flipped']}/{d['rows']}" for d in by_dtype.values())
        wrong = result["wrong"]
        table.add_row(name, str(result["methods"]), worst, flipped, str(len(wrong)), wrong[0][:60] if wrong else "")
    if found:
        yield table


def _pays(found: dict[str, Any]) -> Iterator[Table]:
    by_model: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, result in found.items():
        title = f"{name}, {result['dtype']}, {result['tokens']} tokens"
        table = _table(title, "mode", "schedule", "ms", "speed-up", "MACs", "of MACs")
        for row in result["rows"]:
            table.add_row(row["mode"], row["schedule"], f"{row['ms']:.3f}", f"{row['speedup']:.2f}x",
                          f"{row['macs']:.2f}x", f"{row['of_macs']:.2f}")  # fmt: skip
        yield table
        if "compiled" not in name:
            by_model[name.partition(", ")[0]].append(result)
    table = _table("pays from batch", "model", "mode, schedule", "batch")
    for model, results in by_model.items():
        for key, batch in from_batch(results).items():
            table.add_row(model, key, "never" if batch is None else str(batch))
    if by_model:
        yield table


def _serving(found: dict[str, Any]) -> Iterator[Table]:
    table = _table(
        "requests a second within a p95", "model", "bound ms", "schedule", "greatest", "served", "p95 ms", "as played"
    )
    for name, result in found.items():
        for schedule, one in result.items():
            if isinstance(one, dict):
                really = [f"{one[k]:.2f}" if k in one else "" for k in ("rate", "p95_ms", "p95_played_ms")]
                table.add_row(name, f"{result['bound_ms']:.2f}", schedule, f"{one['greatest_rate']:.0f}", *really)
    if found:
        yield table


def _tables(found: dict[str, Any]) -> Iterator[Table]:
    table = _table(
        "cost tables", "table", "ms unpruned", "mean error", "worst", "rank", "unseen", "s", "plateaus", "noise"
    )
    for name, r in found.items():
        flat = "/".join(str(len(p)) for p in r["plateaus"].values())
        table.add_row(name, f"{r['unpruned_ms']:.3f}", f"{r['mape']:.1%}", f"{r['worst']:.1%}", f"{r['rank']:.3f}",
                      str(r["unseen"]), f"{r['seconds']:.0f}", flat, r["noise"][:40])  # fmt: skip
    if found:
        yield table


def _energy(found: dict[str, Any]) -> Iterator[Table]:
    for name, result in found.items():
        if "unavailable" in result:
            yield _table(f"energy, {name}: unavailable, {result['unavailable']}", "")
            continue
        agree = result["compared"]
        title = f"energy, {name}, {result['mode']}, {result['counter']['name']}, idle {result['idle_w']:.0f} W; "
        title += f"fastest {agree['fastest']}, least gross {agree['least_gross']}, net {agree['least_net']}"
        table = _table(title, "schedule", "ms", "gross mJ", "from", "to", "net mJ", "W", "valid")
        for schedule, r in result["schedules"].items():
            numbers = [r["ms"], r["energy_mj"], r["low_mj"], r["high_mj"], r["net_mj"], r["power_w"]]
            table.add_row(schedule, *(f"{n:.4g}" for n in numbers), "yes" if r["valid"] else r["why"][:50])
        yield table


def _run(found: dict[str, Any]) -> Iterator[Table]:
    table = _table("searches end to end", "run", "seconds", "what it came to")
    for name, result in found.items():
        if "front" in result:
            verdict = result["front"].get("verdict") or {}
            table.add_row(name, f"{result['seconds']:.0f}", str(verdict.get("text", verdict))[:110])
        else:
            table.add_row(name, "", str(result)[:110])
    if found:
        yield table


SHOWN = {
    "correctness": _correctness, "pays": _pays, "serving": _serving, "tables": _tables, "energy": _energy, "run": _run,
}  # fmt: skip


def _estimates(records: Records, console: Console) -> None:
    """What the estimator had said of the schedules that were measured; told where the device has a datasheet."""
    table = _table("what the estimate had said", "table", "mean error", "worst", "bias", "rank", "unpruned", "it said")
    for session, result in tables_in(records):
        spec = spec_called(session["device"]["name"], session["device"].get("sm_count"))
        if spec is None:
            continue
        off = estimated(result, spec)
        where = result["table"]["conditions"]
        label = f"{result['table']['model']}, batch {where['batch_size']}, {where['dtype']}, {where['mode']}"
        numbers = [f"{off[k]:+.1%}" if k in ("bias", "unpruned") else f"{off[k]:.1%}" for k in
                   ("mape", "worst", "bias")]  # fmt: skip
        table.add_row(label, *numbers, f"{off['rank']:.3f}", f"{off['unpruned']:+.1%}", f"±{off['said']:.0%}")
    if table.row_count:
        console.print(table)
