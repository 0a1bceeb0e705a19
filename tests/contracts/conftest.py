"""Shared by the contracts that every scorer, merge and family must keep."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
for _part in ("pruning", "search"):
    sys.path.insert(0, str(Path(__file__).parents[1] / _part))
torch.set_num_threads(1)
