"""Arrow tables in key order: sorting, checking, finding keys that come twice. Vectorised, outside every latch.

Called by `build` (bulk writes, flush, merge) and `key_search`. One integer key column goes through NumPy, everything else through
Arrow's sort. Both orders are that of canonical keys (`key_order`): binary for text, NaN last and equal to itself, -0.0 = 0.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from khonsu_engine.columns.readers import kind_of
from khonsu_engine.commands import Key
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import rows_from_arrow

__all__ = ["find_duplicate", "integer_keys", "is_sorted", "key_columns", "key_in", "sort_batches", "sorted_by_key"]


def sort_batches(table: Table, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """All rows of `batches` as one table in key order. Rows that are in order already are not moved."""
    return sorted_by_key(table, pa.Table.from_batches(batches, schema))


def sorted_by_key(table: Table, rows: pa.Table) -> pa.Table:
    """`rows` in key order."""
    keys = key_columns(table, rows)
    if _in_order(table, keys, strictly=False):
        return rows
    numbers = integer_keys(table, keys)
    order = _sort_indices(keys) if numbers is None else pa.array(np.argsort(numbers))
    return rows.combine_chunks().take(order)


def key_columns(table: Table, rows: pa.Table) -> pa.Table:
    """The key columns of rows of `table` alone, called k0, k1, …"""
    chosen = [rows.column(position) for position in table.key_columns]
    return pa.table(chosen, names=[f"k{number}" for number in range(len(chosen))])


def integer_keys(table: Table, keys: pa.Table) -> np.ndarray[Any, Any] | None:
    """The keys as one NumPy array when they are one column of numbers, else None."""
    if len(table.key_columns) != 1 or kind_of(table.columns[table.key_columns[0]].type) != "number":
        return None
    column = keys.column(0)
    parts = [_integers(chunk) for chunk in column.chunks]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _integers(chunk: pa.Array) -> np.ndarray[Any, Any]:
    numbers: np.ndarray[Any, Any] = (chunk.cast(pa.int64()) if pa.types.is_timestamp(chunk.type) else chunk).to_numpy()
    return numbers


def _sort_indices(keys: pa.Table) -> pa.Array:
    return pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])


def is_sorted(table: Table, rows: pa.Table) -> bool:
    """Do the keys of `rows` rise strictly?"""
    return _in_order(table, key_columns(table, rows), strictly=True)


def _in_order(table: Table, keys: pa.Table, *, strictly: bool) -> bool:
    if keys.num_rows < 2:
        return True
    numbers = integer_keys(table, keys)
    if numbers is not None:
        return bool(np.all(numbers[1:] > numbers[:-1] if strictly else numbers[1:] >= numbers[:-1]))
    lower, upper = keys.slice(0, keys.num_rows - 1), keys.slice(1)
    right: Any = pa.scalar(not strictly)
    for name in reversed(keys.column_names):
        left, following = lower.column(name), upper.column(name)
        right = pc.or_(_less(left, following), pc.and_(_equal(left, following), right))
    return bool(pc.all(right).as_py())


def _less(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    result = pc.less(left, right)
    if pa.types.is_floating(left.type):
        return pc.or_(result, pc.and_(pc.invert(pc.is_nan(left)), pc.is_nan(right)))
    return result


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    result = pc.equal(left, right)
    return pc.or_(result, pc.and_(pc.is_nan(left), pc.is_nan(right))) if pa.types.is_floating(left.type) else result


def equal_to_next(keys: pa.Table) -> np.ndarray[Any, Any]:
    """Positions of sorted keys that equal the following one."""
    lower, upper = keys.slice(0, keys.num_rows - 1), keys.slice(1)
    same: Any = pa.scalar(True)
    for name in keys.column_names:
        same = pc.and_(_equal(lower.column(name), upper.column(name)), same)
    mask: np.ndarray[Any, Any] = same.to_numpy()
    return np.flatnonzero(mask)


def find_duplicate(table: Table, rows: pa.Table) -> Key | None:
    """A key that two of the sorted `rows` share, or None."""
    if is_sorted(table, rows):
        return None
    twice = equal_to_next(key_columns(table, rows))
    return key_in(table, rows, int(twice[0])) if len(twice) else None


def key_in(table: Table, rows: pa.Table | pa.RecordBatch, position: int) -> Key:
    """The canonical key of one row."""
    types = [table.columns[number].type for number in table.key_columns]
    key = rows_from_arrow(types, rows.slice(position, 1).select(list(table.key_columns)))[0]
    return key if len(types) > 1 else key[0]
