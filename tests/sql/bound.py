"""Binding without an engine: a catalog from DDL, and a real DuckDB that runs what binding generated over plain rows.

`answer` serves each source of a query under its name with the columns of its projection, and with those rows only that satisfy its
predicate: an answer that differs from that over all rows is a predicate, or a column set, that is too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from khonsu_engine.mvcc.predicates import ALL, matcher
from khonsu_engine.schema.catalog import Catalog, Table
from khonsu_engine.schema.types import arrow_from_rows
from khonsu_sql.sql.bind import bind, instantiate, normalise
from khonsu_sql.sql.parse import parse
from khonsu_sql.sql.plan import CreateTable, Query, Source, Statement

Rows = Mapping[str, Sequence[tuple[Any, ...]]]
"""Rows by table name, one value per column, hidden ones included."""


def catalog_of(*definitions: str) -> Catalog:
    """The catalog after these CREATE TABLEs; ids from 64."""
    tables = {}
    for number, definition in enumerate(definitions):
        plan = bind(parse(definition)[0], Catalog(0, {})).plan
        assert isinstance(plan, CreateTable)
        table = msgspec.structs.replace(plan.table, id=64 + number, version=1)
        tables[(table.schema, table.name.casefold())] = table
    return Catalog(1, tables)


def bound(sql: str, catalog: Catalog) -> Statement:
    """The only statement of `sql`."""
    (parsed,) = parse(sql)
    return bind(parsed, catalog)


def query_of(sql: str, catalog: Catalog) -> Query:
    plan = bound(sql, catalog).plan
    assert isinstance(plan, Query)
    return plan


def duck() -> duckdb.DuckDBPyConnection:
    """With the settings that change answers."""
    return duckdb.connect(config={"integer_division": "true", "error_on_division_by_zero": "true"})


@cache
def _instance() -> duckdb.DuckDBPyConnection:
    return duck()


def kept(source: Source, rows: Rows, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows of a source's table that may matter to its query."""
    matches = matcher(instantiate(source.read.predicate, values))
    return [row for row in rows[source.read.table.name] if matches(row)]


def arrow_of(table: Table, rows: Sequence[tuple[Any, ...]], projection: Sequence[int]) -> pa.Table:
    batch = arrow_from_rows([column.type for column in table.columns], list(rows), [column.name for column in table.columns])
    return pa.Table.from_batches([batch]).select([table.columns[position].name for position in projection])


def answer(query: Query, rows: Rows, values: Sequence[Any] = (), *, everything: bool = False) -> list[tuple[Any, ...]]:
    """What DuckDB says. `everything`: serve all rows of each source."""
    connection = _instance().cursor()
    for source in query.sources:
        served = rows[source.read.table.name] if everything else kept(source, rows, values)
        connection.register(source.name, arrow_of(source.read.table, served, source.projection))
    try:
        return connection.execute(query.sql, [values[index] for index in query.parameters]).fetchall()
    finally:
        connection.close()


def values_of(statement: Statement, parameters: Any) -> list[Any]:
    return normalise(statement.parameters, parameters)


def over_tables(sql: str, catalog: Catalog, rows: Rows) -> list[tuple[Any, ...]]:
    """The user's own text, given to a DuckDB that has the tables."""
    connection = duck()
    for table in catalog.tables.values():
        connection.register(f"{table.name}__rows", arrow_of(table, rows[table.name], table.visible))
        connection.execute(f'CREATE TABLE "{table.name}" AS SELECT * FROM "{table.name}__rows"')
    return connection.execute(sql).fetchall()


def predicate_of_table(sql: str, catalog: Catalog, parameters: Any = None) -> Any:
    """The predicate of the only source, filled in."""
    statement = bound(sql, catalog)
    assert isinstance(statement.plan, Query)
    (source,) = statement.plan.sources
    return instantiate(source.read.predicate, values_of(statement, parameters))


__all__ = ["ALL", "answer", "arrow_of", "bound", "catalog_of", "duck", "kept", "over_tables", "predicate_of_table", "query_of", "values_of"]
