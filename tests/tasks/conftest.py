"""Tiny models, made once a session."""

import pytest
from transformers import BertForSequenceClassification, BertModel

from tests.support.tiny import make_bert, make_vit


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bert(tmp_path_factory.mktemp("bert"), BertForSequenceClassification)


@pytest.fixture(scope="session")
def loud_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights with opinions: what a schedule does to them must show."""
    return make_bert(tmp_path_factory.mktemp("loud"), BertForSequenceClassification, initializer_range=0.4)


@pytest.fixture(scope="session")
def bare_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bert(tmp_path_factory.mktemp("bare"), BertModel)
