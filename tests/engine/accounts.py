"""One small table for the tests of the engine as a whole, and what they all do with it.

`accounts (id BIGINT PRIMARY KEY, balance BIGINT, note VARCHAR)`; a helper that writes takes the transaction it writes in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from khonsu_engine.columns.segment import segment_schema
from khonsu_engine.commands import EVERY_KEY, Isolation, KeyRange, Operation, Outcome, Write
from khonsu_engine.database import Database
from khonsu_engine.limits import Limits
from khonsu_engine.mvcc.predicates import ALL, Predicate
from khonsu_engine.protocols import Store
from khonsu_engine.schema.catalog import Column, Table
from khonsu_engine.schema.types import parse_type
from khonsu_engine.storage.keys import log_key
from khonsu_engine.transaction import LocalTransaction

LEVELS = (Isolation.SERIALIZABLE, Isolation.REPEATABLE_READ)

NEVER_BY_ITSELF = Limits(
    memtable_versions_max=1 << 40,
    memtable_bytes_max=1 << 40,
    segment_rows_max=16,
    chunk_rows_max=4,
    version_chunk_rows=4,
    overlap_max=2,
    checkpoint_commits=1 << 40,
    checkpoint_bytes=1 << 40,
    bulk_rows_min=4,
    bulk_run_rows=8,
    sync_delay_seconds=0.001,
)
"""Tiny segments, and no checkpoint but those the test asks for: store calls come in the same order every time."""


def shape(name: str = "accounts") -> Table:
    """The table as it is handed to `create_table`."""
    bigint = parse_type("BIGINT")
    columns = (Column("id", bigint, nullable=False), Column("balance", bigint), Column("note", parse_type("VARCHAR")))
    return Table(0, "main", name, 0, columns, (0,), f"{name}_pkey")


def finish(transaction: LocalTransaction) -> Outcome:
    """Commit and wait until that is durable."""
    result = transaction.commit()
    if isinstance(result, Outcome):
        return result
    assert result.wait(30.0), "no sync came"
    assert result.outcome is not None or transaction.outcome is not None
    return result.outcome or transaction.outcome  # type: ignore[return-value]


def create(database: Database, name: str = "accounts", balances: Mapping[int, int] | None = None) -> Table:
    """The table with these rows, durably."""
    transaction = database.begin(writes_first=True)
    table = transaction.create_table(shape(name))
    for key, balance in (balances or {}).items():
        insert(transaction, table, key, balance)
    finish(transaction)
    known = database.catalog.find(name)
    assert known is not None
    return known


def insert(transaction: LocalTransaction, table: Table, key: int, balance: int, note: str | None = None) -> None:
    transaction.put(table.id, Write(Operation.INSERT, key, (key, balance, note), None, transaction.read_timestamp))


def update(transaction: LocalTransaction, table: Table, key: int, balance: int) -> None:
    """Reads the balance first, as `balance = balance + n` does."""
    before = transaction.get(table.id, key, columns=1 << 1)
    assert before is not None, f"no row {key}"
    overwrite(transaction, table, before, balance)


def overwrite(transaction: LocalTransaction, table: Table, before: tuple[Any, ...], balance: int) -> None:
    row = (before[0], balance, before[2])
    transaction.put(table.id, Write(Operation.UPDATE, before[0], row, before, transaction.read_timestamp))


def delete(transaction: LocalTransaction, table: Table, key: int) -> None:
    before = transaction.get(table.id, key)
    assert before is not None, f"no row {key}"
    transaction.put(table.id, Write(Operation.DELETE, key, None, before, transaction.read_timestamp))


def put(transaction: LocalTransaction, table: Table, key: int, balance: int) -> None:
    """Insert or update."""
    if transaction.get(table.id, key) is None:
        insert(transaction, table, key, balance)
    else:
        update(transaction, table, key, balance)


def batch(table: Table, balances: Mapping[int, int]) -> pa.RecordBatch:
    rows = {"id": list(balances), "balance": list(balances.values()), "note": [None] * len(balances)}
    return pa.RecordBatch.from_pydict(rows, schema=segment_schema(table))


def put_bulk(transaction: LocalTransaction, table: Table, balances: Mapping[int, int], *, truncate: bool = False) -> None:
    transaction.put_bulk(table, iter([batch(table, balances)] if balances else []), truncate=truncate)


def got(transaction: LocalTransaction, table: Table, keys: Iterable[int]) -> dict[int, int]:
    """id -> balance by point reads."""
    rows = {key: transaction.get(table.id, key) for key in keys}
    return {key: row[1] for key, row in rows.items() if row is not None}


def listed(transaction: LocalTransaction, table: Table, range: KeyRange = EVERY_KEY, predicate: Predicate = ALL) -> dict[int, int]:
    """id -> balance by an ordered range."""
    rows = list(transaction.rows(table.id, range, predicate))
    assert [key for key, _ in rows] == sorted({key for key, _ in rows}), "not in order, or a key twice"
    return {row[0]: row[1] for _, row in rows}


def scanned(transaction: LocalTransaction, table: Table, range: KeyRange = EVERY_KEY, predicate: Predicate = ALL) -> dict[int, int]:
    """id -> balance by Arrow batches."""
    found: dict[int, int] = {}
    for part in transaction.scan(table.id, (0, 1), range, predicate):
        keys, balances = part.column(0).to_pylist(), part.column(1).to_pylist()
        live = part.column(2).to_pylist() if part.num_columns == 3 else [True] * part.num_rows
        for key, balance, alive in zip(keys, balances, live, strict=True):
            if alive:
                assert key not in found, f"key {key} twice in one scan"
                found[key] = balance
    return found


def content(database: Database, table: Table) -> dict[int, int]:
    """id -> balance of a fresh snapshot, by all three ways to read, which must agree."""
    transaction = database.begin(read_only=True)
    found = listed(transaction, table)
    assert scanned(transaction, table) == found
    assert got(transaction, table, found) == found
    transaction.rollback()
    return found


def contents(database: Database) -> dict[str, dict[int, int]]:
    """Table name -> content, of every table of the catalog."""
    return {table.name: content(database, table) for table in database.catalog.tables.values()}


def record_of(store: Store, index: int) -> bytes | None:
    """The log record of that commit."""
    return store.get(log_key(index))
