"""Prompts with a picture or a video in each, by the model's own processor and chat template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets.arrow_dataset import Dataset

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.batching.batches import Inputs
from prunesearch.tasks.data.image_cells import decode_image, raw_images
from prunesearch.tasks.data.sources import one_line
from prunesearch.tasks.data.video_cells import decode_video, raw_videos
from prunesearch.tasks.libraries import quiet_libraries
from prunesearch.tasks.loading import accepted, to_device

FRAMES = 8  # of a video, unless the model's video processor says


@dataclass(frozen=True)
class Medium:
    """What prompts show.

    Attributes:
        kind: image or video, as columns and chat templates call it.
        token: the attribute of a processor that has the text for one.
        cells: of a table and a column, the rows as they are stored.
    """

    kind: str
    token: str
    cells: Callable[[Dataset, str], Dataset]

    def frames(self, processor: Any) -> int | None:
        """How many frames of a video a model is shown; None for pictures."""
        if self.kind == IMAGES.kind:
            return None
        own = getattr(getattr(processor, "video_processor", None), "num_frames", None)
        return FRAMES if own is None else int(own)

    def decoder(self, processor: Any, base: Path | None) -> Callable[[Any], Any]:
        """What makes a PIL image, or a list of them, of a cell."""
        frames = self.frames(processor)
        return partial(decode_image, base=base) if frames is None else partial(decode_video, base=base, frames=frames)

    def given(self, shown: list[Any]) -> dict[str, Any]:
        """The arguments by which processors take one for each of some prompts; frames are taken as they are."""
        if self.kind == IMAGES.kind:
            return {"images": [[picture] for picture in shown]}
        return {"videos": shown, "do_sample_frames": False}


IMAGES = Medium("image", "image_token", raw_images)
VIDEOS = Medium("video", "video_token", raw_videos)


@dataclass
class Asker:
    """Makes prompts of rows, padded on the left, on the model's device.

    Args:
        medium: what they show.
        cells: pictures or videos, as the data holds them.
        questions: a text for each.
        name_of: what a user finds a row by.
        decode: of a cell, a PIL image, or a list of them.
        processor: of the model.
        model: whose inputs are kept.
        device, dtype: of the inputs.

    Attributes:
        lengths: tokens of each row's prompt, once the unpruned model has answered it.
    """

    medium: Medium
    cells: Any
    questions: list[str]
    name_of: Callable[[int], str]
    decode: Callable[[Any], Any]
    processor: Any
    model: Any
    device: torch.device
    dtype: torch.dtype
    lengths: list[int] = field(default_factory=list)

    @property
    def template(self) -> bool:
        """Whether prompts are written by the model's chat template."""
        return bool(getattr(self.processor, "chat_template", None))

    def __call__(self, numbers: list[int]) -> Inputs:
        """Inputs of the prompts of rows.

        Raises:
            PruneSearchError: naming a row whose picture cannot be decoded, or what the processor refuses.
        """
        shown = [self._decoded(n) for n in numbers]
        texts = [self.prompt(self.questions[n]) for n in numbers]
        self.processor.tokenizer.padding_side = "left"
        try:
            with quiet_libraries():
                found = self.processor(text=texts, **self.medium.given(shown), padding=True, return_tensors="pt")
        except (ValueError, TypeError) as error:
            raise PruneSearchError(
                f"the model's processor refuses {self.name_of(numbers[0])} ({one_line(error)}): check the columns of "
                f"{self.medium.kind}s and questions"
            ) from error
        return to_device(accepted(self.model, dict(found)), self.device, self.dtype)

    def prompt(self, question: str) -> str:
        """The text of a prompt with one picture or video."""
        if not self.template:
            return f"{getattr(self.processor, self.medium.token)}{question}"
        said = [{"type": self.medium.kind}, {"type": "text", "text": question}]
        written: str = self.processor.apply_chat_template(
            [{"role": "user", "content": said}], add_generation_prompt=True, tokenize=False
        )
        return written

    def _decoded(self, number: int) -> Any:
        try:
            return self.decode(self.cells[number])
        except PruneSearchError as error:
            raise PruneSearchError(f"{self.name_of(number)}: {error}") from error
