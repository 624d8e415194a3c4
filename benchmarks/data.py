"""The data of the point, scan and ingest workloads: rows of (BIGINT key, DOUBLE, INTEGER, VARCHAR), from a fixed seed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

__all__ = ["CREATE", "keys_of", "rows_of", "table_of"]

CREATE = "CREATE TABLE items (id BIGINT PRIMARY KEY, price DOUBLE, quantity INTEGER, name VARCHAR)"


def table_of(rows: int, *, shuffled: bool = False, seed: int = 7) -> pa.Table:
    """`rows` rows with keys 0, 2, 4, … (so that absent keys exist), sorted or shuffled."""
    random = np.random.default_rng(seed)
    keys = np.arange(rows, dtype=np.int64) * 2
    if shuffled:
        random.shuffle(keys)
    names = pa.array([f"item {key % 9973:05d}" for key in keys.tolist()], pa.string())
    return pa.table(
        {
            "id": keys,
            "price": random.random(rows) * 100,
            "quantity": random.integers(0, 1_000, rows, dtype=np.int32),
            "name": names,
        }
    )


def rows_of(table: pa.Table) -> list[tuple[object, ...]]:
    """The same rows as Python tuples, for drivers without Arrow."""
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def keys_of(rows: int, count: int, seed: int = 11) -> list[int]:
    """`count` random keys that exist."""
    return [int(key) * 2 for key in np.random.default_rng(seed).integers(0, rows, count)]
