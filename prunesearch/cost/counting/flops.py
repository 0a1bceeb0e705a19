"""Multiply-adds (MACs), by the closed form and by counting them in a real forward. They are not time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunesearch.compress.halves import left_of
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.flow import Flow, Geometry, Tower
from prunesearch.core.plans.plan import HALVES, Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import ENCODER
from prunesearch.cost.costs import OfOneModel, sum_of_pieces
from prunesearch.cost.shape import BlockSizes, Shape, block_sizes, sizes_of

if TYPE_CHECKING:
    from prunesearch.pruning.families.find import Encoder

_PROJECTOR = "multi_modal_projector"  # from the base of models whose tower may be reduced
_ATTENTION_OPS = (
    "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_attention_math",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_fused_attention_overrideable",
)
# fvcore counts these as five operations an element; they are no multiply-adds of a matrix product
_NOT_MACS = ("aten::layer_norm", "aten::batch_norm", "aten::group_norm", "aten::instance_norm")
_PRODUCTS = ("attention", "matmul", "aten::mm", "bmm", "addmm", "linear", "conv", "einsum", "baddbmm")


def block_macs(n_in: int, n_out: int, block: BlockSizes) -> int:
    """MACs of one block for one sample, reduced between attention and MLP: `4NC² + 2N²C + 2N'CM` where it is plain.

    A gated MLP has `3N'CM`; grouped queries take `2NC²(1 + groups / heads)` in place of `4NC²`. The products of tokens
    with tokens are those of all pairs: kernels that mask compute them, whatever the window.

    Args:
        n_in: tokens N in its attention.
        n_out: tokens N' in its MLP.
        block: the weights of its two halves, and the width of all heads together.
    """
    return n_in * block.attention + 2 * n_in**2 * block.inner + n_out * block.mlp


def encoder_macs(flow: Flow, blocks: Sequence[BlockSizes]) -> int:
    """MACs of all blocks for one sample.

    What the scorers and merges themselves compute (under 0.5 % of a model of width 384) is not in it.
    """
    return sum(block_macs(step.n_in, step.n_out, block) for step, block in zip(flow, blocks, strict=True))


def blocks_gmacs(shape: Shape, flow: Flow) -> float:
    """GMACs of the blocks of one sample under a flow; `shape` is that of a cost table."""
    return encoder_macs(flow, list(sizes_of(shape))) / 1e9


def closed_form_gmacs(encoder: Encoder, schedule: Schedule, tokens: int, head_macs: int = 0) -> float:
    """GMACs of one sample of `tokens` tokens: embeddings, blocks under `schedule`, and what follows in the encoder.

    Args:
        encoder: as `find_encoder` finds it; nothing is run.
        schedule: the stages.
        tokens: sequence length at the start.
        head_macs: of a head outside the encoder (a linear classifier of `k` labels: C x k), which it cannot see.
    """
    return MacCosts.of(encoder, tokens, head_macs).predict(schedule)


@dataclass(frozen=True)
class MacCosts(OfOneModel):
    """The closed form as costs that a search minimises or bounds, in GMACs of one sample; exact, and additive.

    Attributes:
        tokens, protected, part: of the model, as `Geometry` takes them.
        blocks: what each block computes.
        around: MACs outside the blocks; none of a decoder's, of which the blocks alone are counted.
        encoder: whose blocks plans may make smaller, `whole` what they compute unchanged; None: they may not. `known`:
            what changes were found to leave.
    """

    tokens: int
    protected: int
    blocks: tuple[BlockSizes, ...]
    around: int
    encoder: Encoder | None = field(default=None, compare=False, repr=False)
    whole: tuple[BlockSizes, ...] = ()
    known: dict[Change, BlockSizes] = field(default_factory=dict, compare=False, repr=False)
    part: str = ENCODER
    passed: Tower | None = None
    tower: TowerMacs | None = None

    @classmethod
    def of(cls, encoder: Encoder, tokens: int, head_macs: int = 0, protected: int | None = None) -> MacCosts:
        """Read the sizes off an encoder; arguments as in `closed_form_gmacs`. `protected`: of a prompt."""
        width = int(encoder.sizes.hidden_size)
        blocks = tuple(block_sizes(encoder, layer, width) for layer in range(encoder.depth))
        part = encoder.family.part
        around = (_around_blocks(encoder, tokens) if part == ENCODER else 0) + head_macs
        never = encoder.protected if protected is None else protected
        return cls(tokens, never, blocks, around, encoder, blocks, part=part)

    @property
    def geometry(self) -> Geometry:
        """Of the model."""
        return Geometry(len(self.blocks), self.tokens, self.protected, self.part, self.passed)

    @property
    def in_tower(self) -> TowerMacs | None:
        """Of a tower in front."""
        return self.tower

    def under(self, changes: tuple[Change, ...]) -> MacCosts:
        """Of the model with these changes: fewer bits are as many products, smaller halves are fewer."""
        halves = Plan(changes=changes).halves
        if self.encoder is None or (not halves and self.blocks == self.whole):
            return self
        blocks = list(self.whole)
        for (layer, half), change in halves.items():
            if change not in self.known:
                self.known[change] = _smaller(self.encoder, layer, half, change, self.whole[layer])
            found = self.known[change]
            blocks[layer] = (
                blocks[layer]._replace(attention=found.attention, inner=found.inner)
                if half == HALVES[0]
                else blocks[layer]._replace(mlp=found.mlp)
            )
        return replace(self, blocks=tuple(blocks))

    def price(self, flow: Flow) -> float:
        """A whole forward."""
        tower, in_tower = self.tower, flow.in_tower
        front = 0.0 if tower is None or in_tower is None else tower.price(in_tower)
        return front + (encoder_macs(flow, self.blocks) + self.around) / 1e9

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """The attention half of a block at `n` tokens; token sizes add no product."""
        return block_macs(n, 0, self.blocks[layer]) / 1e9

    def mlp(self, n: int, layer: int) -> float:
        """The MLP half of a block at `n` tokens."""
        return block_macs(0, n, self.blocks[layer]) / 1e9

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """Nothing: what scorers and merges compute is not counted."""
        return 0.0

    @property
    def stem(self) -> float:
        """Everything outside the blocks."""
        return self.around / 1e9

    def head(self, n: int) -> float:
        """Nothing: it works on one token."""
        return 0.0


@dataclass(frozen=True)
class TowerMacs(OfOneModel):
    """GMACs of the blocks of a tower on all pictures of a prompt, and of what follows them token by token.

    Attributes:
        one: of its blocks, on one picture.
        pictures: of a prompt.
        each: MACs of a token that is not protected, behind the blocks: of the projector.
    """

    one: MacCosts
    pictures: int
    each: int

    @classmethod
    def of(cls, encoder: Encoder, passed: Tower) -> TowerMacs | None:
        """Read the sizes off a decoder's tower; None where it has none that may be reduced."""
        if encoder.tower is None:
            return None
        projector = encoder.base.get_submodule(_PROJECTOR)
        each = sum(m.weight.numel() for m in projector.modules() if isinstance(m, nn.Linear))
        one = replace(MacCosts.of(encoder.tower, passed.tokens), around=0)
        return cls(one, passed.pictures, each)

    @property
    def geometry(self) -> Geometry:
        """Of the tower, of one picture."""
        return self.one.geometry

    def price(self, flow: Flow) -> float:
        """All of it."""
        return sum_of_pieces(self, flow)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """The attention half of a block at `n` tokens of each picture."""
        return self.pictures * self.one.attention(n, sized, layer)

    def mlp(self, n: int, layer: int) -> float:
        """The MLP half of a block at `n` tokens of each picture."""
        return self.pictures * self.one.mlp(n, layer)

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """Nothing: what scorers and merges compute is not counted."""
        return 0.0

    @property
    def stem(self) -> float:
        """Nothing: what is before the first block is the same under every plan."""
        return 0.0

    def head(self, n: int) -> float:
        """The projector, at `n` tokens of each picture."""
        return self.pictures * self.each * (n - self.one.protected) / 1e9


def _smaller(encoder: Encoder, layer: int, half: str, change: Change, block: BlockSizes) -> BlockSizes:
    """A block of which one half is changed."""
    left = left_of(encoder.blocks[layer], encoder.family.layout.core, change)
    weights = sum(left.weights.values())
    return block._replace(attention=weights, inner=left.inner) if half == HALVES[0] else block._replace(mlp=weights)


def _around_blocks(encoder: Encoder, tokens: int) -> int:
    """MACs of the encoder's linear layers and convolutions outside its blocks.

    A patch convolution runs once a patch, a linear layer of the embeddings once a token, any other (a pooler) once.
    """
    inside = {m for block in encoder.blocks for m in block.modules()}
    total = 0
    for name, module in encoder.base.named_modules():
        if module in inside:
            continue
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            total += module.weight.numel() * (tokens - encoder.protected)
        elif isinstance(module, nn.Linear):
            total += module.weight.numel() * (tokens if "embed" in name else 1)
    return total


class _ByPosition(nn.Module):
    """Lets tracing pass inputs by position and gives back a plain tensor."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: Tensor) -> Tensor:
        outputs = self.model(**dict(zip(self.names, values, strict=True)))
        first: Tensor = next(iter(outputs.values())) if isinstance(outputs, Mapping) else outputs[0]
        return first


def count_macs(model: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """MACs per sample of a real forward, counted by fvcore; a schedule that the model carries is at work in it.

    Matrix products, convolutions and attention are counted, those of scorers and merges included; norms are not.

    Raises:
        PruneSearchError: if a matrix product or attention ran that fvcore cannot count: it would be missing.
    """
    from fvcore.nn.flop_count import FlopCountAnalysis

    counter = FlopCountAnalysis(_ByPosition(model, list(inputs)).eval(), tuple(inputs.values()))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    for op in _ATTENTION_OPS:
        counter.set_op_handle(op, _attention_macs)
    for op in _NOT_MACS:
        counter.set_op_handle(op, _none)
    counter.set_op_handle("aten::_convolution_mode", _convolution_macs)
    counter.set_op_handle("aten::baddbmm", _added_product_macs)
    with torch.inference_mode(False), torch.no_grad():
        total = float(counter.total())
    missed = [op for op in counter.unsupported_ops() if any(word in op for word in _PRODUCTS)]
    if missed:
        raise PruneSearchError(
            f"every matrix product must be counted, but {', '.join(sorted(missed))} has no rule: "
            "add one to prunesearch/cost/counting/flops.py, or load the model with attn_implementation='sdpa'"
        )
    return total / len(next(iter(inputs.values())))


def _none(inputs: list[Any], outputs: list[Any]) -> int:
    """fvcore's handle for what has no multiply-adds (it keeps its own handle when given None)."""
    return 0


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """fvcore's handle for fused attention: `Q K^T`, then the weights times V."""
    query, key, value = (tuple(int(n) for n in x.type().sizes()) for x in inputs[:3])
    batch_heads, rows, depth = prod(query[:-2]), query[-2], query[-1]
    return batch_heads * rows * key[-2] * (depth + value[-1])


def _convolution_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """fvcore's handle for a convolution whose padding is a word: the weights at every place of the output."""
    weight, out = (tuple(int(n) for n in x.type().sizes()) for x in (inputs[1], outputs[0]))
    return out[0] * prod(out[2:]) * prod(weight)


def _added_product_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """fvcore's handle for a batch of matrix products that is added to something."""
    left, right = (tuple(int(n) for n in x.type().sizes()) for x in inputs[1:3])
    return prod(left) * right[-1]
