"""Audio classification (keywords, sounds, speakers, languages), from waveforms or spectrograms."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.core.events import track
from prunesearch.tasks.base import Prepared, Task
from prunesearch.tasks.batching.batches import Batch, EvalSet, Held, Inputs, Labels, chunks, rows_of
from prunesearch.tasks.data.audio_cells import Samples, decode_sound, raw_sounds
from prunesearch.tasks.data.columns import Columns, naming
from prunesearch.tasks.data.sources import one_line
from prunesearch.tasks.data.split import SplitPart, Splits
from prunesearch.tasks.kinds.classification import load_classifier
from prunesearch.tasks.kinds.image import repeat_rows
from prunesearch.tasks.kinds.text import MULTIPLE
from prunesearch.tasks.loading import accepted, count_tokens, load, to_device
from prunesearch.tasks.request import TaskRequest, head_of
from prunesearch.tasks.table import AUDIO

_PACKED = 256  # sounds that timing batches are packed from


def load_audio_task(request: TaskRequest) -> Task:
    """Load model and sounds, compute features once, and return the task."""
    names = request.config.architectures or ["none"]
    if head_of(request.config) != AUDIO and any(hasattr(transformers, name) or name == "none" for name in names):
        raise UnsupportedModelError(
            f"audio classification needs a checkpoint with that head, but '{request.model_id}' has "
            f"{', '.join(names)}: use a fine-tuned one"
        )
    return load_classifier(request, AUDIO, "audio", AutoModelForAudioClassification, load_sounds)[0]


def load_sounds(
    request: TaskRequest,
    splits: Splits,
    columns: Columns,
    model: nn.Module,
    labels: Mapping[str, Labels] | None = None,
) -> Prepared:
    """Decode the sounds of every split, and turn them into what the model's own feature extractor makes of them.

    Args:
        request: what the user asked for.
        splits: the rows.
        columns: with the audio column.
        model: that will read them.
        labels: of each split's rows, where they are not class ids.
    """
    extractor = load(AutoFeatureExtractor, request.model_id, "feature extractor")
    rate = int(extractor.sampling_rate)
    sounds = {role: list(_sounds(role, part, columns, rate, request)) for role, part in splits.parts.items()}
    sets = {}
    for role, part in splits.parts.items():
        ids: Labels = torch.from_numpy(part.labels).to(request.device) if labels is None else labels[role]
        sets[role] = _batches(role, part, sounds[role], ids, extractor, model, request)
    inputs = sets["calibration"].batches[0].inputs
    if not sets["calibration"].padding:  # every row is of the extractor's one length
        if request.length is not None:
            raise PruneSearchError(
                f"this model's sounds are all of one length, but got length {request.length}: leave it out"
            )
        # a decoder wants a token to start from, whichever
        start = accepted(model, {"decoder_input_ids": torch.zeros(1, 1, dtype=torch.long, device=request.device)})
        tokens = count_tokens(model, {**inputs, **start})
        return Prepared(sets, tokens, repeat_rows(sets["calibration"]), _cut(sounds, extractor))
    lengths = [frames(model, len(samples)) for samples in sounds["calibration"]]
    tokens, note = _timing_length(lengths, request.length)
    notes = [note]
    if "attention_mask" not in inputs:
        notes.append("this model takes no attention mask: shorter sounds of a batch are filled up with silence")

    def timing_at(length: int) -> Callable[[int], Inputs]:
        return _pack(sounds["calibration"][:_PACKED], extractor, model, length, sets["calibration"])

    return Prepared(sets, tokens, timing_at(tokens), notes, timing_at, lengths)


def _cut(sounds: Mapping[str, list[Samples]], extractor: Any) -> list[str]:
    """A warning where sounds are longer than what an extractor of one length takes, if it says how much that is."""
    longest = getattr(extractor, "n_samples", None)
    cut = 0 if longest is None else sum(len(samples) > longest for found in sounds.values() for samples in found)
    return (
        [f"{cut} sounds are longer than the {longest / extractor.sampling_rate:g} s of the model: cut"] if cut else []
    )


def frames(model: Any, samples: int) -> int:
    """Tokens that the model's convolutions make of so many samples."""
    return int(model._get_feat_extract_output_lengths(torch.tensor(samples)))


def frame_mask(model: Any, mask: Tensor, tokens: int) -> Tensor:
    """Which of so many tokens are not padding, bool `[batch, tokens]`, by the mask of the samples `[batch, n]`."""
    lengths = model._get_feat_extract_output_lengths(mask.sum(dim=1))
    there: Tensor = torch.arange(tokens, device=mask.device) < lengths[:, None]
    return there


def samples_for(config: Any, tokens: int) -> int:
    """The least number of samples that the convolutions of a Wav2Vec2-like config make `tokens` tokens of."""
    n = tokens
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        n = (n - 1) * stride + kernel
    return int(n)


def features(sounds: list[Samples], extractor: Any) -> Inputs:
    """What a feature extractor makes of sounds `[n]` at its rate; waveforms are padded to the longest with silence."""
    # extractors of waveforms leave rows of unlike length unless asked; those of spectrograms pad to what models want
    pads = inspect.signature(extractor.__call__).parameters.get("padding")
    options = {"padding": True} if pads is not None and pads.default is False else {}
    try:
        return dict(extractor(sounds, sampling_rate=int(extractor.sampling_rate), return_tensors="pt", **options))
    except ValueError as error:
        raise PruneSearchError(f"the model's feature extractor refuses the sounds: {one_line(error)}") from error


def _sounds(role: str, part: SplitPart, columns: Columns, rate: int, request: TaskRequest) -> Iterator[Samples]:
    """Decode the sounds of a split, in order."""
    name = str(columns.audio)
    cells = (row[name] for row in raw_sounds(part.rows, name).select_columns([name]))
    for place, cell in enumerate(track(cells, len(part.labels), f"Preparing {role} sounds")):
        with naming(part.name_of, place):
            yield decode_sound(cell, request.source.base, rate)


def _batches(
    role: str,
    part: SplitPart,
    sounds: list[Samples],
    labels: Labels,
    extractor: Any,
    model: nn.Module,
    request: TaskRequest,
) -> EvalSet:
    """Batch sounds of like length; `labels` are those of all rows, on the device they stay on, or a list."""
    order = sorted(range(len(sounds)), key=lambda i: len(sounds[i]))
    batches, waves = [], False
    for rows in chunks(order, request.batch_size):
        made = features([sounds[i] for i in rows], extractor)
        waves = waves or next(iter(made.values())).ndim == 2
        if waves:
            _check_length(model, sounds[rows[0]], part.name_of(rows[0]))
        index = torch.tensor(rows)
        inputs = to_device(accepted(model, made), torch.device("cpu"), request.dtype)
        batches.append(Batch(inputs, rows_of(labels, index), index))
    return EvalSet(role, Held(batches, request.device), dict.fromkeys(batches[0].inputs, 0) if waves else {})


def _check_length(model: Any, samples: Samples, name: str) -> None:
    least = samples_for(model.config, 1)
    if len(samples) < least:
        raise PruneSearchError(
            f"sounds must have {least} samples for this model, but {name} has {len(samples)}: leave that row out"
        )


def _timing_length(lengths: list[int], asked: int | None) -> tuple[int, str]:
    """The number of tokens to measure latency at, and the note that explains it."""
    if asked is not None:
        if asked < 1:
            raise PruneSearchError(f"`length >= 1` must hold, but got {asked}")
        return asked, f"latency is measured at {asked} tokens, as asked"
    typical = float(np.percentile(lengths, 90, method="higher"))
    tokens = math.ceil(typical / MULTIPLE) * MULTIPLE
    return tokens, (
        f"latency is measured at {tokens} tokens (90th percentile of the calibration sounds, rounded up to a multiple "
        f"of {MULTIPLE})"
    )


def _pack(sounds: list[Samples], extractor: Any, model: Any, tokens: int, like: EvalSet) -> Callable[[int], Inputs]:
    """Return a function that gives `b` rows of exactly `tokens` tokens of real sound, unpadded.

    Row i starts with sound i and goes on with the next ones until it is full. Inputs have the names, device and dtype
    of `like`'s batches.
    """
    room, template = samples_for(model.config, tokens), like.batches[0].inputs

    def timing_inputs(batch_size: int) -> Inputs:
        rows = []
        for i in range(batch_size):
            stream = islice(cycle(sounds), i % len(sounds), None)
            pieces: list[Samples] = []
            while sum(map(len, pieces)) < room:
                pieces.append(next(stream))
            rows.append(np.concatenate(pieces)[:room])
        made = features(rows, extractor)
        return {name: made[name].to(value.device, value.dtype) for name, value in template.items()}

    return timing_inputs
