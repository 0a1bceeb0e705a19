"""The Hub, asked once and shortly whether it can be reached: its own clients try for most of a minute."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_session, try_to_load_from_cache

from prunesearch.core.errors import PruneSearchError

_WAIT_S = 3.0


@lru_cache(maxsize=1)
def hub_answers() -> bool:
    """Whether the Hub answers at all, by one attempt a process; HF_HUB_OFFLINE says that it is not to be asked."""
    return not constants.HF_HUB_OFFLINE and answers_in_time(_ask, _WAIT_S)


def answers_in_time(ask: Callable[[], object], seconds: float) -> bool:
    """Whether `ask` returns in so many seconds; looking up a name has no limit of its own."""
    found: list[object] = []

    def attempt() -> None:
        # whatever a client raises for want of a network, a name or a certificate
        with contextlib.suppress(Exception):
            found.append(ask())

    thread = threading.Thread(target=attempt, name="ask-the-hub", daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(found)


def _ask() -> object:
    session: Any = get_session()
    return session.head(constants.ENDPOINT, timeout=_WAIT_S)


def only_cached(name: str, what: str, cached: Callable[[str], bool], answers: Callable[[], bool] = hub_answers) -> bool:
    """Whether what a Hub id names must come from this machine's cache, since the Hub does not answer.

    Args:
        name: the id, which is no folder here.
        what: it is, for the message.
        cached: whether it is in the cache.
        answers: whether the Hub does.

    Raises:
        PruneSearchError: if it is not in the cache either.
    """
    if answers():
        return False
    if not cached(name):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub does not answer"
        raise PruneSearchError(
            f"the {what} of '{name}' could not be loaded (no such folder in {Path.cwd()}, nothing in the cache, and "
            f"{why}): check the name and the network"
        )
    return True


def model_cached(name: str) -> bool:
    """Whether something of a model is in the Hub's cache."""
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:  # no name that the Hub could have, which its own client words best
        return True


def data_cached(name: str) -> bool:
    """Whether a data set is in the cache of `datasets`."""
    from datasets import config

    return (Path(config.HF_DATASETS_CACHE) / name.replace("/", "___")).exists()
