"""Published ways of pruning the pictures of a LLaVA against the points of a study, at equal times to the first token.

    python benchmarks/pictures.py STUDY --root DIR --rows 200 --seconds 60 --out FILE.json
    python benchmarks/pictures.py STUDY --out FILE.json --only judge      # in two steps, where a quiet machine is rare
    python benchmarks/pictures.py STUDY --out FILE.json --only time

All forwards are timed interleaved in one process, in random order; medians are told. Answers are written by `generate`
on holdout rows, which the search has not seen, and told apart by the first two words of the question. FastV,
PyramidDrop, SparseVLM (its shares of 192 tokens), VisionZip, DivPrune and DART are stated as schedules; beside them
stand random tokens and a smaller picture, whose tower is cheaper too.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import prunesearch as ps
from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.families.in_decoder import of_pictures
from prunesearch.study.config import RunConfig
from prunesearch.study.setup import make_setting
from prunesearch.tasks.batching.batches import Inputs
from prunesearch.tasks.kinds.visual_qa import VisualAnswers, prompt_of

SHARES = (0.75, 0.5, 0.33, 0.222, 0.111)
SIDES = (0.75, 0.5, 0.25)  # of a smaller picture
TIMES = 12  # at which the methods are compared
WARM_UPS = 3
TOWER = "tower and projector"


def rivals(depth: int) -> dict[str, list[Plan]]:
    """Schedules of other people's methods, each at several shares of tokens."""
    thirds = sorted({max(1, round(depth * k / 4)) - 1 for k in (1, 2, 3)})
    pyramid = [
        " > ".join(f"decoder/{block}:{share**k:.4f} text_attention+drop" for k, block in enumerate(thirds, 1))
        for share in (0.75, 0.5, 0.3)
    ]
    sparse = ((300, 200, 110), (303, 110, 36), (238, 48, 26), (66, 30, 17))  # of 576, before blocks 2, 6 and 15 of 32
    sites = sorted({max(0, round(depth * site / 32) - 1) for site in (2, 6, 15)})
    found = {
        "FastV": [f"decoder/1:{share} text_attention+drop" for share in SHARES],
        "PyramidDrop": pyramid,
        "SparseVLM": [
            " > ".join(
                f"decoder/{site}:{kept / 576:.4f} text_attention_mean+drop"
                for site, kept in zip(sites, counts[-len(sites) :], strict=True)
            )
            for counts in sparse
        ],
        "VisionZip": [f"input/0:{share} tower_cls_attention+contextual" for share in SHARES],
        "DivPrune": [f"input/0:{share} random+drop@diversity" for share in SHARES],
        "DART": [f"decoder/1:{share} key_norm+drop@duplication" for share in SHARES],
        "random": [f"input/0:{share} random+drop" for share in SHARES],
    }
    return {name: [Plan.parse(text) for text in texts] for name, texts in found.items()}


@contextmanager
def any_size(model: Any) -> Iterator[None]:
    """Within the block, the tower takes pictures of any size."""
    inner, name = model.model, "get_image_features"
    own = inner.__dict__.get(name)  # what a handle put there
    setattr(inner, name, partial(getattr(inner, name), interpolate_pos_encoding=True))
    try:
        yield
    finally:
        delattr(inner, name)
        if own is not None:
            setattr(inner, name, own)


def smaller(model: Any, inputs: Inputs, share: float) -> Inputs:
    """Prompts whose pictures have `share` of the side, in whole patches, and as many tokens fewer."""
    patch, pixels = model.config.vision_config.patch_size, inputs["pixel_values"]
    side = round(pixels.shape[-1] * share / patch) * patch
    shrunk = torch.nn.functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True)
    shown = of_pictures(model.config, inputs["input_ids"])
    kept = ~shown | (shown.cumsum(1) <= (side // patch) ** 2)
    rows = {name: inputs[name][kept].view(len(kept), -1) for name in ("input_ids", "attention_mask")}
    return {**inputs, **rows, "pixel_values": shrunk}


class Bench:
    """What is timed and judged: name, label, and what runs a batch under it."""

    def __init__(self, task: VisualAnswers, handle: Handle, rows: int) -> None:
        self.task, self.handle, self.split = task, handle, task.holdout.take(rows)
        self.model: Any = task.model
        self.inputs = task.timing_inputs(1)
        self.prompts = [(prompt_of(batch.inputs), batch.labels) for batch in self.split.batches]

    def under(self, plan: Plan) -> dict[str, Callable[[], Any]]:
        """A plan's forward, and its answers."""

        def timed() -> None:
            with self.handle.under(plan):
                self.model(**self.inputs)

        def quality() -> dict[str, float]:
            with self.handle.under(plan):
                return self._right(lambda prompt: prompt)

        return {"timed": timed, "quality": quality}

    def shrunk(self, share: float) -> dict[str, Callable[[], Any]]:
        """The same of smaller pictures, unpruned."""
        given = smaller(self.model, self.inputs, share)

        def timed() -> None:
            with any_size(self.model):
                self.model(**given)

        def quality() -> dict[str, float]:
            with any_size(self.model):
                return self._right(lambda prompt: smaller(self.model, prompt, share))

        return {"timed": timed, "quality": quality}

    def _right(self, change: Callable[[Inputs], Inputs]) -> dict[str, float]:
        """The metric over all rows, and over those whose questions begin alike."""
        found, begun = [], []
        for prompt, labels in self.prompts:
            written = self.task.read(self.task.write(change(prompt)))
            found.append(self.task.scoring.statistics(written, labels))
            begun += [
                " ".join(text.split()[:2]) for text in self.task.read(prompt["input_ids"].where(self._said(prompt), 0))
            ]
        every, value = torch.cat(found), self.task.scoring.value
        kinds = {kind: [i for i, text in enumerate(begun) if text == kind] for kind in sorted(set(begun))}
        return {"all": value(every), **{kind: value(every[places]) for kind, places in kinds.items()}}

    def _said(self, prompt: Inputs) -> torch.Tensor:
        return ~of_pictures(self.model.config, prompt["input_ids"])


@torch.inference_mode()
def medians(runs: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Median milliseconds of each, interleaved."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    order, rng, end = list(runs), random.Random(0), None
    for number in range(10_000):
        if number == WARM_UPS:
            took, end = {name: [] for name in runs}, time.monotonic() + seconds
        rng.shuffle(order)
        for name in order:
            started = time.perf_counter()
            runs[name]()
            took[name].append(1e3 * (time.perf_counter() - started))
        if end is not None and time.monotonic() > end:
            break
    return {name: statistics.median(ms) for name, ms in took.items()}


def compared(rows: list[dict[str, Any]], kind: str = "all") -> list[dict[str, Any]]:
    """The best quality of each method that is no slower, at times between the fastest and the unpruned model."""
    first = next(row for row in rows if row["method"] == "unpruned")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    table = []
    for ms in np.linspace(min(row["ms"] for row in rows), first["ms"], TIMES + 1)[1:]:
        best = {
            name: max((r["quality"][kind] for r in rows if r["method"] == name and r["ms"] <= ms), default=None)
            for name in methods
        }
        table.append({"ms": round(float(ms), 3), **best})
    return table


def runs_of(bench: Bench, points: list[Any], depth: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """Everything that is compared, by `METHOD | what`."""
    made = {"unpruned |": bench.under(Plan())}
    made |= {f"prunesearch | {point.id}": bench.under(point.to_plan()) for point in points}
    for name, plans in rivals(depth).items():
        made |= {f"{name} | {plan}": bench.under(plan) for plan in plans}
    return made | {f"smaller picture | {share:g} of the side": bench.shrunk(share) for share in SIDES}


def show(known: dict[str, Any]) -> None:
    """Print what was timed and judged, and the tables at equal times."""
    rows, tower = [], known["tower_ms"]
    print(f"of the first token {tower:.1f} ms are tower and projector; prefill alone is in brackets")
    for name, ms in known["ms"].items():
        method, _, what = name.partition(" |")
        rows.append({"method": method, "what": what.strip(), "ms": ms, "quality": known["quality"][name]})
        kinds = ", ".join(f"{kind} {value:.1%}" for kind, value in rows[-1]["quality"].items())
        print(f"{method:16} {ms:8.2f} ms ({ms - tower:6.2f})  {kinds}  {what}")
    for kind in rows[0]["quality"]:
        print(f"\n{kind}, best at no more ms")
        for line in compared(rows, kind):
            said = "  ".join("   -  " if v is None else f"{v:6.1%}" for k, v in line.items() if k != "ms")
            print(f"{line['ms']:8.2f}  {said}")
    print("columns: " + ", ".join(dict.fromkeys(row["method"] for row in rows)))


def main() -> None:
    """Time and judge everything, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--root", type=Path, default=Path("studies"))
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=("judge", "time"))
    given = parser.parse_args()
    front = ps.load_study(given.study, root=given.root).front
    setting = make_setting(RunConfig(**front.config))
    task: Any = setting.task
    known: dict[str, Any] = json.loads(given.out.read_text()) if given.out.is_file() else {}
    with ps.apply_(task.model, Plan()) as handle, torch.inference_mode():
        bench = Bench(task, handle, given.rows)
        made = runs_of(bench, front.points, setting.geometry.depth)
        if given.only != "judge":
            timed = {name: run["timed"] for name, run in made.items()}
            features = partial(task.model.get_image_features, bench.inputs["pixel_values"])
            known["ms"] = medians({**timed, TOWER: features}, given.seconds)
            known["tower_ms"] = known["ms"].pop(TOWER)
        if given.only != "time":
            known["quality"] = {name: run["quality"]() for name, run in made.items()}
            known |= {"rows": bench.split.n, "tokens": task.tokens, "metric": task.metric}
    given.out.write_text(json.dumps(known, indent=1) + "\n")
    if "ms" in known and "quality" in known:
        show(known)


if __name__ == "__main__":
    main()
