"""What a model format is: a way to write a model with its schedule inside, and a runtime that runs what was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.tables.registry import RUNTIMES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunesearch.core.plans.schedule import Schedule
    from prunesearch.cost.graphs.graph_running import Forward


@dataclass(frozen=True)
class ModelSource:
    """What is exported.

    Args:
        model: a classifier in eval mode, in float32 on the CPU, without a schedule.
        schedule: what it is exported with.
        inputs: a batch without padding, whose rows and length latency is measured at.
        model_id: folder or Hub id that it came from; None if it is only an object.
        provenance: see `native.provenance_of`; empty for a schedule by hand.
        seed: of the `random` scorer.
        changes: what else is done to the model.
        fits: weights that were fitted for changes of halves of blocks.
        calibration: batches of the inputs that a quantiser may look at; empty: `inputs` alone.
    """

    model: nn.Module
    schedule: Schedule
    inputs: Mapping[str, Tensor]
    model_id: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    changes: tuple[Change, ...] = ()
    fits: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    calibration: Sequence[Mapping[str, Tensor]] = ()

    @property
    def plan(self) -> Plan:
        """All that is done to the model."""
        return Plan(self.schedule, self.changes)

    def reshaped(self) -> tuple[nn.Module, dict[str, Any]]:
        """A copy of the model with the smaller layers of its plan as its own; see `forward.reshaped`."""
        from prunesearch.pruning.apply import twins_of
        from prunesearch.pruning.families.find import find_encoder
        from prunesearch.pruning.families.surroundings import holders
        from prunesearch.pruning.forward.reshaped import reshaped

        encoder = find_encoder(self.model)
        twins = twins_of(encoder, holders(self.model, encoder.base), self.fits)
        return reshaped(self.model, twins, self.plan.halves.values())

    def written_in(self, options: ModelOptions) -> str:
        """What the model is written in, for people: `int8`; empty for its own float32."""
        return "int8" if options.int8 else self.plan.variant


@dataclass(frozen=True)
class ModelOptions:
    """`opset` of ONNX files (None: `runtimes.OPSET`); `int8`: matrix products in 8 bits, by the runtime's quantiser."""

    opset: int | None = None
    int8: bool = False


@dataclass(frozen=True)
class ModelFormat:
    """A way to write a model; its row is in `core/tables/export_tables.py`.

    Args:
        name: what `--to` takes.
        tool: whose format it is, for people.
        runtime: what runs what was written, to check and time it: a name in `RUNTIMES`.
        write: `(source, path, options) -> notes`; writes a new file or folder at `path`.
        load: `path -> Forward`.
        open: `path -> model`, where what was written is a model of torch: it may write texts.
        suffix: of the file; empty for a folder.
        tolerance: greatest difference of a logit from the applied model's, relative to the largest (at least 1).
        applied: True if `write` is to find the schedule applied to the model.
        options: names of the options that it takes.
        unable: scorers and merges that the runtime gets wrong, each with the reason.
        from_file: how people know that runtime, where the file brings its own.
        precisions: what a model can be written in beside float32: names of `PRECISIONS`, each with who makes it.
        float_alone: why it can be written in no other, in a clause.
        proven: False if what is written cannot be run here, but only a part of it.
    """

    name: str
    tool: str
    runtime: str
    write: Callable[[ModelSource, Path, ModelOptions], tuple[str, ...]]
    load: Callable[[Path], Forward]
    suffix: str
    open: Callable[[Path], nn.Module] | None = None
    tolerance: float = 1e-4
    applied: bool = True
    options: tuple[str, ...] = ()
    proven: bool = True
    precisions: Mapping[str, str] = field(default_factory=dict)
    float_alone: str = ""
    unable: Mapping[str, str] = field(default_factory=dict)
    from_file: str = ""

    @property
    def ran_in(self) -> str:
        """Where the file was run, for people."""
        return self.from_file or RUNTIMES.entry(self.runtime).shown
