"""A tiny LLaVA with its processor in a folder, and questions of pictures for it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SIDE, PATCH, MOST = 32, 8, 3
IMAGES = (SIDE // PATCH) ** 2
WORDS = ("<pad>", "<s>", "</s>", "<image>", "which", "colour", "is", "it", "there", "?", "red", "green", "blue", "grey")
COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (30, 60, 220), "grey": (120, 120, 120)}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ ' ' + part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def write_vlm(folder: Path, *, template: str | None = TEMPLATE, layers: int = 4) -> str:
    """Save a model of random weights, whose answers hang on the picture; returns the folder."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **special, additional_special_tokens=["<image>"])
    pixels: Any = CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    more = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1, "chat_template": template}
    LlavaProcessor(pixels, tokenizer, patch_size=PATCH, **more).save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    text = LlamaConfig(
        vocab_size=len(WORDS), num_hidden_layers=layers, initializer_range=0.4, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, **sizes,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=SIDE, patch_size=PATCH, num_hidden_layers=2, **sizes),
        text_config=text,
        image_token_id=WORDS.index("<image>"),
        image_seq_length=IMAGES,
        vision_feature_layer=-1,
        initializer_range=0.4,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight[: WORDS.index("which")] = 0  # it writes words alone
    model.generation_config.max_new_tokens = MOST
    model.save_pretrained(folder)
    return str(folder)


def write_questions(path: Path, count: int, *, answers: Any = str, seed: int = 0) -> Path:
    """Write a table of pictures of random patches, a question of each, and `answers(colour)`; None: no answers."""
    generator, names = torch.Generator().manual_seed(seed), list(COLOURS)
    rows: dict[str, list[Any]] = {"image": [], "question": []}
    if answers is not None:
        rows["answer"] = []
    for number in range(count):
        name = names[number % len(names)]
        noise = torch.randint(0, 256, (SIDE, SIDE, 3), generator=generator)
        pixels = (0.5 * torch.tensor(COLOURS[name]) + 0.5 * noise).to(torch.uint8).numpy()
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        rows["image"].append({"bytes": data.getvalue(), "path": None})
        rows["question"].append("which colour is it ?" if number % 3 else "which colour is it there ?")
        if answers is not None:
            rows["answer"].append(answers(name))
    pq.write_table(pa.table(rows), path)
    return path
