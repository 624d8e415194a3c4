"""What the validation at COMMIT costs: it grows with what others wrote meanwhile, not with the size of the table.

A SERIALIZABLE transaction reads (a row by its key, or a range) and writes a row; between its first statement and its COMMIT others commit
so many changes of other rows; only the COMMIT is timed. In memory, so that no sync hides it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import khonsu_sql
from benchmarks import data
from benchmarks.measure import Pair, clock
from benchmarks.workloads import Settings

__all__ = ["WORKLOADS"]

SMALL_ROWS = 1_000
CONCURRENT = (0, 10, 1_000)
READS = {
    "one key": ("SELECT quantity FROM items WHERE id = ?", (20,)),
    "a range": ("SELECT count(*), sum(quantity) FROM items WHERE id BETWEEN ? AND ?", (20, 200)),
}
WRITE = "UPDATE items SET quantity = quantity + 1 WHERE id = ?"
WRITTEN = 10
OTHERS_FROM = 400
"""Others change rows from there on: they are neither read nor written by the transaction that is timed."""


class _Table:
    """A table of `rows` rows, a transaction to be timed, and one that disturbs it."""

    def __init__(self, rows: int) -> None:
        name = f":memory:validation-{rows}"
        self._timed = khonsu_sql.connect(name, isolation_level="SERIALIZABLE")
        self._other = khonsu_sql.connect(name, autocommit=True)
        cursor = self._other.cursor()
        cursor.execute(data.CREATE)
        cursor.ingest("items", data.table_of(rows), mode="append")
        self._keys = range(OTHERS_FROM, 2 * rows, 2)
        self._turn = 0

    def seconds(self, read: str, parameters: tuple[Any, ...], concurrent: int) -> float:
        """Of one COMMIT."""
        cursor = self._timed.cursor()
        cursor.execute(read, parameters).fetchall()
        cursor.execute(WRITE, (WRITTEN,))
        execute = self._other.cursor().execute
        for _ in range(concurrent):
            self._turn = (self._turn + 1) % len(self._keys)
            execute(WRITE, (self._keys[self._turn],))
        started = clock()
        self._timed.commit()
        return clock() - started

    def close(self, changes: int) -> None:
        """Every change must be there."""
        before = int(sum(data.table_of(len(self._keys) + OTHERS_FROM // 2)["quantity"].to_pylist()))
        ((after,),) = self._other.execute("SELECT sum(quantity) FROM items").fetchall()
        assert after - before == changes, f"{after - before} of {changes} changes"
        self._timed.close()
        self._other.close()


def validation(settings: Settings) -> Iterator[Pair]:
    """The time of a COMMIT in a table of 1,000 rows and in the big one, after 0, 10 and 1,000 commits of others."""
    names = (f"{SMALL_ROWS:,} rows", f"{settings.rows:,} rows")
    tables = (_Table(SMALL_ROWS), _Table(settings.rows))
    changes = 0
    for concurrent in CONCURRENT:
        times = 5 + settings.count(200_000) // (200 + 2 * concurrent)
        for kind, (read, parameters) in READS.items():
            taken: list[list[float]] = [[], []]
            for number in range(times):
                for side in (0, 1) if number % 2 == 0 else (1, 0):
                    taken[side].append(tables[side].seconds(read, parameters, concurrent))
            changes += times * (concurrent + 1)
            small, large = (statistics.median(side) for side in taken)
            values = (small * 1e6, large * 1e6)
            yield Pair(f"COMMIT after {concurrent:,} others, {kind} read", names, values, large / small, 1.3, "us", f"{times} times")
    for table in tables:
        table.close(changes)


WORKLOADS: dict[str, Callable[[Settings], Iterator[Pair]]] = {"validation": validation}
