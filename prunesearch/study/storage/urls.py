"""URLs of databases, as they may be shown."""

from __future__ import annotations


def hide_password(url: str) -> str:
    """A storage's URL with stars for its password; what is no URL stays as it is."""
    import sqlalchemy as sa

    try:
        return sa.engine.make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return url
