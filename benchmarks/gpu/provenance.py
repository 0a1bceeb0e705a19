"""Where and when something was measured: commit, versions, device, driver, clocks, and what else ran."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pynvml
import torch

from prunesearch.cost.devices.device import describe_device
from prunesearch.cost.devices.gpu_state import Gpu, open_gpu

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("prunesearch", "torch", "transformers", "triton", "numpy", "optuna", "flash-attn", "timm")


def commit_of(told: Path | None = None) -> str:
    """The commit of this checkout, `with changes` where it has some; or what a file tells, where there is no git.

    Args:
        told: a file that `scripts/carry_for_gpu.py` wrote.
    """
    if told is not None and told.is_file():
        return told.read_text(encoding="utf-8").strip()
    try:
        head, changed = (
            subprocess.run(["git", *asked], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for asked in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown: no git here, and no --commit"
    return f"{head} with changes" if changed else head


def session(device: torch.device, stand_in: bool, commit: str) -> dict[str, Any]:
    """All that stays the same for a day's process."""
    return {
        "stand_in": stand_in,  # then nothing here says anything of a GPU
        "commit": commit,
        "command": " ".join(sys.argv),
        "versions": {name: _version(name) for name in _PACKAGES},
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "device": describe_device(device),
    }


def now(device: torch.device) -> dict[str, Any]:
    """The machine at this moment: its load, the GPU's clocks, power and heat, and who else is on it."""
    found: dict[str, Any] = {"load_1m": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None}
    gpu = open_gpu(device, pynvml)
    if isinstance(gpu, Gpu):
        others = gpu.told("nvmlDeviceGetComputeRunningProcesses")
        found |= asdict(gpu.state())
        found["other_processes"] = None if others is None else sum(p.pid != os.getpid() for p in others)
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
