"""Tables, queries over them and relations without an engine, for the tests of the DuckDB path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from khonsu_engine.mvcc.predicates import ALL
from khonsu_engine.schema.catalog import Column, Table
from khonsu_engine.schema.types import SqlType, parse_type
from khonsu_sql.sql.plan import PlannedRead, Query, Source


def table_of(name: str = "accounts", **columns: str) -> Table:
    """A table with columns `name="TYPE"`; the first one is its key."""
    return Table(64, "main", name, 1, tuple(Column(column, parse_type(text)) for column, text in columns.items()), (0,))


def source_of(table: Table, name: str = "k1", projection: Sequence[int] | None = None) -> Source:
    positions = tuple(range(len(table.columns))) if projection is None else tuple(projection)
    return Source(name, PlannedRead(table, -1, ALL), positions)


def query_of(sql: str, *sources: Source, parameters: int = 0, columns: tuple[str, ...] | None = None) -> Query:
    return Query(sql, sources, tuple(range(parameters)), columns)


class Batches:
    """A relation as the engine's scans are: batches of one schema, `masked` when the last column says which rows are visible."""

    def __init__(self, batches: Sequence[pa.RecordBatch], schema: pa.Schema | None = None, *, masked: bool = False) -> None:
        self.batches = batches
        self.schema = batches[0].schema if schema is None else schema
        self.masked = masked

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return iter(self.batches)


def masked(table: pa.Table, live: Sequence[bool], rows_of_batch: int = 2) -> Batches:
    """`table` in small batches, of which only the `live` rows are visible."""
    marked = table.append_column("__live", pa.array(live, pa.bool_()))
    return Batches(marked.to_batches(max_chunksize=rows_of_batch), marked.schema, masked=True)


def types_of(evaluated: Any) -> list[SqlType]:
    return [column.type for column in evaluated.columns]
