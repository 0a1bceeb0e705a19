"""The rows of `task_runs.py`: what makes each one's model and data, from local files alone.

Random weights have the sizes of a checkpoint of the Hub, and are drawn wider than transformers does (a standard
deviation of about 1/sqrt(width)), so that outputs depend on the tokens at all. Words they know are those of the data.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
import transformers as hf
from models import ASSETS, MODELS
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from prunesearch.core.errors import PruneSearchError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NAMED = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
SMALL |= {"initializer_range": 0.05}
_IMAGES = 256  # rows that are written, of which a run takes what it needs
_CANVAS = 320  # pixels a side of an image with an object


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        model: what the table calls it.
        trained: whether its weights are; otherwise quality against labels means nothing.
        make: writes model and data into a folder of its own, and returns the settings that name them.
        settings: further ones of `RunConfig`.
        note: where it differs from the checkpoint it is named after.
        register: what every process has to call before it loads the model.
    """

    model: str
    trained: bool
    make: Callable[[Path], dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    register: Callable[[], Any] | None = None


def _asset(name: str) -> Path:
    path = ASSETS / name
    if not path.exists():
        raise PruneSearchError(f"'{path}' is not on this machine: run the rows that do without it")
    return path


def _saved(folder: Path, model: Any, processor: dict[str, Any] | None, data: Path) -> dict[str, Any]:
    model.save_pretrained(folder / "model")
    if processor is not None:
        (folder / "model" / "preprocessor_config.json").write_text(json.dumps(processor))
    return {"model": str(folder / "model"), "data": str(data)}


# trained weights


def _minilm_trec(folder: Path) -> dict[str, Any]:
    """TREC's questions as two tables; the head is fitted to rows of the first."""
    for split in ("train", "test"):
        lines = _asset(f"text/trec_{split}.txt").read_text(encoding="latin-1").splitlines()
        rows = [line.partition(" ") for line in lines]
        text = "\n".join(json.dumps({"text": words, "label": label}) for label, _, words in rows)
        (folder / f"{split}.jsonl").write_text(text)
    return {"model": MODELS["minilm"]()["model"], "data": f"{folder / 'train.jsonl'},{folder / 'test.jsonl'}"}


def _minilm_unlabelled(folder: Path) -> dict[str, Any]:
    """AG News without its labels: sentence embeddings held against the unpruned model's."""
    lines = _asset("text/agnews_test.tsv").read_text(encoding="utf-8").splitlines()
    texts = [line.rpartition("\t")[0] for line in lines]
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return {"model": MODELS["minilm"]()["model"], "data": str(folder / "texts.jsonl")}


def _minilm_retrieval(folder: Path) -> dict[str, Any]:
    """Halves of AG News texts: the first is to find the second (the inverse cloze task of Lee et al. 2019)."""
    lines = _asset("text/agnews_test.tsv").read_text(encoding="utf-8").splitlines()[:2000]
    halves = [(words[: len(words) // 2], words[len(words) // 2 :]) for words in (line.split() for line in lines)]
    data = folder / "data"
    (data / "qrels").mkdir(parents=True)
    for name, side in (("queries", 0), ("corpus", 1)):
        rows = [json.dumps({"_id": f"{name}-{i}", "text": " ".join(pair[side])}) for i, pair in enumerate(halves)]
        (data / f"{name}.jsonl").write_text("\n".join(rows))
    found = [f"queries-{i}\tcorpus-{i}\t1" for i in range(0, len(halves), 8)]
    (data / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *found]))
    return {"model": MODELS["minilm"]()["model"], "data": str(data)}


@cache
def _kwt1_task() -> Any:
    """`examples/kwt1_task.py`: a family of one's own, told to prunesearch and transformers once a process."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
    import kwt1_task

    kwt1_task.register()
    return kwt1_task


def _kwt1(folder: Path) -> dict[str, Any]:
    _kwt1_task().write(_asset("kwt1"), folder / "model")
    data = _asset("kwt1/speech_commands_sample.parquet")
    return {"model": str(folder / "model"), "data": str(data), "task": "audio-classification"}


# data of random models


def _pictures() -> Iterator[tuple[bytes, int]]:
    """Encoded images of CIFAR-10's test split, and their classes."""
    table = pq.read_table(_asset("cifar10/test.parquet")).slice(0, _IMAGES)
    for row in table.to_pylist():
        yield row["image"]["bytes"], row["label"]


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def _placed(encoded: bytes, side: int, corner: tuple[int, int], canvas: int) -> bytes:
    """A picture enlarged to `side` pixels, at a place on a grey canvas."""
    made = Image.new("RGB", (canvas, canvas), (128, 128, 128))
    made.paste(Image.open(io.BytesIO(encoded)).convert("RGB").resize((side, side)), corner)
    return _jpeg(made)


def _boxed(folder: Path) -> Path:
    """Images with one object each, somewhere, of some size."""
    random, images, objects = np.random.default_rng(0), [], []
    for encoded, label in _pictures():
        side = int(random.integers(64, 224))
        x, y = (int(n) for n in random.integers(0, _CANVAS - side, 2))
        images.append({"bytes": _placed(encoded, side, (x, y), _CANVAS), "path": None})
        objects.append({"bbox": [[x, y, side, side]], "category": [label]})
    pq.write_table(pa.table({"image": images, "objects": objects}), folder / "boxes.parquet")
    return folder / "boxes.parquet"


def _clips(folder: Path) -> Path:
    """Clips of 16 frames in which an image moves on a straight line."""
    random, videos, labels = np.random.default_rng(0), [], []
    for encoded, label in list(_pictures())[:64]:
        begin, end = random.integers(0, 48, (2, 2))
        places = [(begin + (end - begin) * k / 15).astype(int) for k in range(16)]
        videos.append([{"bytes": _placed(encoded, 64, (int(x), int(y)), 112), "path": None} for x, y in places])
        labels.append(CLASSES[label])
    pq.write_table(pa.table({"video": videos, "label": labels}), folder / "clips.parquet")
    return folder / "clips.parquet"


def _numbers(folder: Path) -> Path:
    """Spoken numbers of four digits: recordings of one speaker, one after another, with their words."""
    rows = pq.read_table(_asset("fsdd/recordings.parquet")).to_pylist()
    random, audio, texts = np.random.default_rng(0), [], []
    for _ in range(96):
        speaker = rows[int(random.integers(len(rows)))]["speaker"]
        mine = [row for row in rows if row["speaker"] == speaker]
        chosen = [mine[int(i)] for i in random.integers(len(mine), size=4)]
        read = [soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32") for row in chosen]
        out = io.BytesIO()
        soundfile.write(out, np.concatenate([samples for samples, _ in read]), read[0][1], format="WAV")
        audio.append({"bytes": out.getvalue(), "path": None})
        texts.append(" ".join(DIGITS[row["label"]] for row in chosen))
    pq.write_table(pa.table({"audio": audio, "sentence": texts}), folder / "numbers.parquet")
    return folder / "numbers.parquet"


def _multi30k(folder: Path) -> tuple[Path, list[str]]:
    """English sentences with their German translations, and all of the texts."""
    english, german = (
        gzip.decompress(_asset(f"text/multi30k_val.{language}.gz").read_bytes()).decode().splitlines()
        for language in ("en", "de")
    )
    rows = [json.dumps({"en": en, "de": de}) for en, de in zip(english, german, strict=True)]
    (folder / "pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder / "pairs.jsonl", [*english, *german]


def _tokenizer(made: Tokenizer, folder: Path, single: str, specials: dict[str, str], most: int) -> None:
    tokens = [(token, made.token_to_id(token)) for token in dict.fromkeys(single.split()) if token != "$A"]
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=tokens)
    fast = hf.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=most, **specials)
    fast.save_pretrained(folder / "model")


def _words(vocabulary: list[str]) -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


# random weights


def _deit(folder: Path) -> dict[str, Any]:
    """facebook/deit-small-distilled-patch16-224."""
    model = hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**SMALL, **NAMED))
    front = {"image_processor_type": "DeiTImageProcessor", "size": {"height": 256, "width": 256}}
    front |= {"crop_size": {"height": 224, "width": 224}}
    return _saved(folder, model, front, _asset("cifar10/test.parquet"))


def _clip(folder: Path) -> dict[str, Any]:
    """openai/clip-vit-base-patch32."""
    text = {"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12}
    text |= {"num_attention_heads": 8, "max_position_embeddings": 77, "projection_dim": 512, "initializer_factor": 5.0}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    image = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    image |= {"image_size": 224, "patch_size": 32, "projection_dim": 512, "initializer_factor": 5.0}
    config = hf.CLIPConfig(text_config=text, vision_config=image, projection_dim=512, initializer_factor=5.0)
    words = _words(["<pad>", "<s>", "<unk>", "</s>", "a", "photo", "of", ".", *CLASSES])
    specials = {"pad_token": "<pad>", "bos_token": "<s>", "unk_token": "<unk>", "eos_token": "</s>"}
    _tokenizer(words, folder, "<s> $A </s>", specials, 77)
    front = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}}
    front |= {"crop_size": {"height": 224, "width": 224}}
    return _saved(folder, hf.CLIPModel(config), front, _asset("cifar10/test.parquet"))


def _yolos(folder: Path) -> dict[str, Any]:
    """hustvl/yolos-tiny."""
    sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    more = {"image_size": [_CANVAS, _CANVAS], "num_detection_tokens": 100, "use_mid_position_embeddings": False}
    model = hf.YolosForObjectDetection(hf.YolosConfig(**sizes, **more, initializer_range=0.07, **NAMED))
    front = {"image_processor_type": "YolosImageProcessor", "size": {"height": _CANVAS, "width": _CANVAS}}
    return _saved(folder, model, front, _boxed(folder))


def _videomae(folder: Path) -> dict[str, Any]:
    """MCG-NJU/videomae-small-finetuned-kinetics."""
    config = hf.VideoMAEConfig(**SMALL, image_size=112, num_frames=16, tubelet_size=2, **NAMED)
    front = {"image_processor_type": "VideoMAEImageProcessor", "size": {"shortest_edge": 112}}
    front |= {"crop_size": {"height": 112, "width": 112}}
    return _saved(folder, hf.VideoMAEForVideoClassification(config), front, _clips(folder))


def _whisper(folder: Path) -> dict[str, Any]:
    """openai/whisper-tiny."""
    sizes = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
    sizes |= {"decoder_layers": 4, "decoder_attention_heads": 6, "decoder_ffn_dim": 1536, "num_mel_bins": 80}
    sizes |= {"vocab_size": 51865, "max_source_positions": 1500, "max_target_positions": 448}
    tokens = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}
    config = hf.WhisperConfig(
        **sizes, **tokens, init_std=0.05, suppress_tokens=None, begin_suppress_tokens=None, is_encoder_decoder=True
    )
    words = _words(["<|endoftext|>", "<|startoftranscript|>", "<unk>", *DIGITS])
    end = dict.fromkeys(("pad_token", "bos_token", "eos_token"), "<|endoftext|>")
    _tokenizer(words, folder, "<|startoftranscript|> $A <|endoftext|>", {**end, "unk_token": "<unk>"}, 448)
    hf.WhisperFeatureExtractor().save_pretrained(folder / "model")
    return _saved(folder, hf.WhisperForConditionalGeneration(config), None, _numbers(folder))


def _wav2vec2(folder: Path) -> dict[str, Any]:
    """facebook/wav2vec2-base, with a head for CTC."""
    symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", *sorted(set("".join(DIGITS)))]
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
    hf.Wav2Vec2CTCTokenizer(str(folder / "model" / "vocab.json")).save_pretrained(folder / "model")
    hf.Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder / "model")
    # its other sizes are the class's own defaults
    config = hf.Wav2Vec2Config(vocab_size=len(symbols), pad_token_id=0, layerdrop=0.0, initializer_range=0.036)
    return _saved(folder, hf.Wav2Vec2ForCTC(config), None, _numbers(folder))


def _marian(folder: Path) -> dict[str, Any]:
    """Helsinki-NLP/opus-mt-en-de."""
    data, texts = _multi30k(folder)
    sizes = {"d_model": 512, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 8}
    sizes |= {"decoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048, "vocab_size": 58101}
    sizes |= {"max_position_embeddings": 512, "activation_function": "swish", "scale_embedding": True}
    tokens = {"eos_token_id": 0, "pad_token_id": 1, "decoder_start_token_id": 1, "forced_eos_token_id": None}
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=["</s>", "<pad>", "<unk>"], show_progress=False)
    made.train_from_iterator(texts, trainer)
    specials = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _tokenizer(made, folder, "$A </s>", specials, 512)
    return _saved(folder, hf.MarianMTModel(hf.MarianConfig(**sizes, **tokens, init_std=0.044)), None, data)


def _random(make: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    """The same weights every time."""

    def seeded(folder: Path) -> dict[str, Any]:
        torch.manual_seed(0)
        return make(folder)

    return seeded


def _few(rows: int, batch_size: int, trials: int = 14) -> dict[str, Any]:
    """Settings that a core gets through in minutes, for models of the sizes that people have."""
    splits = {"calibration": rows, "holdout": rows, "search_samples": rows, "sensitivity_samples": min(rows, 16)}
    return {**splits, "batch_size": batch_size, "eval_batch_size": 8, "trials": trials, "sensitivity_units": 2.0}


_TEXTS = {"trials": 40, "search_samples": 256, "holdout": 500}

ROWS: dict[str, Row] = {
    "vit-small": Row(
        "ViT, 4 blocks, CIFAR-10", True, lambda folder: MODELS["vit-small"](), {"trials": 60, "search_samples": 1000}
    ),
    "minilm-sst2": Row("MiniLM-L6, SST-2", True, lambda folder: MODELS["minilm"](), {**_TEXTS, "holdout": 800}),
    "minilm-trec": Row("MiniLM-L6, TREC", True, _minilm_trec, {**_TEXTS, "calibration": 500}),
    "minilm-unlabelled": Row("MiniLM-L6, AG News", True, _minilm_unlabelled, {**_TEXTS, "task": "fidelity"}),
    "minilm-retrieval": Row("MiniLM-L6, AG News halves", True, _minilm_retrieval, _few(48, 8, 20) | {"holdout": 100}),
    "kwt1": Row(
        "KWT-1, Speech Commands", True, _kwt1, {"trials": 40, "calibration": 400, "holdout": 900}, register=_kwt1_task
    ),
    "deit": Row("DeiT-S distilled", False, _random(_deit), _few(32, 1, 20)),
    "clip": Row("CLIP ViT-B/32", False, _random(_clip), _few(48, 1, 20)),
    "yolos": Row(
        "YOLOS-Ti", False, _random(_yolos), _few(16, 1), f"images of {_CANVAS} x {_CANVAS} pixels, not 800 x 1333"
    ),
    "videomae": Row(
        "VideoMAE-S", False, _random(_videomae), _few(12, 1), "frames of 112 x 112 pixels, not 224 x 224; 10 classes"
    ),
    "whisper": Row("Whisper tiny", False, _random(_whisper), _few(8, 1, 12)),
    "wav2vec2": Row("Wav2Vec2-base", False, _random(_wav2vec2), _few(24, 1)),
    "marian": Row("Marian (opus-mt)", False, _random(_marian), _few(32, 8)),
}
