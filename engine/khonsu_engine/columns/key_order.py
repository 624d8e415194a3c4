"""The order of keys, and where a `KeyRange` begins and ends in a sorted sequence of them.

Called by memtable, chunks, segments and table versions. Keys are canonical Python values whose own order is ours, with one
exception: NaN, which is greater than every number. Tables with a floating-point key column therefore sort by
`order_of(table)(key)`; all others get None and compare keys themselves, which is several times faster.

An end of a range is an `Edge`: a bisect function and a value for it, made once and used on any sorted sequence. A prefix of a
composite key needs no cutting of keys: (5,) is less than every (5, x), and (5, TOP) is greater.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from khonsu_engine.commands import Key, KeyRange
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import order_key

__all__ = ["Edge", "Order", "bounds_of", "contains", "edge_of", "edges_of", "in_order", "order_of"]

Order = Callable[[Any], Any] | None
Edge = tuple[Callable[..., int], Any]
"""`bisect(ordered keys, value)` is the number of keys before the edge."""


class _Top:
    """Greater than every value of a key."""

    __slots__ = ()

    def __lt__(self, other: Any) -> bool:
        return False

    def __gt__(self, other: Any) -> bool:
        return True


_TOP = _Top()


def order_of(table: Table) -> Order:
    """key (or a prefix of one) -> value whose own order is the key order of `table`; None: keys may be compared as they are."""
    return order_key([table.columns[position].type for position in table.key_columns])


def in_order(keys: Iterable[Any], order: Order, *, reverse: bool = False) -> list[Any]:
    """`keys` sorted."""
    return sorted(keys, reverse=reverse) if order is None else sorted(keys, key=order, reverse=reverse)


def edge_of(bound: Any, before_equal: bool, order: Order) -> Edge:
    """The edge before (or after) all keys whose first parts equal `bound`."""
    value = bound if order is None else order(bound)
    if isinstance(bound, tuple):
        return bisect_left, value if before_equal else (*value, _TOP)
    return (bisect_left if before_equal else bisect_right), value


def edges_of(range: KeyRange, order: Order) -> tuple[Edge | None, Edge | None]:
    """Where `range` begins and ends; None: it does not."""
    low = None if range.low is None else edge_of(range.low, range.low_inclusive, order)
    high = None if range.high is None else edge_of(range.high, not range.high_inclusive, order)
    return low, high


def bounds_of(keys: Sequence[Any], range: KeyRange, order: Order = None) -> tuple[int, int]:
    """(start, stop) of the part of the sorted sequence `keys` within `range`; equal when there is none."""
    low, high = edges_of(range, order)
    start = 0 if low is None else low[0](keys, low[1], key=order)
    stop = len(keys) if high is None else high[0](keys, high[1], key=order)
    return start, max(start, stop)


def contains(range: KeyRange, key: Key, order: Order = None) -> bool:
    """Is `key` within `range`?"""
    return bounds_of((key,), range, order) == (0, 1)
