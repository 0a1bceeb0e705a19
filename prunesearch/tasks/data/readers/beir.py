"""A folder in BEIR's form (Thakur et al. 2021): a corpus, queries, and which documents answer which of them.

    corpus.jsonl      {"_id", "title" (may lack), "text"} a line
    queries.jsonl     {"_id", "text"} a line
    qrels/SPLIT.tsv   query-id, corpus-id and score, below a header (or SPLIT.jsonl with these names)

Every schedule has to embed what it is judged on anew, and a search cannot do that with a whole corpus; so a query is a
row with a pool of documents, chosen without any model: those that answer it, and the nearest of the others by BM25.

Read by hand, since no library does: beir brings sentence-transformers and trec_eval, and takes the last of two texts of
one id; ir-datasets reads the collections that it knows, and no folder of one's own; the JSON loader of datasets
says neither which line is damaged nor that an id stands twice, and copies a whole corpus into its cache, of which pools
keep a part. The ranking by BM25 is a library's (bm25s).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets.arrow_dataset import Dataset

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import parse_json
from prunesearch.tasks.libraries import package

POOL = 32  # documents a query
_ANSWERS = 10  # of them that answer it, at most: nDCG@10 sees no more in the best order
_QUERIES = 5_000  # of a split
_DOCUMENTS = 200_000  # of a corpus
_K1, _B = 0.9, 0.4  # of BM25: Anserini's defaults, which BEIR's own baseline has
_QRELS = (".tsv", ".jsonl")
_COLUMNS = ("query-id", "corpus-id", "score")


def is_beir(folder: Path) -> bool:
    """Whether a folder has a corpus, queries and relevance judgements in BEIR's form."""
    return (folder / "corpus.jsonl").is_file() and (folder / "queries.jsonl").is_file() and bool(_qrels(folder))


def read_beir(
    folder: Path, *, most_queries: int = _QUERIES, most_documents: int = _DOCUMENTS
) -> tuple[dict[str, Dataset], list[str]]:
    """Read the queries of every split, each with its pool of documents, and notes on what was chosen.

    A row has `query`, and lists `documents` (title and text) and `relevance` (a gain each, 0 where nobody judged). What
    is too much is drawn at random, always the same: of a split so many queries, of a corpus so many documents.

    Raises:
        CorruptFileError: for a line that is not of the form above.
        PruneSearchError: if no query has a document that answers it.
    """
    queries: dict[str, str] = {}
    for line in _lines(folder / "queries.jsonl", ("_id", "text")):
        _add(queries, line, str(line["text"]), folder / "queries.jsonl")
    random, notes = np.random.default_rng(0), []
    wanted = {path.stem: _read_qrels(path) for path in _qrels(folder)}
    for split, gains in wanted.items():
        if len(gains) > most_queries:
            notes.append(f"{most_queries} of the {len(gains)} queries of '{split}' were drawn")
            chosen = random.choice(sorted(gains), most_queries, replace=False).tolist()
            wanted[split] = {query: gains[query] for query in chosen}
    needed = {document for gains in wanted.values() for found in gains.values() for document in found}
    corpus, total = _read_corpus(folder / "corpus.jsonl", needed, random, most_documents)
    judged = {
        split: {query: found for query, found in gains.items() if query in queries and _answers(found, corpus)}
        for split, gains in wanted.items()
    }
    gone = sum(map(len, wanted.values())) - sum(map(len, judged.values()))
    if not any(judged.values()):
        raise PruneSearchError(
            f"queries must have a document that answers them, but none in '{folder}' has: check the ids of the qrels"
        )
    nearest, names = _ranking(list(corpus.values()), str(folder)), list(corpus)
    splits = {}
    for split, gains in judged.items():
        rows = []
        for query, found in gains.items():
            near = [names[i] for i in nearest(queries[query], POOL + len(found))]
            pool = random.permutation(_pool(found, near, corpus)).tolist()  # ties must not favour what answers
            rows.append(
                {
                    "query": queries[query],
                    "documents": [corpus[name] for name in pool],
                    "relevance": [max(0.0, found.get(name, 0.0)) for name in pool],
                }
            )
        splits[split] = Dataset.from_list(rows)
    drawn = "" if total == len(corpus) else f", {len(corpus)} of them drawn"
    notes.append(
        f"BEIR folder: ranking is of {POOL} documents a query, out of {total}{drawn}: those that answer it ({_ANSWERS} "
        "at most), then the nearest of the others by BM25; it is easier than ranking the whole corpus"
    )
    return splits, [*notes, *([f"{gone} queries that no document answers were left out"] if gone else [])]


def _ranking(documents: list[str], name: str) -> Callable[[str, int], list[int]]:
    """A function `(query, k)` that gives the numbers of the `k` nearest documents by BM25, the best first.

    A word is a run of letters and digits, in lower case. Documents that are alike to a query, such as all that share no
    word with it, come in a drawn order, always the same.
    """
    bm25s: Any = package("bm25s", "documents are ranked by the package bm25s: pip install 'prunesearch[retrieval]'")

    def words(texts: list[str]) -> list[list[str]]:
        found: list[list[str]] = bm25s.tokenize(
            texts, lower=True, token_pattern=r"\w+", stopwords=None, return_ids=False, show_progress=False
        )
        return found

    split = words(documents)
    if not any(split):
        raise PruneSearchError(f"documents must have words, but none in '{name}' has: check corpus.jsonl")
    index = bm25s.BM25(method="lucene", k1=_K1, b=_B, dtype="float64")
    index.index(split, show_progress=False)
    order = np.random.default_rng(0).permutation(len(documents))

    def nearest(query: str, k: int) -> list[int]:
        costs = -index.get_scores(words([query])[0])[order]
        best = np.arange(len(costs))
        if k < len(costs):  # a sort of them all would take ten times as long
            best = np.flatnonzero(costs <= np.partition(costs, k - 1)[k - 1])
        found: list[int] = order[best[np.argsort(costs[best], kind="stable")[:k]]].tolist()
        return found

    return nearest


def _answers(gains: dict[str, float], corpus: dict[str, str]) -> list[str]:
    """The documents that answer a query, the best first; equal ones as in the file, which favours no model."""
    return sorted((name for name, gain in gains.items() if gain > 0 and name in corpus), key=lambda name: -gains[name])


def _pool(gains: dict[str, float], near: list[str], corpus: dict[str, str]) -> list[str]:
    """The documents to rank for a query: ten at most that answer it, then those of `near` that do not."""
    answers = _answers(gains, corpus)
    pool = answers[:_ANSWERS]
    others = (name for name in near if name not in answers)
    return [*pool, *islice(others, POOL - len(pool))]


def _qrels(folder: Path) -> list[Path]:
    """The file of every split, in alphabetical order; a split that has two is read from its table."""
    found: dict[str, Path] = {}
    for suffix in _QRELS:
        for path in sorted((folder / "qrels").glob(f"*{suffix}")):
            found.setdefault(path.stem, path)
    return [found[split] for split in sorted(found)]


def _read_qrels(path: Path) -> dict[str, dict[str, float]]:
    """Gains by query and document."""
    table: Iterator[list[Any]]
    if path.suffix == ".jsonl":
        table = ([line[name] for name in _COLUMNS] for line in _lines(path, _COLUMNS))
    else:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        table = (line.split("\t") for line in lines if line.strip())
    gains: dict[str, dict[str, float]] = {}
    for number, cells in enumerate(table):
        try:
            query, document, score = cells
            gains.setdefault(str(query), {})[str(document)] = float(score)
        except (TypeError, ValueError):
            if number == 0 and path.suffix == ".tsv":  # the header
                continue
            raise CorruptFileError(
                f"every line of '{path}' must be a query's id, a document's id and a number, but one is "
                f"'{' '.join(map(str, cells)):.40}': mend that file (columns are set apart by tabs)"
            ) from None
    return gains


def _read_corpus(path: Path, needed: set[str], random: np.random.Generator, most: int) -> tuple[dict[str, str], int]:
    """Texts by id, `needed` ones and others up to `most`, and how many there are in all."""
    with path.open("rb") as file:
        total = sum(1 for line in file if line.strip())
    chosen = set(random.choice(total, most, replace=False).tolist()) if total > most else None
    texts: dict[str, str] = {}
    for i, line in enumerate(_lines(path, ("_id", "text"))):
        name = str(line["_id"])
        if chosen is None or i in chosen or name in needed:
            _add(texts, line, f"{line.get('title') or ''} {line['text']}".strip(), path)
    return texts, total


def _add(texts: dict[str, str], line: dict[str, Any], text: str, path: Path) -> None:
    """Raise `CorruptFileError` for an id that another text has already: nobody knows which of them is judged."""
    name = str(line["_id"])
    if texts.setdefault(name, text) != text:
        raise CorruptFileError(f"every `_id` must be of one text, but '{name}' of '{path}' is of two: mend that file")


def _lines(path: Path, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, each of which has the keys `names`."""
    with path.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                line = parse_json(text)
            except ValueError:
                line = None
            if not isinstance(line, dict) or not set(names) <= set(line):
                raise CorruptFileError(
                    f"every line of '{path}' must be a JSON object with {', '.join(names)}, but line {number} is "
                    f"'{text.strip():.40}': mend or leave out that line"
                )
            yield line
