"""A model of one's own as a task: KWT-1 (`examples/kwt1.py`) with its front end, from a folder, on Speech Commands.

    python examples/kwt1_task.py [FOLDER]      # with kwt1.npz and speech_commands_sample.parquet

Beside the family's row, transformers' automatic classes have to know its config, model and feature extractor.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import kwt1
import numpy as np
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    BatchFeature,
    FeatureExtractionMixin,
)

import prunesearch as ps
from prunesearch.pruning.families.find import register_family
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task

CLASSES = ["_silence_", "_unknown_", "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
SAMPLES = 16_000


class Kwt1FeatureExtractor(FeatureExtractionMixin):
    """KWT-1's front end; its matrices lie beside its settings in `front_end.npz`."""

    model_input_names: ClassVar[list[str]] = ["input_features"]

    def __init__(self, sampling_rate: int = SAMPLES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sampling_rate = sampling_rate

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs: Any) -> Kwt1FeatureExtractor:
        """Read settings and matrices of a folder."""
        made: Kwt1FeatureExtractor = super().from_pretrained(folder, **kwargs)
        made.arrays = dict(np.load(Path(folder) / "front_end.npz"))
        return made

    def __call__(self, sounds: list[np.ndarray], sampling_rate: int, return_tensors: str) -> BatchFeature:
        """Cepstral coefficients `[batch, 98, 40]` of sounds, cut or filled up with silence to a second."""
        if sampling_rate != self.sampling_rate:
            raise ValueError(f"sounds must have {self.sampling_rate} Hz, but got {sampling_rate}")
        clips = np.zeros((len(sounds), SAMPLES), np.float32)
        for row, samples in zip(clips, sounds, strict=True):
            row[: len(samples)] = samples[:SAMPLES]
        return BatchFeature({"input_features": kwt1.features(clips, self.arrays)})


def register() -> None:
    """Tell prunesearch and transformers of the family."""
    register_family(kwt1.KWT1)
    AutoConfig.register("kwt1", kwt1.Kwt1Config)
    AutoModelForAudioClassification.register(kwt1.Kwt1Config, kwt1.Kwt1)
    AutoFeatureExtractor.register(kwt1.Kwt1Config, Kwt1FeatureExtractor)


def write(weights: Path, folder: Path) -> None:
    """Write the trained model and its front end as a folder that `from_pretrained` reads."""
    model, arrays = kwt1.load(weights)
    model.config.id2label = dict(enumerate(CLASSES))
    model.save_pretrained(folder)
    Kwt1FeatureExtractor().save_pretrained(folder)
    np.savez(folder / "front_end.npz", **{name: value for name, value in arrays.items() if name.startswith("fe.")})


def main() -> None:
    """Print what two stages do to the accuracy on the holdout split."""
    weights = Path(sys.argv[1]) if len(sys.argv) > 1 else kwt1.FOLDER
    register()
    with tempfile.TemporaryDirectory() as folder:
        write(weights, Path(folder))
        task = load_task(folder, weights / "speech_commands_sample.parquet", task="audio-classification")
    print("\n".join(task.notes))
    schedule = ps.Schedule([ps.Stage(2, 0.7, "cls_attention", "fuse"), ps.Stage(5, 0.4, "cls_attention", "fuse")])
    with ps.apply_(task.model, ps.Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        print(f"unpruned: accuracy {evaluator.unpruned().quality:.1%} of {task.holdout.n} clips, {task.tokens} tokens")
        print(f"{schedule}: accuracy {evaluator.evaluate(schedule).quality:.1%}")


if __name__ == "__main__":
    main()
