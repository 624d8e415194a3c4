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
from khonsu_engine.mvcc.predicates import Predicate
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import SqlType
from khonsu_sql.sql.shape import Shape

__all__ = [
    "AlterTable",
    "CreateTable",
    "DropTable",
    "Explain",
    "ParameterRef",
    "ParameterSpec",
    "Plan",
    "PlannedRead",
    "PointRead",
    "PointWrite",
    "Query",
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


class WriteFromQuery(msgspec.Struct, frozen=True):
    """INSERT, UPDATE or DELETE of what a query returns.

    INSERT: the query yields every visible column of the table in catalog order, defaults filled in, cast to the column's type.
    UPDATE: the key columns, then the new value of each column of `assigned`, cast. DELETE: the key columns.
    `returning`: a query over one source named `returning.sources[0].name`, served with the affected rows (new rows for
    INSERT and UPDATE, old ones for DELETE). `deltas`: the assigned columns to which UPDATE only adds, and looks at nowhere else.
    """

    operation: Operation
    table: Table
    query: Query
    assigned: tuple[int, ...] = ()
    returning: Query | None = None
    deltas: tuple[int, ...] = ()


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


class TransactionControl(msgspec.Struct, frozen=True):
    """`action`: begin, commit, rollback, savepoint, release, rollback to. Options None = the session's default. `name`: of a savepoint."""

    action: str
    isolation: Isolation | None = None
    read_only: bool | None = None
    locking: Locking | None = None
    on_conflict: ConflictPolicy | None = None
    name: str = ""


class Setting(msgspec.Struct, frozen=True):
    """SET name = value (`value` given) or SHOW name."""

    name: str
    value: str | None = None


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


Plan = PointRead | PointWrite | Query | WriteFromQuery | CreateTable | AlterTable | DropTable | TransactionControl | Setting | Explain


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
