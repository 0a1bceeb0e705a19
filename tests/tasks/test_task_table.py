"""The table of task kinds, held against transformers' own tables and against the table of model families."""

from __future__ import annotations

import pytest
from transformers.models.auto import modeling_auto

from prunesearch.core.plans.stage import ENCODER
from prunesearch.pruning.families.rows import ROWS
from prunesearch.tasks.table import TASKS

# transformers' table of the classes with the head of a kind of task, and what else may have one
HEADS = {
    "image-classification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "text-classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token-classification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "question-answering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "translation": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "summarization": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "audio-classification": modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    "speech-recognition-ctc": modeling_auto.MODEL_FOR_CTC_MAPPING_NAMES,
    "speech-recognition": modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    "speaker-verification": modeling_auto.MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES,
    "video-classification": modeling_auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
    "object-detection": modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
}
ANSWERS = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES  # what decoders do, which is no task of a run yet
TOWERS = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}


@pytest.mark.parametrize("family", ROWS, ids=lambda family: family.model_type)
def test_a_family_names_tasks_that_there_are_and_that_transformers_has_a_head_for(family):
    assert family.tasks
    if family.part != ENCODER:
        assert family.tasks == ("image-text-to-text",)
        assert family.model_type in ANSWERS
        return
    assert set(family.tasks) <= set(TASKS)
    name = TOWERS.get(family.model_type, family.model_type)
    for task in family.tasks:
        assert task not in HEADS or name in HEADS[task], f"transformers has no {name} for {task}"


def test_the_heads_of_a_kind_are_transformers_names():
    for task, classes in HEADS.items():
        known = {cls for names in classes.values() for cls in ([names] if isinstance(names, str) else names)}
        assert any(cls.endswith(TASKS.entry(task).heads) for cls in known), task
