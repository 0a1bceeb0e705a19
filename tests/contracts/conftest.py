"""Shared by the contracts that every scorer, merge and family must keep."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "pruning"))
torch.set_num_threads(1)
