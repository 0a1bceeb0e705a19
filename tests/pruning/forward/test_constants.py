"""Constants are made once, and kept only where they are real."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from prunesearch.pruning.forward.constants import in_making, is_constant, kept_storages, places


def test_the_same_counts_give_the_same_tensor() -> None:
    like = torch.empty(0)
    assert places(like, 7, 2) is places(like, 7, 2)
    assert places(like, 7, 2).tolist() == [[2, 3, 4, 5, 6]]
    assert is_constant(places(like, 7, 2).untyped_storage())
    assert places(like, 7, 2).untyped_storage() in kept_storages()
    assert not is_constant(like.untyped_storage())
    assert not in_making()


def test_what_fake_tensors_were_made_beside_is_not_kept() -> None:
    like = torch.empty(0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert type(places(like, 11, 3)) is not torch.Tensor
    assert places(like, 11, 3).tolist() == [[3, 4, 5, 6, 7, 8, 9, 10]]


def test_one_made_in_inference_mode_may_be_trained_with() -> None:
    like = torch.empty(0)
    with torch.inference_mode():
        made = places(like, 13, 4)
    assert not made.is_inference()
