"""Train the bundled demo model: a small ViT for CIFAR-10, from scratch, on a CPU, in about an hour.

The model is Hugging Face's ``ViTForImageClassification``: 32x32 pixels, 4x4 patches. The recipe:

* mimetic initialisation of the attention (Trockman & Kolter 2023), sine-cosine position embeddings
  and a patch embedding that whitens the training patches;
* random crop (4 pixels of padding), horizontal flip, CutMix (Yun et al. 2019) on half of the
  batches, label smoothing;
* Muon for the matrices of the blocks, AdamW for everything else;
* PatchDropout (Liu et al. 2022): a random half of the patch tokens for most of the time, all at
  the end;
* a schedule tied to the wall clock: the learning rate reaches zero after ``--minutes``.

The test images are read for the accuracies in the model card after training, never during it::

    python examples/train_demo_vit.py --data DIR --out DIR --subsets-only
    python examples/train_demo_vit.py --data DIR --out DIR --minutes 55 --seed 0

``--data`` holds ``train.parquet`` and ``test.parquet`` (``image`` with encoded bytes, ``label``).
After each epoch a checkpoint is written to ``--work``, from which ``--resume`` goes on.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
SUBSETS = {"cifar10-calibration.parquet": 200, "cifar10-holdout.parquet": 400}  # images per class
STAGES = ((0.0, 32), (0.65, 64))  # (from this share of the time on, patch tokens kept)
BATCH = 256
WARMUP = 0.03  # share of the time
MUON_LR, MUON_DECAY = 0.02, 0.05
ADAM_LR, ADAM_DECAY = 2e-3, 0.01
SMOOTHING = 0.05
CUTMIX, CUTMIX_UNTIL = 0.5, 0.85  # probability for a batch; share of the time after which it stops
SNAPSHOT_EVERY = 5  # epochs


def write_subsets(test: Path, out: Path, seed: int) -> None:
    """Write disjoint, class-balanced subsets of the test file, schema and metadata kept."""
    table = pq.read_table(test)
    labels = table["label"].to_numpy()
    rng = np.random.default_rng(seed)
    order = [rng.permutation(np.flatnonzero(labels == c)) for c in range(len(CLASSES))]
    start = 0
    for name, count in SUBSETS.items():
        rows = np.sort(np.concatenate([o[start : start + count] for o in order]))
        part = table.take(pa.array(rows))
        pq.write_table(part, out / name, compression="zstd", compression_level=19)
        start += count
        print(f"{name}: {len(rows)} images, {(out / name).stat().st_size / 1e6:.2f} MB", flush=True)


def load_images(path: Path) -> tuple[Tensor, Tensor]:
    """Decode a parquet file into uint8 images [N, 3, 32, 32] and labels [N]."""
    table = pq.read_table(path)
    blobs = table["image"].combine_chunks().field("bytes").to_pylist()
    images = np.stack([np.asarray(Image.open(io.BytesIO(b)).convert("RGB")) for b in blobs])
    labels = torch.from_numpy(table["label"].to_numpy().copy())
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def normalise(images: Tensor) -> Tensor:
    """Scale uint8 images to the floats that the model takes."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Randomly shift each uint8 image by up to 4 pixels (reflected border) and mirror it."""
    n = len(images)
    padded = F.pad(images.float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
    dy, dx = torch.randint(0, 9, (2, n), generator=rng)
    span = torch.arange(32)
    flip = torch.rand(n, 1, generator=rng) < 0.5
    cols = dx[:, None] + torch.where(flip, 31 - span, span)
    rows = dy[:, None] + span
    picks = torch.arange(n)[:, None, None], rows[:, :, None], cols[:, None, :]
    return padded.permute(0, 2, 3, 1)[picks].permute(0, 3, 1, 2)


def sincos_positions(side: int, width: int) -> Tensor:
    """Return two-dimensional sine-cosine position embeddings [side * side, width]."""
    freq = 1.0 / 10000 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * freq
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)
    grid = [wave[:, None].expand(side, side, -1), wave[None].expand(side, side, -1)]
    return torch.cat(grid, dim=2).reshape(side * side, width)


@torch.no_grad()
def initialise(model: ViTForImageClassification, images: Tensor) -> None:
    """Set the mimetic attention weights, the positions and the whitening patch embedding."""
    cfg, emb = model.config, model.vit.embeddings
    width, heads, patch = cfg.hidden_size, cfg.num_attention_heads, cfg.patch_size
    dim = width // heads
    for layer in model.vit.layers:
        att = layer.attention
        for h in range(heads):  # queries and keys of a head: their product is near the identity
            goal = 0.7 * torch.randn(width, width) / math.sqrt(dim) + 0.7 * torch.eye(width)
            u, s, vh = torch.linalg.svd(goal)
            root = s[:dim].sqrt()[:, None]
            att.q_proj.weight[h * dim : (h + 1) * dim] = root * u[:, :dim].T
            att.k_proj.weight[h * dim : (h + 1) * dim] = root * vh[:dim]
        goal = 0.4 * torch.randn(width, width) / math.sqrt(width) - 0.4 * torch.eye(width)
        u, s, vh = torch.linalg.svd(goal)  # values and output: near minus the identity
        att.o_proj.weight.copy_(u * s.sqrt())
        att.v_proj.weight.copy_(s.sqrt()[:, None] * vh)
        nn.init.normal_(layer.mlp.fc1.weight, std=width**-0.5)
        nn.init.normal_(layer.mlp.fc2.weight, std=0.5 * cfg.intermediate_size**-0.5)
    emb.position_embeddings[0, 1:] = sincos_positions(cfg.image_size // patch, width)
    patches = F.unfold(normalise(images[:2000]), patch, stride=patch)  # [N, 48, 64]
    values, vectors = torch.linalg.eigh(patches.transpose(0, 1).flatten(1).cov())
    frame = torch.linalg.qr(torch.randn(width, len(values))).Q * math.sqrt(width / len(values))
    kernel = emb.patch_embeddings.projection.weight
    kernel.copy_((frame @ ((values + 1e-2).rsqrt()[:, None] * vectors.T)).view_as(kernel))


def build_model(images: Tensor) -> ViTForImageClassification:
    """Return a freshly initialised model."""
    config = ViTConfig(
        image_size=32,
        patch_size=4,
        hidden_size=192,
        num_hidden_layers=9,
        num_attention_heads=3,
        intermediate_size=768,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: i for i, name in enumerate(CLASSES)},
        attn_implementation="sdpa",
    )
    model = ViTForImageClassification(config)
    initialise(model, images)
    return model


def forward_kept(model: ViTForImageClassification, pixels: Tensor, kept: Tensor | None) -> Tensor:
    """Return the logits from the patch tokens ``kept`` [B, K] of each image (all if None)."""
    hidden = model.vit.embeddings(pixels)
    if kept is not None:
        index = kept[:, :, None].expand(-1, -1, hidden.shape[2])
        hidden = torch.cat([hidden[:, :1], hidden[:, 1:].gather(1, index)], dim=1)
    for layer in model.vit.layers:
        hidden = layer(hidden, None)
    return model.classifier(model.vit.layernorm(hidden)[:, 0])


def cutmix(images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste a random box of each image's neighbour in the batch; return also the class shares."""
    target = F.one_hot(labels, len(CLASSES)).float()
    draw = torch.rand(3, generator=rng).tolist()
    half = 16 * math.sqrt(draw[0])
    spans = [(max(0, round(32 * c - half)), min(32, round(32 * c + half))) for c in draw[1:]]
    (top, bottom), (left, right) = spans
    share = (bottom - top) * (right - left) / 32**2
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    return mixed, (1 - share) * target + share * target.roll(1, 0)


def rate(progress: float) -> float:
    """Return the factor of the learning rates: linear warm-up, then linear decay to zero."""
    return min(progress / WARMUP, max(0.0, (1 - progress) / (1 - WARMUP)))


@dataclass
class Run:
    """Everything that a checkpoint holds."""

    model: ViTForImageClassification
    optimisers: list[torch.optim.Optimizer]
    rng: torch.Generator
    elapsed: float = 0.0
    epoch: int = 0
    images_seen: int = 0
    log: list[dict[str, float]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the checkpoint in one step, so that a kill never leaves half a file."""
        state = {
            "model": self.model.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "rng": self.rng.get_state(),
            "counts": (self.elapsed, self.epoch, self.images_seen, self.log),
        }
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.rng.set_state(state["rng"])
        self.elapsed, self.epoch, self.images_seen, self.log = state["counts"]


def make_run(model: ViTForImageClassification, seed: int) -> Run:
    """Return a run at its start, with Muon for the blocks' matrices and AdamW for the rest."""
    matrices = [p for p in model.vit.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=MUON_DECAY)
    adam = torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=ADAM_DECAY)
    return Run(model, [muon, adam], torch.Generator().manual_seed(seed + 1))


def train(run: Run, images: Tensor, labels: Tensor, minutes: float, work: Path) -> None:
    """Train until the wall-clock budget is spent."""
    model, budget, before = run.model, 60 * minutes, run.elapsed
    start = time.monotonic()
    model.train()
    while run.elapsed < budget:
        first, hits, shown = time.monotonic(), 0, 0
        losses: list[float] = []
        for batch in torch.randperm(len(images), generator=run.rng).split(BATCH):
            run.elapsed = before + time.monotonic() - start
            progress = run.elapsed / budget
            if progress >= 1:
                break
            for optimiser, peak in zip(run.optimisers, (MUON_LR, ADAM_LR), strict=True):
                optimiser.param_groups[0]["lr"] = peak * rate(progress)
            pixels = augment(images[batch], run.rng)
            target = F.one_hot(labels[batch], len(CLASSES)).float()
            mix = progress < CUTMIX_UNTIL and torch.rand(1, generator=run.rng).item() < CUTMIX
            if mix:
                pixels, target = cutmix(pixels, labels[batch], run.rng)
            keep = [count for since, count in STAGES if progress >= since][-1]
            order = torch.rand(len(batch), 64, generator=run.rng).argsort(1)
            kept = order[:, :keep] if keep < 64 else None
            with torch.autocast("cpu", torch.bfloat16):
                logits = forward_kept(model, normalise(pixels), kept)
            loss = F.cross_entropy(logits.float(), target, label_smoothing=SMOOTHING)
            loss.backward()
            for optimiser in run.optimisers:
                optimiser.step()
                optimiser.zero_grad()
            run.images_seen += len(batch)
            losses.append(loss.item())
            if not mix:
                hits += int((logits.argmax(1) == labels[batch]).sum())
                shown += len(batch)
        if not losses:
            break
        run.epoch += 1
        speed = BATCH * len(losses) / (time.monotonic() - first)
        row = {"epoch": run.epoch, "minutes": run.elapsed / 60, "tokens": keep}
        row |= {"images_per_s": speed, "loss": float(np.mean(losses))}
        row["train_accuracy"] = hits / max(shown, 1)  # on the batches without CutMix
        run.log.append(row)
        print(" ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
        run.save(work / "checkpoint.pt")
        if run.epoch == 2 or run.epoch % SNAPSHOT_EVERY == 0:
            export(model, work / "snapshot")


def export(model: ViTForImageClassification, out: Path) -> None:
    """Write a folder for ``from_pretrained``: weights stored in fp16, loaded as fp32."""
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    half = ViTForImageClassification(ViTConfig.from_dict(model.config.to_dict()))
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(fresh)
    settings = json.loads((fresh / "config.json").read_text()) | {"dtype": "float32"}
    (fresh / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    processor: dict[str, object] = {"image_processor_type": "ViTImageProcessor", "resample": 3}
    processor |= dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), True)
    processor |= {"size": {"height": 32, "width": 32}, "rescale_factor": 1 / 255}
    processor |= {"image_mean": MEAN, "image_std": STD}
    (fresh / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    for file in fresh.iterdir():
        file.replace(out / file.name)
    fresh.rmdir()


@torch.inference_mode()
def accuracy(model: ViTForImageClassification, data: Path) -> float:
    """Return the share of right answers on a parquet file, in fp32."""
    model.eval()
    images, labels = load_images(data)
    batches = zip(images.split(500), labels.split(500), strict=True)
    hits = sum(int((model(normalise(x)).logits.argmax(1) == y).sum()) for x, y in batches)
    return hits / len(labels)


def main() -> None:
    """Parse the command line and do the work."""
    parser = argparse.ArgumentParser(description="Train the bundled CIFAR-10 demo ViT on a CPU.")
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of train.parquet and test.parquet")
    add("--out", type=Path, required=True, help="folder for vit-cifar10/ and the two subsets")
    add("--work", type=Path, default=Path("runs/demo-vit"), help="checkpoint and snapshots")
    add("--minutes", type=float, default=55, help="wall-clock budget of the training")
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0)
    add("--resume", action="store_true", help="go on from the checkpoint in --work")
    add("--subsets-only", action="store_true", help="write the two test subsets and stop")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    write_subsets(args.data / "test.parquet", args.out, args.seed)
    if args.subsets_only:
        return

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    images, labels = load_images(args.data / "train.parquet")
    model = build_model(images)
    model.set_attn_implementation("eager")  # on a CPU, faster to train than sdpa at this size
    run = make_run(model, args.seed)
    if args.resume:
        run.load(args.work / "checkpoint.pt")
    train(run, images, labels, args.minutes, args.work)

    folder = args.out / "vit-cifar10"
    export(model, folder)
    loaded = ViTForImageClassification.from_pretrained(folder)
    result: dict[str, object] = {"minutes": run.elapsed / 60}
    result["epochs"] = run.images_seen / len(images)
    result["test_fp32"] = accuracy(model, args.data / "test.parquet")
    result["test"] = accuracy(loaded, args.data / "test.parquet")
    result |= {name: accuracy(loaded, args.out / name) for name in SUBSETS}
    result["log"] = run.log
    (args.work / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print({key: value for key, value in result.items() if key != "log"}, flush=True)


if __name__ == "__main__":
    main()
