"""The table of model families. `family.Family` says what a row means; `docs/families.md` how to add one."""

from __future__ import annotations

from prunesearch.pruning.families.family import GRID, WINDOWS, Family
from prunesearch.pruning.families.rows_of_audio import AUDIOS
from prunesearch.pruning.families.rows_of_text import TEXTS
from prunesearch.pruning.families.rows_of_vision import VISION
from prunesearch.pruning.families.rows_of_vlms import VISION_LANGUAGE

# any family also has the task fidelity, named in a row where it has nothing else
ROWS: tuple[Family, ...] = (*VISION, *TEXTS, *AUDIOS, *VISION_LANGUAGE)

# config of a model around encoders of the table: the one that is reduced
AROUND = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}

_AXES = "it attends over time and space in turn, which needs every token in its place"
_SPARSE = "its attention is sparse by position, which needs every token in its place"
_BOTH_WAYS = (
    "its picture tokens attend to each other in both directions within sliding windows, which is not yet supported"
)
_EXPERTS = "its blocks send each token to experts of its own, whose cost hangs on what the tokens are"
_VLMS = ("llava", "qwen2_vl", "smolvlm")
_LIKE_VIT, _LIKE_BERT, _LIKE_VIDEO = ("vit", "dinov2", "beit"), ("bert", "modernbert"), ("videomae", "vivit")
# what to take for a model of no known name, by what its config says it reads
NEAREST: dict[str, tuple[str, ...]] = {
    "num_frames": _LIKE_VIDEO,
    "image_size": _LIKE_VIT,
    "num_mel_bins": ("audio-spectrogram-transformer", "whisper"),
    "conv_dim": ("wav2vec2", "wavlm"),
    "vocab_size": _LIKE_BERT,
}
# families that no row could make work: why, and which to take instead
REFUSED: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(("swin", "swinv2", "sam", "sam_vision_model", "sam_hq", "vitdet"), (WINDOWS, _LIKE_VIT)),
    **dict.fromkeys(("hiera", "pvt", "pvt_v2", "segformer", "mvit"), (GRID, _LIKE_VIT)),
    **dict.fromkeys(("gemma3", "gemma3n"), (_BOTH_WAYS, _VLMS)),
    **dict.fromkeys(("qwen3_vl_moe",), (_EXPERTS, ("qwen3_vl", *_VLMS))),
    "timesformer": (_AXES, _LIKE_VIDEO),
    **dict.fromkeys(("longformer", "big_bird"), (_SPARSE, _LIKE_BERT)),
}
