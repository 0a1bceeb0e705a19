"""The setting of a run, made once from what was asked for; nobody below looks for model, data or device again."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.files import digest_of_files
from prunesearch.core.plans.flow import Geometry
from prunesearch.core.tables.registry import ATTENTIONS, DTYPES, ENGINES
from prunesearch.cost.devices.device import is_device
from prunesearch.pruning.families.find import find_reduced
from prunesearch.pruning.interface import base_name
from prunesearch.study.config import VIEW_ROWS, RunConfig
from prunesearch.study.settings.given_weights import PLAN, GivenWeights
from prunesearch.study.settings.loads import Load, bucket_loads
from prunesearch.study.target import Target, resolve_target
from prunesearch.tasks import load_task
from prunesearch.tasks.views.alter import Alterations

if TYPE_CHECKING:
    from torch import nn

    from prunesearch.tasks.base import Task

_DEMO = Path(__file__).resolve().parents[1] / "demo"
_LENGTH_NOTE = "latency is measured at"
_OF_A_MODEL = ("*.safetensors", "pytorch_model*.bin", "*config.json", "tokenizer*.json", "vocab.*")


@dataclass(frozen=True)
class Origin:
    """Where model and data come from.

    Attributes:
        kind: the bundled demo, a folder or Hub id with data, or objects of the caller's.
        id: folder or Hub id of the model, where its tokenizer or processor is too; None where nobody knows it.
        data: as `load_task` takes it; None where it is an object.
        name: of the model, in a study's name.
        shown: how results call the model.
        training: rows to train it on that come with it; None: they are asked for.
    """

    kind: Literal["demo", "files", "object"]
    id: str | None
    data: str | None
    name: str
    shown: str
    training: str | None = None


def source_of(config: RunConfig, model: nn.Module | None = None) -> Origin:
    """Where a configuration's model and data come from; `model`: the caller's own, which stands in for what is named.

    Raises:
        PruneSearchError: if the configuration is of a caller's own model, and that is not given.
    """
    if model is not None:
        name = config.given or type(model).__name__
        return Origin("object", getattr(model, "name_or_path", None) or None, config.data, name, name)
    if config.given is not None:
        raise PruneSearchError(
            f"model '{config.given}' is an object that was handed in from Python, and is in no file: hand it in again, "
            "with task=... (or model=... and its data)"
        )
    if config.model is None or config.data is None:
        data = ",".join(str(_DEMO / f"cifar10-{split}.parquet") for split in ("calibration", "holdout"))
        shown, rows = "prunesearch/demo/vit-cifar10", str(_DEMO / "cifar10-train.parquet")
        return Origin("demo", str(_DEMO / "vit-cifar10"), data, "demo", shown, rows)
    shown = config.model.rstrip("/") or config.model
    return Origin("files", config.model, config.data, Path(os.path.abspath(shown)).name, shown)


def with_model(config: RunConfig, source: Origin, model: nn.Module) -> RunConfig:
    """The configuration of a caller's own model: it is called as the source says, and in what it is in.

    Raises:
        PruneSearchError: if the configuration asks for another dtype, attention or device than the model is in.
    """
    encoder = find_reduced(model)
    first, attention = next(encoder.base.parameters()), base_name(str(encoder.attention_config._attn_implementation))
    own = {
        "dtype": next((name for name in DTYPES if DTYPES[name] is first.dtype), config.dtype),
        "attention": next((name for name in ATTENTIONS if ATTENTIONS[name] == attention), config.attention),
    }
    if is_device(config.device):  # else the device whose costs count is another one
        if torch.device(config.device).type != first.device.type:
            own["device"] = str(first.device)
        for name, value in own.items():
            if name in config.model_fields_set and value != getattr(config, name):
                raise PruneSearchError(
                    f"the model that was given is in {name} {value}, but got {name}={getattr(config, name)}: leave it "
                    "out, or change the model"
                )
    return config.model_copy(update={**own, "given": source.name})


def digest_of_source(source: Origin, weights: str | None = None) -> str | None:
    """A digest of what of model, data and weights lies in files here; None for the demo, objects, and the Hub's."""
    parts = []
    if source.kind == "files":
        parts = [_model_files(str(source.id)), _data_files(str(source.data))]
    if weights is not None and source.kind != "object":
        parts += [sorted(Path(weights).glob(PLAN))]  # the digest of the weights is in it
    return "-".join(map(digest_of_files, filter(None, parts))) or None


def _model_files(model: str) -> list[Path]:
    """Weights, configuration and vocabulary of a model's folder, and of the modules in it."""
    folder = Path(model).expanduser()
    return [file for name in _OF_A_MODEL for where in ("", "[0-9]*_*/") for file in sorted(folder.glob(where + name))]


def _data_files(data: str) -> list[Path]:
    """The files of `data`, or of `calibration,holdout`; what libraries leave beside them is none."""
    places = [Path(data)] if Path(data).exists() else [Path(part) for part in data.split(",")]
    files = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*")))]
    return [file for file in files if file.is_file() and not file.name.startswith((".", "cache-"))]


@dataclass(frozen=True)
class Setting:
    """What a run is of: all that was asked for, looked up and loaded.

    Attributes:
        config: the settings, settled: with the lengths found in the data, the name of a caller's model, and absolute
            paths. Its plain values are read as they are.
        source: where model and data come from.
        target: the device whose costs count.
        task: the model with its data, its latency at the length of the first load.
        geometry: of the model, at the length of the first load.
        loads: what forwards are timed under; never empty, the greatest length first.
        weights: that the model has in place of its own; None: it has its own.
    """

    config: RunConfig
    source: Origin
    target: Target
    task: Task
    geometry: Geometry
    loads: tuple[Load, ...]
    weights: GivenWeights | None = None

    @contextmanager
    def on_own_weights(self) -> Iterator[None]:
        """Within the block, the model is the user's, whatever weights it was given."""
        if self.weights is None:
            yield
            return
        with self.weights.taken_out():
            yield

    @property
    def notes(self) -> list[str]:
        """What was assumed, for the reader."""
        if self.target.dtype(self.config.dtype) == self.config.dtype:
            return self.task.notes
        return [
            *self.task.notes,
            f"quality is evaluated in float32 on this CPU; costs are those of {self.config.dtype}",
        ]

    def under(self, load: Load) -> Setting:
        """The same under one of the loads."""
        config = self.config.model_copy(update={"batch_size": load.batch_size, "length": load.length, "loads": []})
        task = self.task.at_length(load.length)
        geometry = replace(self.geometry, tokens=task.tokens)
        return replace(self, config=config, task=task, geometry=geometry, loads=(load,))


def make_setting(
    config: RunConfig,
    *,
    target: Target | None = None,
    task: Task | None = None,
    model: nn.Module | None = None,
    data: Any = None,
    processor: Any = None,
) -> Setting:
    """Look up the device, and load model and data, or take those that are given.

    Args:
        config: what was asked for.
        target: the device, if it is looked up already.
        task: a model with its data, in place of those that the configuration names; in eval mode, on its device.
        model: a transformers model, in place of the configuration's.
        data: rows for it, as `load_task` takes them; None: the configuration's.
        processor: of the model: tokenizer, image processor or feature extractor; None: its checkpoint's.

    Raises:
        PruneSearchError: one line, for what cannot be found or loaded; or if the configuration is of a caller's own
            model, and that is not given.
    """
    given = model if task is None else task.model
    source = source_of(config, given)
    config = config.located()
    config.check_same_files(digest_of_source(source, config.weights))
    if given is not None:
        if not ENGINES.entry(config.engine).in_process:
            able = " or ".join(f"'{name}'" for name, row in ENGINES.entries().items() if row.in_process)
            raise PruneSearchError(f"a caller's own model is evaluated by engine {able}, but got '{config.engine}'")
        config = with_model(config, source, given)
    target = target or resolve_target(config.device)
    if task is None:
        task = _load(config, source, target, model, data, processor)
    if config.group is not None and not task.groups:
        raise PruneSearchError(
            "groups are of rows that are read (--data, or a datasets.Dataset), but got a task without them: leave "
            "group out"
        )
    if config.robust and config.weights is not None:
        raise PruneSearchError("weights of a study are judged on rows as they are, but got --robust: leave one out")
    if config.robust and not task.views:
        raise PruneSearchError(
            "views are of rows that are read (--data, or a datasets.Dataset), but got a task without them: leave "
            "robust out"
        )
    config, task = with_buckets(config, _answering(config, replace(task, over=config.over)))
    weights = None
    if config.weights is not None:
        if given is not None:  # the caller's own stays as it is
            task = replace(task, model=copy.deepcopy(task.model))
        weights = GivenWeights.load_(task.model, Path(config.weights))
    first = Load(batch_size=config.batch_size, length=config.length)
    encoder = find_reduced(task.model)
    timed = task.timing_inputs(1)
    protected, tower = encoder.protected_in(timed), encoder.tower_in(timed)
    geometry = Geometry(encoder.depth, task.tokens, protected, encoder.family.part, tower)
    return Setting(config, source, target, task, geometry, tuple(config.loads or [first]), weights)


def _answering(config: RunConfig, task: Task) -> Task:
    """The task whose answers are as long as they are to be timed."""
    if config.answer is None:
        return task
    if not hasattr(task, "usual"):
        raise PruneSearchError(
            f"tokens of an answer are of models that write, but the task is {task.name}: leave --answer out"
        )
    changes: dict[str, Any] = {"usual": config.answer}
    return replace(task, **changes)


def _load(
    config: RunConfig, source: Origin, target: Target, model: nn.Module | None, data: Any, processor: Any
) -> Task:
    rows = source.data if data is None else data
    if rows is None:
        raise PruneSearchError(f"model '{source.name}' needs data beside it: give data=..., or a task=...")
    return load_task(
        model if model is not None else str(source.id),
        rows,
        task=config.task,
        columns=config.columns,
        delimiter=config.delimiter,
        header=config.header,
        skip_bad=config.skip_bad,
        group=config.group,
        metric=config.metric,
        batch_size=config.eval_batch_size,
        dtype=target.dtype(config.dtype),
        device=target.device,
        attention=target.attention(config.attention),
        calibration=config.calibration,
        holdout=config.holdout,
        seed=config.seed,
        length=config.length,
        processor=processor,
        views=Alterations(config.robust, config.severity or None, VIEW_ROWS, config.seed) if config.robust else None,
    )


def with_buckets(config: RunConfig, task: Task) -> tuple[RunConfig, Task]:
    """The configuration with the lengths of the data in it, and the task at the longest; as they are without buckets.

    Raises:
        PruneSearchError: if every row of the data has as many tokens.
    """
    if not config.length_buckets:
        return config, task
    if not task.lengths or task.timing_at is None:
        raise PruneSearchError(
            f"this model reads {task.tokens} tokens whatever the row, but got --length buckets: leave it out"
        )
    loads = bucket_loads(task.lengths, config.batch_size)
    changed = {"loads": loads if len(loads) > 1 else [], "length": loads[0].length}
    said = ", ".join(f"{load.length} ({load.weight:.0%})" for load in loads)
    note = f"latency is measured at the lengths of the calibration rows, by quarters: {said}"
    task = replace(task, notes=[*(n for n in task.notes if not n.startswith(_LENGTH_NOTE)), note])
    return config.model_copy(update=changed), task.at_length(loads[0].length)


def default_study(config: RunConfig, source: Origin) -> str:
    """Name of the study when none is given: model, device, batch size."""
    return f"{source.name}-{config.device.replace(':', '')}-b{config.batch_size}"
