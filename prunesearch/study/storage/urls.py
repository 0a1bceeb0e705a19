"""URLs of databases, as they may be shown."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(//[^:/@]*:)[^@]*@")


def hide_password(url: str) -> str:
    """A storage's URL with stars for its password, and what is none with stars where one would be."""
    import sqlalchemy as sa

    try:
        return sa.engine.make_url(url).render_as_string(hide_password=True)
    except (sa.exc.ArgumentError, ValueError):  # the latter of a port that is no number
        return _PASSWORD.sub(r"\1***@", url)
