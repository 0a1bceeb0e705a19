"""The operations of one stage, which `benchmarks/kernels.py` prints: counts are deterministic, unlike times."""

from __future__ import annotations

from collections.abc import Iterator

import kernels
import pytest
import torch
from papers import ToMe

from prunesearch.pruning.forward.constants import constant, ones, row_starts


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("padded", [False, True], ids=["plain", "padded"])
def test_a_stage_takes_no_more_than_it_may(padded: bool) -> None:
    for method, found in kernels.ours(padded).items():
        assert 0 < found.total() <= kernels.MOST[method][padded], f"{method}: {+found}"


def test_tomes_formula_takes_more_than_ours() -> None:
    assert kernels.theirs(ToMe([kernels.R, 0])).total() > kernels.MOST["cls_attention+bipartite"][0]


def test_the_counter_sees_operations_and_no_views() -> None:
    x = torch.ones(2, 3)
    seen = kernels.counted(lambda: (x.t().reshape(6)[1:] + 1).sum())
    assert dict(seen) == {"clone": 1, "add": 1, "sum": 1}


def test_a_constant_is_made_once_and_can_be_trained_with() -> None:
    x, made = torch.ones(1), []

    @constant
    def row(device: torch.device, n: int) -> torch.Tensor:
        made.append(n)
        return torch.ones(n, device=device)

    with torch.inference_mode():
        first = row(x, 3)
    assert row(x, 3) is first
    assert made == [3]
    weight = torch.ones(3, requires_grad=True)
    (weight * row(x, 3)).sum().backward()  # one of inference mode could not be saved for this
    assert torch.equal(weight.grad, first)


def test_a_trace_gets_constants_of_its_own() -> None:
    """What is kept is no part of a graph, and what a graph makes is not kept."""

    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + ones(x, 4, x.dtype) + row_starts(x, 2, 5).sum()

    x = torch.zeros(4)
    kept = ones(x, 4, x.dtype)
    program = torch.export.export(Twice(), (x,))
    assert torch.equal(program.module()(x), Twice()(x))
    assert type(ones(x, 4, x.dtype)) is torch.Tensor
    assert ones(x, 4, x.dtype) is kept
    compiled = torch.compile(Twice(), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), Twice()(x))
