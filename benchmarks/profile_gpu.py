"""Measure a GPU's profile within one short lease, cell by cell, most wanted first; run it again to go on.

    python benchmarks/profile_gpu.py --name h200 --minutes 9 --out hw_profiles
    options: --shapes NAME … --dtypes … --batch-sizes … --modes … --no-energy

fp32 and bf16, batch 1, 8, 32 and 128, eager and CUDA graph, with energy: each cell is one table, written when it is
done. What the profile has already (or found too large for the memory) is passed over, and no cell is begun that may not
end in time. On a lent machine: write into the folder that comes back, and start from what came back last time.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

from prunesearch.cli.live import Live
from prunesearch.commands.profile import ProfileConfig, profile
from prunesearch.core.events import listening
from prunesearch.core.tables.registry import EFFORTS
from prunesearch.tasks.table import SHAPES

_SHAPES = ["deit-small", "vit-base", "bert-base", "deit-tiny", "minilm-l6"]
# tables that runs ask for first: what is deployed, at the batch sizes between which the answer changes
WANTED = {"mode": ("cuda-graph", "eager"), "dtype": ("bfloat16", "float32"), "batch": (8, 32, 1, 128)}
ENERGY_S = 2 * 9 * 6.0  # windows x schedules x seconds, see `commands.profile`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument(
        "--shapes", nargs="+", default=["deit-small", "vit-base", "bert-base", "deit-tiny", "minilm-l6"]
    )
    parser.add_argument("--dtypes", nargs="+", default=list(WANTED["dtype"]), choices=WANTED["dtype"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=list(WANTED["batch"]))
    parser.add_argument("--modes", nargs="+", default=list(WANTED["mode"]), choices=WANTED["mode"])
    parser.add_argument("--no-energy", action="store_true")
    args = parser.parse_args()
    unknown = set(args.shapes) - set(SHAPES)
    if unknown:
        parser.error(f"unknown shape {', '.join(sorted(unknown))}: known are {', '.join(SHAPES)}")
    deadline = time.monotonic() + 60 * args.minutes
    cell_s = EFFORTS["quick"] * 1.3 + 10 + (0 if args.no_energy else ENERGY_S)
    cells = list(itertools.product(args.modes, args.shapes, args.batch_sizes, args.dtypes))
    for done, (mode, shape, rows, dtype) in enumerate(cells):
        if time.monotonic() + cell_s > deadline:
            print(f"time is up after {done} of {len(cells)} cells: the same command goes on")
            return
        config = ProfileConfig(
            models=[shape], device=args.device, name=args.name, batch_sizes=[rows], dtypes=[dtype], mode=mode,
            effort="quick", energy=not args.no_energy, root=args.out, patience_s=0.0,
        )  # fmt: skip
        with listening(Live()):
            profile(config)
    print(f"all {len(cells)} cells are there")


if __name__ == "__main__":
    main()
