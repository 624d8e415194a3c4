"""What a lock can be asked for: modes, the states of a request, targets; and whether two targets may have a key in common.

Called by the other rooms of the lock table only. Two targets overlap unless they are *proved* apart: a comparison that fails or knows
no order (None, NaN, mixed types) widens, never narrows.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum, IntEnum
from typing import Any

from khonsu_engine.commands import Key, KeyRange

__all__ = ["LockMode", "Target", "TicketState", "covers", "overlaps"]

Target = Hashable
"""A `KeyRange`, or anything else: a key."""


class LockMode(IntEnum):
    """SHARED: FOR SHARE. EXCLUSIVE: write intents and FOR UPDATE."""

    SHARED = 1
    EXCLUSIVE = 2


class TicketState(Enum):
    """WAITING becomes exactly one of the others. SKIPPED: a soft request let go to break a cycle, its owner goes on without the lock.
    DEADLOCK: a hard request whose owner has to roll back."""

    WAITING = "waiting"
    GRANTED = "granted"
    SKIPPED = "skipped"
    DEADLOCK = "deadlock"
    CANCELLED = "cancelled"


def overlaps(left: Target, right: Target) -> bool:
    """May a key be in both?"""
    if isinstance(left, KeyRange):
        return _ranges_overlap(left, right) if isinstance(right, KeyRange) else covers(left, right)
    return covers(right, left) if isinstance(right, KeyRange) else left is right or left == right


def covers(key_range: KeyRange, key: Key) -> bool:
    """May `key` be within `key_range`? As `validation.in_range`, and yes for what has no order, such as NaN."""
    low, high = key_range.low, key_range.high
    try:
        return not (_precedes(key, True, low, key_range.low_inclusive) or _precedes(high, key_range.high_inclusive, key, True))
    except TypeError:
        return True


def _ranges_overlap(left: KeyRange, right: KeyRange) -> bool:
    try:
        return not (
            _precedes(left.high, left.high_inclusive, right.low, right.low_inclusive)
            or _precedes(right.high, right.high_inclusive, left.low, left.low_inclusive)
        )
    except TypeError:
        return True


def _precedes(high: Any, high_inclusive: bool, low: Any, low_inclusive: bool) -> bool:
    """Does everything up to `high` come before everything from `low` on? None is open. Of tuples of different length the longer
    one is cut: where they agree as far as that, only the shorter one's exclusion keeps all keys with that beginning out."""
    if high is None or low is None:
        return False
    if isinstance(high, tuple) and isinstance(low, tuple) and len(high) != len(low):
        if len(high) < len(low):
            low, low_inclusive = low[: len(high)], True
        else:
            high, high_inclusive = high[: len(low)], True
    return bool(high < low) or (not (high_inclusive and low_inclusive) and bool(high == low))
