"""Training by transformers' Trainer: loop, mixed precision, accumulation and checkpoints are its own.

Here is what it is told: the rows, how far to go, when to stop, and where it left off when it was killed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState, PrinterCallback
from transformers.utils import SAFE_WEIGHTS_NAME

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import Moving, moving
from prunesearch.cost.devices.device import kind_of
from prunesearch.tasks.libraries import package, quiet_libraries
from prunesearch.training.distillation import named_parts
from prunesearch.training.processes import ACCELERATE, local_place, processes, share_of

_LOOKS = 10  # times that the stopping rows are looked at, and a checkpoint is written
_PATIENCE = 5  # looks without a better one, after which training ends
_PREFIX = "checkpoint-"
STUDENT = "student"  # the part of a module that is trained


@dataclass(frozen=True)
class TrainingLength:
    """How much is trained.

    Attributes:
        steps: of the optimiser.
        batch_size: rows in a step.
        rate: learning rate at its height; it rises over the first twentieth and falls to 0.
        accumulate: steps of rows that one of the optimiser's takes together.
        seed: of the order of rows, and of dropout.
    """

    steps: int
    batch_size: int
    rate: float
    accumulate: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """What a training spent: steps of the optimiser, seconds over all sessions, and its loss on the stopping rows."""

    steps: int
    seconds: float
    loss: float


class RowNumbers(Dataset[dict[str, Tensor]]):
    """Rows by their numbers: what a step is of is looked up where it is used."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"rows": self._rows[place]}


class Sessions(TrainerCallback, ExportableState):
    """Counts the seconds of all sessions, which checkpoints carry on, and tells how far a training is."""

    def __init__(self, progress: Moving | None = None) -> None:
        self.progress, self.before = progress, 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """So far."""
        return self.before + time.monotonic() - self._started

    def state(self) -> dict[str, Any]:
        """See `ExportableState`."""
        return {"args": {}, "attributes": {"before": self.seconds}}

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Tell."""
        if self.progress is not None:
            self.progress.reach(state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Tell what the stopping rows say."""
        if self.progress is not None:
            self.progress.best(f"loss {more['metrics']['eval_loss']:.4g}")


class DistillingTrainer(Trainer):
    """Saves the parameters that are trained, and those alone."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        module = self.accelerator.unwrap_model(self.model)
        save_file(
            {name: value.detach().contiguous() for name, value in named_parts(module)}, folder / SAFE_WEIGHTS_NAME
        )

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """What is not trained is in no checkpoint."""


def train(
    distillation: nn.Module,
    rows: tuple[Tensor, Tensor],
    amount: TrainingLength,
    folder: Path,
    *,
    label: str,
    quiet: Callable[[], AbstractContextManager[None]] = quiet_libraries,
) -> Trained:
    """Train the student of a distillation, in place; a training that was interrupted goes on where it was last saved.

    Args:
        distillation: what is trained (its part `student`), and by which loss, which its forward gives of rows.
        rows: to train on, and to stop by, as `TrainingRows` numbers them.
        amount: how much.
        folder: of the checkpoints; it must be of this training alone.
        label: what is trained, for people.
        quiet: silences libraries.

    Raises:
        PruneSearchError: if accelerate is not installed, or the loss is not finite.
    """
    package("accelerate", ACCELERATE)
    with moving(label, amount.steps) as progress, quiet():
        clock = Sessions(progress)
        trainer = DistillingTrainer(
            model=distillation,
            args=_arguments(amount, folder, distillation),
            train_dataset=RowNumbers(rows[0]),
            eval_dataset=RowNumbers(rows[1]),
            callbacks=[clock, EarlyStoppingCallback(_PATIENCE)],
        )
        trainer.remove_callback(PrinterCallback)
        last = last_checkpoint(folder)
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        clock = next(one for one in trainer.callback_handler.callbacks if isinstance(one, Sessions))
        state = trainer.state
    distillation.eval()
    best = state.best_metric
    if best is None or not best < float("inf"):
        raise PruneSearchError(f"the loss of a training must be finite, but that of {label} is {best}: lower --rate")
    return Trained(int(state.global_step), clock.seconds, float(best))


def _arguments(amount: TrainingLength, folder: Path, distillation: nn.Module) -> TrainingArguments:
    device = next(distillation.get_submodule(STUDENT).parameters()).device
    accelerator, every = kind_of(str(device)).accelerator, max(1, amount.steps // _LOOKS)
    if device.index not in (None, local_place()):  # accelerate takes the first of its kind
        raise PruneSearchError(
            f"training runs on the first {device.type} device, but got '{device}': name the one to use by "
            "CUDA_VISIBLE_DEVICES"
        )
    made = TrainingArguments(
        output_dir=str(folder),
        max_steps=amount.steps,
        per_device_train_batch_size=share_of(amount.batch_size),
        per_device_eval_batch_size=share_of(amount.batch_size),
        gradient_accumulation_steps=amount.accumulate,
        learning_rate=amount.rate,
        warmup_steps=max(1, amount.steps // 20),
        lr_scheduler_type="linear",
        weight_decay=0.01,
        eval_strategy="steps",
        save_strategy="steps",
        logging_strategy="no",
        eval_steps=every,
        save_steps=every,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        label_names=[],
        prediction_loss_only=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=not accelerator,
        ddp_find_unused_parameters=processes() > 1,  # a plan may leave blocks out
        bf16=accelerator and _has_bfloat16(device),
        seed=amount.seed,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )
    made._n_gpu = min(1, made.n_gpu)  # it would copy the model to all that it sees (nn.DataParallel)
    return made


def _has_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are there to be had; float16 would need its losses scaled."""
    module = torch.get_device_module(device)
    return bool(getattr(module, "is_bf16_supported", lambda: False)())


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that is whole; one that was being written when the process ended is none."""
    found = sorted(
        (path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal()),
        key=lambda path: int(path.name.removeprefix(_PREFIX)),
    )
    return next((path for path in reversed(found) if _is_whole(path)), None)


def _is_whole(path: Path) -> bool:
    """The state is written last, in one file."""
    try:
        json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
