"""Plans run: dispatch over `Plan` inside one open transaction.

Called by `core` with a bound statement; calls `context` (queries), `dml`, `ddl` and `explain`, or the compiled function of a point
plan. Knows nothing of autocommit, failed transactions or durability: that is `core`.

Invariant: point plans run only while the setting `point_path` is on; their fallback means the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from khonsu_engine.errors import InvalidValue, UniqueViolation
from khonsu_sql.errors import ProgrammingError, ReadOnlySqlTransaction
from khonsu_sql.session import Parameters, Result
from khonsu_sql.sql.bind import normalise
from khonsu_sql.sql.context import Context, run_query
from khonsu_sql.sql.ddl import alter_table, create_table, drop_tables
from khonsu_sql.sql.dml import run_write
from khonsu_sql.sql.explain import explain
from khonsu_sql.sql.locked_query import lock_tables, run_locked, run_point_locked
from khonsu_sql.sql.many import run_many
from khonsu_sql.sql.plan import (
    AlterTable,
    CreateTable,
    DropTable,
    Explain,
    LockedQuery,
    LockTable,
    ParameterSpec,
    Plan,
    PointLock,
    PointRead,
    PointWrite,
    Query,
    Statement,
    WriteFromQuery,
)
from khonsu_sql.sql.point_code import Fallback

__all__ = ["execute", "execute_many", "writes"]

SETS_BETWEEN_CHECKS = 64
"""How many parameter sets run before somebody looks whether the statement was cancelled."""


def writes(plan: Plan) -> bool:
    """Does a transaction that begins with this statement begin by writing, or by locking?"""
    locking = LockedQuery | PointLock | LockTable
    return isinstance(plan, WriteFromQuery | PointWrite | CreateTable | AlterTable | DropTable | locking)


def execute(statement: Statement, parameters: Parameters, context: Context) -> Result:
    """Run `statement` once. Raises `khonsu_sql.errors.Error` or `EngineError`."""
    _refuse_in_read_only(statement.plan, context)
    return _run(statement.plan, normalise(statement.parameters, parameters), context)


def execute_many(statement: Statement, parameters: Parameters, context: Context) -> Result:
    """Run `statement` for each set of `parameters`, in order; the row counts add up. INSERT, UPDATE and DELETE only."""
    _refuse_in_read_only(statement.plan, context)
    plan = statement.plan
    if not isinstance(plan, WriteFromQuery | PointWrite):
        raise ProgrammingError("executemany runs INSERT, UPDATE or DELETE", hint="Use execute for everything else.")
    sets = _sets(statement.parameters, parameters or ())
    if isinstance(plan, PointWrite):
        if context.settings.point_path and plan.columns is None and len(sets) < context.database.limits.bulk_rows_min:
            return Result(None, _run_points(plan, sets, context), plan.operation.name)
        plan = plan.fallback
    return run_many(plan, sets, context)


def _run_points(plan: PointWrite, sets: Sequence[Sequence[Any]], context: Context) -> int:
    """Set by set; the rows they changed."""
    count = 0
    for number, values in enumerate(sets):
        if number % SETS_BETWEEN_CHECKS == 0:
            context.check_cancelled()
        count += _run(plan, values, context).rowcount
    return count


def _sets(spec: ParameterSpec, given: Iterable[Any]) -> list[Sequence[Any]]:
    if spec.style == "named":
        return [normalise(spec, values) for values in given]
    count = spec.count
    return [values if values.__class__ is tuple and len(values) == count else normalise(spec, values) for values in given]


def _run(plan: Plan, values: Sequence[Any], context: Context) -> Result:
    match plan:
        case PointRead() | PointWrite() | PointLock() if not context.settings.point_path:
            return _run(plan.fallback, values, context)
        case PointRead() | PointWrite() | PointLock():
            try:
                return _run_point(plan, values, context)
            except (Fallback, InvalidValue, UniqueViolation):
                return _run(plan.fallback, values, context)
        case Query():
            return run_query(plan, values, context)
        case LockedQuery():
            return run_locked(plan, values, context)
        case WriteFromQuery():
            return run_write(plan, values, context)
        case CreateTable():
            return create_table(plan, context.transaction)
        case AlterTable():
            return alter_table(plan, context.transaction)
        case DropTable():
            return drop_tables(plan, context.transaction)
        case LockTable():
            return lock_tables(plan, context)
        case Explain():
            return explain(plan.plan, values, context)
    raise AssertionError(f"{type(plan).__name__} is the session's to run")


def _run_point(plan: PointRead | PointWrite | PointLock, values: Sequence[Any], context: Context) -> Result:
    """The compiled function. It has no effect when it raises, but for locks."""
    if isinstance(plan, PointLock):
        return run_point_locked(plan, values, context)
    if isinstance(plan, PointRead):
        rows = plan.run(context.transaction, values)
        return Result(plan.columns, len(rows), "SELECT", rows)
    count, row = plan.run(context.transaction, values)
    rows = None if plan.columns is None else [row] if count else []
    return Result(plan.columns, count, plan.operation.name, rows)


def _refuse_in_read_only(plan: Plan, context: Context) -> None:
    if not context.transaction.read_only:
        return
    match plan:
        case WriteFromQuery(operation=operation) | PointWrite(operation=operation):
            what = operation.name
        case LockedQuery(kind=kind) | PointLock(fallback=LockedQuery(kind=kind)):
            what = f"SELECT {kind}"
        case CreateTable():
            what = "CREATE TABLE"
        case AlterTable():
            what = "ALTER TABLE"
        case DropTable():
            what = "DROP TABLE"
        case _:
            return
    raise ReadOnlySqlTransaction(f"cannot execute {what} in a read-only transaction")
