"""Keyed batches and entries for other readers: as rows, and the content of one, in any transaction of the engine.

Called by SQL. What is read is recorded as any read is. A transaction that is no `Work` has the moment its id was made at.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from khonsu_engine.columns.scan import LIVE as VISIBLE
from khonsu_engine.commands import KeyRange
from khonsu_engine.keyed.batch_codec import decode_batch
from khonsu_engine.keyed.expiry import moment_at
from khonsu_engine.keyed.heads import is_live
from khonsu_engine.keyed.shapes import EXPIRES_AT, LIVE, REVISION, SCHEMA, shape_of
from khonsu_engine.mvcc.clock import milliseconds_of
from khonsu_engine.mvcc.predicates import Predicate
from khonsu_engine.schema.catalog import CATALOG_TABLE, Table
from khonsu_engine.schema.types import arrow_schema

if TYPE_CHECKING:
    from khonsu_engine.transaction import LocalTransaction

__all__ = ["content_of", "live_rows"]


def moment_of_transaction(transaction: LocalTransaction) -> datetime:
    """One for the whole transaction: when its id was made."""
    return moment_at(milliseconds_of(int.from_bytes(transaction.id[:8], "big")) / 1_000)


def _table(transaction: LocalTransaction, name: str) -> Table | None:
    """The table, if it has been made; that it has not is a read, too."""
    table = transaction.catalog.find(name, SCHEMA)
    if table is None:
        transaction.get(CATALOG_TABLE, (SCHEMA, name))
    return table


def live_rows(
    transaction: LocalTransaction, name: str, columns: Sequence[int], key_range: KeyRange, predicate: Predicate, read_columns: int
) -> pa.Table:
    """At least the matching rows of `batches` or `entries` that have a value now: these columns."""
    table = _table(transaction, name)
    shape = shape_of(name)
    if table is None:
        wanted = [shape.columns[column] for column in columns]
        return arrow_schema([column.type for column in wanted], [column.name for column in wanted]).empty_table()
    asked = [*columns, LIVE, EXPIRES_AT]
    scan = transaction.scan(table.id, asked, key_range, predicate, read_columns=read_columns | 1 << REVISION)
    moment = pa.scalar(moment_of_transaction(transaction), shape.columns[EXPIRES_AT].type.arrow)
    names = [str(number) for number in range(len(asked))]
    found = []
    for batch in scan:
        live, expires_at = batch.column(len(columns)), batch.column(len(columns) + 1)
        kept = pc.and_(live.is_valid(), pc.fill_null(pc.greater(expires_at, moment), True))
        if batch.schema.names[-1] == VISIBLE:
            kept = pc.and_(kept, batch.column(batch.num_columns - 1))
        rows = pa.RecordBatch.from_arrays(batch.columns[: len(asked)], names=names).filter(kept)
        found.append(pa.RecordBatch.from_arrays(rows.columns[: len(columns)], schema=_fields(scan.schema, len(columns))))
    return pa.Table.from_batches(found, _fields(scan.schema, len(columns)))


def _fields(schema: pa.Schema, count: int) -> pa.Schema:
    return pa.schema([schema.field(number) for number in range(count)])


def content_of(transaction: LocalTransaction, key: str) -> pa.RecordBatch | None:
    """The batch under `key`, or None."""
    batches, contents = _table(transaction, "batches"), transaction.catalog.find("batch_contents", SCHEMA)
    if batches is None or contents is None:
        return None
    head = transaction.get(batches.id, key, columns=1 << REVISION)
    if head is None or not is_live(head, moment_of_transaction(transaction)):
        return None
    row = transaction.peek(contents.id, (key, head[REVISION]))
    assert row is not None, "a live head has its content"
    return decode_batch(row[3], key)
