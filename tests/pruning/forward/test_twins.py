"""Whether weights are others than before: what a twin, or a smaller block, was made of."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from prunesearch.pruning.forward.twins import Seen


def net() -> Any:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)))


def write(module: Any) -> None:
    with torch.no_grad():
        module[1][0].weight.add_(1.0)


def replace_weight(module: Any) -> None:
    module[1][0].weight = nn.Parameter(torch.zeros(2, 4))


def replace_data(module: Any) -> None:
    module[1][0].weight.data = torch.zeros(2, 4)


def replace_module(module: Any) -> None:
    module[1][0] = nn.Linear(4, 2)


def write_buffer(module: Any) -> None:
    module[1][1].running_mean.add_(1.0)


@pytest.mark.parametrize("change", [write, replace_weight, replace_data, replace_module, write_buffer])
def test_other_weights_are_noticed(change: Callable[[Any], None]) -> None:
    module = net()
    deep, top, leaf = Seen(module), Seen(module[0], below=False), Seen(module[1][0], below=False)
    assert deep.same()
    change(module)
    assert not deep.same()
    assert top.same()  # it is the other layer
    assert leaf.same() == (change in (replace_module, write_buffer))


def test_weights_of_inference_have_no_version() -> None:
    with torch.inference_mode():
        module = net()
    assert Seen(module).same()
