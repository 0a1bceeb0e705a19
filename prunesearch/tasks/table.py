"""The tables of task kinds, metrics, built-in shapes and data files: names to read, without importing torch.

A new kind of task is one row in `TASKS` and one file with a loader `(TaskRequest) -> Task`; a new metric is one row in
`METRICS` and one class (`metrics.Metric`).
"""

from __future__ import annotations

from dataclasses import dataclass

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.tables.names import Row, make_table

IMAGE, TEXT, FIDELITY = "image-classification", "text-classification", "fidelity"
REGRESSION, RANKING, MULTI_LABEL = "regression", "text-ranking", "multi-label-classification"
TAGS = "token-classification"
QA = "question-answering"
TRANSLATION, SUMMARY = "translation", "summarization"
SIMILARITY, RETRIEVAL = "sentence-similarity", "text-retrieval"
AUDIO, CTC, SPEECH = "audio-classification", "speech-recognition-ctc", "speech-recognition"
SPEAKER = "speaker-verification"
VISUAL_QA, VIDEO_QA, CAPTIONS = "visual-question-answering", "video-question-answering", "image-captioning"
VIDEO, ZERO_SHOT, DETECTION = "video-classification", "zero-shot-image-classification", "object-detection"


@dataclass(frozen=True)
class TaskKind(Row):
    """One row of `TASKS`; `target` loads it from a `request.TaskRequest`.

    Attributes:
        heads: endings of the transformers classes that are made for it.
        reads: what those models read, where other models have heads of the same name: image, video, audio or text.
        metrics: names in `METRICS` that it can report, the default first.
        columns: sets of columns, one of which only data for it have: they tell kinds of one head apart, and find those
            that need no head.
        unlabelled: whether a model with this head and data without a label column is taken for `fidelity`.
        views: whether its rows can be altered, their labels staying as they are (`--robust`).
        problem: what the outputs of such a head say, in transformers' words (`problem_type`); None: its heads say one
            thing alone.
    """

    heads: tuple[str, ...] = ()
    reads: str | None = None
    metrics: tuple[str, ...] = ()
    columns: tuple[tuple[str, ...], ...] = ()
    unlabelled: bool = False
    problem: str | None = None
    views: bool = False


@dataclass(frozen=True)
class MetricRow(Row):
    """One row of `METRICS`; `target` is its class.

    Attributes:
        classes: how many classes it is of, and `otherwise` a metric for more; None: any number.
        beyond: it is the same for every model unless there are more classes than this; `otherwise` is one that is not.
        of_states: of fidelity: what it compares is the model's pooled states, and not its classes.
    """

    classes: int | None = None
    otherwise: str = ""
    beyond: int | None = None
    of_states: bool = False


# what the outputs of a classification head say, in the words of a config's `problem_type`
CLASSES, NUMBERS, FLAGS = "single_label_classification", "regression", "multi_label_classification"
_HEADS = ("ForSequenceClassification", "ForImageClassification", "ForAudioClassification", "ForVideoClassification")
_CLASSES = ("accuracy", "top5", "f1", "macro_f1", "mcc")
_ANSWERED = ("exact_match", "vqa_accuracy", "anls", "answer_f1")

TASKS = make_table(
    "task",
    {
        IMAGE: TaskKind(
            "prunesearch.tasks.kinds.image:load_image_task",
            "images in classes",
            heads=("ForImageClassification", "ForImageClassificationWithTeacher"),
            reads="image",
            metrics=_CLASSES,
            unlabelled=True,
            problem=CLASSES,
            views=True,
        ),
        TEXT: TaskKind(
            "prunesearch.tasks.kinds.text:load_text_task",
            "texts or pairs in classes",
            heads=("ForSequenceClassification",),
            reads="text",
            metrics=_CLASSES,
            unlabelled=True,
            problem=CLASSES,
            views=True,
        ),
        REGRESSION: TaskKind(
            "prunesearch.tasks.kinds.vectors:load_regression_task",
            "texts, pairs, images, sounds or videos with a number: scores, ratings, cross-encoders",
            heads=_HEADS,
            metrics=("pearson", "spearman", "r2"),
            unlabelled=True,
            problem=NUMBERS,
            views=True,
        ),
        RANKING: TaskKind(
            "prunesearch.tasks.kinds.ranking_pairs:load_ranking_task",
            "queries, each with documents and their relevance, scored in pairs by a cross-encoder",
            heads=("ForSequenceClassification",),
            reads="text",
            metrics=("ndcg10",),
            columns=(("query", "documents", "relevance"),),
            problem=NUMBERS,
        ),
        MULTI_LABEL: TaskKind(
            "prunesearch.tasks.kinds.vectors:load_multi_label_task",
            "texts, images, sounds or videos in any number of classes at once",
            heads=_HEADS,
            metrics=("micro_f1", "macro_f1", "mean_ap", "label_accuracy"),
            unlabelled=True,
            problem=FLAGS,
            views=True,
        ),
        TAGS: TaskKind(
            "prunesearch.tasks.kinds.tags:load_tagging_task",
            "words with tags: named entities, parts of speech",
            heads=("ForTokenClassification",),
            reads="text",
            metrics=("seqeval_f1", "token_accuracy"),
        ),
        TRANSLATION: TaskKind(
            "prunesearch.tasks.kinds.seq2seq_data:load_translation_task",
            "texts into another language; the encoder is reduced",
            heads=("MTModel", "ForConditionalGeneration"),
            reads="text",
            metrics=("bleu", "rouge_l"),
            columns=(("translation",), ("source", "target"), ("src", "tgt")),
        ),
        SUMMARY: TaskKind(
            "prunesearch.tasks.kinds.seq2seq_data:load_summary_task",
            "documents into summaries; the encoder is reduced",
            heads=("MTModel", "ForConditionalGeneration"),
            reads="text",
            metrics=("rouge_l", "bleu"),
            columns=(("summary",), ("highlights",)),
        ),
        QA: TaskKind(
            "prunesearch.tasks.kinds.qa:load_qa_task",
            "questions answered by a span of a text",
            heads=("ForQuestionAnswering",),
            reads="text",
            metrics=("answer_f1", "exact_match"),
        ),
        SIMILARITY: TaskKind(
            "prunesearch.tasks.kinds.embedding_data:load_similarity_task",
            "pairs of texts with scores; no head",
            reads="text",
            metrics=("spearman",),
            columns=(("sentence1", "sentence2", "score"),),
        ),
        RETRIEVAL: TaskKind(
            "prunesearch.tasks.kinds.embedding_data:load_retrieval_task",
            "queries, each with documents and their relevance; no head",
            reads="text",
            metrics=("ndcg10",),
            columns=(("query", "documents", "relevance"),),
        ),
        AUDIO: TaskKind(
            "prunesearch.tasks.kinds.audio:load_audio_task",
            "sounds in classes: keywords, speakers, languages",
            heads=("ForAudioClassification", "ForSequenceClassification"),
            reads="audio",
            metrics=(*_CLASSES, "eer_accuracy"),
            unlabelled=True,
            problem=CLASSES,
            views=True,
        ),
        SPEAKER: TaskKind(
            "prunesearch.tasks.kinds.verification_data:load_verification_task",
            "sounds of speakers, in pairs of one or of two; every frame gets its state back",
            heads=("ForXVector",),
            reads="audio",
            metrics=("eer_accuracy",),
        ),
        CTC: TaskKind(
            "prunesearch.tasks.kinds.ctc:load_ctc_task",
            "speech into text, by CTC; every frame gets its symbol back",
            heads=("ForCTC",),
            metrics=("word_accuracy",),
        ),
        SPEECH: TaskKind(
            "prunesearch.tasks.kinds.speech:load_speech_task",
            "speech into text, by an encoder-decoder (Whisper); the encoder is reduced",
            heads=("ForConditionalGeneration",),
            reads="audio",
            metrics=("word_accuracy",),
        ),
        VIDEO: TaskKind(
            "prunesearch.tasks.kinds.video:load_video_task",
            "videos in classes",
            heads=("ForVideoClassification",),
            reads="video",
            metrics=_CLASSES,
            unlabelled=True,
            problem=CLASSES,
        ),
        ZERO_SHOT: TaskKind(
            "prunesearch.tasks.kinds.zero_shot:load_zero_shot_task",
            "images in classes that are named by prompts (CLIP, SigLIP)",
            heads=("CLIPModel", "SiglipModel"),
            reads="image",
            metrics=_CLASSES,
        ),
        DETECTION: TaskKind(
            "prunesearch.tasks.kinds.detection:load_detection_task",
            "objects in images, with boxes",
            heads=("ForObjectDetection",),
            reads="image",
            metrics=("map", "map50"),
        ),
        VISUAL_QA: TaskKind(
            "prunesearch.tasks.kinds.visual_qa_data:load_visual_qa_task",
            "questions of pictures, answered by a decoder (LLaVA and its kin); pictures are reduced",
            heads=("ForConditionalGeneration",),
            reads="image",
            metrics=_ANSWERED,
            columns=(("image", "question", "answer"), ("image", "question", "answers")),
        ),
        CAPTIONS: TaskKind(
            "prunesearch.tasks.kinds.visual_qa_data:load_caption_task",
            "pictures described by a decoder (BLEU, ROUGE); pictures are reduced",
            heads=("ForConditionalGeneration",),
            reads="image",
            metrics=("rouge_l", "bleu"),
            columns=(("image", "caption"), ("image", "captions"), ("image", "sentences")),
        ),
        VIDEO_QA: TaskKind(
            "prunesearch.tasks.kinds.visual_qa_data:load_video_qa_task",
            "questions of videos, answered by a decoder (Qwen2-VL and its kin); videos are reduced",
            heads=("ForConditionalGeneration",),
            reads="image",
            metrics=_ANSWERED,
            columns=(("video", "question"), ("frames", "question"), ("clip", "question")),
        ),
        FIDELITY: TaskKind(
            "prunesearch.tasks.kinds.fidelity:load_fidelity_task",
            "rows without labels: how close to the unpruned model",
            metrics=("agreement", "cosine", "pearson", "spearman", "r2"),
            views=True,
        ),
    },
    TaskKind,
)

_TAG_METRICS = "prunesearch.tasks.metrics.tag_spans"
_TEXT_METRICS = "prunesearch.tasks.metrics.written_text"
_RANKINGS = "prunesearch.tasks.metrics.ranking"
_NUMBERS, _FLAGS = "prunesearch.tasks.metrics.numbers", "prunesearch.tasks.metrics.flags"
_BOX_METRICS = "prunesearch.tasks.metrics.boxes"
_FIDELITY = "prunesearch.tasks.kinds.fidelity"
_CLASS_METRICS = "prunesearch.tasks.metrics.classes"

# every value is a fraction, and higher is better
METRICS = make_table(
    "metric",
    {
        "accuracy": MetricRow(f"{_CLASS_METRICS}:Accuracy", "share of rows whose class is right"),
        "top5": MetricRow(
            f"{_CLASS_METRICS}:TopFive",
            "share of rows whose class is among the five most probable",
            beyond=5,
            otherwise="accuracy",
        ),
        "f1": MetricRow(
            f"{_CLASS_METRICS}:BinaryF1", "F1 of class 1, for two classes", classes=2, otherwise="macro_f1"
        ),
        "macro_f1": MetricRow(f"{_CLASS_METRICS}:MacroF1", "mean of the classes' F1"),
        "mcc": MetricRow(f"{_CLASS_METRICS}:Matthews", "Matthews correlation coefficient"),
        "seqeval_f1": MetricRow(f"{_TAG_METRICS}:SeqevalF1", "F1 of entities, right in type and both ends"),
        "token_accuracy": MetricRow(f"{_TAG_METRICS}:TokenAccuracy", "share of words whose tag is right"),
        "bleu": MetricRow(f"{_TEXT_METRICS}:Bleu", "corpus BLEU, as sacrebleu's"),
        "rouge_l": MetricRow(f"{_TEXT_METRICS}:RougeL", "F of the longest common subsequence, as rouge-score's"),
        "answer_f1": MetricRow(f"{_TEXT_METRICS}:AnswerF1", "F1 of the answer's words, as SQuAD v1.1's"),
        "exact_match": MetricRow(
            f"{_TEXT_METRICS}:ExactMatch", "share of answers that are a reference, as SQuAD v1.1's"
        ),
        "vqa_accuracy": MetricRow(
            f"{_TEXT_METRICS}:VqaAccuracy", "how many of the people who were asked gave the answer, a third at most"
        ),
        "anls": MetricRow(f"{_TEXT_METRICS}:Anls", "similarity in characters to the nearest reference (DocVQA)"),
        "pearson": MetricRow(f"{_NUMBERS}:Pearson", "correlation of answers with labels"),
        "spearman": MetricRow(f"{_NUMBERS}:Spearman", "rank correlation of answers, or of cosines, with labels"),
        "r2": MetricRow(f"{_NUMBERS}:RSquared", "1 - mean squared error over the labels' variance"),
        "micro_f1": MetricRow(f"{_FLAGS}:MicroF1", "F1 of all decisions of several labels together"),
        "mean_ap": MetricRow(f"{_FLAGS}:MeanPrecision", "mean over several labels of their average precision"),
        "label_accuracy": MetricRow(f"{_FLAGS}:LabelAccuracy", "share of decisions that are right, of several labels"),
        "ndcg10": MetricRow(f"{_RANKINGS}:Ndcg", "gain of the first ten documents, against the best order's"),
        "word_accuracy": MetricRow(
            "prunesearch.tasks.metrics.word_errors:WordAccuracy", "1 - word error rate, as jiwer's"
        ),
        "eer_accuracy": MetricRow(
            "prunesearch.tasks.metrics.equal_error:EqualErrorAccuracy", "1 - equal error rate of misses and alarms"
        ),
        "map": MetricRow(f"{_BOX_METRICS}:MeanAveragePrecision", "COCO's AP, mean over IoU 0.5 to 0.95 and classes"),
        "map50": MetricRow(f"{_BOX_METRICS}:AveragePrecision50", "COCO's AP at IoU 0.5, mean over classes"),
        "agreement": MetricRow(f"{_FIDELITY}:Agreement", "share of rows with the unpruned model's class"),
        "cosine": MetricRow(f"{_FIDELITY}:Cosine", "mean cosine to the unpruned model's pooled state", of_states=True),
    },
    MetricRow,
)

_SHAPES = "prunesearch.tasks.shapes"

# models that people run most, to be measured with random weights, so that it needs no network
SHAPES = make_table(
    "shape",
    {
        "deit-tiny": Row(f"{_SHAPES}:deit_tiny", "ViT of 12 blocks, 192 wide, images of 224 px (DeiT-Ti)"),
        "deit-small": Row(f"{_SHAPES}:deit_small", "ViT of 12 blocks, 384 wide, images of 224 px (DeiT-S)"),
        "vit-base": Row(f"{_SHAPES}:vit_base", "ViT of 12 blocks, 768 wide, images of 224 px (ViT-B/16)"),
        "bert-base": Row(f"{_SHAPES}:bert_base", "BERT of 12 blocks, 768 wide"),
        "minilm-l6": Row(f"{_SHAPES}:minilm_l6", "BERT of 6 blocks, 384 wide (MiniLM)"),
    },
    Row,
)

_DATA = "prunesearch.tasks.data"

# files of rows by how their names end: `(path, TextTable) -> FileRows`
READERS = make_table(
    "ending of a data file",
    {
        ".parquet": Row(f"{_DATA}.readers.typed:read_parquet", "Apache Parquet"),
        ".csv": Row(f"{_DATA}.readers.delimited:read_delimited", "values set apart by commas, or as --delimiter says"),
        ".tsv": Row(f"{_DATA}.readers.delimited:read_delimited", "values set apart by tabs"),
        ".jsonl": Row(f"{_DATA}.readers.typed:read_json", "a JSON object a line"),
        ".ndjson": Row(f"{_DATA}.readers.typed:read_json", "a JSON object a line"),
        ".json": Row(f"{_DATA}.readers.typed:read_json", "one list of JSON objects, or one a line"),
        ".conll": Row(f"{_DATA}.readers.conll:read_conll", "a word and its tag a line, empty lines between sentences"),
    },
    Row,
    "readers",
)


def choose_metric(task: str, asked: str | None) -> str:
    """The metric of a task of kind `task`: the one that was asked for, else its default.

    Raises:
        PruneSearchError: if it is unknown, or is no metric of this kind of task.
    """
    known = TASKS.entry(task).metrics
    if asked is None:
        return known[0]
    METRICS.entry(asked)
    if asked not in known:
        raise PruneSearchError(f"metric '{asked}' is not one of task {task}: {did_you_mean(asked, known)}")
    return asked


def metric_facts(name: str) -> MetricRow:
    """The row of a metric; for a caller's own function, which has none, one of a metric without particulars."""
    return METRICS.entry(name) if name in METRICS else MetricRow(name, name)


def fidelity_metric(states: bool) -> str:
    """The metric of fidelity that compares pooled states, or classes."""
    return next(name for name in TASKS.entry(FIDELITY).metrics if METRICS.entry(name).of_states == states)
