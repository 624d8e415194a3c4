"""The order of keys, and where a `KeyRange` begins and ends in a sorted sequence of them.

Called by memtable, chunks, segments and table versions. Keys are canonical Python values whose own order is ours, with one
exception: NaN, which is greater than every number. Tables with a floating-point key column therefore sort by
`order_of(table)(key)`; all others get None and compare keys themselves, which is several times faster.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from khonsu_engine.commands import Key, KeyRange
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import order_key

__all__ = ["Order", "bounds_of", "contains", "cut", "in_order", "order_of"]

Order = Callable[[Any], Any] | None


def order_of(table: Table) -> Order:
    """key (or a prefix of one) -> value whose own order is the key order of `table`; None: keys may be compared as they are."""
    return order_key([table.columns[position].type for position in table.key_columns])


def in_order(keys: Iterable[Any], order: Order, *, reverse: bool = False) -> list[Any]:
    """`keys` sorted."""
    return sorted(keys, reverse=reverse) if order is None else sorted(keys, key=order, reverse=reverse)


def bounds_of(keys: Sequence[Any], range: KeyRange, order: Order = None, key_of: Order = None) -> tuple[int, int]:
    """(start, stop) of the part of the sorted sequence `keys` within `range`; equal when there is none.

    `key_of`: item -> its key, where the items are not keys themselves."""
    start = 0 if range.low is None else cut(keys, range.low, range.low_inclusive, order, key_of)
    stop = len(keys) if range.high is None else cut(keys, range.high, not range.high_inclusive, order, key_of)
    return start, max(start, stop)


def cut(keys: Sequence[Any], bound: Any, before_equal: bool, order: Order = None, key_of: Order = None) -> int:
    """The position before (or after) all keys whose first parts equal `bound`."""
    bisect = bisect_left if before_equal else bisect_right
    extract = _extraction(bound, order, key_of)
    if extract is None:
        return bisect(keys, bound)
    return bisect(keys, bound if order is None else order(bound), key=extract)


def _extraction(bound: Any, order: Order, key_of: Order) -> Order:
    """What of an item is compared with `bound`: its key, or the first `len(bound)` parts of it, in the order's terms."""
    steps: list[Callable[[Any], Any]] = [] if key_of is None else [key_of]
    if isinstance(bound, tuple):
        length = len(bound)
        steps.append(lambda key: key[:length])
    if order is not None:
        steps.append(order)
    if len(steps) <= 1:
        return steps[0] if steps else None

    def extract(item: Any) -> Any:
        for step in steps:
            item = step(item)
        return item

    return extract


def contains(range: KeyRange, key: Key, order: Order = None) -> bool:
    """Is `key` within `range`?"""
    return bounds_of((key,), range, order) == (0, 1)
