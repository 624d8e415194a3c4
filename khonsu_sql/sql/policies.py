"""Which conflict policy a statement writes with, and what that means for its rows.

Called by `core` before a statement runs. The first of statement, table, transaction and session that says something decides. Invariant:
what a policy cannot touch is refused here, by name, before anything is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from khonsu_engine.commands import ALL_COLUMNS, ConflictPolicy, Isolation, Operation
from khonsu_engine.mvcc.policies import RowPolicy
from khonsu_engine.reading import StatementPolicy
from khonsu_sql.errors import FeatureNotSupported
from khonsu_sql.sql.plan import Plan, PointWrite, Statement, WriteFromQuery

if TYPE_CHECKING:
    from collections.abc import Callable

    from khonsu_engine.schema.catalog import Table

__all__ = ["statement_policy"]

_MIXES = (ConflictPolicy.APPEND, ConflictPolicy.MERGE)


def statement_policy(
    statement: Statement, given: ConflictPolicy | None, outer: ConflictPolicy, isolation: Isolation
) -> StatementPolicy | None:
    """None: FAIL. `given`: by the statement itself; `outer`: by transaction or session. Raises FeatureNotSupported."""
    plan = _write_of(statement.plan)
    if plan is None:
        if given is not None:
            raise FeatureNotSupported("only INSERT, UPDATE and DELETE take a conflict policy")
        return None
    policy = given
    if policy is None:
        declared = plan.table.conflict_resolution
        policy = outer if declared is None else ConflictPolicy[declared.upper()]
    if policy is ConflictPolicy.FAIL:
        return None
    if plan.returning is not None and isolation is Isolation.SERIALIZABLE:  # what is returned has been read
        return None
    known: StatementPolicy | None = statement.policies.get(policy)
    if known is None:
        known = statement.policies[policy] = _made(plan, policy)
    return known


def _write_of(plan: Plan) -> WriteFromQuery | None:
    if isinstance(plan, PointWrite):
        return plan.fallback
    return plan if isinstance(plan, WriteFromQuery) else None


def _made(plan: WriteFromQuery, policy: ConflictPolicy) -> StatementPolicy:
    table = plan.table
    assigned = sum({1 << position for position in plan.assigned}) if plan.operation is Operation.UPDATE else ALL_COLUMNS
    check = _row_check(table, policy) if table.checks and policy in _MIXES else None
    unread = 0
    if policy is ConflictPolicy.MERGE:
        unread = sum(1 << position for position in plan.deltas if table.columns[position].merge == "sum")
    return StatementPolicy(RowPolicy(policy, table, assigned, None, check), unread)


def _row_check(table: Table, policy: ConflictPolicy) -> Callable[[Any], str | None]:
    """A function that says which CHECK a row violates. It runs where commits are ordered, so it has to be a compiled one."""
    from khonsu_sql.sql.point_checks import row_check
    from khonsu_sql.sql.point_code import Unsupported

    for check in table.checks:
        try:
            row_check(table, [check])
        except Unsupported:
            raise FeatureNotSupported(
                f'conflict policy {policy.name} on table "{table.name}" is not supported: '
                f'its check constraint "{check.name}" cannot be judged where commits are ordered',
                hint="Conditions that compare columns and constants can; or use FAIL, IGNORE or REPLACE.",
            ) from None
    return row_check(table, table.checks)
