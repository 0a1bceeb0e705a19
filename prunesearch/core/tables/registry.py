"""Every table of names: what can be asked for by name, where each thing lives, and what it is in one line.

A new scorer, sampler, format or device kind is one row here and one file there. `TABLES` lists all tables, those of
other rooms too; `prunesearch names` prints them. Packages add rows by entry points (`plugins`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.tables import plugins
from prunesearch.core.tables.names import R, Registry, Row, load_target
from prunesearch.core.tables.params import Param


def make_table(kind: str, rows: Mapping[str, R], row: type[R], group: str = "") -> Registry[R]:
    """A table that packages may add to by entry points of `prunesearch.GROUP` (none: the kind's plural)."""
    return Registry(kind, rows, row, partial(plugins.find, group or f"{kind.replace(' ', '_')}s"))


# -- what is done to tokens ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScorerRow(Row):
    """A scorer. `params`: the numbers that a stage may set, by name."""

    params: Mapping[str, Param] = field(default_factory=dict)


@dataclass(frozen=True)
class MergeRow(Row):
    """A merge. `uses_scores`: False if the scorer is ignored (matching by similarity alone); `makes_sizes`: True if
    kept tokens may come to stand for several inputs; `params`: as of a scorer."""

    uses_scores: bool = True
    makes_sizes: bool = False
    params: Mapping[str, Param] = field(default_factory=dict)


@dataclass(frozen=True)
class SelectionRow(Row):
    """How scores become kept tokens. `static`: as many for every row of the same length; `params`: as of a scorer."""

    static: bool = True
    params: Mapping[str, Param] = field(default_factory=dict)


_SCORERS = "prunesearch.pruning.scorers"
_MERGES = "prunesearch.pruning.merges"
_SELECTIONS = "prunesearch.pruning.selections"

SCORERS = make_table(
    "scorer",
    {
        "cls_attention": ScorerRow(f"{_SCORERS}.by_attention:cls_attention", "attention of the CLS query (EViT)"),
        "attention_received": ScorerRow(
            f"{_SCORERS}.by_attention:attention_received", "mean attention received (PoWER-BERT)"
        ),
        "attention_entropy": ScorerRow(
            f"{_SCORERS}.by_attention:attention_entropy", "how focused a token's own attention is"
        ),
        "value_norm": ScorerRow(f"{_SCORERS}.by_values:value_norm", "length of the value vector"),
        "cls_attention_value": ScorerRow(f"{_SCORERS}.by_values:cls_attention_value", "CLS attention x value (ATS)"),
        "key_redundancy": ScorerRow(
            f"{_SCORERS}.by_keys:key_redundancy",
            "1 - energy of similarity to all keys (PiToMe)",
            params={"margin": Param(0.9, 0.0, 1.0, "cosine of keys that counts as alike, at the first block")},
        ),
        "position": ScorerRow(f"{_SCORERS}.by_place:position", "fixed length: keep the first n"),
        "position_stride": ScorerRow(f"{_SCORERS}.by_place:position_stride", "fixed length: keep every k-th"),
        "random": ScorerRow(f"{_SCORERS}.by_place:random", "seeded random order, the floor to beat"),
    },
    ScorerRow,
)

MERGES = make_table(
    "merge",
    {
        "drop": MergeRow(f"{_MERGES}.drop:drop", "tokens that are not kept disappear"),
        "fuse": MergeRow(f"{_MERGES}.fuse:fuse", "they become one weighted token (EViT)", makes_sizes=True),
        "nearest": MergeRow(
            f"{_MERGES}.nearest:nearest",
            "each is averaged into the most similar kept token",
            makes_sizes=True,
        ),
        "soft": MergeRow(
            f"{_MERGES}.soft:soft",
            "each is spread over the kept tokens by similarity",
            makes_sizes=True,
            params={"temperature": Param(0.1, 1e-3, 10.0, "of the softmax over cosines of keys", log=True)},
        ),
        "bipartite": MergeRow(
            f"{_MERGES}.bipartite:bipartite",
            "bipartite soft matching (ToMe); ignores the scorer",
            uses_scores=False,
            makes_sizes=True,
        ),
    },
    MergeRow,
)

SELECTIONS = make_table(
    "selection",
    {"top_k": SelectionRow(f"{_SELECTIONS}.top_k:top_k", "the best-scored ones, as many as the stage says")},
    SelectionRow,
)

# rows are added in one release, not in a file: a plan that names another kind is refused
CHANGES: Registry[Row] = make_table("kind of change", {}, Row, "changes")

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
        "guided": Row(f"{_SAMPLERS}:guided", "expected front growth by the cost table and the one-stage losses"),
        "tpe": Row(f"{_SAMPLERS}:tpe", "multi-objective tree-structured Parzen estimator"),
        "nsga2": Row(f"{_SAMPLERS}:nsga2", "NSGA-II"),
        "nsga3": Row(f"{_SAMPLERS}:nsga3", "NSGA-III, for three objectives and more"),
        "gp": Row(f"{_SAMPLERS}:gp", "Gaussian processes and expected hypervolume; takes seconds a trial"),
        "evolution": Row(f"{_SAMPLERS}:evolution", "evolutionary search of the Length-Adaptive Transformer"),
        "qmc": Row(f"{_SAMPLERS}:qmc", "quasi-random draws (Sobol); learns nothing"),
        "random": Row(f"{_SAMPLERS}:random", "independent uniform draws; learns nothing"),
    },
    Row,
)

ENGINES = make_table(
    "engine",
    {
        "local": Row("prunesearch.search.engines.local:make_local_engine", "in this process, one after another"),
        "ray": Row("prunesearch.search.engines.ray:make_ray_engine", "Ray Tune, on this machine or a cluster"),
    },
    Row,
)

_SPACES = "prunesearch.search.space"


@dataclass(frozen=True)
class SpaceRow(Row):
    """A kind of search space, as its file is read.

    Attributes:
        solver: what solves it: `(space, costs, limit) -> search.solve.seed.Solves`.
        moves: all that one move makes of a member: `(space, schedule, swaps) -> schedules`.
    """

    solver: str = "prunesearch.search.solve.dynamic:Solver"
    moves: str = "prunesearch.search.space.moves:stage_moves"


_LISTED = {"solver": "prunesearch.search.solve.listing:ListedSolver", "moves": f"{_SPACES}.listed:listed_moves"}

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


@dataclass(frozen=True)
class RuntimeRow(Row):
    """What runs a model; `target` is the runner that times schedules in it (`modes.Eager` is the pattern).

    Attributes:
        shown: its name for people.
        table: function that measures a cost table in it (`timing.wanted.TableWanted` says what of); none: it runs
            exported models, and no costs are measured in it yet.
        by_torch: it is a mode of torch (`--mode`); else another runtime (`--runtime`).
        devices: kinds of device that it runs on; none: all.
        compiles: it compiles for every new number of tokens, so that only a grid of them is measured.
        launches: the host launches every kernel.
    """

    shown: str = ""
    table: str = ""
    by_torch: bool = True
    devices: tuple[str, ...] = ()
    compiles: bool = False
    launches: bool = True


RUNTIMES = make_table(
    "runtime",
    {
        "eager": RuntimeRow(f"{_TIMING}.modes:Eager", "op by op, as transformers runs", "eager torch", _WALKED),
        "compile": RuntimeRow(
            f"{_TIMING}.modes:Compiled",
            "torch.compile on each half of a block, stages eager",
            "torch.compile",
            _WALKED,
            compiles=True,
        ),
        "cuda-graph": RuntimeRow(
            f"{_TIMING}.modes:CudaGraph",
            "the whole forward captured in one CUDA graph",
            "a CUDA graph",
            _WALKED,
            devices=("cuda",),
            launches=False,
        ),
        "onnxruntime": RuntimeRow(
            f"{_TIMING}.modes:OnnxRuntime",
            "the whole forward as one graph in ONNX Runtime, on the CPU",
            "ONNX Runtime",
            f"{_TIMING}.runtime_table:measure_runtime_table",
            by_torch=False,
            devices=("cpu",),
        ),
        "openvino": RuntimeRow(
            f"{_TIMING}.modes:OpenVino",
            "exported models in OpenVINO, on the CPU",
            "OpenVINO",
            by_torch=False,
            devices=("cpu",),
        ),
        "torch-export": RuntimeRow(
            f"{_TIMING}.modes:TorchExport",
            "exported models, the graph of a .pt2 file, on the CPU",
            "torch.export",
            by_torch=False,
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
        "sdpa": Row("sdpa", "torch's fused attention"),
        "eager": Row("eager", "products and a softmax, one after the other"),
        "flash": Row("flash_attention_2", "the package flash-attn; no token sizes"),
    },
    Row,
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

# -- taking it elsewhere -------------------------------------------------------------------------------------------

_EXCHANGE = "prunesearch.export.schedules"
_LISTS = f"{_EXCHANGE}.length_lists"

# how a schedule goes to another tool and comes back
FORMATS = make_table(
    "exchange format",
    {
        "json": Row(f"{_EXCHANGE}.native:JSON", "prunesearch schedule, for Schedule.from_json"),
        "tome": Row(f"{_EXCHANGE}.tome:TOME", "ToMe's model.r: tokens removed in each block"),
        "diffrate": Row(f"{_EXCHANGE}.diffrate:DIFFRATE", "DiffRate's compression_rate.json: tokens left"),
        "evit": Row(f"{_EXCHANGE}.evit:EVIT", "EViT's flags: blocks that shrink, one keep rate, fuse or drop"),
        "dynamicvit": Row(f"{_EXCHANGE}.dynamicvit:DYNAMIC_VIT", "DynamicViT's pruning_loc and token_ratio"),
        "power-bert": Row(f"{_LISTS}:POWER_BERT", "PoWER-BERT's retention: tokens kept by each block"),
        "length-adaptive": Row(
            f"{_LISTS}:LENGTH_ADAPTIVE",
            "Length-Adaptive Transformer: tokens kept by each block",
        ),
        "pruna": Row(f"{_EXCHANGE}.pruna:PRUNA", "Pruna's SmashConfig (token_merging): one r for all blocks"),
        "lightcompress": Row(
            f"{_EXCHANGE}.lightcompress:LIGHTCOMPRESS", "LightCompress YAML: ToMe, FastV or PyramidDrop"
        ),
    },
    Row,
    "formats",
)

_MODELS = "prunesearch.export.models"

# how a model is written with its schedule inside
MODEL_FORMATS = make_table(
    "model format",
    {
        "hf": Row(f"{_MODELS}.huggingface:HUGGING_FACE", "Hugging Face folder that needs no prunesearch"),
        "onnx": Row(f"{_MODELS}.graphs:ONNX", "ONNX file, any batch size"),
        "torch-export": Row(f"{_MODELS}.graphs:TORCH_EXPORT", ".pt2 file for torch.export.load"),
        "openvino": Row(f"{_MODELS}.graphs:OPENVINO", "OpenVINO IR (.xml and .bin)"),
        "tensorrt": Row(f"{_MODELS}.graphs:TENSORRT", "ONNX file and the trtexec line that builds an engine of it"),
    },
    Row,
)

# -- watching ------------------------------------------------------------------------------------------------------

_LOGGERS = "prunesearch.report.loggers"


@dataclass(frozen=True)
class LoggerRow(Row):
    """An experiment tracker. `modules`: what serves it, the first that is there; `package`: what to install."""

    modules: tuple[str, ...] = ()
    package: str = ""


LOGGERS = make_table(
    "logger",
    {
        "tensorboard": LoggerRow(
            f"{_LOGGERS}:to_tensorboard",
            "TensorBoard, into the study's folder",
            ("torch.utils.tensorboard", "tensorboardX"),
            "tensorboard",
        ),
        "mlflow": LoggerRow(f"{_LOGGERS}:to_mlflow", "MLflow", ("mlflow",), "mlflow"),
        "wandb": LoggerRow(f"{_LOGGERS}:to_wandb", "Weights & Biases", ("wandb",), "wandb"),
    },
    LoggerRow,
)

# -- all of them ---------------------------------------------------------------------------------------------------

# what a newcomer may ask for by name; a text says where a table of another room is
TABLES: dict[str, Registry[Any] | str] = {
    "scorers": SCORERS,
    "merges": MERGES,
    "selections": SELECTIONS,
    "changes": CHANGES,
    "samplers": SAMPLERS,
    "engines": ENGINES,
    "spaces": SPACES,
    "curves": CURVES,
    "devices": DEVICE_KINDS,
    "runtimes": RUNTIMES,
    "energy_counters": COUNTERS,
    "dtypes": DTYPES,
    "attentions": ATTENTIONS,
    "formats": FORMATS,
    "model_formats": MODEL_FORMATS,
    "loggers": LOGGERS,
    "tasks": "prunesearch.tasks.table:TASKS",
    "metrics": "prunesearch.tasks.table:METRICS",
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
