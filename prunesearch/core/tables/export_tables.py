"""Tables of names of what comes after a search: choosing a point, taking it elsewhere, and watching."""

from __future__ import annotations

from prunesearch.core.tables.names import Row, make_table
from prunesearch.core.tables.row_kinds import LoggerRow, ModelFormatRow, PickRow

_PICKS = "prunesearch.export.pick"

# how one point of a front is chosen, beside its name and the number of its trial
PICKS = make_table(
    "pick",
    {
        "best": PickRow(f"{_PICKS}:best", "highest quality within a budget", "10ms"),
        "fastest": PickRow(f"{_PICKS}:fastest", "lowest latency that keeps a share of the unpruned quality", "0.99"),
        "knee": PickRow(f"{_PICKS}:knee", "farthest from the line between the unpruned model and the fastest point"),
    },
    PickRow,
)

_EXCHANGE = "prunesearch.export.schedules"
_LISTS = f"{_EXCHANGE}.length_lists"
_PICTURES = f"{_EXCHANGE}.image_tokens"

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
        "fastv": Row(f"{_PICTURES}:FASTV", "FastV's K and R: tokens of pictures, before one block of a decoder"),
        "pyramiddrop": Row(f"{_PICTURES}:PYRAMIDDROP", "PyramidDrop's flags: before several blocks of a decoder"),
        "visionzip": Row(f"{_PICTURES}:VISIONZIP", "VisionZip's dominant tokens: before the decoder"),
        "openvino-genai": Row(
            f"{_PICTURES}:OPENVINO_GENAI", "OpenVINO GenAI's pruning_ratio (CDPruner): before the decoder"
        ),
        "vllm": Row(f"{_PICTURES}:VLLM", "vLLM's --video-pruning-rate (EVS): tokens of videos, before the decoder"),
    },
    Row,
    "formats",
)

_MODELS = "prunesearch.export.models"

# how a model is written with its schedule inside
MODEL_FORMATS = make_table(
    "model format",
    {
        "hf": ModelFormatRow(
            f"{_MODELS}.huggingface:HUGGING_FACE",
            "Hugging Face folder that needs no prunesearch",
            "model = AutoModel….from_pretrained(FOLDER, trust_remote_code=True)  # without prunesearch",
        ),
        "onnx": ModelFormatRow(
            f"{_MODELS}.graphs:ONNX",
            "ONNX file, any batch size",
            'NAMES = onnxruntime.InferenceSession("FILE").run([LIST], inputs)',
        ),
        "torch-export": ModelFormatRow(
            f"{_MODELS}.graphs:TORCH_EXPORT",
            ".pt2 file for torch.export.load",
            'outputs = torch.export.load("FILE").module()(**inputs)  # LIST',
        ),
        "openvino": ModelFormatRow(
            f"{_MODELS}.graphs:OPENVINO",
            "OpenVINO IR (.xml and .bin)",
            'outputs = openvino.Core().compile_model("FILE", "CPU")(inputs)  # LIST',
        ),
        "tensorrt": ModelFormatRow(
            f"{_MODELS}.graphs:TENSORRT",
            "ONNX file and the trtexec line that builds an engine of it",
            "sh FILE.trtexec.sh  # builds the engine",
        ),
    },
    ModelFormatRow,
)

_BY_ROW = "prunesearch.export.by_row"

# how plans that are chosen row by row are written, with what chooses; each plan in the model format of the same name
RULE_FORMATS = make_table(
    "format of a cascade or router",
    {
        "hf": ModelFormatRow(
            f"{_BY_ROW}.rule_folder:FOLDER_BY_ROW",
            "one Hugging Face folder, whose forward decides for each row",
            "outputs = AutoModel….from_pretrained(FOLDER, trust_remote_code=True)(**inputs)  # logits, plans",
        ),
        "onnx": ModelFormatRow(
            f"{_BY_ROW}.rule_graphs:GRAPHS_BY_ROW",
            "a folder: an ONNX file a plan, the rule, and what runs them",
            'logits, plans = RowRunner("FOLDER")(inputs)  # of FOLDER/run.py: onnxruntime and numpy alone',
        ),
    },
    ModelFormatRow,
)

# -- watching ------------------------------------------------------------------------------------------------------

_LOGGERS = "prunesearch.report.loggers"


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
