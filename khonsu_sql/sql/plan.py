"""Waist 1: what a statement means, as an immutable value with no SQL text in it but the DuckDB query it may contain.

Made by `sql.bind` (from the syntax tree and the catalog of one snapshot), cached by text, executed by `sql.execute`.
A plan depends on the tables in `tables`; it stands as long as the catalog still holds those very `Table` values.
A predicate in a plan may hold `ParameterRef` in place of a value; `sql.bind.instantiate` fills it in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from khonsu_engine.commands import ConflictPolicy, Isolation, Operation
from khonsu_engine.locks import Locking
from khonsu_engine.mvcc.lock_table import LockMode
from khonsu_engine.mvcc.predicates import Predicate
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import SqlType
from khonsu_sql.sql.shape import Expression, Shape

__all__ = [
    "AlterTable",
    "CreateTable",
    "DropTable",
    "Explain",
    "LockTable",
    "LockedQuery",
    "ParameterRef",
    "ParameterSpec",
    "Plan",
    "PlannedRead",
    "PointLock",
    "PointRead",
    "PointWrite",
    "Query",
    "SPARE_ROWS",
    "RowLock",
    "Setting",
    "Source",
    "Statement",
    "TableOption",
    "TransactionControl",
    "WriteFromQuery",
]


class ParameterRef(msgspec.Struct, frozen=True, gc=False):
    """The `index`-th value of the normalised parameter list (0-based), converted to `cast` if the text says so and compared
    with a column of `type`: `predicates.instantiate` does both, or widens the predicate."""

    index: int
    type: SqlType
    cast: SqlType | None = None


class ParameterSpec(msgspec.Struct, frozen=True):
    """How a statement names its parameters. `style`: none, qmark (?), numeric ($1), named (:name or $name).

    `names`: for named style the parameter names in order of first use; `count` values are expected.
    """

    style: str = "none"
    names: tuple[str, ...] = ()
    count: int = 0


class PlannedRead(msgspec.Struct, frozen=True):
    """What a statement reads of one table: the columns as a bit mask and a filter that at least covers it."""

    table: Table
    columns: int
    predicate: Predicate


class Source(msgspec.Struct, frozen=True):
    """One occurrence of a base table or system view in a DuckDB query: `name` stands in the query's text for it (unique in the query).

    The relation served under that name has the table's columns of `projection` (positions, in this order) under their own
    names, typed as the catalog says.
    """

    name: str
    read: PlannedRead
    projection: tuple[int, ...]


class Query(msgspec.Struct, frozen=True):
    """A SELECT for DuckDB. `sql` names its sources by `Source.name` and its parameters `$1`… (`parameters[n-1]` is the index
    into the normalised list). Volatile functions are DuckDB's own. `columns`: names the user sees.
    """

    sql: str
    sources: tuple[Source, ...]
    parameters: tuple[int, ...] = ()
    columns: tuple[str, ...] | None = None


SPARE_ROWS = 16
"""So many more rows than are wanted SKIP LOCKED looks at first."""


class RowLock(msgspec.Struct, frozen=True):
    """The rows of one source of a query are to be locked. `source` counts the query's; `policy`: wait, nowait or skip (locked rows)."""

    source: int
    table: Table
    mode: LockMode
    policy: str


class LockedQuery(msgspec.Struct, frozen=True):
    """SELECT … FOR UPDATE or FOR SHARE.

    `query`: its last columns are the keys of the rows to be locked, the key columns of the tables of `locks`, in this order; the user sees
    those before. With SKIP LOCKED it has no LIMIT and OFFSET: they are here, to count rows that are free, and `first` is the query with the
    limit `most`, which is probably enough, if that is known. `kind`: FOR UPDATE, FOR SHARE, …; `text`: the clauses, for people.
    `covers`: does it return all rows that its conditions mean?
    """

    query: Query
    locks: tuple[RowLock, ...]
    kind: str
    text: str
    covers: bool
    limit: Expression | None = None
    offset: Expression | None = None
    first: Query | None = None
    most: int | None = None

    @property
    def skips(self) -> bool:
        """Is SKIP LOCKED said of a table?"""
        return any(lock.policy == "skip" for lock in self.locks)

    @property
    def key_columns(self) -> int:
        """How many columns at the end are not the user's."""
        return sum(len(lock.table.key_columns) for lock in self.locks)


class WriteFromQuery(msgspec.Struct, frozen=True):
    """INSERT, UPDATE or DELETE of what a query returns.

    INSERT: the query yields every visible column of the table in catalog order, defaults filled in, cast to the column's type.
    UPDATE: the key columns, then the new value of each column of `assigned`, cast. DELETE: the key columns.
    `returning`: a query over one source named `returning.sources[0].name`, served with the affected rows (new rows for
    INSERT and UPDATE, old ones for DELETE). `deltas`: the assigned columns to which UPDATE only adds, and looks at nowhere
    else, each with what it adds: the index of a parameter, or None for a literal the column holds exactly.
    """

    operation: Operation
    table: Table
    query: Query
    assigned: tuple[int, ...] = ()
    returning: Query | None = None
    deltas: tuple[tuple[int, int | None], ...] = ()


class CreateTable(msgspec.Struct, frozen=True):
    """`table.id`, `table.version` and index ids are 0 here; execution assigns them."""

    table: Table
    if_not_exists: bool = False


class DropTable(msgspec.Struct, frozen=True):
    names: tuple[tuple[str, str], ...]
    if_exists: bool = False


class TableOption(msgspec.Struct, frozen=True):
    """An option of a table, or of its `column`. `value` None: reset."""

    column: str | None
    name: str
    value: str | None


class AlterTable(msgspec.Struct, frozen=True):
    schema: str
    name: str
    options: tuple[TableOption, ...]
    if_exists: bool = False


class LockTable(msgspec.Struct, frozen=True):
    """LOCK TABLE. `tables`: what `names` are, once bound."""

    names: tuple[tuple[str, str], ...]
    mode: LockMode
    wait: bool = True
    tables: tuple[Table, ...] = ()


class TransactionControl(msgspec.Struct, frozen=True):
    """`action`: begin, commit, rollback, savepoint, release, rollback to. Options None = the session's default. `name`: of a savepoint."""

    action: str
    isolation: Isolation | None = None
    read_only: bool | None = None
    locking: Locking | None = None
    on_conflict: ConflictPolicy | None = None
    name: str = ""


class Setting(msgspec.Struct, frozen=True):
    """SET name = value (`value` given) or SHOW name. `local`: SET LOCAL, until the transaction ends."""

    name: str
    value: str | None = None
    local: bool = False


class PointRead(msgspec.Struct, frozen=True):
    """A compiled shortcut for a SELECT by key; `fallback` means the same.

    `run(transaction, parameters)` -> list of row tuples. `alone(state, parameters)`: the same on the last durable state, without a
    transaction; None: there is no such function. Both may raise `point_code.Fallback` or InvalidValue: then the fallback runs.
    `columns`: the `session.ColumnInfo`s of the result. `names`: of the parameters in order, when they are named.
    """

    run: Callable[..., Any]
    alone: Callable[..., Any] | None
    columns: tuple[Any, ...]
    description: str
    fallback: Query
    names: tuple[str, ...] | None = None


class PointLock(msgspec.Struct, frozen=True):
    """A compiled shortcut for SELECT … FOR UPDATE or FOR SHARE by key; `fallback` means the same.

    `run(transaction, parameters)` -> a list of (row, key of each lock in turn), read and not locked yet; with SKIP LOCKED more of them
    than are wanted, `fallback.most` at most (None: all there are). The rest as in `PointRead`.
    """

    run: Callable[..., Any]
    columns: tuple[Any, ...]
    description: str
    fallback: LockedQuery
    names: tuple[str, ...] | None = None


class PointWrite(msgspec.Struct, frozen=True):
    """A compiled shortcut for INSERT of values, UPDATE and DELETE by key; `fallback` means the same.

    `run(transaction, parameters)` -> (row count, the RETURNING row or None). `alone(database, connection name, parameters)` ->
    (did the row change, ticket or None): the statement as a transaction of its own. `columns`: of RETURNING, else None.
    `names` as above.
    """

    run: Callable[..., Any]
    alone: Callable[..., Any] | None
    operation: Operation
    columns: tuple[Any, ...] | None
    description: str
    fallback: WriteFromQuery
    names: tuple[str, ...] | None = None


class Explain(msgspec.Struct, frozen=True):
    plan: Plan


Plan = (
    PointRead
    | PointLock
    | PointWrite
    | Query
    | LockedQuery
    | WriteFromQuery
    | CreateTable
    | AlterTable
    | DropTable
    | LockTable
    | TransactionControl
    | Setting
    | Explain
)


class Statement(msgspec.Struct, frozen=True, dict=True):
    """One statement of a script with its plan, its parameters and the catalog tables it depends on.

    `shape`: what a simple statement says, for the point path's compiler; None when it is not simple.
    `policies`: the `StatementPolicy` of each conflict policy it was run with.
    """

    plan: Plan
    parameters: ParameterSpec
    tables: tuple[Table, ...] = ()
    shape: Shape | None = None
    policies: dict[ConflictPolicy, Any] = msgspec.field(default_factory=dict)
