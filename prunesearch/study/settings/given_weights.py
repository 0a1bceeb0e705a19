"""Weights that a run searches on in place of the model's own, as a training left them in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import load_json
from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.forward.artefacts import load_, loaded, read_weights, weights_path
from prunesearch.pruning.forward.beside import Beside, split_tensors

PLAN = "plan.json"  # in the folder of a training: the plan, how its weights were trained, and what it is
_WEIGHTS = "weights"  # beside it
_TOLD = (
    "parameters",
    "data",
    "rows",
    "labels",
    "epochs",
    "steps",
    "seconds",
    "batch_size",
    "learning_rate",
    "seed",
)


@dataclass(frozen=True)
class GivenWeights:
    """Weights that are in a model in place of its own.

    Attributes:
        name: as a plan has it.
        tensors: by the names of the parameters that they are.
        own: the model's own parameters of these names.
        equal: name of the unpruned model's weights after the same training; None: that left it as it was.
        told: how they were trained, fields of `front_items.Tuned`.
        folder: of the files.
        model: that has them.
    """

    name: str
    tensors: Mapping[str, Tensor]
    own: Mapping[str, Tensor]
    equal: str | None
    told: Mapping[str, Any]
    folder: Path
    model: nn.Module

    @classmethod
    def load_(cls, model: nn.Module, folder: Path) -> GivenWeights:
        """Put the weights of a folder into `model`, which keeps them.

        Raises:
            PruneSearchError: if the folder has none, or another model's.
            CorruptFileError: if it is damaged.
        """
        path = folder / PLAN
        data = load_json(path, "plan", "give the folder that `prunesearch tune` wrote: STUDY/elastic, or that of -o")
        name = Plan.from_dict(data).weights
        if name is None:
            raise PruneSearchError(f"weights to search on must be in {folder}, but its plan has none of its own")
        try:
            told, equal = {key: data["provenance"]["tuned"][key] for key in _TOLD}, data["provenance"]["equal"]
        except (KeyError, TypeError):
            raise CorruptFileError(
                f"{path} must say how its weights were trained, and what the unpruned model is after the same "
                "training: tune it again"
            ) from None
        place = folder / _WEIGHTS
        weights = read_weights(place, name)
        return cls(name, weights, load_(model, weights), equal, told, place, model)

    @property
    def scorers(self) -> list[str]:
        """The learned scorers that have weights in it."""
        held = Beside.made(split_tensors(self.tensors)[1], torch.device("cpu")).probes
        return [] if held is None else held.scorers

    @contextmanager
    def taken_out(self) -> Iterator[None]:
        """Within the block, the model has its own weights."""
        with loaded(self.model, self.own):
            Beside(Beside.of(self.model).probes).put_into(self.model)  # layers that are smaller are as they were fitted
            yield

    @contextmanager
    def as_equal(self) -> Iterator[None]:
        """Within the block, the model has what the unpruned model is after the same training."""
        found = {} if self.equal is None else read_weights(self.folder, self.equal)
        with self.taken_out(), loaded(self.model, found):
            yield

    def copy_to(self, folder: Path) -> None:
        """Copy the file of the weights into another folder of weights."""
        target = weights_path(folder, self.name)
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(weights_path(self.folder, self.name), target)
