"""Is it right on the device? Every scorer and merge in every family against this machine's CPU, in every dtype.

The judge is the CPU in float32. A row of a batch whose tokens were chosen and merged as on the CPU must come as near to
the CPU's answer as the untouched model's worst row does in that dtype (times `SLACK`); a row where another token was
chosen, since scores nearly tie, is counted as `flipped`: in float32 few may be (`FLIPS`), in half precision not all of
any scorer's or merge's.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gpu.day import Step
from gpu.stand import Stand
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.token_tables import MERGES, SCORERS
from prunesearch.pruning.apply import Handle, apply_
from tests.support.small_models import CASES, answer, build, inputs_of

SLACK = 4.0
FLOOR = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 2e-3}  # of an error that is never too large
FLIPS = 0.02
TOLD = 12  # rows, all with other tokens, are no chance
_SAME = 1e-3  # of an input, that two source maps may differ by: sums in another order
FIRST = ("vit", "bert", "whisper", "deit", "dinov2")  # families in which all is tried first
LENGTHS = {"padded": (14, 9, 5), "plain": (14, 14, 14)}
METHODS = [(scorer, merge) for merge in MERGES for scorer in SCORERS if MERGES.entry(merge).uses_scores]
METHODS += [("position", merge) for merge in MERGES if not MERGES.entry(merge).uses_scores]


def two_stages(method: tuple[str, str], second: float = 0.35) -> Schedule:
    """A stage in the first block and one in the third, of the small models' four."""
    return Schedule([Stage(0, 0.8, *method), Stage(2, second, *method)])


def moved(inputs: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs on a device, floats in a dtype."""
    return {k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in inputs.items()}


def paddings(name: str) -> list[str]:
    """How a family's inputs may come."""
    return list(LENGTHS) if CASES[name].padding else ["plain"]


def forward(handle: Handle, model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """The answer and the source map of its tokens, on the CPU in float32."""
    with handle.traced() as trace:
        out = answer(model(**inputs))
    return out.float().cpu(), None if trace.source is None else trace.source.float().cpu()


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative: length of the difference over that of `wanted`; NaN never passes."""
    return float((found - wanted).norm() / wanted.norm())


@contextmanager
def without_tf32() -> Iterator[None]:
    """Within the block, convolutions in float32 are: patch embeddings would be off by 1e-3."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@torch.inference_mode()
def against_cpu(stand: Stand, name: str, methods: list[tuple[str, str]]) -> dict[str, Any]:
    """Every method in one family, padded and not, in every dtype of the stand."""
    reference = build(name)
    wrong: list[str] = []
    told: dict[str, Any] = {}
    with apply_(reference, Schedule()) as judge, without_tf32():
        for dtype, padding in itertools.product(stand.dtypes, paddings(name)):
            inputs = inputs_of(name, LENGTHS[padding])
            model = build(name).to(stand.device, dtype)
            there = moved(inputs, stand.device, dtype)
            judge.set(Schedule())
            pairs = zip(answer(model(**there)).float().cpu(), answer(reference(**inputs)), strict=True)
            untouched = max(error(found, wanted) for found, wanted in pairs)
            bound = max(SLACK * untouched, FLOOR[dtype])
            label = f"{str(dtype).removeprefix('torch.')}, {padding}"
            agreed: dict[str, list[bool]] = {}  # of each scorer and merge: whether a row has the same tokens
            rows = flipped = 0
            worst = 0.0
            with apply_(model, Schedule()) as handle:
                for method in methods:
                    judge.set(two_stages(method))
                    handle.set(two_stages(method))
                    wanted, source = forward(judge, reference, inputs)
                    found, other = forward(handle, model, there)
                    if found.shape != wanted.shape or source is None or other is None:
                        wrong.append(f"{label}, {'+'.join(method)}: {tuple(found.shape)} for {tuple(wanted.shape)}")
                        continue
                    same = (source - other).abs().amax((1, 2)) < _SAME
                    rows, flipped = rows + len(same), flipped + int((~same).sum())
                    for part in method:
                        agreed.setdefault(part, []).extend(same.tolist())
                    for row in same.nonzero()[:, 0].tolist():
                        off = error(found[row], wanted[row])
                        worst = max(worst, off) if off == off else float("inf")
                        if not off <= bound:
                            wrong.append(f"{label}, {'+'.join(method)}, row {row}: {off:.1e} > {bound:.1e}")
            wrong += [
                f"{label}, {part}: other tokens in every row"
                for part, rows_ in agreed.items()
                if len(rows_) >= TOLD and not any(rows_)
            ]
            share = flipped / max(rows, 1)
            if dtype == torch.float32 and share > FLIPS:
                wrong.append(f"{label}: other tokens in {share:.1%} of {rows} rows")
            told[label] = {"untouched": untouched, "worst": worst, "rows": rows, "flipped": flipped}
    return {"methods": len(methods), "dtypes": told, "wrong": wrong}


@torch.inference_mode()
def without_waiting(stand: Stand, name: str, methods: list[tuple[str, str]]) -> dict[str, Any]:
    """Whole forwards in which the host waits for the device no more often than the untouched model's do.

    Where those never do, a wait raises (`torch.cuda.set_sync_debug_mode("error")`).
    """
    told, wrong = {}, []
    model = build(name).to(stand.device)
    for padding in paddings(name):
        inputs = moved(inputs_of(name, LENGTHS[padding]), stand.device, torch.float32)
        own = stand.waits(lambda inputs=inputs: model(**inputs))
        told[padding] = own
        with apply_(model, Schedule()) as handle:
            for method in methods:
                handle.set(two_stages(method))
                if own == 0:
                    model(**inputs)  # constants are made in a first forward
                    try:
                        with stand.forbidding_waits():
                            model(**inputs)
                    except RuntimeError as why:
                        wrong.append(f"{padding}, {'+'.join(method)}: {why}")
                else:
                    more = stand.waits(lambda inputs=inputs: model(**inputs)) - own
                    if more > 0:
                        wrong.append(f"{padding}, {'+'.join(method)}: {more} more than the untouched model's {own}")
    return {"methods": len(methods), "waits_of_the_untouched_model": told, "wrong": wrong}


@torch.inference_mode()
def in_a_graph(stand: Stand, name: str, methods: list[tuple[str, str]]) -> dict[str, Any]:
    """Each schedule captured once and replayed on inputs that it was not captured with, against an eager forward."""
    model = build(name).to(stand.device)
    first, other = (moved(_unpadded(name, seed), stand.device, torch.float32) for seed in (1, 2))
    held = {key: value.clone() for key, value in first.items()}
    with apply_(model, Schedule()) as handle:
        own = stand.waits(lambda: model(**held))
        if own:  # a capture would fail, and take the process along
            return {"methods": 0, "untouched": f"waits {own} times: it cannot be captured", "wrong": []}
        worst, wrong = 0.0, []
        for method in methods:
            handle.set(two_stages(method))
            for key, value in held.items():
                value.copy_(first[key])
            if waits := stand.waits(lambda: model(**held)):
                wrong.append(f"{'+'.join(method)}: waits {waits} times, so that it cannot be captured")
                continue
            replay = stand.replaying(lambda: answer(model(**held)))
            for key, value in held.items():
                value.copy_(other[key])
            found = replay().clone()
            off = error(found, answer(model(**other)))
            worst = max(worst, off)
            if not off <= 0.1 * FLOOR[torch.float32]:
                wrong.append(f"{'+'.join(method)}: {off:.1e} from an eager forward")
    return {"methods": len(methods), "untouched": "captured", "worst": worst, "wrong": wrong}


@torch.inference_mode()
def compiled(stand: Stand, name: str, methods: list[tuple[str, str]]) -> dict[str, Any]:
    """Each schedule with the halves of the blocks compiled, against the eager forward."""
    model = build(name).to(stand.device)
    inputs = moved(_unpadded(name, 1), stand.device, torch.float32)
    with apply_(model, Schedule()) as handle:
        wanted = {}
        for method in methods:
            handle.set(two_stages(method))
            wanted[method] = answer(model(**inputs)).clone()
        handle.compile()
        worst, wrong = 0.0, []
        for method in methods:
            handle.set(two_stages(method))
            off = error(answer(model(**inputs)), wanted[method])
            worst = max(worst, off)
            if not off <= FLOOR[torch.float32]:  # fused sums come in another order
                wrong.append(f"{'+'.join(method)}: {off:.1e} from an eager forward")
    return {"methods": len(methods), "worst": worst, "wrong": wrong}


def _unpadded(name: str, seed: int) -> dict[str, Tensor]:
    """Inputs without padding and without a mask: models look into masks, which stops a capture."""
    found = copy.copy(inputs_of(name, LENGTHS["plain"], seed=seed))
    found.pop("attention_mask", None)
    return found


def steps(stand: Stand) -> Iterator[Step]:
    """Everything in the first families, then family by family."""
    some = stand.size(METHODS, METHODS[::7])
    names = [*FIRST, *(name for name in CASES if name not in FIRST)]
    for place, name in enumerate(stand.size(names, ["vit", "bert"])):
        worth = 100.0 if name in FIRST else 50.0
        kinds = {"against the CPU": (against_cpu, 4.0), "without waiting": (without_waiting, 2.0)}
        kinds["in a graph"] = (in_a_graph, 4.0)
        for below, (kind, (check, seconds)) in enumerate(kinds.items()):
            yield Step(
                "correctness", f"{name} {kind}", worth - 0.1 * place - 0.01 * below, stand.size(seconds, 1.0),
                lambda check=check, name=name: check(stand, name, some),
            )  # fmt: skip
    for worth, name in stand.size(((72.0, "vit"), (52.0, "bert")), ((98.0, "vit"),)):
        yield Step(
            "correctness", f"{name} compiled", worth, stand.size(40.0, 30.0),
            lambda name=name: compiled(stand, name, stand.size(METHODS, METHODS[:1])),
        )  # fmt: skip
