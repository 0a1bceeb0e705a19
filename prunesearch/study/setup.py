"""From settings to a model with its data: defaults filled in, and loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prunesearch.study.config import RunConfig
from prunesearch.study.target import resolve_target
from prunesearch.tasks import load_task
from prunesearch.tasks.base import Task


@dataclass(frozen=True)
class Model:
    """Where the model and its data come from, once defaults are filled in; `shown` is how results call the model."""

    id: str
    data: str
    name: str
    shown: str


def demo() -> Model:
    """The bundled demo: a small ViT trained on CIFAR-10, with a calibration and a holdout split."""
    folder = Path(__file__).resolve().parents[1] / "demo"
    splits = ",".join(str(folder / f"cifar10-{split}.parquet") for split in ("calibration", "holdout"))
    return Model(str(folder / "vit-cifar10"), splits, "demo", "prunesearch/demo/vit-cifar10")


def resolve_model(config: RunConfig) -> Model:
    """Model and data of a configuration; neither given means the demo."""
    if config.model is None or config.data is None:
        return demo()
    return Model(config.model, config.data, Path(config.model.rstrip("/")).name, config.model)


def default_study(config: RunConfig) -> str:
    """Name of the study when none is given: model, device, batch size."""
    return f"{resolve_model(config).name}-{config.device.replace(':', '')}-b{config.batch_size}"


def load_study_task(config: RunConfig) -> Task:
    """Load the model and data of a configuration, on the device at hand."""
    model, target = resolve_model(config), resolve_target(config.device)
    return load_task(
        model.id,
        model.data,
        task=config.task,
        columns=config.columns,
        metric=config.metric,
        batch_size=config.eval_batch_size,
        dtype=target.dtype(config.dtype),
        device=target.device,
        attention=target.attention(config.attention),
        calibration=config.calibration,
        holdout=config.holdout,
        seed=config.seed,
        length=config.length,
    )
