"""A tiny LLaVA-OneVision in a folder, questions of videos for it, and what stands for its processor.

transformers prepares videos with torchvision alone, which is no dependency: without it a small class does the same.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from tests.support.tiny_vlm import COLOURS
from tests.support.tiny_vlm import WORDS as _WORDS

SIDE, PATCH, FRAMES, MOST = 32, 8, 8, 3
PER_FRAME = (SIDE // PATCH // 2) ** 2
TOKENS = FRAMES * PER_FRAME + 1  # of a video: the end of a line behind it
WORDS = (*_WORDS, "<video>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ ' ' + part['text'] }}{% else %}<{{ part['type'] }}>{% endif %}"
    "{% endfor %}{% endfor %}"
)


class ReadsClips:
    """What `LlavaOnevisionProcessor` makes of prompts with a video each."""

    chat_template, video_token, video_processor = TEMPLATE, "<video>", None

    def __init__(self, folder: str) -> None:
        self.tokenizer = hf.AutoTokenizer.from_pretrained(folder)

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        self.tokenizer.chat_template = self.chat_template
        written: str = self.tokenizer.apply_chat_template(messages, **options)
        return written

    def __call__(self, text: list[str], videos: list[list[Image.Image]], **options: Any) -> dict[str, Tensor]:
        assert options.pop("do_sample_frames") is False
        counts = [len(frames) * PER_FRAME + 1 for frames in videos]
        whole = [prompt.replace("<video>", " <video>" * n) for prompt, n in zip(text, counts, strict=True)]
        return {**self.tokenizer(whole, **options), "pixel_values_videos": torch.stack([_pixels(v) for v in videos])}


def _pixels(frames: list[Image.Image]) -> Tensor:
    made = [torch.frombuffer(bytearray(f.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3) for f in frames]
    return torch.stack(made).permute(0, 3, 1, 2) / 127.5 - 1


def write_clip_vlm(folder: Path) -> str:
    """Save a model of random weights and its tokenizer; returns the folder."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    shown = ["<image>", "<video>"]
    hf.PreTrainedTokenizerFast(tokenizer_object=made, **special, additional_special_tokens=shown).save_pretrained(
        folder
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "initializer_range": 0.4}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = hf.SiglipVisionConfig(
        image_size=SIDE, patch_size=PATCH, num_hidden_layers=2, vision_use_head=False, **sizes
    )
    config = hf.LlavaOnevisionConfig(
        vision_config=vision,
        text_config=hf.Qwen2Config(
            vocab_size=len(WORDS), num_hidden_layers=3, num_key_value_heads=2, tie_word_embeddings=False, **ids, **sizes
        ),
        image_token_id=WORDS.index("<image>"),
        video_token_id=WORDS.index("<video>"),
        image_grid_pinpoints=[[SIDE, SIDE]],
    )
    torch.manual_seed(0)
    model = hf.LlavaOnevisionForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "projector" in name:
                torch.nn.init.normal_(parameter, 0, 0.4)
        model.lm_head.weight[: WORDS.index("which")] = 0  # it writes words alone
        model.lm_head.weight[WORDS.index("<video>")] = 0
    model.generation_config.max_new_tokens = MOST
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    return str(folder)


def write_clips(path: Path, count: int, *, frames: int = FRAMES) -> Path:
    """Write a table of videos of noise that changes from frame to frame, a question and an answer of each."""
    generator, names = torch.Generator().manual_seed(0), list(COLOURS)
    rows: dict[str, list[Any]] = {"video": [], "question": [], "answer": []}
    for number in range(count):
        name = names[number % len(names)]
        noise = torch.randint(0, 256, (frames, SIDE, SIDE, 3), generator=generator)
        clip = (0.4 * torch.tensor(COLOURS[name]) + 0.6 * noise).to(torch.uint8).numpy()
        rows["video"].append([{"bytes": _png(frame), "path": None} for frame in clip])
        rows["question"].append("which colour is it ?" if number % 3 else "which colour is it there ?")
        rows["answer"].append(name)
    pq.write_table(pa.table(rows), path)
    return path


def _png(frame: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, "PNG")
    return data.getvalue()
