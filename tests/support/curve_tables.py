"""Cost tables of machines whose curves are known: a staircase, a smooth one, an estimate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from prunesearch.cost.shape import Shape
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.table_records import AttentionCell, Cell, Cells, CountCell, NoiseRecord, Validation

COUNTS = [16, 24, 32, 40, 48, 56, 64, 72, 96, 128, 160, 197]
EDGES = [32, 64, 96, 128, 160, 197]  # of `stairs`


def stairs(n: int) -> float:
    return 0.1 * math.ceil(n / 32)


def smooth(n: int) -> float:
    return 0.02 * n + 4e-5 * n * n


def _cell(ms: float, samples: int, spread: float) -> dict[str, Any]:
    wide = spread if samples else 0.0
    return {"ms": ms, "median_ms": ms, "p10_ms": ms * (1 - wide), "p90_ms": ms * (1 + 2 * wide), "samples": samples}


def table(
    block_ms: Callable[[int], float],
    status: Literal["measured", "estimated"] = "measured",
    *,
    model: str = "deit-small",
    device: str = "a known machine",
    batch_size: int = 8,
    noisy: bool = False,
    error: float | None = None,
    spread: float = 0.02,
) -> CostTable:
    """A block costs `block_ms`, two fifths of it attention; with token sizes, attention takes 10 % more."""
    samples = 200 if status == "measured" else 0

    def cell(ms: float) -> dict[str, Any]:
        return _cell(ms, samples, spread)

    attention = [AttentionCell(n=n, biased=False, **cell(0.4 * block_ms(n))) for n in COUNTS]
    attention += [AttentionCell(n=n, biased=True, **cell(0.44 * block_ms(n))) for n in COUNTS[:-1]]
    validation = None
    if error is not None:
        validation = Validation(
            mape=error, worst=2 * error, bias=0.0, rank_correlation=1.0, unseen=12, against="public images/s"
        )
    return CostTable(
        status=status,
        model=model,
        shape=Shape(
            family="vit", kind="vit", depth=12, tokens=197, protected=1, width=384, heads=6, mlp_width=1536,
            activation="gelu",
        ),
        conditions={
            "batch_size": batch_size, "dtype": "float32", "attention": "sdpa", "mode": "eager", "threads": 2,
            "tokens": 197, "device": "cpu",
        },
        device={"name": device, "kind": "cpu"},
        cells=Cells(
            stem=Cell(**cell(0.5)),
            head=[CountCell(n=n, **cell(0.1)) for n in COUNTS],
            attention=attention,
            mlp=[CountCell(n=n, **cell(0.6 * block_ms(n))) for n in COUNTS],
            reduce=[],
        ),
        noise=NoiseRecord(spread=0.1, drift=0.01, others=0.0, noisy=noisy, why=""),
        seconds=1.0,
        walks=200,
        validation=validation,
    )  # fmt: skip
