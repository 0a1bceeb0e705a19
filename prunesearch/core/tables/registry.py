"""Every table of names: what can be asked for by name, where each thing lives, and what it is in one line.

A new scorer, sampler, format or device kind is one row here and one file there. `TABLES` lists all tables, those of
other rooms too; `prunesearch names` prints them. Packages add rows by entry points (`plugins`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.tables.export_tables import FORMATS, LOGGERS, MODEL_FORMATS, PICKS
from prunesearch.core.tables.names import Registry, Row, load_target, make_table
from prunesearch.core.tables.row_kinds import (
    AcrossRow,
    AttentionRow,
    ChangeRow,
    EffortRow,
    EngineRow,
    PrecisionRow,
    RuntimeRow,
    SamplerRow,
    SpaceRow,
)
from prunesearch.core.tables.token_tables import MERGES, SCORERS, SELECTIONS

# -- what is done to the model beside its tokens -------------------------------------------------------------------

_COMPRESS = "prunesearch.compress"


# rows are added in one release, not in a file: a plan that names another kind is refused
CHANGES = make_table(
    "kind of change",
    {
        "precision": ChangeRow(
            f"{_COMPRESS}.precision:make_precision",
            "what weights and matrix products are computed in",
            param="to",
            names="precisions",
        ),
        "skip": ChangeRow(
            f"{_COMPRESS}.skip:make_skip",
            "a block's attention or MLP is left out, what enters it goes on",
            halves={"part": ""},
            word="none",
            removes=True,
        ),
        "width": ChangeRow(
            f"{_COMPRESS}.width:make_width",
            "fewer heads or MLP neurons in a block; what is left is fitted to make up for them",
            halves={"heads": "attention", "mlp": "mlp"},
            word="{name}{value}",
            fitted=True,
        ),
        "rank": ChangeRow(
            f"{_COMPRESS}.rank:make_rank",
            "the linear layers of a block's attention or MLP are two thin factors each",
            halves={"attention": "attention", "mlp": "mlp"},
            word="rank{value}",
            fitted=True,
        ),
        "keep": ChangeRow(
            f"{_COMPRESS}.keep:make_keep",
            "a block's attention or MLP stays in the model's own precision: fewer bits are slower",
            halves={"part": ""},
            keeps=True,
        ),
    },
    ChangeRow,
    "changes",
)


TOKENS = "tokens"
FREE = (TOKENS, "precision")  # what plans may do where nothing is said
ALL_FREE = (TOKENS, *(kind for kind in CHANGES if not CHANGES.entry(kind).keeps))  # what they may be let do


def check_free(names: Sequence[str]) -> list[str]:
    """What plans may do, each once: `tokens`, and kinds of changes.

    Raises:
        PruneSearchError: for anything else, or nothing.
    """
    for name in names:
        if name not in ALL_FREE:
            raise PruneSearchError(f"plans cannot be free in '{name}': {did_you_mean(str(name), ALL_FREE)}")
    if not names:
        raise PruneSearchError(f"plans must be free in something: {', '.join(ALL_FREE)}")
    return list(dict.fromkeys(names))


PRECISIONS = make_table(
    "precision",
    {
        "float32": PrecisionRow(f"{_COMPRESS}.precision:FLOAT32", "as most checkpoints are", "float32"),
        "bfloat16": PrecisionRow(
            f"{_COMPRESS}.precision:BFLOAT16", "half the bits, the range of float32", "bfloat16", 16
        ),
        "float16": PrecisionRow(
            f"{_COMPRESS}.precision:FLOAT16", "half the bits, three finer than bfloat16", "float16", 16
        ),
        "int8": PrecisionRow(
            f"{_COMPRESS}.precision:INT8",
            "matrix products in 8 bits, activations scaled as they come (dynamic)",
            bits=8,
            linear=True,
        ),
        "int8-weights": PrecisionRow(
            f"{_COMPRESS}.precision:INT8_WEIGHTS", "weights alone in 8 bits (torchao)", bits=8, linear=True
        ),
        "fp8": PrecisionRow(
            f"{_COMPRESS}.precision:FP8",
            "matrix products of 8-bit floating-point numbers, on GPUs that have them (torchao)",
            bits=8,
            linear=True,
        ),
    },
    PrecisionRow,
)

# -- searching -----------------------------------------------------------------------------------------------------

_SAMPLERS = "prunesearch.search.samplers.optuna_samplers"

_CURVES = "prunesearch.search.space.progressive"

# how the kept fraction falls from 1 to `end`: `(part of the way, end) -> fraction`
CURVES = make_table(
    "curve",
    {
        "linear": Row(f"{_CURVES}:linear", "by as many tokens everywhere"),
        "cosine": Row(f"{_CURVES}:cosine", "slowly at both ends"),
        "geometric": Row(f"{_CURVES}:geometric", "by the same share everywhere"),
    },
    Row,
)

SAMPLERS = make_table(
    "sampler",
    {
        "guided": SamplerRow(
            f"{_SAMPLERS}:guided", "expected front growth by the cost table and the one-stage losses", solves=True
        ),
        "tpe": SamplerRow(f"{_SAMPLERS}:tpe", "multi-objective tree-structured Parzen estimator"),
        "nsga2": SamplerRow(f"{_SAMPLERS}:nsga2", "NSGA-II"),
        "nsga3": SamplerRow(f"{_SAMPLERS}:nsga3", "NSGA-III, for three objectives and more"),
        "gp": SamplerRow(f"{_SAMPLERS}:gp", "Gaussian processes and expected hypervolume; takes seconds a trial"),
        "evolution": SamplerRow(f"{_SAMPLERS}:evolution", "evolutionary search of the Length-Adaptive Transformer"),
        "reinforce": SamplerRow(f"{_SAMPLERS}:reinforce", "a small policy network, rewarded by how the front grows"),
        "qmc": SamplerRow(f"{_SAMPLERS}:qmc", "quasi-random draws (Sobol); learns nothing"),
        "random": SamplerRow(f"{_SAMPLERS}:random", "independent uniform draws; learns nothing"),
    },
    SamplerRow,
)

ENGINES = make_table(
    "engine",
    {
        "local": EngineRow("prunesearch.search.engines.local:make_local_engine", "in this process, one after another"),
        "ray": EngineRow(
            "prunesearch.search.engines.ray:make_ray_engine",
            "Ray Tune, on this machine or a cluster",
            in_process=False,
            workers=True,
        ),
    },
    EngineRow,
)

_SPACES = "prunesearch.search.space"


_LISTED: dict[str, Any] = {
    "solver": "prunesearch.search.solve.listing:ListedSolver",
    "moves": f"{_SPACES}.listed:listed_moves",
    "halves": False,
}

SPACES = make_table(
    "kind of space",
    {
        "free": SpaceRow(f"{_SPACES}.space:SpaceFile", "any stages, each with a method of its own"),
        "progressive": SpaceRow(f"{_SPACES}.progressive:ProgressiveFile", "tokens fall along a curve", **_LISTED),
        "multi-stage": SpaceRow(f"{_SPACES}.multi_stage:MultiStageFile", "fixed sites (EViT, DynamicViT)", **_LISTED),
        "constant-r": SpaceRow(f"{_SPACES}.constant_r:ConstantRFile", "as many tokens a block (ToMe)", **_LISTED),
    },
    SpaceRow,
    "spaces",
)

_LOADS = "prunesearch.search.costs.latency"

# how the latencies of several loads, as shares of the unpruned model's, become one
ACROSS = make_table(
    "across",
    {
        "mean": AcrossRow(f"{_LOADS}:weighted_mean", "the mean, by the loads' weights"),
        "worst": AcrossRow(f"{_LOADS}:worst", "the greatest", weighted=False),
    },
    AcrossRow,
    "across",
)

# -- costs ---------------------------------------------------------------------------------------------------------

_DEVICES = "prunesearch.cost.devices"

# each has the name by which torch calls the type of its tensors
DEVICE_KINDS = make_table(
    "device",
    {
        "cpu": Row(f"{_DEVICES}.cpu:Cpu", "this machine's processor"),
        "cuda": Row(f"{_DEVICES}.cuda:Cuda", "a GPU of NVIDIA, or of AMD under ROCm"),
    },
    Row,
    "devices",
)

_TIMING = "prunesearch.cost.timing"
_WALKED = f"{_TIMING}.walked_table:measure_walked_table"
_GRAPHS = f"{_TIMING}.runtime_table:measure_runtime_table"


RUNTIMES = make_table(
    "runtime",
    {
        "eager": RuntimeRow(
            f"{_TIMING}.modes:Eager", "op by op, as transformers runs", "eager torch", _WALKED, halves=True
        ),
        "compile": RuntimeRow(
            f"{_TIMING}.modes:Compiled",
            "torch.compile on each half of a block, stages eager",
            "torch.compile",
            _WALKED,
            compiles=True,
            makes=True,
            precisions=("bfloat16", "float16"),
        ),
        "cuda-graph": RuntimeRow(
            f"{_TIMING}.modes:CudaGraph",
            "the whole forward captured in one CUDA graph",
            "a CUDA graph",
            _WALKED,
            devices=("cuda",),
            launches=False,
            halves=True,
        ),
        "onnxruntime": RuntimeRow(
            f"{_TIMING}.modes:OnnxRuntime",
            "the whole forward as one graph in ONNX Runtime, on the CPU",
            "ONNX Runtime",
            _GRAPHS,
            by_torch=False,
            makes=True,
            precisions=("int8",),
            devices=("cpu",),
        ),
        "openvino": RuntimeRow(
            f"{_TIMING}.modes:OpenVino",
            "the whole forward as one graph in OpenVINO, on the CPU",
            "OpenVINO",
            _GRAPHS,
            by_torch=False,
            makes=True,
            precisions=("int8",),
            quantiser="nncf",
            devices=("cpu",),
        ),
        "torch-export": RuntimeRow(
            f"{_TIMING}.modes:TorchExport",
            "exported models, the graph of a .pt2 file, on the CPU",
            "torch.export",
            by_torch=False,
            speeds=False,
            makes=True,
            precisions=(),
            devices=("cpu",),
        ),
    },
    RuntimeRow,
)

# `load` gives torch's own
DTYPES = make_table(
    "dtype",
    {
        "float32": Row("torch:float32", "as most checkpoints are; on a CPU the fastest"),
        "bfloat16": Row("torch:bfloat16", "half the memory, the range of float32"),
        "float16": Row("torch:float16", "half the memory, three bits finer than bfloat16"),
    },
    Row,
)

# `load` gives transformers' name
ATTENTIONS = make_table(
    "attention",
    {
        "sdpa": AttentionRow("sdpa", "torch's fused attention", anywhere=True),
        "eager": AttentionRow("eager", "products and a softmax, one after the other", anywhere=True),
        "flash": AttentionRow("flash_attention_2", "the package flash-attn; no token sizes"),
    },
    AttentionRow,
)

# `load` gives the seconds that a table is measured for
EFFORTS = make_table(
    "effort",
    {
        "quick": EffortRow(15.0, "15 s a table, on 9 token counts", counts=9, rounds=3, windows=2),
        "normal": EffortRow(45.0, "45 s a table, on 14 token counts", counts=14, rounds=5, windows=3),
        "full": EffortRow(150.0, "150 s a table, on 64 token counts: for plateaus", counts=64, rounds=8, windows=5),
    },
    EffortRow,
)

_ENERGY = "prunesearch.cost.energy"

# in the order tried
COUNTERS = make_table(
    "energy counter",
    {
        "nvml-total-energy": Row(
            f"{_ENERGY}.nvml:open_total_energy", "NVIDIA GPUs since Volta: the board's own energy counter"
        ),
        "nvml-power-polled": Row(
            f"{_ENERGY}.nvml:open_polled_power", "other NVIDIA GPUs: the board's power, polled and summed"
        ),
        "rapl": Row(f"{_ENERGY}.rapl:open_rapl", "Intel and AMD CPUs on Linux: all packages"),
        "zeus": Row(f"{_ENERGY}.zeus:open_zeus", "AMD GPUs, Jetson, Apple silicon: through the zeus package"),
    },
    Row,
)

# -- all of them ---------------------------------------------------------------------------------------------------

# what a newcomer may ask for by name; a text says where a table of another room is
TABLES: dict[str, Registry[Any] | str] = {
    "scorers": SCORERS,
    "learned_scorers": "prunesearch.core.tables.token_tables:LEARNED",
    "merges": MERGES,
    "selections": SELECTIONS,
    "changes": CHANGES,
    "precisions": PRECISIONS,
    "samplers": SAMPLERS,
    "engines": ENGINES,
    "parameters": "prunesearch.core.tables.training_tables:PARAMETERS",
    "rivals": "prunesearch.core.tables.rival_table:RIVALS",
    "spaces": SPACES,
    "curves": CURVES,
    "across": ACROSS,
    "costs": "prunesearch.core.costs:COSTS",
    "devices": DEVICE_KINDS,
    "runtimes": RUNTIMES,
    "energy_counters": COUNTERS,
    "dtypes": DTYPES,
    "attentions": ATTENTIONS,
    "efforts": EFFORTS,
    "accuracies": "prunesearch.core.accuracy:ACCURACIES",
    "picks": PICKS,
    "formats": FORMATS,
    "model_formats": MODEL_FORMATS,
    "rule_formats": "prunesearch.core.tables.export_tables:RULE_FORMATS",
    "loggers": LOGGERS,
    "tasks": "prunesearch.tasks.table:TASKS",
    "metrics": "prunesearch.tasks.table:METRICS",
    "shapes": "prunesearch.tasks.table:SHAPES",
    "readers": "prunesearch.tasks.table:READERS",
    "views": "prunesearch.tasks.views.view_table:VIEWS",
    "families": "prunesearch.pruning.families.find:FAMILIES",
}


def find_table(name: str) -> Registry[Any]:
    """The table called `name` in `TABLES`.

    Raises:
        PruneSearchError: naming the nearest one, if there is none.
    """
    if name not in TABLES:
        raise PruneSearchError(f"unknown table '{name}': {did_you_mean(name, TABLES)}")
    table: Registry[Any] = load_target(TABLES[name])
    return table
