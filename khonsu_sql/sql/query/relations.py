"""The one place where a relation becomes something DuckDB scans.

Called by `execution` with the relation of each source of a query: a `columns.scan.Scan` of the statement's pinned snapshot, or a
`pa.Table`. The scan is read here, in the caller's thread: batches are memory-mapped or shared, nothing is copied, and no code of
the engine runs on DuckDB's threads.

DuckDB sees a relation by its own columns' names. Two things it cannot see as they are stored, and a SELECT makes right:
rows that are not visible (`__live` is false), and types that Arrow does not have (UUID, ENUM, HUGEINT). JSON needs none: Arrow's JSON is a
label on text, and what is stored is known to be JSON. A relation without columns (`SELECT count(*)`) gets one of NULLs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from khonsu_engine.schema.sql_type import quoted
from khonsu_engine.schema.types import SqlType
from khonsu_sql.sql.plan import Source

__all__ = ["Served", "serve", "serve_sources"]

_JSON = {"ARROW:extension:name": "arrow.json", "ARROW:extension:metadata": ""}
_LIVE = "__live"


class Served(NamedTuple):
    """A relation as DuckDB gets it.

    name    under which the query's text knows it
    table   what is bound to the slot of that name
    select  the SELECT over that slot that the name must stand for instead; None: the slot itself
    shown   what people call it
    """

    name: str
    table: pa.Table
    select: str | None
    shown: str


def serve_sources(sources: Sequence[Source], relations: Mapping[str, Any]) -> list[Served]:
    """Each source of a query with its relation: an iterable of record batches with `schema` and `masked`, or a `pa.Table`.

    Its columns are those of the source's projection, in that order and with the Arrow types of the catalog."""
    served = []
    for source in sources:
        table = source.read.table
        columns = [table.columns[position] for position in source.projection]
        names, types = [column.name for column in columns], [column.type for column in columns]
        served.append(serve(source.name, relations[source.name], names, types, shown=table.name))
    return served


def serve(name: str, relation: Any, names: Sequence[str], types: Sequence[SqlType], *, shown: str) -> Served:
    """`relation` with columns `names` of `types`, to be read under `name`."""
    masked = False
    if isinstance(relation, pa.Table):
        table = relation
    else:
        masked = relation.masked
        table = pa.Table.from_batches(list(relation), relation.schema)
    live = _free(_LIVE, names)
    expected = [*names, live] if masked else list(names)
    assert table.num_columns == len(expected), f"{shown}: {table.schema.names} served for {expected}"
    if not expected:
        return Served(name, pa.table({"nothing": pa.nulls(table.num_rows)}), None, shown)
    table = _labelled(_from_zero(table, types), expected, types)
    casts = any(sql_type.duckdb_cast and sql_type.kind != "JSON" for sql_type in types)
    if not masked and not casts:
        return Served(name, table, None, shown)
    chosen = ", ".join(_column(column, sql_type) for column, sql_type in zip(names, types, strict=True)) or "NULL AS nothing"
    where = f" WHERE {quoted(live)}" if masked else ""
    return Served(name, table, f"SELECT {chosen} FROM temp.main.{quoted(name)}{where}", shown)


def _free(wanted: str, names: Sequence[str]) -> str:
    """`wanted`, made longer until no column has that name."""
    taken = {name.casefold() for name in names}
    while wanted in taken:
        wanted += "_"
    return wanted


def _from_zero(table: pa.Table, types: Sequence[SqlType]) -> pa.Table:
    """DuckDB refuses a STRUCT within a STRUCT that begins at an offset, as a slice does: such chunks are copied."""
    for number, sql_type in enumerate(types):
        if sql_type.kind == "STRUCT" and any(part.kind == "STRUCT" for part in sql_type.parts):
            column = table.column(number)
            chunks = [chunk.take(pa.array(range(len(chunk)))) if chunk.offset else chunk for chunk in column.chunks]
            table = table.set_column(number, table.field(number), pa.chunked_array(chunks, column.type))
    return table


def _labelled(table: pa.Table, names: list[str], types: Sequence[SqlType]) -> pa.Table:
    """`table` with these column names, and with JSON marked as such."""
    json = [number for number, sql_type in enumerate(types) if sql_type.kind == "JSON"]
    if not json:
        return table if table.schema.names == names else table.rename_columns(names)
    fields = [pa.field(name, field.type) for name, field in zip(names, table.schema, strict=True)]
    for number in json:
        fields[number] = fields[number].with_metadata(_JSON)
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields))


def _column(name: str, sql_type: SqlType) -> str:
    if sql_type.duckdb_cast and sql_type.kind != "JSON":
        return f"CAST({quoted(name)} AS {sql_type.sql}) AS {quoted(name)}"
    return quoted(name)
