"""Shared by the tests of the runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))  # small_models, one table for all
sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
