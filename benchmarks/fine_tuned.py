"""Models that other benchmarks want fine-tuned: MiniLM on SST-2, KWT-1 on the spoken digits of FSDD; a folder each.

    python benchmarks/fine_tuned.py minilm-sst2 kwt1-fsdd      # one thread: 10 and 5 minutes; the same call goes on

They are written to $PRUNESEARCH_TUNED (studies/fine-tuned), and `models.py` has them. AdamW, linear warm-up and decay,
cross-entropy, no row of the calibration or holdout split.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks import load_task

ROOT = Path(os.environ.get("PRUNESEARCH_TUNED", "studies/fine-tuned"))
_SAVED_EVERY = 50  # steps
_DIGITS = [str(digit) for digit in range(10)]


@dataclass(frozen=True)
class Recipe:
    """What a model is made of.

    Attributes:
        begin: writes the model with a fresh head, and its rows as files, into a folder.
        task: kind of task.
        epochs, batch_size, rate: of the training.
    """

    begin: Callable[[Path], None]
    task: str
    epochs: float
    batch_size: int
    rate: float


def _minilm(folder: Path) -> None:
    from models import asset, minilm_folder

    source = minilm_folder()
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
    model.config.id2label = {0: "negative", 1: "positive"}
    model.save_pretrained(folder / "begun")
    AutoTokenizer.from_pretrained(source).save_pretrained(folder / "begun")
    rows = pd.read_csv(asset("text/sst2_train.tsv"), sep="\t").sample(16_000, random_state=0)
    rows.to_csv(folder / "train.tsv", sep="\t", index=False)
    # phrases and whole sentences, in both splits alike: what holds on the one should hold on the other
    files = [pd.read_csv(asset(f"text/sst2_{name}.tsv"), sep="\t") for name in ("dev", "test")]
    rest = pd.concat(files).drop_duplicates("sentence").sample(6_000, random_state=0)
    for name, some in (("calibration", rest[:2_000]), ("holdout", rest[2_000:])):
        some[~some.sentence.isin(rows.sentence)].to_csv(folder / f"{name}.tsv", sep="\t", index=False)


def _kwt1(folder: Path) -> None:
    from models import asset, kwt1_folder

    weights = kwt1_folder(folder / "begun")
    weights.config.id2label = dict(enumerate([*_DIGITS, "_", "__"]))  # the head has two more
    nn.init.normal_(weights.head.weight, std=0.02)
    weights.save_pretrained(folder / "begun")
    rows = pd.read_parquet(asset("fsdd/recordings.parquet"))
    number = rows.groupby(["speaker", "label"]).cumcount()
    for name, of in (("holdout", number < 12), ("calibration", number.between(12, 19)), ("train", number >= 20)):
        rows[of][["audio", "label"]].to_parquet(folder / f"{name}.parquet", index=False)


RECIPES = {
    "minilm-sst2": Recipe(_minilm, "text-classification", 1.0, 32, 1e-4),
    "kwt1-fsdd": Recipe(_kwt1, "audio-classification", 12.0, 32, 1e-3),
}


def found(name: str) -> dict[str, Any]:
    """Settings of a run on a model that was made.

    Raises:
        PruneSearchError: where it was not.
    """
    folder = ROOT / name
    if not (folder / "model" / "config.json").exists():
        raise PruneSearchError(f"model '{name}' is made first: python benchmarks/fine_tuned.py {name}")
    files = sorted(path for path in folder.glob("[ch]*.*") if path.suffix in (".tsv", ".parquet"))
    return {
        "model": str((folder / "model").resolve()),
        "data": ",".join(str(path.resolve()) for path in files),  # calibration, holdout
        "task": RECIPES[name].task,
    }


def make(name: str) -> None:
    """Train one, or go on with it."""
    recipe, folder = RECIPES[name], ROOT / name
    if (folder / "model" / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    recipe.begin(folder)
    rows = next(folder.glob("train.*"))
    task = load_task(folder / "begun", rows, task=recipe.task, calibration=1, whole=True, batch_size=recipe.batch_size)
    model, split = task.model, task.holdout
    steps = int(recipe.epochs * split.n / recipe.batch_size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.01)
    warm = max(1, steps // 20)
    pace = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: min((n + 1) / warm, (steps - n) / steps))
    kept, first = folder / "going-on.pt", 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        first = state["step"]
        for part, key in ((model, "model"), (optimiser, "optimiser"), (pace, "pace")):
            part.load_state_dict(state[key])
    model.train().requires_grad_(True)
    for step in range(first, steps):
        drawn = torch.randint(split.n, (recipe.batch_size,), generator=torch.Generator().manual_seed(step))
        total = torch.zeros(())
        for batch in split.batches.pick(drawn.tolist(), split.padding):
            loss = task.supervised(task.outputs(model, batch), batch)
            if loss is not None:  # every classifier has one
                total = total + loss.sum() / recipe.batch_size
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        pace.step()
        if (step + 1) % _SAVED_EVERY == 0:
            print(f"{name}: step {step + 1} of {steps}, loss {total.item():.3f}", flush=True)
            parts = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "pace": pace.state_dict()}
            torch.save({"step": step + 1, **parts}, kept)
    for file in (folder / "begun").iterdir():
        (folder / "model").mkdir(exist_ok=True)
        if file.suffix != ".safetensors" and file.name != "config.json":
            shutil.copyfile(file, folder / "model" / file.name)
    model.eval().save_pretrained(folder / "model")
    kept.unlink(missing_ok=True)


def main() -> None:
    """Make those that are named."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or RECIPES:
        torch.manual_seed(0)
        make(name)


if __name__ == "__main__":
    main()
