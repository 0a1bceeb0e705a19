"""Estimated latencies against public measurements, on devices and models that were not fitted.

    python benchmarks/estimates.py              # fit, cross-validate, print the errors (about a minute)
    python benchmarks/estimates.py --json       # the same as JSON
    python benchmarks/estimates.py --write      # and rewrite hw_profiles/estimator.json

The measurements are other people's (benchmarks/data/public_throughput.csv, a source in every row; SOURCES.md beside).
Each is estimated four times: by parameters fitted on all rows, on the rows of all OTHER devices, and on the rows of
all OTHER models; of a device left out, its datasheet and its large square products (`gemm_tflops`, public measurements
too) stay known, and once more only the datasheet. Where more work cost next to nothing, a forward was bound by its
host: such rows measure somebody's processor and are reported apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from estimate_rows import Row, read_rows
from rich.console import Console
from rich.table import Table
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from prunesearch.core.files import write_text_atomic
from prunesearch.cost.estimate.estimate import ESTIMATOR, Estimator
from prunesearch.cost.estimate.roofline import Efficiency, Roofline, RooflineClock
from prunesearch.cost.tables.device_profile import specs

_SPECS = specs()
_HOST_BOUND = 1.25  # times the fastest forward of a group
_BEFORE_TORCH_2 = ("torchscript", "jeonsworld", "tome")  # libraries that were timed with PyTorch 1
_PRODUCT_WEIGHT = 0.5  # of square products, against forwards
# start, least, most; what is fitted, on a logarithmic scale. The last two are not the estimator's: what launching takes
# in TorchScript, and what PyTorch 1's memory-bound kernels lost against PyTorch 2's
_FITTED = {
    "product": (0.85, 0.3, 1.2), "half_depth": (64.0, 1.0, 500.0),
    "unaligned": (0.5, 0.05, 1.0), "attention": (0.5, 0.05, 1.2), "memory": (0.8, 0.3, 1.0),
    "floor_us": (3.0, 0.5, 15.0),
    "eager": (35.0, 2.0, 150.0), "compile": (40.0, 2.0, 150.0), "torchscript": (25.0, 2.0, 150.0),
    "before_torch_2": (0.8, 0.3, 1.0),
}  # fmt: skip


def host_bound(rows: Sequence[Row]) -> list[bool]:
    """Which measurements say more of the host than of the device.

    A group (device, library, mode, model, dtype) is flat at its start if some forward with r times the work of its
    fastest one takes less than sqrt(r) times as long; what is hardly slower than that fastest one is bound by the host.
    """
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.unit == "ms":
            groups[row.group].append(row)
    limits = {key: _HOST_BOUND * min(r.ms for r in found) if _is_flat(found) else 0.0 for key, found in groups.items()}
    return [row.ms < limits.get(row.group, 0.0) for row in rows]


def _is_flat(rows: Sequence[Row]) -> bool:
    first = min(rows, key=lambda row: row.ms)
    work = [(row.batch * row.size / (first.batch * first.size), row.ms / first.ms) for row in rows]
    return any(more >= 2 and longer < more**0.5 for more, longer in work)


# -- fitting ---------------------------------------------------------------------------------------------


def gemm_share(devices: Iterable[str]) -> dict[str, tuple[float, float]]:
    """What the best measured product reaches of the datasheet's peak, as a power of the watts behind each operation."""
    points: dict[str, list[tuple[float, float]]] = {"float32": [], "tensor": []}
    for name in devices:
        spec = _SPECS[name]
        for dtype, rate in spec.gemm_tflops.items():
            peak = spec.peak_tflops[dtype]
            points["float32" if dtype == "float32" else "tensor"].append(
                (np.log(spec.tdp_w / peak), np.log(rate / peak))
            )
    lines = {kind: np.polyfit(*zip(*found, strict=True), deg=1) for kind, found in points.items()}
    return {kind: (round(float(np.exp(a)), 4), round(float(b), 4)) for kind, (b, a) in lines.items()}


def efficiency_of(
    values: Sequence[float], share: dict[str, tuple[float, float]]
) -> tuple[Efficiency, dict[str, float]]:
    named = dict(zip(_FITTED, map(float, values), strict=True))
    rest = {name: named.pop(name) for name in ("eager", "compile", "torchscript", "before_torch_2")}
    return Efficiency(**named, host_us={k: rest[k] for k in ("eager", "compile")}, gemm_share=share), rest


def roofline_for(row: Row, efficiency: Efficiency, rest: dict[str, float], datasheet: bool = False) -> Roofline:
    """Prices the kernels of a row with the software that it was measured with; from the `datasheet` alone if asked."""
    changed: dict[str, Any] = {"host_us": {"eager": rest.get(row.host, 0.0), "compile": 0.0}}
    if row.library in _BEFORE_TORCH_2:
        changed["memory"] = efficiency.memory * rest["before_torch_2"]
    spec = _SPECS[row.device]
    spec = spec.model_copy(update={"gemm_tflops": {}}) if datasheet else spec
    return Roofline(spec, efficiency.model_copy(update=changed), tf32=row.dtype == "tf32")


def quick_ms(row: Row, efficiency: Efficiency, rest: dict[str, float]) -> float:
    """An estimate without the order of things: the greater of device and host time."""
    roofline = roofline_for(row, efficiency, rest)
    device = sum(count * roofline.device_us(op) for op, count in row.ops.items())
    return max(device, roofline.efficiency.host_us["eager"] * row.ops.total()) / 1e3


def full_ms(row: Row, efficiency: Efficiency, rest: dict[str, float], datasheet: bool = False) -> float:
    """The estimate, as `estimate_latency_ms` makes it."""
    clock = RooflineClock(roofline_for(row, efficiency, rest, datasheet))  # what was compiled is fused already
    start = clock.mark()
    for op in row.kernels:
        clock.hear(op)
    return clock.between_ms([start, clock.mark()])[0]


def fit(rows: Sequence[Row], held: Set[str] = frozenset()) -> tuple[Efficiency, dict[str, float]]:
    """Parameters that make the estimates of `rows` come closest; every device has the same weight.

    `held`: devices that nothing may be known of, their large products included.
    """
    share = gemm_share(sorted({row.device for row in rows} | (_SPECS.keys() - held)))
    each = Counter(row.device for row in rows)
    weight = np.array([each[r.device] ** -0.5 * (_PRODUCT_WEIGHT if r.unit == "tflops" else 1.0) for r in rows])
    measured = np.array([row.ms for row in rows])

    def residuals(logs: Any) -> Any:
        efficiency, rest = efficiency_of(np.exp(logs), share)
        return weight * np.log(np.array([quick_ms(row, efficiency, rest) for row in rows]) / measured)

    start, least, most = (np.log([bounds[i] for bounds in _FITTED.values()]) for i in range(3))
    found = least_squares(
        residuals, start, bounds=(least, most), loss="soft_l1", f_scale=0.05, diff_step=1e-3, max_nfev=25
    )
    return efficiency_of(np.round(np.exp(found.x), 4), share)


def leave_out(rows: Sequence[Row], key: Callable[[Row], str]) -> tuple[list[float], list[float]]:
    """Each row's estimate by parameters fitted on the rows that have another `key`; and from the datasheet alone."""
    estimates, bare = [0.0] * len(rows), [0.0] * len(rows)
    for held in sorted({key(row) for row in rows}):
        fitted = fit([row for row in rows if key(row) != held], {held})
        for i, row in enumerate(rows):
            if key(row) == held:
                estimates[i], bare[i] = full_ms(row, *fitted), full_ms(row, *fitted, datasheet=True)
    return estimates, bare


# -- reporting -------------------------------------------------------------------------------------------


def errors(rows: Sequence[Row], estimates: Sequence[float], where: Sequence[bool]) -> dict[str, Any]:
    """MAPE, the worst error and its row, the bias, and the rank correlation within devices, over rows `where`."""
    kept = [(row, ms) for row, ms, keep in zip(rows, estimates, where, strict=True) if keep]
    error = [ms / row.ms - 1 for row, ms in kept]
    worst = int(np.argmax(np.abs(error)))
    ranks = []
    for device in sorted({row.device for row, _ in kept}):
        real, guess = zip(
            *((row.ms / row.batch, ms / row.batch) for row, ms in kept if row.device == device), strict=True
        )
        if len(real) > 2:
            ranks.append(float(spearmanr(real, guess)[0]))
    return {
        "n": len(kept),
        "mape": round(float(np.mean(np.abs(error))), 4),
        "median": round(float(np.median(np.abs(error))), 4),
        "worst": round(float(np.abs(error[worst])), 4),
        "worst_row": describe(kept[worst][0]),
        "bias": round(float(np.mean(error)), 4),
        "rank_correlation": round(float(np.mean(ranks)), 4) if ranks else None,
    }


def describe(row: Row) -> str:
    parts = (row.device, row.model, row.size, f"batch {row.batch}", row.dtype, row.library, row.mode, row.schedule)
    return " ".join(str(part) for part in parts if part != "")


def validate(rows: list[Row]) -> dict[str, Any]:
    """Fit on everything, then cross-validate; all that the report prints and the file keeps."""
    efficiency, rest = fit(rows)
    device, bare = leave_out(rows, lambda row: row.device)
    by = {
        "nothing": [full_ms(row, efficiency, rest) for row in rows],
        "device": device,
        "device, datasheet only": bare,
        "model": leave_out(rows, lambda row: row.model)[0],
    }
    bound = host_bound(rows)
    forward = [row.model != "square_product" for row in rows]
    groups = {
        "forwards": [f and not b for f, b in zip(forward, bound, strict=True)],
        "pruned": [bool(row.schedule) for row in rows],
        "host-bound": bound,
        "products": [not f for f in forward],
    }
    summary = {name: {out: errors(rows, ms, where) for out, ms in by.items()} for name, where in groups.items()}
    devices = {}
    for device in sorted({row.device for row in rows}):
        where = [keep and row.device == device for row, keep in zip(rows, groups["forwards"], strict=True)]
        if any(where):
            batches = sorted({row.batch for row, keep in zip(rows, where, strict=True) if keep})
            devices[device] = {**errors(rows, by["device"], where), "batches": batches}
    return {
        "efficiency": efficiency, "torchscript_host_us": rest["torchscript"], "summary": summary, "devices": devices,
        "rows": [
            {"row": describe(row), "measured_ms": row.ms, "host_bound": b, **{k: ms[i] for k, ms in by.items()}}
            for i, (row, b) in enumerate(zip(rows, bound, strict=True))
        ],
    }  # fmt: skip


def estimator_of(found: dict[str, Any], rows: list[Row]) -> Estimator:
    """What the estimator keeps of a validation."""
    pooled, bound = (found["summary"][group]["device"] for group in ("forwards", "host-bound"))
    batches = sorted({row.batch for row in rows if row.model != "square_product"})
    return Estimator(
        date=datetime.now(UTC).date().isoformat(),
        efficiency=found["efficiency"],
        data="benchmarks/data/public_throughput.csv",
        left_out="device",
        pooled={**pooled, "batches": batches},
        datasheet_only={**found["summary"]["forwards"]["device, datasheet only"], "batches": batches},
        devices=found["devices"],
        host_bound=bound,
        unvalidated=[
            "mode cuda-graph",
            "attention sdpa with a mask (token sizes, padding): priced like attention without one",
            "bfloat16 forwards; attention sdpa at batch sizes below 768",
            "whole forwards on devices without an error of their own (square products were seen of h100 and l4)",
            "scorers, and merges other than bipartite; a stage's part of mode compile",
        ],
    )


def show(found: dict[str, Any]) -> None:
    console = Console()
    table = Table("left out", "group", "n", "mean error", "median", "worst", "bias", "rank corr.", title="Estimates")
    for group, by in found["summary"].items():
        for out, e in by.items():
            shown = [f"{e[k]:+.1%}" if k == "bias" else f"{e[k]:.1%}" for k in ("mape", "median", "worst", "bias")]
            rank = "-" if e["rank_correlation"] is None else f"{e['rank_correlation']:.3f}"
            table.add_row(out, group, str(e["n"]), *shown, rank)
    console.print(table)
    table = Table("device left out", "n", "mean error", "worst", "bias", "rank corr.", "worst row")
    for name, e in found["devices"].items():
        rank = "-" if e["rank_correlation"] is None else f"{e['rank_correlation']:.3f}"
        table.add_row(
            name, str(e["n"]), f"{e['mape']:.1%}", f"{e['worst']:.1%}", f"{e['bias']:+.1%}", rank, e["worst_row"]
        )
    console.print(table)
    console.print(found["efficiency"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--write", action="store_true", help="rewrite hw_profiles/estimator.json")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = read_rows()
    found = validate(rows)
    if asked.write:
        write_text_atomic(ESTIMATOR, estimator_of(found, rows).model_dump_json(indent=2) + "\n")
    if asked.json:
        json.dump({**found, "efficiency": found["efficiency"].model_dump()}, sys.stdout, indent=2)
    else:
        show(found)


if __name__ == "__main__":
    main()
