"""A machine whose costs are known exactly, and tables of it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.shape import Shape
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.timing.build import cells_of, noise_record
from prunesearch.cost.timing.samples import judge_noise
from prunesearch.cost.timing.walk import Piece, Walks, piece_names, plan_walks

METHODS = [
    "cls_attention+drop", "attention_received+drop", "cls_attention+fuse", "value_norm+fuse",
    "attention_received+nearest", "bipartite",
]  # fmt: skip
COUNTS = [8, 20, 33, 50]
SHAPE = Shape(
    family="vit", kind="vit", depth=6, tokens=65, protected=1, width=16, heads=2, mlp_width=64, activation="gelu"
)


def true_ms(piece: Piece) -> float:
    """The known machine: every piece costs what a table can say exactly."""
    match piece:
        case ("stem",):
            return 0.5
        case ("head", n):
            return 0.1 + 0.002 * n
        case ("attention", n, sized, _):
            return 0.2 + 0.02 * n + (0.05 if sized else 0.0)
        case ("mlp", n, _):
            return 0.1 + 0.04 * n
        case ("reduce", scorer, merge, n_in, n_out):
            score = {"cls_attention": 0.1, "value_norm": 0.02, "attention_received": 0.1 + 0.003 * n_in}[scorer]
            moved = {"drop": 0.01 * n_out, "fuse": 0.05 + 0.01 * n_in, "nearest": 1e-3 * n_in * n_out}
            return 0.02 * n_in if merge == "bipartite" else score + moved[merge]
    return 0.0


def true_total(schedule: Schedule) -> float:
    return sum(true_ms(piece) for piece in piece_names(schedule.flow(SHAPE.geometry), SHAPE))


def synthetic_walks(number: int, disturb: Callable[[random.Random], float] = lambda _: 0.0) -> Walks:
    """Walks on the known machine; `disturb` adds ms to every piece."""
    walks, rng = Walks(), random.Random(0)
    plan = plan_walks(SHAPE.depth, SHAPE.tokens, SHAPE.protected, COUNTS, METHODS, seed=0)
    for schedule in itertools.islice(plan, number):
        names = piece_names(schedule.flow(SHAPE.geometry), SHAPE)
        walks.add([(piece, true_ms(piece) + disturb(rng)) for piece in names])
    return walks


def table_of(walks: Walks) -> CostTable:
    return CostTable(
        status="measured",
        shape=SHAPE,
        conditions={
            "batch_size": 8,
            "dtype": "float32",
            "attention": "sdpa",
            "mode": "eager",
            "threads": 2,
            "tokens": 65,
            "device": "cpu",
        },
        device={"name": "a known machine", "kind": "cpu"},
        cells=cells_of(walks),
        noise=noise_record(judge_noise([1.0] * 40)),
        seconds=1.0,
        walks=len(walks.steps),
    )
