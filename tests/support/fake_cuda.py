"""CUDA where there is none: torch's own functions, replaced for one test."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def fake_cuda(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """Let `torch.cuda.NAME` be what is given, until the test ends."""
    for name, function in functions.items():
        monkeypatch.setattr(torch.cuda, name, function)
