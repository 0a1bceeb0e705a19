"""All that is to be found out on a GPU, in order of worth, within one short lease; run it again to go on.

    python benchmarks/gpu_day.py --out FOLDER --deadline 540      # on the GPU
    python benchmarks/gpu_day.py --out FOLDER --on cpu            # this CPU stands in: every part, small
    python benchmarks/gpu_day.py --out FOLDER --report            # what came back, in tables (no GPU)
    python benchmarks/gpu_day.py --out FOLDER --profile hw_profiles   # its cost tables as a profile, to be committed
    options: --parts NAME … --list --retry --commit FILE

Parts: correctness (every scorer, merge and family against the CPU; no waits; CUDA graphs; compiled), pays (speed-ups
against MACs and ToMe's formula), serving (requests a second under a bound), tables (cost tables and their error),
energy, run (searches end to end). Each writes one JSON file with its provenance. `scripts/carry_for_gpu.py` collects
what a machine without a network needs.

The work is done in a process of its own: where a step takes it along, another goes on with the next.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from pathlib import Path

PARTS = {
    "correctness": "correct",
    "pays": "pays",
    "serving": "serving",
    "tables": "tables",
    "energy": "energy",
    "run": "runs",
}
_DONE, _REFUSED, _FAILED, _LOST = 0, 2, 3, 75  # exit codes; a process that is ended for a hang has 1
_LEAST_S = 20.0  # that a new process is worth starting for


def supervise(args: argparse.Namespace) -> int:
    """Let processes work until the deadline, a new one where one died; returns an exit code."""
    ends_at = time.monotonic() + args.deadline
    again = [sys.executable, __file__, *sys.argv[1:], "--ends-at", str(ends_at)]
    while True:
        code = subprocess.run(again, check=False).returncode
        if code in (_DONE, _REFUSED, _FAILED) or time.monotonic() + _LEAST_S > ends_at:
            return code
        print(f"the process ended with {code}: another goes on", file=sys.stderr)


def all_steps(args: argparse.Namespace) -> tuple[object, list[object]]:
    """The stand, and the steps of the parts asked for."""
    from gpu.stand import STANDS

    stand = STANDS[args.on]()
    modules = [importlib.import_module(f"gpu.{PARTS[part]}") for part in args.parts]
    return stand, [step for module in modules for step in module.steps(stand)]


def work_on(args: argparse.Namespace) -> int:
    """Work in this process; returns an exit code."""
    import torch
    from gpu.day import work
    from gpu.provenance import commit_of, now, session

    if args.on == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU: --on cpu tries every part on this CPU", file=sys.stderr)
        return _REFUSED
    if args.on == "cpu":
        torch.set_num_threads(1)
    stand, steps = all_steps(args)
    found = work(
        steps, args.out, session(stand.device, stand.stand_in, commit_of(args.commit)), ends_at=args.ends_at,
        now=lambda: now(stand.device), alive=stand.alive, retry=args.retry, watch=True,
    )  # fmt: skip
    print(f"{len(found.done)} steps done, {len(found.failed)} failed, {len(found.left)} left for another time")
    for label in found.failed:
        print(f"failed: {label}")
    return _LOST if found.lost else _FAILED if found.failed else _DONE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--deadline", type=float, default=540.0, help="seconds")
    parser.add_argument("--on", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--commit", type=Path, help="file that tells the commit, where git does not come along")
    parser.add_argument("--list", action="store_true", help="what would be done, and in which order")
    parser.add_argument("--retry", action="store_true", help="do again what failed")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--profile", type=Path, metavar="ROOT")
    parser.add_argument("--name", help="of the profile; default: its datasheet's")
    parser.add_argument("--ends-at", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.list:
        for step in sorted(all_steps(args)[1], key=lambda step: -step.worth):
            print(f"{step.worth:6.2f}  {step.seconds:5.0f} s  {step.part}: {step.name}")
        return 0
    if args.report or args.profile:
        from gpu.report import report, write_profile

        if args.report:
            report(args.out)
        if args.profile:
            write_profile(args.out, args.profile, args.name)
        return 0
    return supervise(args) if args.ends_at is None else work_on(args)


if __name__ == "__main__":
    sys.exit(main())
