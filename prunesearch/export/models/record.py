"""What is known of a model that was exported: where it is, how close its outputs are, how fast it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prunesearch.core.files import write_text_atomic

SURVIVES = 0.9  # of eager's speed-up: what a runtime must reach for it to have survived


@dataclass(frozen=True)
class Timing:
    """Medians in ms of the unpruned and the pruned model, in eager torch and in the format's runtime, interleaved.

    Where plans are chosen row by row they are means, over batches of unlike rows.
    """

    runtime: str
    device: str
    threads: int
    batch_size: int
    eager_unpruned_ms: float
    eager_pruned_ms: float
    unpruned_ms: float
    pruned_ms: float
    rounds: int
    noisy: str

    @property
    def speedup(self) -> float:
        """Unpruned over pruned, both in the format's runtime."""
        return self.unpruned_ms / self.pruned_ms

    @property
    def eager_speedup(self) -> float:
        """The same in eager torch."""
        return self.eager_unpruned_ms / self.eager_pruned_ms

    @property
    def survives(self) -> bool:
        """Whether the runtime reaches nine tenths of eager's speed-up."""
        return self.speedup >= SURVIVES * self.eager_speedup


@dataclass(frozen=True)
class ModelExport:
    """What was written and found.

    `error` is the greatest difference of an output from the applied model's on batches of `checked` rows, `largest` the
    largest output there; `timing` is None if it was not asked for. `quality` is the task's metric on holdout rows: the
    study's own, and what was written; None without a task, or where `unmeasured` says why it could not be had.
    """

    path: Path
    format: str
    tool: str
    runtime: str
    proven: bool
    notes: tuple[str, ...]
    error: float
    largest: float
    checked: tuple[int, ...]
    timing: Timing | None = None
    quality: Mapping[str, float] | None = None
    unmeasured: str = ""
    outputs: tuple[str, ...] = ("logits",)

    def summary(self) -> list[str]:
        """What was found but for the timing, one line each."""
        rows = ", ".join(map(str, self.checked))
        lines = [f"{self.tool}: {note}" for note in self.notes]
        lines.append(f"checked in {self.runtime}: greatest error of an output {self.error:.2g} (batches of {rows})")
        if self.quality is not None:
            lines.append("on the holdout rows: " + ", ".join(f"{k} {v:.4g}" for k, v in self.quality.items()))
        if self.unmeasured:
            lines.append(f"quality not measured: {self.unmeasured}")
        return lines

    def facts(self) -> dict[str, Any]:
        """The plain form that goes into files."""
        out = {**asdict(self), "path": self.path.name}
        if self.timing is not None:
            out["timing"] |= {"speedup": self.timing.speedup, "eager_speedup": self.timing.eager_speedup}
        return out


def save_facts(path: Path, text: str, name_in_folder: str, suffix: str) -> Path:
    """Write a text into the folder of an export, or beside its file; returns where."""
    target = path / name_in_folder if path.is_dir() else path.with_name(f"{path.name}{suffix}")
    write_text_atomic(target, text)
    return target
