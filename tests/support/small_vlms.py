"""Small models that read pictures in their prompt: transformers' own classes with random weights, and prompts for them.

A new row in `prunesearch.pruning.families.rows_of_vlms` needs one line in `VLMS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor

PICTURE, VIDEO, PAD, START = 95, 94, 0, 93
TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}


@dataclass(frozen=True)
class Small:
    """A model class with a small config, and how a list of pictures for each row becomes its arguments."""

    name: str
    family: str
    make: Callable[[], Any]  # the config
    cls: str
    pixels: Callable[[list[list[Tensor]]], dict[str, Tensor]]
    size: tuple[int, int] = (16, 16)  # of a picture
    mrope: bool = False
    kinds: bool = False  # prompts say which of their tokens see each other in both directions: those before the answer

    @property
    def decoder(self) -> str:
        """Path of the decoder from the model without its head."""
        return "text_model" if self.family in ("idefics3", "smolvlm") else "language_model"


def _stacked(rows: list[list[Tensor]]) -> dict[str, Tensor]:
    return {"pixel_values": torch.stack([p for row in rows for p in row])}


def _tiled(rows: list[list[Tensor]]) -> dict[str, Tensor]:
    """A whole picture and two tiles of it, as LLaVA-NeXT and -OneVision take one of 16 x 32."""
    found = [torch.stack([p[:, :, ::2], p[:, :, :16], p[:, :, 16:]]) for row in rows for p in row]
    return {"pixel_values": torch.stack(found), "image_sizes": torch.tensor([[16, 30]] * len(found))}


def _padded(rows: list[list[Tensor]]) -> dict[str, Tensor]:
    """`[batch, most pictures, ...]`; rows with fewer have black ones, which Idefics3 leaves out."""
    most = max(len(row) for row in rows)
    black = torch.zeros_like(next(p for row in rows for p in row))
    return {"pixel_values": torch.stack([torch.stack([*row, *[black] * (most - len(row))]) for row in rows])}


def _patches(rows: list[list[Tensor]]) -> dict[str, Tensor]:
    """Qwen2-VL: patches of 4 x 4, two frames each, in groups of 2 x 2."""
    flat, grids = [], []
    for picture in (p for row in rows for p in row):
        h, w = picture.shape[1] // 4, picture.shape[2] // 4
        x = picture.reshape(3, h // 2, 2, 4, w // 2, 2, 4).permute(1, 4, 2, 5, 0, 3, 6)
        x = x.reshape(h * w, 3, 1, 16).expand(-1, -1, 2, -1)
        flat.append(x.reshape(h * w, -1))
        grids.append([1, h, w])
    return {"pixel_values": torch.cat(flat), "image_grid_thw": torch.tensor(grids)}


def _clip() -> Any:
    return hf.CLIPVisionConfig(**TOWER, image_size=16)


def _llava(text: str) -> Callable[[], Any]:
    def make() -> Any:
        more = {"MistralConfig": {"sliding_window": None}, "Qwen3Config": {"head_dim": 8}}.get(text, {})
        config = getattr(hf, text)(**TEXT, **more)
        return hf.LlavaConfig(vision_config=_clip(), text_config=config, image_token_id=PICTURE)

    return make


def _tiles(config: str, vision: Callable[[], Any]) -> Callable[[], Any]:
    def make() -> Any:
        pins = [[16, 16], [16, 32]]
        parts = {"vision_config": vision(), "text_config": hf.Qwen2Config(**TEXT)}
        ids = {"image_token_id": PICTURE, "image_token_index": PICTURE, "video_token_id": VIDEO}
        return getattr(hf, config)(**parts, **ids, image_grid_pinpoints=pins)

    return make


def _siglip() -> Any:
    return hf.SiglipVisionConfig(**TOWER, image_size=16, vision_use_head=False)


def _internvl() -> Any:
    vision = hf.InternVLVisionConfig(**{**TOWER, "patch_size": (4, 4)}, image_size=(24, 24))
    return hf.InternVLConfig(vision_config=vision, text_config=hf.Qwen2Config(**TEXT), image_token_id=PICTURE)


def _qwen(config: str, **tower: Any) -> Callable[[], Any]:
    def make() -> Any:
        rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
        vision = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, **tower}
        ids = {"image_token_id": PICTURE, "video_token_id": VIDEO, "vision_start_token_id": START}
        return getattr(hf, config)(vision_config=vision, text_config={**TEXT, "rope_parameters": rope}, **ids)

    return make


def _qwen3_vl() -> Any:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0, "mrope_interleaved": True}
    vision = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "hidden_size": 16}
    vision |= {"intermediate_size": 32, "out_hidden_size": 32, "num_position_embeddings": 16}
    text = {**TEXT, "head_dim": 8, "rope_parameters": rope}
    return hf.Qwen3VLConfig(
        vision_config={**vision, "deepstack_visual_indexes": [0, 1]},
        text_config=text,
        image_token_id=PICTURE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
    )


def _paligemma() -> Any:
    text = hf.GemmaConfig(**TEXT, head_dim=8)
    vision = hf.SiglipVisionConfig(**TOWER, image_size=16, vision_use_head=False, projection_dim=32)
    return hf.PaliGemmaConfig(vision_config=vision, text_config=text, image_token_id=PICTURE, projection_dim=32)


def _idefics(config: str, vision: str) -> Callable[[], Any]:
    def make() -> Any:
        tower = getattr(hf, vision)(**TOWER, image_size=24)
        text = hf.LlamaConfig(**TEXT)
        return getattr(hf, config)(vision_config=tower, text_config=text, image_token_id=PICTURE, pad_token_id=PAD)

    return make


_QWEN = {"embed_dim": 16, "hidden_size": 32}
_QWEN_25 = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "out_hidden_size": 32,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
VLMS = {
    small.name: small
    for small in (
        Small("llava", "llava", _llava("LlamaConfig"), "LlavaForConditionalGeneration", _stacked),
        Small("llava of Mistral", "llava", _llava("MistralConfig"), "LlavaForConditionalGeneration", _stacked),
        Small("llava of Qwen2", "llava", _llava("Qwen2Config"), "LlavaForConditionalGeneration", _stacked),
        Small("llava of Qwen3", "llava", _llava("Qwen3Config"), "LlavaForConditionalGeneration", _stacked),
        Small(
            "llava_next",
            "llava_next",
            _tiles("LlavaNextConfig", _clip),
            "LlavaNextForConditionalGeneration",
            _tiled,
            (16, 32),
        ),
        Small(
            "llava_onevision",
            "llava_onevision",
            _tiles("LlavaOnevisionConfig", _siglip),
            "LlavaOnevisionForConditionalGeneration",
            _tiled,
            (16, 32),
        ),
        Small("internvl", "internvl", _internvl, "InternVLForConditionalGeneration", _stacked, (24, 24)),
        Small(
            "qwen2_vl",
            "qwen2_vl",
            _qwen("Qwen2VLConfig", **_QWEN),
            "Qwen2VLForConditionalGeneration",
            _patches,
            (24, 32),
            mrope=True,
        ),
        Small(
            "qwen2_5_vl",
            "qwen2_5_vl",
            _qwen("Qwen2_5_VLConfig", **_QWEN_25),
            "Qwen2_5_VLForConditionalGeneration",
            _patches,
            (24, 32),
            mrope=True,
        ),
        Small(
            "qwen3_vl",
            "qwen3_vl",
            _qwen3_vl,
            "Qwen3VLForConditionalGeneration",
            _patches,
            (24, 32),
            mrope=True,
        ),
        Small("paligemma", "paligemma", _paligemma, "PaliGemmaForConditionalGeneration", _stacked, kinds=True),
        Small(
            "idefics3",
            "idefics3",
            _idefics("Idefics3Config", "Idefics3VisionConfig"),
            "Idefics3ForConditionalGeneration",
            _padded,
            (24, 24),
        ),
        Small(
            "smolvlm",
            "smolvlm",
            _idefics("SmolVLMConfig", "SmolVLMVisionConfig"),
            "SmolVLMForConditionalGeneration",
            _padded,
            (24, 24),
        ),
    )
}


def build_vlm(name: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """The model, the same whenever it is asked for; it looks at its pictures, as trained ones do."""
    small = VLMS[name]
    torch.manual_seed(0)
    model = getattr(hf, small.cls)._from_config(small.make(), attn_implementation=attention)
    for path, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.5 if "embed" in path else 0.3)
        elif "bias" in path:
            torch.nn.init.normal_(parameter, 0, 0.1)
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = [PICTURE, VIDEO, START]
    return model.to(dtype).eval()


def pictures_of(name: str, count: int, seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Random ones, `[3, height, width]`."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(3, *VLMS[name].size, generator=draw).to(dtype) for _ in range(count)]


# tokens of text and numbers of pictures of a prompt, in turn: 4 tokens, a picture, 5 tokens
Turns = tuple[int, ...]


def prompts_for(
    model: Any, name: str, rows: list[Turns], dtype: torch.dtype = torch.float32, seeds: list[int] | None = None
) -> dict[str, Tensor]:
    """What the processor would give for some prompts, padded on the left.

    Args:
        model: of `build_vlm`.
        name: of it.
        rows: of each prompt tokens of text, then pictures, and so on in turn.
        dtype: of pixels.
        seeds: of each row; a row is the same in any batch.
    """
    small, ids, pictures = VLMS[name], [], []
    for seed, turns in zip(seeds or range(len(rows)), rows, strict=True):
        draw = torch.Generator().manual_seed(100 + seed)
        row: list[int] = []
        mine: list[Tensor] = []
        for place, count in enumerate(turns):
            if place % 2 == 0:
                row += torch.randint(3, 90, (count,), generator=draw).tolist()
                continue
            for picture in pictures_of(name, count, 1000 * seed + place, dtype):
                row += [START, *[PICTURE] * _tokens_of(model, small, picture)]
                mine.append(picture)
        ids.append(row)
        pictures.append(mine)
    longest = max(map(len, ids))
    padded = torch.tensor([[PAD] * (longest - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    inputs = {"input_ids": padded, "attention_mask": mask}
    if small.mrope:
        inputs["mm_token_type_ids"] = (padded == PICTURE).int()
    if small.kinds:
        inputs["token_type_ids"] = torch.zeros_like(padded)
    return {**inputs, **small.pixels(pictures)} if any(pictures) else inputs


def _tokens_of(model: Any, small: Small, picture: Tensor) -> int:
    with torch.no_grad():
        found = model.model.get_image_features(**small.pixels([[picture]])).pooler_output
    return sum(len(features) for features in found)
