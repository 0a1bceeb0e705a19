"""Tiny sounds, videos and pictures with boxes, and models with random weights that take them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
import transformers as hf

RATE = 16_000
LETTERS = "abcdefghij"
SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
WAVES = {
    **SIZE,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 4),
    "conv_stride": (5, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "classifier_proj_size": 16,
    "initializer_range": 0.2,
}


def tone(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = RATE, kind: str = "WAV") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype="FLOAT" if kind == "WAV" else None)
    return out.getvalue()


def sound(i: int) -> np.ndarray:
    """Some noise, of its own length (0.02 to 0.06 s)."""
    random = np.random.default_rng(i)
    return random.normal(0, 0.1, int(random.integers(320, 960))).astype(np.float32)


def write_sounds(path: Path, n: int, **columns: list[Any]) -> Path:
    cells = [{"bytes": encoded(sound(i)), "path": None} for i in range(n)]
    pq.write_table(pa.table({"audio": cells, **columns}), path)
    return path


def save(folder: Path, model: hf.PreTrainedModel, processor: dict[str, Any] | None = None) -> str:
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(folder)


def make_waves(folder: Path, kind: str, mask: bool = True, **settings: Any) -> str:
    """A Wav2Vec2 with whatever head, with a tokenizer of letters."""
    torch.manual_seed(0)
    symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    config = hf.Wav2Vec2Config(**{**WAVES, "vocab_size": len(symbols), "pad_token_id": 0, **settings})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({s: i for i, s in enumerate(symbols)}))
    hf.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    hf.Wav2Vec2FeatureExtractor(return_attention_mask=mask).save_pretrained(folder)
    return save(folder, getattr(hf, kind)(config))


def make_whisper(folder: Path, kind: str, **settings: Any) -> str:
    """A Whisper of one second, with byte-level words."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    words = {s: i for i, s in enumerate([*special, *"abcdefghij", "Ġ"])}
    backend = hf.PreTrainedTokenizerFast(
        tokenizer_object=_letters(words), eos_token=special[0], bos_token=special[0], pad_token=special[0]
    )
    backend.save_pretrained(folder)
    config = hf.WhisperConfig(
        **{
            "d_model": 32,
            "encoder_layers": 3,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_mel_bins": 8,
            "max_source_positions": 50,
            "max_target_positions": 40,
            "vocab_size": len(words),
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "decoder_start_token_id": 1,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
            "classifier_proj_size": 16,
            "init_std": 0.3,
            **settings,
        }
    )
    hf.WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(folder)
    return save(folder, getattr(hf, kind)(config))


def _letters(words: dict[str, int]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel(words, unk_token="Ġ"))
    made.normalizer = normalizers.Replace(" ", "Ġ")
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    start = [("<|startoftranscript|>", 1), ("<|notimestamps|>", 4), ("<|endoftext|>", 0)]
    made.post_processor = processors.TemplateProcessing(
        single="<|startoftranscript|> <|notimestamps|> $A <|endoftext|>", special_tokens=start
    )
    made.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("Ġ", " ")])
    return made


@torch.no_grad()
def logits_of(model: Any, **inputs: Any) -> torch.Tensor:
    return model(**inputs).logits
