"""int8 by `torch.ao.quantization`, the one place that calls it: torch says that it will go, in favour of torchao."""

from __future__ import annotations

import warnings

import torch
from torch import nn


class TorchAo:
    """Weights in 8 bits, activations by one scale a tensor as they come (fbgemm, oneDNN, QNNPACK); on a CPU."""

    name = "torch.ao quantize_dynamic"

    def absent(self) -> str:
        """See `Quantiser`."""
        if getattr(torch, "ao", None) is None or not hasattr(torch.ao.quantization, "quantize_dynamic"):
            return "this torch has no torch.ao.quantization any more"
        return "" if torch.backends.quantized.engine != "none" else "this torch has no engine for 8 bits"

    def twin(self, linear: nn.Linear) -> nn.Module:
        """See `Quantiser`."""
        bare = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        bare.weight = nn.Parameter(linear.weight.detach().float(), requires_grad=False)
        if linear.bias is not None:
            bare.bias = nn.Parameter(linear.bias.detach().float(), requires_grad=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
                nn.Sequential(bare), {nn.Linear}, dtype=torch.qint8, inplace=True
            )
        twin: nn.Module = made[0]
        return twin


TORCH_AO = TorchAo()
