"""NOT NULL, CHECK, primary keys and UNIQUE of the rows a statement writes, and the index rows that follow from them.

Called by `dml` with all rows a statement takes away and adds, once it has read everything; calls the transaction to buffer.
UNIQUE is judged at the end of the statement: what it takes away makes room for what it adds, whatever the order
(`UPDATE t SET id = id + 1`). An index is a table of its own: its rows are derived here and buffered like all others.

Invariants: every check of a statement comes before its first `put`, except for keys that exist already, which `put` finds.
Left out: FOREIGN KEY (issue C), deferred constraints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

import khonsu_engine.errors as engine_errors
from khonsu_engine.commands import ALL_COLUMNS, Key, Operation, Row, TableId, Write
from khonsu_engine.evidence import facts
from khonsu_engine.schema.catalog import Index, Table
from khonsu_engine.schema.types import rows_from_arrow
from khonsu_sql.errors import CheckViolation, NotNullViolation, UniqueViolation

if TYPE_CHECKING:
    import pyarrow as pa

    from khonsu_engine.transaction import LocalTransaction
    from khonsu_sql.sql.context import Context
    from khonsu_sql.sql.query import Evaluator

__all__ = ["Change", "changes_of", "check_batch", "check_not_null", "put_changes", "raise_not_null", "row_at", "unique_violation"]


ROWS_BETWEEN_CHECKS = 4_096
"""How many rows are buffered before somebody looks whether the statement was cancelled."""


class Change(msgspec.Struct):
    """What a statement takes away from and adds to one table (`table`: its id), by key; a key in both is updated.

    `constraint`, `names`, `relation`: the constraint its key stands for, its columns and the base table, for messages.
    """

    table: TableId
    constraint: str
    names: str
    relation: str
    removed: dict[Key, Row]
    added: dict[Key, Row]


# --- the rows by themselves


def check_not_null(table: Table, rows: Iterable[Row], columns: int = ALL_COLUMNS) -> None:
    """Raises NotNullViolation for the first NULL in a column (of the bit mask `columns`) that forbids it."""
    positions = [number for number, column in enumerate(table.columns) if not column.nullable and columns >> number & 1]
    if not positions:
        return
    for row in rows:
        for position in positions:
            if row[position] is None:
                raise_not_null(table, position, row)


def raise_not_null(table: Table, position: int, row: Row) -> NoReturn:
    name = table.columns[position].name
    raise NotNullViolation(
        f'null value in column "{name}" of table "{table.name}" violates not-null constraint',
        detail=_failing(table, row),
        evidence={"table": table.name, "column": name},
    )


def check_batch(table: Table, batch: pa.Table, evaluator: Evaluator, columns: int = ALL_COLUMNS) -> None:
    """Raises CheckViolation for a row of `batch` (all columns of the table) for which a CHECK that reads one of `columns` is false."""
    checks = [check for check in table.checks if not check.columns or any(columns >> position & 1 for position in check.columns)]
    if not checks or batch.num_rows == 0:
        return
    verdicts = evaluator.evaluate([check.expression for check in checks], batch, [column.type for column in table.columns])
    for check, column in zip(checks, verdicts.columns, strict=True):
        position = column.index(False).as_py()
        if position >= 0:
            raise CheckViolation(
                f'new row for table "{table.name}" violates check constraint "{check.name}"',
                detail=_failing(table, row_at(table, batch, position)),
                evidence={"table": table.name, "constraint": check.name},
            )


def row_at(table: Table, batch: pa.Table | pa.RecordBatch, position: int) -> Row:
    """One row of a batch of all columns, as canonical values."""
    return rows_from_arrow([column.type for column in table.columns], batch.slice(position, 1))[0]


def _failing(table: Table, row: Row) -> str:
    shown = ", ".join(_shown(value) for value, column in zip(row, table.columns, strict=False) if not column.hidden)
    return f"Failing row contains ({shown})."


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 64 else text[:63] + "…"


# --- the rows among each other


def changes_of(table: Table, removed: Sequence[Row], added: Sequence[Row]) -> list[Change]:
    """The changes of the table and of its indexes. Raises UniqueViolation when two of `added` have the same key."""
    names = [column.name for column in table.columns]
    base = Change(table.id, table.key_name, ", ".join(names[position] for position in table.key_columns), table.name, {}, {})
    _fill(base, table.key_of, None, removed, added)
    changes = [base]
    for index in table.indexes:
        change = Change(index.id, index.name, ", ".join(names[position] for position in index.columns), table.name, {}, {})
        _fill_index(change, table, index, removed, added)
        changes.append(change)
    return changes


def _fill(change: Change, key_of: Any, row_of: Any, removed: Sequence[Row], added: Sequence[Row]) -> None:
    for row in removed:
        change.removed[key_of(row)] = row if row_of is None else row_of(row)
    into = change.added
    for row in added:
        key = key_of(row)
        if key in into:
            raise unique_violation(change, key)
        into[key] = row if row_of is None else row_of(row)


def _fill_index(change: Change, table: Table, index: Index, removed: Sequence[Row], added: Sequence[Row]) -> None:
    """The entries of rows without a NULL among the indexed values; entries that stay the same are no change."""
    row_of = itemgetter(*index.columns, *table.key_columns)

    def indexed(rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if all(row[position] is not None for position in index.columns)]

    _fill(change, itemgetter(*index.columns), row_of, indexed(removed), indexed(added))
    for key in [key for key, entry in change.added.items() if change.removed.get(key) == entry]:
        del change.added[key], change.removed[key]


def put_changes(changes: Iterable[Change], context: Context) -> None:
    """Buffer `changes`. Raises UniqueViolation for an added key that exists and is not taken away by the same statement."""
    for change in changes:
        try:
            _put(change, context.transaction, context.check_cancelled)
        except engine_errors.UniqueViolation as error:
            raise unique_violation(change, error.evidence["key"], error.evidence) from error


def _put(change: Change, transaction: LocalTransaction, check_cancelled: Callable[[], None]) -> None:
    put, table, base = transaction.put, change.table, transaction.read_timestamp
    removed, added = change.removed, change.added
    for number, (key, before) in enumerate(removed.items()):
        if number % ROWS_BETWEEN_CHECKS == 0:
            check_cancelled()
        row = added.get(key)
        if row is None:
            put(table, Write(Operation.DELETE, key, None, before, base))
        else:
            put(table, Write(Operation.UPDATE, key, row, before, base))
    for number, (key, row) in enumerate(added.items()):
        if number % ROWS_BETWEEN_CHECKS == 0:
            check_cancelled()
        if key not in removed:
            put(table, Write(Operation.INSERT, key, row, None, base))


def unique_violation(change: Change, key: Key, known: Mapping[str, Any] | None = None) -> UniqueViolation:
    """`known`: the engine's evidence; without it two rows of one statement have that key."""
    shown = ", ".join(_shown(part) for part in key) if isinstance(key, tuple) else _shown(key)
    return UniqueViolation(
        f'duplicate key value violates unique constraint "{change.constraint}"',
        detail=f"Key ({change.names})=({shown}) already exists in table {change.relation}.",
        evidence={**(known or facts("unique", (change.relation, None), (key,))), "constraint": change.constraint, "key": key},
    )
