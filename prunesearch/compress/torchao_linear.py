"""int8 and fp8 by torchao, where that package is installed (the extra `quant`)."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Torchao:
    """Linear layers as torchao quantises them.

    Attributes:
        config: name of the configuration in `torchao.quantization`.
        computes: the name in `torchao.utils` of what says whether the GPU at hand computes it; empty: any does.
    """

    name: str
    config: str
    computes: str = ""

    def absent(self) -> str:
        """See `Quantiser`."""
        if importlib.util.find_spec("torchao") is None:
            return "it needs the package 'torchao': pip install 'prunesearch[quant]'"
        if self.computes and not getattr(importlib.import_module("torchao.utils"), self.computes)():
            return f"this GPU does not compute in it ({self.computes} of torchao says so)"
        return ""

    def twin(self, linear: nn.Linear) -> nn.Module:
        """See `Quantiser`; the weights are converted in a copy."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantization: Any = importlib.import_module("torchao.quantization")
            bare = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
            bare.weight = nn.Parameter(linear.weight.detach().clone(), requires_grad=False)
            if linear.bias is not None:
                bare.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
            holder = nn.Sequential(bare)
            quantization.quantize_(holder, getattr(quantization, self.config)())
        return holder[0]


TORCHAO_DYNAMIC = Torchao("torchao int8 dynamic", "Int8DynamicActivationInt8WeightConfig")
TORCHAO_WEIGHTS = Torchao("torchao int8 weight-only", "Int8WeightOnlyConfig")
TORCHAO_FP8 = Torchao("torchao fp8 dynamic", "Float8DynamicActivationFloat8WeightConfig", "is_sm_at_least_89")
