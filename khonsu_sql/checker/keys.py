"""Ranges of keys as scans name them. Called by `intake` and `ranges`."""

from __future__ import annotations

from khonsu_sql.checker.history import Range

__all__ = ["contains", "describe"]


def contains(range_: Range, key: str) -> bool:
    """Is `key` in it? A range is a prefix, or (first, behind the last or None)."""
    if isinstance(range_, str):
        return key.startswith(range_)
    first, behind = range_
    return first <= key and (behind is None or key < behind)


def describe(range_: Range) -> str:
    """As explanations show it."""
    if isinstance(range_, str):
        return f"{range_}*" if range_ else "all keys"
    first, behind = range_
    return f"{first} ≤ key < {behind}" if behind is not None else f"{first} ≤ key"
