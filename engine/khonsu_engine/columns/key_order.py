"""The order of keys, and where a `KeyRange` begins and ends in a sorted sequence of them.

Called by memtable, segment and table version. Keys are canonical Python values whose own order is SQL's, with one exception:
NaN, which is greater than every number. Tables with a floating-point key column therefore sort by `order_of(table)(key)`;
all others get None and compare keys themselves, which is several times faster.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from khonsu_engine.commands import Key, KeyRange
from khonsu_engine.schema.catalog import Table

__all__ = ["Order", "bounds_of", "contains", "order_of"]

Order = Callable[[Any], Any] | None
_FLOATS = frozenset({"DOUBLE", "REAL", "FLOAT"})


def order_of(table: Table) -> Order:
    """key -> value whose own order is the key order of `table`, or None when keys may be compared as they are."""
    floats = [str(table.columns[position].type).upper() in _FLOATS for position in table.key_columns]
    if not any(floats):
        return None
    return _ordered_float if len(floats) == 1 else _ordered_parts


def _ordered_float(value: Any) -> tuple[bool, Any]:
    return (value != value, value)


def _ordered_parts(key: tuple[Any, ...]) -> tuple[tuple[bool, Any], ...]:
    return tuple([(part != part, part) for part in key])


def bounds_of(keys: Sequence[Key], range: KeyRange, order: Order = None) -> tuple[int, int]:
    """(start, stop) of the keys within `range` in the sorted sequence `keys`; start == stop when there are none."""
    start = 0 if range.low is None else _cut(keys, range.low, range.low_inclusive, order)
    stop = len(keys) if range.high is None else _cut(keys, range.high, not range.high_inclusive, order)
    return start, max(start, stop)


def _cut(keys: Sequence[Any], bound: Any, before_equal: bool, order: Order) -> int:
    """The position before (or after) all keys equal to `bound` in its first parts."""
    bisect = bisect_left if before_equal else bisect_right
    extract = _extraction(bound, order)
    if extract is None:
        return bisect(keys, bound)
    return bisect(keys, bound if order is None else order(bound), key=extract)


def _extraction(bound: Any, order: Order) -> Order:
    """What of a key is compared with `bound`: all of it, or the first `len(bound)` parts."""
    if not isinstance(bound, tuple):
        return order
    length = len(bound)
    if order is None:
        return lambda key: key[:length]
    return lambda key: order(key[:length])


def contains(range: KeyRange, key: Any, order: Order = None) -> bool:
    """Is `key` within `range`?"""
    return bounds_of((key,), range, order) == (0, 1)
