"""Train a small LLaVA that answers questions of `shapes_and_words`, from scratch, on a CPU, in pieces.

    python examples/train_shapes_vlm.py --work DIR --minutes 20     # a piece; the same line again goes on
    python examples/train_shapes_vlm.py --work DIR --judge 1000     # what it gets right so far, and the gate
    python examples/train_shapes_vlm.py --work DIR --out MODEL      # the model, its tokenizer and its card

It is Hugging Face's ``LlavaForConditionalGeneration``: a CLIP tower of 224 pixels (196 image tokens) and a Llama. For
the first part of the time (`LOOKING`) the tower alone learns what each patch lies on and is beside (`look_at_patches`);
then projector and text learn to answer, many questions of a picture in a row, none of which sees another; the projector
also to give patches the embeddings of the words for what is on them, and block `SEEKS` to look, from the end of a
question, at what it is about. Minutes are those that a core works on it. The learning rate hangs on the minutes used of
``--total``, however they are cut into pieces; a checkpoint is written to ``--work`` every minute, at the end, and where
a piece is asked to stop (ctrl-c, SIGTERM). ``--begin`` takes the weights of a model that this wrote: its tower has
looked, so that all of the time is for answers.

The gate says whether the questions are worth pruning for: text alone must get at most 50 % right, be it this model
without a picture or whoever says the answer that is most frequent, and pictures shrunk to a quarter of the tokens at
least 15 points less than whole ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from look_at_patches import IGNORED, Looking, seen_in, targets_of, word_shares
from PIL import Image
from shapes_and_words import ALL, COLOURS, FEW, KINDS, SHAPES, SIDE, Question, Sample, samples, text_alone
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

PATCH, BATCH, QUESTIONS = 16, 16, 16
ANSWER = 4  # tokens at most: three letters and the end
LOOKING = 0.4  # share of the time
LOOK_LR, TEXT_LR = 1e-3, 2e-3
SEEKS = 1
LEAST_LR, DECAY, WARMUP = 0.02, 0.05, 0.02
SIZES = {
    "small": {"tower": (192, 6, 6), "text": (256, 6, 4)},  # width, blocks, heads: 7.7 M parameters
    "mini": {"tower": (96, 5, 3), "text": (128, 4, 4)},  # 1.5 M, with few shapes and words: for minutes
    "tiny": {"tower": (32, 2, 2), "text": (32, 2, 2)},  # to try the script
}
REPERTOIRES = {"small": ALL, "mini": FEW, "tiny": ALL}
TRAIN, JUDGE = 7, 8  # seeds of pictures
_SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ ' ' + part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
_SAID = "which how many colour shape word words things are there is the left right of above below ? crosses"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word a token; words in capitals, which are read off pictures, letter by letter."""
    plural = [f"{shape}s" for shape in SHAPES if shape != "cross"]
    letters, digits = [chr(c) for c in range(ord("A"), ord("Z") + 1)], [str(d) for d in range(10)]
    words = [*_SPECIAL, *_SAID.split(), *COLOURS, *SHAPES, *plural, *letters, *digits]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[A-Z]"), "isolated")]
    )
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special, additional_special_tokens=["<image>"])


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """What makes prompts of pictures and questions, as `rows_of` and `pixels_of` do."""
    half: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    pixels = CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False, **half)
    return LlavaProcessor(
        pixels,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
    )


def make_model(size: str, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A new one."""
    (width, blocks, heads), (text, layers, text_heads) = SIZES[size]["tower"], SIZES[size]["text"]
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        image_size=SIDE,
        patch_size=PATCH,
    )
    decoder = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=text,
        intermediate_size=8 * text // 3,
        num_hidden_layers=layers,
        num_attention_heads=text_heads,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},  # what a patch shows matters more than where it is
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=decoder,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.max_new_tokens = ANSWER
    return model


# -- what it reads -------------------------------------------------------------------------------------------------


def pixels_of(pictures: list[Image.Image], side: int = SIDE) -> Tensor:
    """`[batch, 3, side, side]` from -1 to 1; smaller ones are shrunk with antialiasing."""
    resized = [p if side == SIDE else p.resize((side, side), Image.Resampling.BICUBIC) for p in pictures]
    stacked = torch.from_numpy(np.stack([np.asarray(p) for p in resized]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


def rows_of(
    tokenizer: PreTrainedTokenizerFast, questions: list[list[Question]], images: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels `[batch, n]`: a picture, then question and answer in turn; answers alone are taught."""
    ids, labels = [], []
    for row in questions:
        mine, taught = [1] + [tokenizer.convert_tokens_to_ids("<image>")] * images, [IGNORED] * (1 + images)
        for question in row:
            asked = tokenizer(question.text, add_special_tokens=False)["input_ids"]
            answer = tokenizer(question.answer, add_special_tokens=False)["input_ids"] + [2]
            mine += asked + answer
            taught += [IGNORED] * len(asked) + answer
        ids.append(torch.tensor(mine))
        labels.append(torch.tensor(taught))
    padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    wanted = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
    lengths = torch.tensor([len(row) for row in ids])
    return padded, (torch.arange(padded.shape[1]) < lengths[:, None]).long(), wanted


def taught_rows(tokenizer: PreTrainedTokenizerFast, questions: list[list[Question]], images: int) -> dict[str, Tensor]:
    """What a model is taught by: `rows_of`, where each question sees the picture and itself, at the same positions."""
    ids, _, labels = rows_of(tokenizer, questions, images)
    first, (b, n) = 1 + images, ids.shape
    ends = torch.zeros(b, n, dtype=torch.long)
    ends[:, first + 1 :] = ((ids == 2) & (labels == 2))[:, first:-1]
    part = ends.cumsum(1) + 1
    part[:, :first] = 0
    places = torch.arange(n).expand(b, n)
    begun = torch.where(ends.bool(), places, torch.full_like(places, first)).cummax(1).values
    begun[:, :first] = first
    see = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])
    see = see & (places[:, None, :] <= places[:, :, None])
    return {"input_ids": ids, "attention_mask": see[:, None], "position_ids": places - begun + first, "labels": labels}


# -- training ------------------------------------------------------------------------------------------------------


class Stopped:
    """Within the block, whether somebody has asked this process to stop."""

    def __enter__(self) -> Stopped:
        self._asked = False
        self._before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, *_: object) -> None:
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked


class Trainee:
    """The model, what names its patches at first, and how far it is."""

    def __init__(self, work: Path, size: str, *, half: bool = False, begin: Path | None = None) -> None:
        self.repertoire, self.half, self.looking_share = REPERTOIRES[size], half, LOOKING
        self.path, self.tokenizer = work / "checkpoint.pt", make_tokenizer()
        torch.manual_seed(0)
        self.model = make_model(size, self.tokenizer)
        self.tower = self.model.model.vision_tower
        self.looking = Looking(self.model.config.vision_config.hidden_size, PATCH)
        tower = [*self.tower.parameters(), *self.looking.parameters()]
        known = {id(p) for p in tower}
        text = [p for p in self.model.parameters() if id(p) not in known]
        self.words = word_shares(self.tokenizer)
        self.optimizer = torch.optim.AdamW(
            [{"params": tower}, {"params": text}], betas=(0.9, 0.98), weight_decay=DECAY, lr=0.0
        )
        self.minutes, self.pictures = 0.0, 0
        if self.path.is_file():
            kept = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(kept["model"])
            self.looking.load_state_dict(kept["looking"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.minutes, self.pictures = kept["minutes"], kept["pictures"]
            self.looking_share = kept["looking_share"]
        elif begin is not None:
            self.model.load_state_dict(LlavaForConditionalGeneration.from_pretrained(begin).state_dict())
            self.looking_share = 0.0

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        parts = {"model": self.model, "looking": self.looking, "optimizer": self.optimizer}
        kept: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept |= {name: getattr(self, name) for name in ("minutes", "pictures", "looking_share")}
        torch.save(kept, self.path.with_suffix(".new"))
        self.path.with_suffix(".new").replace(self.path)

    def piece(self, minutes: float, total: float) -> None:
        """Train for some minutes, of `total` in all."""
        begun, before, said = time.process_time(), self.minutes, self.minutes
        source = samples(TRAIN, QUESTIONS, self.pictures, self.repertoire)
        losses: dict[str, list[float]] = defaultdict(list)
        self.model.train()
        with Stopped() as stopped:
            while self.minutes < min(before + minutes, total) and not stopped:
                way = self.minutes / total
                pictures = BATCH if way < self.looking_share else BATCH // 4  # of many questions each
                self._step(list(itertools.islice(source, pictures)), way, losses)
                self.minutes = before + (time.process_time() - begun) / 60 / torch.get_num_threads()
                if self.minutes - said >= 1:
                    self.save()
                    said = self.minutes
                    self._say(losses)
            self.save()
        self._say(losses)

    def _step(self, batch: list[Sample], way: float, losses: dict[str, list[float]]) -> None:
        share = self.looking_share
        looks = way < share
        self.tower.requires_grad_(looks)
        through = way / share if looks else (way - share) / (1 - share)
        self._set_rates(LOOK_LR if looks else TEXT_LR, through)
        what, loss = ("look", self._look(batch)) if looks else ("answer", self._answer(batch))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(itertools.chain(self.model.parameters(), self.looking.parameters()), 1.0)
        self.optimizer.step()
        losses[what].append(loss.item())
        self.pictures += len(batch)

    def _say(self, losses: dict[str, list[float]]) -> None:
        now = ", ".join(f"{k} {np.mean(v[-20:]):.3f}" for k, v in losses.items())
        print(f"{self.minutes:.1f} min, {self.pictures} pictures: {now}", flush=True)

    def _set_rates(self, peak: float, through: float) -> None:
        rate = LEAST_LR + (1 - LEAST_LR) * (1 + math.cos(math.pi * through)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = peak * min(rate, max(through / WARMUP, 0.01))

    def _look(self, batch: list[Sample]) -> Tensor:
        seen = self.tower(pixel_values=pixels_of([s.picture for s in batch])).last_hidden_state
        loss: Tensor = self.looking(seen[:, 1:], batch)
        return loss

    def _answer(self, batch: list[Sample]) -> Tensor:
        rows = taught_rows(self.tokenizer, [s.questions for s in batch], (SIDE // PATCH) ** 2)
        inner = self.model.model
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            seen = inner.get_image_features(pixels_of([s.picture for s in batch]))
            out = self.model(**rows, mm_encoder_outputs={"image": seen}, output_hidden_states=True)
            loss: Tensor = out.loss + self._seeking(out.hidden_states[SEEKS], rows, batch)
            said = torch.stack(list(seen.pooler_output)) @ inner.get_input_embeddings().weight.T
        return loss + self._naming(said.float(), batch)

    def _seeking(self, hidden: Tensor, rows: dict[str, Tensor], batch: list[Sample]) -> Tensor:
        """How little the last token of each question looks at what it is about, of what it looks at in the picture."""
        text, images = self.model.model.language_model, (SIDE // PATCH) ** 2
        block = text.layers[SEEKS]
        normed, attention = block.input_layernorm(hidden), block.self_attn
        query, key = (
            made(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for made in (attention.q_proj, attention.k_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *text.rotary_emb(hidden, rows["position_ids"]))
        taught = rows["labels"] != IGNORED
        row, place = (taught[:, 1:] & ~taught[:, :-1]).nonzero(as_tuple=True)
        scores = (key[row, :, 1 : 1 + images] @ query[row, :, place][..., None]).squeeze(-1) * attention.scaling
        looks = scores.float().softmax(-1).mean(1)
        about = torch.stack([seen_in(s, question, PATCH) for s in batch for question in s.questions])
        on = about.any(1)
        return -(looks * about).sum(1)[on].clamp(min=1e-6).log().mean()

    def _naming(self, said: Tensor, batch: list[Sample]) -> Tensor:
        """How far patches `[batch, patches, vocabulary]` are from the words for what is on them."""
        wanted = targets_of(batch, PATCH)
        on = wanted["name"] > 0
        name, colour = (self.words[kind][wanted[kind][on]] for kind in ("name", "colour"))
        shares = (name + colour) / (name + colour).sum(-1, keepdim=True)
        return nn.functional.cross_entropy(said[on], shares)


# -- judging -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def judge(trainee: Trainee, count: int, side: int | None = SIDE) -> dict[str, float]:
    """Shares of questions that are answered right, each by itself: every token the likeliest.

    Args:
        trainee: with its model.
        count: of pictures, one question each.
        side: of the pictures, in pixels: shrunk ones have fewer tokens. None: no picture is shown.
    """
    model, right = trainee.model.eval(), defaultdict(list)
    for batch in _in_batches(itertools.islice(samples(JUDGE, repertoire=trainee.repertoire), count)):
        tokens = 0 if side is None else (side // PATCH) ** 2
        ids, mask, labels = rows_of(trainee.tokenizer, [s.questions[:1] for s in batch], tokens)
        shown = {}
        if side is not None:
            pixels = pixels_of([s.picture for s in batch], side)
            seen = model.model.get_image_features(pixels, interpolate_pos_encoding=side != SIDE)
            shown = {"mm_encoder_outputs": {"image": seen}}
        guess = model(input_ids=ids, attention_mask=mask, **shown).logits[:, :-1].argmax(-1)
        wanted = labels[:, 1:]
        hits = ((guess == wanted) | (wanted == IGNORED)).all(1).tolist()
        for sample, hit in zip(batch, hits, strict=True):
            right[sample.questions[0].kind].append(hit)
            right["all"].append(hit)
    return {kind: float(np.mean(right[kind])) for kind in ("all", *KINDS) if right[kind]}


def _in_batches(given: Iterator[Sample]) -> Iterator[list[Sample]]:
    while batch := list(itertools.islice(given, 50)):
        yield batch


def gate(trainee: Trainee, count: int) -> dict[str, Any]:
    """What is right with pictures, without, and with pictures of a quarter of the tokens; and whether it counts."""
    found: dict[str, Any] = {
        "pictures": judge(trainee, count),
        "text alone": judge(trainee, count, None),
        "most frequent answers": text_alone(20 * count, 5 * count, trainee.repertoire),
        "shrunk": judge(trainee, count, SIDE // 2),
    }
    whole, shrunk = (found[k]["all"] for k in ("pictures", "shrunk"))
    text = max(found[k]["all"] for k in ("text alone", "most frequent answers"))
    found |= {"passed": text <= 0.5 and whole - shrunk >= 0.15, "minutes": trainee.minutes, "questions": count}
    return found


def main() -> None:
    """Train a piece, judge, or write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--total", type=float, default=600.0, help="of all pieces together")
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--begin", type=Path, metavar="MODEL", help="the weights to begin with, of the same size")
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16 while it learns to answer")
    parser.add_argument("--judge", type=int, default=0, metavar="PICTURES")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    trainee = Trainee(given.work, given.size, half=given.bf16, begin=given.begin)
    if given.minutes:
        trainee.piece(given.minutes, given.total)
    if given.judge or given.out is not None:
        found = gate(trainee, given.judge or 1000)
        print(json.dumps(found, indent=2))
        if given.out is not None:
            trainee.model.save_pretrained(given.out)
            make_processor(trainee.tokenizer).save_pretrained(given.out)
            (given.out / "card.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
