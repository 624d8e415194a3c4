"""The keys of a memtable in order: an immutable long sorted list and a short one of fresh keys, replaced together.

Made and caught up by `Memtable.ordered_keys`, read by whoever holds one: nothing in it ever changes. The two lists share no key,
so merging them needs no look at duplicates. Why not a sorted container: read beside a writer it gives wrong ranges.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Any, NamedTuple

from khonsu_engine.columns.key_order import Order, bounds_of, in_order
from khonsu_engine.commands import Key, KeyRange

__all__ = ["FRESH_KEYS_MAX", "OrderedKeys"]

FRESH_KEYS_MAX = 1_024
"""More fresh keys than this are merged into the long list."""


class OrderedKeys(NamedTuple):
    """The keys of the first `seen` versions of a log."""

    old: list[Any]
    fresh: list[Any]
    seen: int
    order: Order

    def __contains__(self, key: Any) -> bool:
        return _holds(self.old, key, self.order) or _holds(self.fresh, key, self.order)

    def with_keys(self, keys: Iterable[Key], seen: int) -> OrderedKeys:
        """These keys and `keys`."""
        order = self.order
        added = {key for key in keys if not _holds(self.old, key, order)}
        fresh = in_order(added.union(self.fresh), order)
        if len(fresh) <= FRESH_KEYS_MAX:
            return OrderedKeys(self.old, fresh, seen, order)
        return OrderedKeys(in_order(self.old + fresh, order), [], seen, order)

    def between(self, range: KeyRange) -> list[Any]:
        """All keys within `range`, in order."""
        old, fresh = (keys[slice(*bounds_of(keys, range, self.order))] for keys in (self.old, self.fresh))
        return in_order(old + fresh, self.order) if old and fresh else old or fresh

    def iterate(self, range: KeyRange, reverse: bool) -> Iterator[Any]:
        """The same one by one, without a copy, backwards with `reverse`."""
        parts = [_walk(keys, *bounds_of(keys, range, self.order), reverse) for keys in (self.old, self.fresh) if keys]
        return parts[0] if len(parts) == 1 else merge(*parts, key=self.order, reverse=reverse)


def _holds(keys: list[Any], key: Any, order: Order) -> bool:
    if order is None:
        at = bisect_left(keys, key)
        return at < len(keys) and bool(keys[at] == key)
    wanted = order(key)
    at = bisect_left(keys, wanted, key=order)
    return at < len(keys) and bool(order(keys[at]) == wanted)


def _walk(keys: list[Any], start: int, stop: int, reverse: bool) -> Iterator[Any]:
    positions = range(stop - 1, start - 1, -1) if reverse else range(start, stop)
    return (keys[position] for position in positions)
