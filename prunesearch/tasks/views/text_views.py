"""Views of texts: what people's fingers do to them."""

from __future__ import annotations

import random as stdlib_random
import re
import threading

from numpy.random import Generator

from prunesearch.tasks.libraries import package

_WORDS = re.compile(r"\S+")
_LETTERS = 3  # a word must have, to be misspelt and still be read
_KINDS = ("char_swap", "missing_char", "extra_char", "nearby_char")
_ONE_AT_A_TIME = threading.Lock()  # the package draws from the interpreter's own generator


def typos(text: str, amount: float, random: Generator) -> str:
    """A share of its words misspelt once, by the package `typo`: letters swapped, left out, doubled or a key off."""
    typo = package("typo", "typos are made by the package typo: pip install 'prunesearch[robust]'")

    def misspelt(match: re.Match[str]) -> str:
        word = match[0]
        if sum(map(str.isalpha, word)) < _LETTERS or random.random() >= amount:
            return word
        with _ONE_AT_A_TIME:
            before = stdlib_random.getstate()
            try:
                wrong = typo.StrErrer(word, seed=int(random.integers(2**31)))
                made: str = getattr(wrong, _KINDS[random.integers(len(_KINDS))])().result
            finally:
                stdlib_random.setstate(before)
        return made

    return _WORDS.sub(misspelt, text)


def capitals(text: str, amount: float, random: Generator) -> str:
    """A share of its words in capitals."""
    return _WORDS.sub(lambda match: match[0].upper() if random.random() < amount else match[0], text)


def dropped_words(text: str, amount: float, random: Generator) -> str:
    """Without a share of its words; one at least stays."""
    words = text.split()
    kept = [word for word in words if random.random() >= amount]
    return " ".join(kept or words[:1])
