"""Tiny models with random weights and tiny data, made in a temporary folder."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertTokenizer,
    ViTConfig,
    ViTForImageClassification,
)

torch.set_num_threads(2)

CLASSES = ["cat", "dog", "frog"]
WORDS = ["the", "a", "good", "bad", "film", "was", "very", "dull", "bright", "story", "of", "love", "and", "war", "it"]


def png(seed: int, size: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write_images(path: Path, seeds: range, labels: list[int] | None = None, name: str = "label") -> Path:
    labels = [seed % 3 for seed in seeds] if labels is None else labels
    cells = [{"bytes": png(seed), "path": None} for seed in seeds]
    pq.write_table(pa.table({"image": cells, name: labels}), path)
    return path


def sentence(seed: int) -> str:
    random = np.random.default_rng(seed)
    return " ".join(random.choice(WORDS, size=int(random.integers(3, 30))))


def write_texts(path: Path, n: int) -> Path:
    rows = [json.dumps({"text": f"{sentence(i)} w{i}", "label": i % 2}) for i in range(n)]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def make_tokenizer(folder: Path) -> int:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*specials, *WORDS, *(f"##{i}" for i in range(10)), "w"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizer.from_pretrained(folder, model_max_length=40).save_pretrained(folder)
    return len(vocabulary)


def make_vit(folder: Path) -> str:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=4,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: i for i, name in enumerate(CLASSES)},
    )
    ViTForImageClassification(config).save_pretrained(folder)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return str(folder)


def make_bert(folder: Path, kind: type, **changes: object) -> str:
    words = make_tokenizer(folder)
    torch.manual_seed(0)
    settings = {
        "vocab_size": words,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 48,
        "num_labels": 2,
    }
    config = BertConfig(**{**settings, **changes})
    kind(config).save_pretrained(folder)
    return str(folder)
