"""Loading a speaker model, and pairs of sounds to try it on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModel, AutoModelForAudioXVector

from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import Batch, EvalSet, Held, chunks, merge_batches, trimmed
from prunesearch.tasks.data.columns import find_columns
from prunesearch.tasks.data.labels import free_labels
from prunesearch.tasks.data.split import make_splits
from prunesearch.tasks.kinds.audio import frames, load_sounds
from prunesearch.tasks.kinds.verification import SpeakerVerification, XVector, wrapped
from prunesearch.tasks.loading import check_weights, load, missing_note
from prunesearch.tasks.request import TaskRequest, head_of
from prunesearch.tasks.table import SPEAKER

_SPEAKERS = ("speaker", "speaker_id", "client_id")  # what data sets call the column; else it is the label's
Trial = tuple[int, int, bool]  # two rows, and whether their speaker is the same


def load_verification_task(request: TaskRequest) -> Task:
    """Load a model with an x-vector head, or an encoder, and sounds with their speakers."""
    rows = next(iter(request.source.splits.values()))
    usual = next((name for name in _SPEAKERS if name in rows.column_names), None)
    named = {} if usual is None else {"label": usual}
    columns = find_columns(request.source, rows, "audio", named | request.columns)
    splits = make_splits(request.source, columns, free_labels, request.sizes, seed=request.seed)
    trials = {role: make_trials(part.labels, role, request.seed) for role, part in splits.parts.items()}
    whole, missing = _load(request)
    sounds = load_sounds(request, splits, columns, whole)
    model = _embedder(whole, sounds.sets, request)
    pairs = max(1, request.batch_size // 2)
    sets = {role: _in_pairs(data, trials[role], pairs, request.device) for role, data in sounds.sets.items()}
    paired = replace(sounds, sets=sets)
    metric = request.metric_of(SPEAKER)
    head = "the x-vector head's" if isinstance(model, XVector) else "the mean of the last states, by the tokens' sizes"
    return SpeakerVerification(
        name=SPEAKER,
        model=model,
        metric=metric,
        notes=[
            f"columns: audio={columns.audio}, speaker={columns.label}",
            f"trials: every sound against another one of its split, {_counted(trials)}",
            f"metric: {metric} of cosines; embeddings: {head}; latency is that of a batch of single sounds",
            *request.source.notes,
            *splits.notes,
            *missing_note(missing),
            *sounds.notes,
        ],
        **paired.for_task,
    )


def make_trials(speakers: NDArray[np.int64], role: str, seed: int) -> list[Trial]:
    """Draw a trial for every row of a split: against another row of its speaker, or one of another speaker.

    Of every two rows in order one is a target, whichever, so that the first rows alone are balanced as well; the only
    row of a speaker is none.

    Args:
        speakers: id of each row's, `[n]`.
        role: of the split, for the error.
        seed: of the draw.

    Raises:
        PruneSearchError: if no speaker has two rows, or there are not two speakers.
    """
    random = np.random.default_rng(seed)
    coins = random.integers(2, size=(len(speakers) + 1) // 2)
    trials = []
    for row, speaker in enumerate(speakers):
        own = np.flatnonzero(speakers == speaker)
        same = bool(coins[row // 2] == row % 2) and len(own) > 1
        partners = own[own != row] if same else np.flatnonzero(speakers != speaker)
        if len(partners) == 0:
            break
        trials.append((row, int(random.choice(partners)), same))
    if len(trials) < len(speakers) or not any(same for *_, same in trials):
        raise PruneSearchError(
            f"verification needs two speakers in every split, and two sounds of one, but the {len(speakers)} rows of "
            f"{role} are of {len(np.unique(speakers))}: take more rows, or name the column with columns label=NAME"
        )
    return trials


def _counted(trials: dict[str, list[Trial]]) -> str:
    return "; ".join(f"{role} {sum(same for *_, same in t)} of {len(t)} of one speaker" for role, t in trials.items())


def _load(request: TaskRequest) -> tuple[nn.Module, list[str]]:
    """The model with its x-vector head, else without any, and the weights that the checkpoint lacks."""
    if getattr(request.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{SPEAKER} needs an encoder, but '{request.model_id}' has a decoder: use a model like Wav2Vec2ForXVector"
        )
    if head_of(request.config) != SPEAKER:
        return request.load_model(AutoModel)
    # `wrapped` says whether it can be reduced: as it is, a head that adds up the layers cannot
    options = {"attn_implementation": request.attention, "dtype": request.dtype, "output_loading_info": True}
    whole, info = load(AutoModelForAudioXVector, request.model_id, "model", **options)
    missing = check_weights(whole, info, request.model_id)
    whole.requires_grad_(False)
    return whole.eval().to(request.device), missing


def _embedder(whole: Any, sets: dict[str, EvalSet], request: TaskRequest) -> nn.Module:
    """The model that embeds single sounds; one with an x-vector head is wrapped.

    Raises:
        PruneSearchError: for a sound that is too short for the head.
    """
    if head_of(request.config) != SPEAKER:
        model: nn.Module = whole
        return model
    longest = sets["calibration"].batches[-1]
    row = trimmed(longest.rows(torch.tensor([len(longest) - 1])), sets["calibration"].padding)
    made = wrapped(whole, row.inputs)
    for batch in (batch for data in sets.values() for batch in data.batches):
        mask, values = batch.inputs.get("attention_mask"), batch.inputs[whole.main_input_name]
        shortest = values.shape[-1] if mask is None else int(mask.sum(dim=-1).min())
        found = frames(whole, shortest)
        if found < made.least:
            raise PruneSearchError(
                f"sounds must have {made.least} frames for the head of '{request.model_id}', but one of "
                f"'{request.source.name}' has {found} ({shortest} samples): leave that row out"
            )
    return made


def _in_pairs(data: EvalSet, trials: list[Trial], size: int, device: torch.device) -> EvalSet:
    """Batch the pairs, `size` a batch: inputs `[b, 2, ...]`, labels 1.0 for one speaker and 0.0 for two."""
    rows: dict[int, Batch] = {}
    for batch in (batch.to(torch.device("cpu")) for batch in data.batches):
        for place, row in enumerate(batch.index.tolist()):
            rows[row] = trimmed(batch.rows(torch.tensor([place])), data.padding)
    padded = next(iter(data.padding), None)

    def length(trial: int) -> int:
        return 0 if padded is None else max(rows[row].inputs[padded].shape[-1] for row in trials[trial][:2])

    batches = []
    for some in chunks(sorted(range(len(trials)), key=length), size):
        flat = merge_batches([rows[row] for trial in some for row in trials[trial][:2]], data.padding)
        inputs = {name: value.view(-1, 2, *value.shape[1:]) for name, value in flat.inputs.items()}
        labels = torch.tensor([float(trials[trial][2]) for trial in some])
        batches.append(Batch(inputs, labels, torch.tensor(some)))
    return replace(data, batches=Held(batches, device))
