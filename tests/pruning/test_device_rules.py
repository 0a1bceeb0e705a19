"""The reduced forward never waits for the host, copies nothing to the device, and makes no N x N matrix of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import prunesearch as ps
from prunesearch.core.tables.token_tables import MERGES, SCORERS
from tests.support.small_models import build, inputs_of

# what makes the host wait for the device, and (lift_fresh) tensors made from host data: on a GPU a blocking copy
STALLS = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "bincount",
    "is_nonzero",
    "equal",
    "lift_fresh",
    "repeat_interleave",
)


ASKS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")


class Questions(TorchFunctionMode):
    """Notes when Python asks a tensor for its values (on a CPU, some of these never reach the dispatcher)."""

    def __init__(self, seen: dict[str, int]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ASKS:
            self.seen["_local_scalar_dense"] = 1
        return func(*args, **(kwargs or {}))


class Watch(TorchDispatchMode):
    """Notes the operations that run and the largest result of each."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[str, int] = {}
        self.questions = Questions(self.largest)

    def __enter__(self) -> Watch:
        self.questions.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.questions.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name.startswith("index") and any(_is_mask(a) for a in args[1:2]):
            name = "nonzero"  # indexing by booleans is a nonzero in disguise
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.largest[name] = max(self.largest.get(name, 0), tensor.numel())
        return out


def _is_mask(index: Any) -> bool:
    return isinstance(index, list | tuple) and any(
        isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in index
    )


@contextmanager
def watching_blocks(handle: Any) -> Iterator[Watch]:
    """Watch what happens inside the blocks, and only there."""
    watch, blocks = Watch(), handle.encoder.blocks
    before = [block.forward for block in blocks]

    def inside(forward: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with watch:
                return forward(*args, **kwargs)

        return call

    for block, forward in zip(blocks, before, strict=True):
        block.forward = inside(forward)
    try:
        yield watch
    finally:
        for block, forward in zip(blocks, before, strict=True):
            block.forward = forward


def test_the_watch_sees_what_it_forbids() -> None:
    x = torch.ones(4)
    stalls = {
        "nonzero": lambda: x[x > 0],
        "_local_scalar_dense": lambda: int(x.sum()) + bool(x[0]) + x[0].item(),
        "lift_fresh": lambda: torch.tensor([1, 2]),
        "masked_select": lambda: x.masked_select(x > 0),
    }
    for name, stall in stalls.items():
        with Watch() as watch:
            stall()
        assert name in watch.largest


@pytest.mark.parametrize("name", ["vit", "bert"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("trace", [False, True], ids=["plain", "traced"])
@pytest.mark.parametrize("merge", list(MERGES))
def test_no_host_sync(name: str, attention: str, trace: bool, merge: str) -> None:
    model, inputs = build(name, attention), inputs_of(name)
    with ps.apply_(model, ps.Schedule(), trace=trace) as handle, torch.no_grad():
        for scorer in SCORERS:
            handle.set(ps.Schedule([ps.Stage(0, 0.8, scorer, merge), ps.Stage(2, 0.3, scorer, merge)]))
            with watching_blocks(handle) as watch:
                model(**inputs)
            assert "softmax" in " ".join(watch.largest) or "attention" in " ".join(watch.largest)
            bad = [op for op in watch.largest if op.strip("_").startswith(tuple(s.strip("_") for s in STALLS))]
            assert not bad, f"{scorer}+{merge}: {bad}"


HEADS, N, WIDTH, MLP = 6, 197, 48, 96


@pytest.fixture(scope="module")
def wide_vit() -> Any:
    torch.manual_seed(0)
    config = hf.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=MLP,
        image_size=112,
        patch_size=8,
        attn_implementation="sdpa",
    )
    return hf.ViTModel(config).eval()


@pytest.mark.parametrize("merge", list(MERGES))
@pytest.mark.parametrize("scorer", list(SCORERS))
def test_no_matrix_of_all_pairs_and_heads(wide_vit: Any, scorer: str, merge: str) -> None:
    images = torch.randn(1, 3, 112, 112)
    with ps.apply_(wide_vit, ps.Schedule([ps.Stage(0, 0.5, scorer, merge)])) as handle, torch.no_grad():
        with watching_blocks(handle) as watch:
            wide_vit(pixel_values=images)
        assert handle.tokens is not None
    sizes = {op: n for op, n in watch.largest.items() if "scaled_dot_product" not in op}
    largest = max(sizes.values())
    if scorer in ("attention_received", "attention_entropy", "text_attention_mean") and MERGES.entry(merge).uses_scores:
        assert largest == HEADS * 64 * N, "slabs of 64 queries"
    elif scorer == "key_redundancy" and MERGES.entry(merge).uses_scores:
        assert largest == N * N, "one similarity, without heads"
    elif merge in ("drop", "fuse"):
        assert largest <= N * MLP, f"nothing larger than the MLP's own activations: {sizes}"
    else:
        assert largest <= N * 99, f"similarities to the kept tokens only, without heads: {sizes}"
