"""YCSB, workloads A to F: single rows by key, drawn by Zipf's law (0.99), and short ranges; what was acknowledged must be there at the end.

A transaction is `operations` of them. Reads and the values of updates are what the benchmark says: ten fields of 100 bytes. An update
writes one field, whose value names its writer; F reads a row and writes its counter, plus one, from Python.

Source: Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from random import Random
from typing import Any

import msgspec
import numpy as np

from benchmarks.clients import Clients, Engine, Execute, asked, load

__all__ = ["WORKLOADS", "YcsbClient", "check", "store"]

THETA = 0.99
FIELDS = 10
FIELD_BYTES = 100
RANGE_ROWS_MAX = 100
GAP = 1_024
"""Between the first keys, where the inserted ones fall."""

SCHEMA = (f"CREATE TABLE usertable (id BIGINT PRIMARY KEY, counter BIGINT NOT NULL, {', '.join(f'field{n} TEXT' for n in range(FIELDS))})",)
SPREAD = 2_654_435_761
"""A prime: multiplied with it the ranks of Zipf's law, and inserted keys, lie all over the table."""


class Mix(msgspec.Struct, frozen=True):
    """Shares of the operations, in percent. `latest`: the keys inserted last are the ones read most."""

    read: int = 0
    update: int = 0
    insert: int = 0
    scan: int = 0
    modify: int = 0
    latest: bool = False


WORKLOADS = {
    "A": Mix(read=50, update=50),
    "B": Mix(read=95, update=5),
    "C": Mix(read=100),
    "D": Mix(read=95, insert=5, latest=True),
    "E": Mix(scan=95, insert=5),
    "F": Mix(read=50, modify=50),
}


@cache
def _cumulated(rows: int) -> Any:
    weights = 1.0 / np.arange(1, rows + 1) ** THETA
    return np.cumsum(weights) / weights.sum()


class Zipf:
    """Ranks 0, 1, 2, … below `rows`, the first the most frequent."""

    def __init__(self, rows: int, seed: int) -> None:
        self._rows = rows
        self._chance = np.random.default_rng(seed)
        self._drawn: list[int] = []

    def draw(self) -> int:
        if not self._drawn:
            ranks = np.searchsorted(_cumulated(self._rows), self._chance.random(4_096))
            self._drawn = np.minimum(ranks, self._rows - 1).tolist()
        return self._drawn.pop()


class Table:
    """The keys, as all clients of one engine know them: `rows` first ones, and those inserted since, in their order."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._clients: list[YcsbClient] = []

    def key(self, number: int) -> int:
        """The key that was inserted as number 0, 1, 2, …"""
        turn, place = divmod(number, self.rows)
        assert turn < GAP, "the table is full"
        return GAP * (place * SPREAD % self.rows) + turn

    def add(self, client: YcsbClient) -> int:
        """Its number among the clients."""
        self._clients.append(client)
        return len(self._clients)

    @property
    def clients(self) -> Sequence[YcsbClient]:
        return self._clients


class YcsbClient:
    """One client. `inserted`, `modified`: what committed; `updated`: the last value it wrote into each (key, field)."""

    writes = False

    def __init__(self, engine: Engine, mix: Mix, table: Table, operations: int, next_number: Callable[[], int]) -> None:
        self._table = table
        self._number = table.add(self)
        self._chance = Random(self._number)
        self._zipf = Zipf(table.rows, self._number)
        self._mix = mix
        self._shares = tuple(map(float, (mix.read, mix.update, mix.insert, mix.scan, mix.modify)))
        self._operations = operations
        self._next_number = next_number
        self._latest = table.rows
        self._counter = 0
        self._drawn: list[tuple[Callable[[Execute, Any], None], Any]] = []
        self.inserted = self.modified = 0
        self.updated: dict[tuple[int, int], str] = {}
        self._kinds = (self._read, self._update, self._insert, self._scan, self._modify)
        self._select = engine.sql("SELECT * FROM usertable WHERE id = ?")
        self._range = engine.sql("SELECT * FROM usertable WHERE id BETWEEN ? AND ?")
        self._updates = [engine.sql(f"UPDATE usertable SET field{n} = ? WHERE id = ?") for n in range(FIELDS)]
        self._count = engine.sql("UPDATE usertable SET counter = ? WHERE id = ?")
        self._add = engine.sql(f"INSERT INTO usertable VALUES ({', '.join('?' * (FIELDS + 2))})")

    def draw(self) -> None:
        kinds = self._chance.choices(self._kinds, self._shares, k=self._operations)
        self._drawn = [(kind, self._choice(kind)) for kind in kinds]
        self.writes = any(kind not in (self._read, self._scan) for kind in kinds)

    def _choice(self, kind: Any) -> Any:
        """What an operation is about: a key, or (number of a new key) (key, length) (key, field, value)."""
        if kind == self._insert:
            return self._next_number()
        rank = self._zipf.draw()
        if self._mix.latest:
            return self._table.key(max(0, self._latest - 1 - rank))
        key = self._table.key(rank)
        if kind == self._scan:
            return key, self._chance.randint(1, RANGE_ROWS_MAX)
        if kind == self._update:
            self._counter += 1
            return key, self._chance.randrange(FIELDS), f"{self._number}:{self._counter}".ljust(FIELD_BYTES, ".")
        return key

    def _read(self, execute: Execute, key: int) -> None:
        execute(self._select, (key,)).fetchone()

    def _update(self, execute: Execute, choice: tuple[int, int, str]) -> None:
        key, field, value = choice
        execute(self._updates[field], (value, key))

    def _insert(self, execute: Execute, number: int) -> None:
        execute(self._add, (self._table.key(number), 0, *_FIRST))

    def _scan(self, execute: Execute, choice: tuple[int, int]) -> None:
        key, length = choice
        execute(self._range, (key, key + GAP * length)).fetchall()

    def _modify(self, execute: Execute, key: int) -> None:
        row = execute(self._select, (key,)).fetchone()
        execute(self._count, (row[1] + 1, key))

    def run(self, execute: Execute) -> None:
        for kind, choice in self._drawn:
            kind(execute, choice)

    def committed(self) -> None:
        for kind, choice in self._drawn:
            if kind == self._insert:
                self.inserted += 1
                self._latest = choice + 1
            elif kind == self._modify:
                self.modified += 1
            elif kind == self._update:
                key, field, value = choice
                self.updated[key, field] = value


_FIRST = tuple(f"0:{n}".ljust(FIELD_BYTES, ".") for n in range(FIELDS))


def store(engine: Engine, mix: Mix, rows: int, threads: int, operations: int, seconds: float) -> tuple[Table, Clients]:
    """A filled table, and its clients."""
    table = Table(rows)
    load(engine, SCHEMA, {"usertable": [(table.key(number), 0, *_FIRST) for number in range(rows)]})
    numbers = iter(range(rows, GAP * rows))
    clients = [YcsbClient(engine, mix, table, operations, numbers.__next__) for _ in range(threads)]
    return table, Clients(engine, clients, seconds)


def check(engine: Engine, table: Table) -> None:
    """Every insert and every addition that was acknowledged is there, and each field has the last value that one of its writers wrote."""
    clients = table.clients
    rows = asked(engine, "SELECT * FROM usertable ORDER BY id")
    expected = table.rows + sum(client.inserted for client in clients)
    counted = sum(row[1] for row in rows)
    modified = sum(client.modified for client in clients)
    if len(rows) != expected or counted != modified:
        raise AssertionError(f"{len(rows)} of {expected} rows, {counted} of {modified} additions")
    values = {row[0]: row[2:] for row in rows}
    for key, field in set(chain.from_iterable(client.updated for client in clients)):
        last = [client.updated[key, field] for client in clients if (key, field) in client.updated]
        if values[key][field] not in last:
            raise AssertionError(f"row {key}, field {field}: {values[key][field]!r} is not the last of any writer")
