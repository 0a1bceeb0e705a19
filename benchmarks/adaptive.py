"""Plans chosen row by row against the best static plan at equal measured mean latency, on finished studies.

    python benchmarks/adaptive.py STUDY ... [--keep 0.99] [--batch-sizes 1 8] [--rows 2048]

Prints a table in Markdown, which docs/adaptive.md holds, and the verdicts. Cascades, routers and stages by row (with
the tokens that they leave, mean and most) are chosen anew for each batch size: which plan is fast hangs on it. Every
study needs its device at hand.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence

import prunesearch as ps
from prunesearch.core.costs import digits
from prunesearch.report.tables.adapted_table import adapted_lines
from prunesearch.study.front import Front


def rows_of_table(front: Front) -> Iterator[list[str]]:
    """A row for each duel: both sides' quality on the holdout and mean milliseconds, and who wins."""
    found = front.adapted
    if found is None:
        return
    named = {one.name: one for one in found.contestants}
    for duel in found.duels:
        mine, other = named[duel.adaptive], named[duel.static]
        sizes = [latency.batch_size for latency in mine.latencies]
        ms, theirs = (one.latencies[sizes.index(duel.batch_size)] for one in (mine, other))
        change = duel.difference
        ends = "" if change.ends is None else f" ({100 * change.ends[0]:+.1f} to {100 * change.ends[1]:+.1f})"
        plans = ", ".join(f"{plan} {share:.0%}" for plan, share in zip(mine.plans, mine.shares, strict=True))
        plans = (
            plans if mine.left is None else f"`{mine.plans[0]}`, {mine.left.mean:.0f} ({mine.left.worst:.0f}) tokens"
        )
        yield [
            front.study,
            str(duel.batch_size),
            f"{mine.name}: {plans}",
            f"{100 * mine.quality.value:.1f}",
            f"{digits(ms.least)} ({digits(ms.p95)})",
            f"{other.name} {100 * other.quality.value:.1f}",
            f"{digits(theirs.mean)} ({digits(theirs.p95)})",
            f"{100 * change.value:+.1f}{ends}",
            duel.winner,
        ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Adapt every study, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", help="names or folders")
    parser.add_argument("--keep", type=float, default=0.99)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--batches", type=int, default=100)
    asked = parser.parse_args(arguments)
    head = [
        "study",
        "batch",
        "chosen by row",
        "quality",
        "mean ms (p95)",
        "static",
        "mean ms (p95)",
        "change",
        "winner",
    ]
    lines, said = [head, ["---"] * len(head)], []
    wanted = {"keep": asked.keep, "rows": asked.rows, "batches": asked.batches}
    for study, size in itertools.product(asked.studies, asked.batch_sizes):
        front = ps.load_study(study).adapt(batch_sizes=(size,), **wanted).front
        lines += rows_of_table(front)
        said += [] if front.adapted is None else [f"{front.study}: {line}" for line in adapted_lines(front.adapted)]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    print("\n".join(["", *said]))


if __name__ == "__main__":
    main()
