"""What a statement runs with, and the two ends of every query: the relations it reads and the result it becomes.

Called by `execute`, `dml`, `ingest` and `explain`; calls the transaction (for scans), `system` (for views of the database itself) and
the evaluator (DuckDB).

Invariants: the scans of a query are made, and so its snapshot pinned and its reads recorded, *before* DuckDB is called; a result
that streams keeps them, so that neither COMMIT nor later writes touch it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from khonsu_engine.commands import EVERY_KEY, KeyRange
from khonsu_engine.mvcc.key_ranges import key_range
from khonsu_engine.mvcc.predicates import Predicate
from khonsu_engine.schema.catalog import Table
from khonsu_sql.session import Result
from khonsu_sql.sql.bind import instantiate
from khonsu_sql.sql.plan import Query, Source
from khonsu_sql.sql.system import is_stored, is_view, read_stored, read_view

if TYPE_CHECKING:
    import pyarrow as pa

    from khonsu_engine.columns.scan import Scan
    from khonsu_engine.database import Database
    from khonsu_engine.transaction import LocalTransaction
    from khonsu_sql.sql.query import Evaluated, Evaluator
    from khonsu_sql.sql.settings import Settings

__all__ = ["Context", "Relations", "keys_of", "relations_of", "result_of", "run_query", "scan_of"]


@dataclass(slots=True)
class Context:
    """What one statement runs with. `check_cancelled` raises QueryCanceled once `cancel()` was called. `locks_ranges`: the transaction was
    begun as PESSIMISTIC, so what it locks for reading are ranges, too."""

    database: Database
    transaction: LocalTransaction
    evaluator: Evaluator
    settings: Settings
    check_cancelled: Callable[[], None]
    locks_ranges: bool = False


Relations = dict[str, Any]
"""Source name -> what DuckDB reads under it: a `Scan`, or a `pa.Table`."""


def relations_of(sources: Sequence[Source], values: Sequence[Any], context: Context, recorded: Container[str] = ()) -> Relations:
    """A scan for each source, its read recorded, but for those `recorded` in another way; for a system view what it shows now, the same
    wherever the statement names it."""
    shown: dict[str, pa.Table] = {}
    return {source.name: _relation(source, values, shown, context, source.name in recorded) for source in sources}


def _relation(source: Source, values: Sequence[Any], shown: dict[str, pa.Table], context: Context, recorded: bool) -> Any:
    read = source.read
    if not is_view(read.table):
        return scan_of(source, values, context, recorded=recorded)
    if is_stored(read.table):
        predicate = instantiate(read.predicate, values)
        keys = keys_of(read.table, predicate)
        return read_stored(context.transaction, read.table, source.projection, keys, predicate, read.columns)
    return _shown(source, shown, context)


def _shown(source: Source, shown: dict[str, pa.Table], context: Context) -> pa.Table:
    """The columns of a system view, which is read once and kept in `shown`."""
    table = source.read.table
    if table.name not in shown:
        shown[table.name] = read_view(table, context.database)
    return shown[table.name].select(list(source.projection))


def scan_of(source: Source, values: Sequence[Any], context: Context, *, recorded: bool = False) -> Scan:
    """Its rows; the read is recorded, unless it is `recorded` in another way."""
    read = source.read
    predicate = instantiate(read.predicate, values)
    keys = keys_of(read.table, predicate)
    return context.transaction.scan(read.table.id, source.projection, keys, predicate, read_columns=read.columns, recorded=recorded)


def keys_of(table: Table, predicate: Predicate) -> KeyRange:
    """The range of keys the filter allows, if the key's types are ordered in SQL as their values are."""
    if all(table.columns[position].type.sql_ordered for position in table.key_columns):
        return key_range(predicate, table.key_columns)
    return EVERY_KEY


def run_query(query: Query, values: Sequence[Any], context: Context) -> Result:
    """A SELECT: as rows, or, beyond `stream_rows_min` of them, as a reader that holds its snapshot."""
    relations = relations_of(query.sources, values, context)
    return result_of(context.evaluator.run(query, values, relations, rows_max=context.settings.stream_rows_min))


def result_of(evaluated: Evaluated) -> Result:
    rows = evaluated.rows
    return Result(evaluated.columns, -1 if rows is None else len(rows), "SELECT", rows, evaluated.batches)
