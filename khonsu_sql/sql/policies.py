"""Which conflict policy a statement writes with, and what that means for its rows.

Called by `core` before a statement runs. The first of statement, table, transaction and session that says something decides. Invariant:
what a policy cannot touch is refused here, by name, before anything is written.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from khonsu_engine.commands import ALL_COLUMNS, ConflictPolicy, Isolation, Operation
from khonsu_engine.mvcc.policies import RowPolicy
from khonsu_engine.reading import StatementPolicy
from khonsu_sql.errors import FeatureNotSupported
from khonsu_sql.sql.bind import normalise
from khonsu_sql.sql.plan import Plan, PointWrite, Statement, WriteFromQuery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from khonsu_engine.schema.catalog import Table
    from khonsu_engine.schema.types import SqlType
    from khonsu_sql.session import Parameters

__all__ = ["refuse_policy", "statement_policy"]

_MIXES = (ConflictPolicy.APPEND, ConflictPolicy.MERGE)


def statement_policy(
    statement: Statement, parameters: Parameters, many: bool, given: ConflictPolicy | None, outer: ConflictPolicy, isolation: Isolation
) -> StatementPolicy | None:
    """None: FAIL. `parameters`: as the user gave them, with `many` sets of them. `given`: by the statement itself; `outer`: by
    transaction or session.

    Raises FeatureNotSupported, ParameterMismatch."""
    plan = _write_of(statement.plan)
    if plan is None:
        refuse_policy(given)
        return None
    policy = given
    if policy is None:
        declared = plan.table.conflict_resolution
        policy = outer if declared is None else ConflictPolicy[declared.upper()]
    if policy is ConflictPolicy.FAIL:
        return None
    if not set(plan.assigned).isdisjoint(plan.table.key_columns):  # a row that moves is a deletion and an insertion: they go together
        if given is not None:
            raise FeatureNotSupported("an UPDATE of the primary key takes no conflict policy", hint="DELETE and INSERT the row instead.")
        return None
    if plan.returning is not None and isolation is Isolation.SERIALIZABLE:  # what is returned has been read
        return None
    known: StatementPolicy | None = statement.policies.get(policy)
    if known is None:
        known = statement.policies[policy] = _made(plan, policy)
    sets: Iterable[Any] = (parameters or ()) if many else (parameters,)
    return _exact_deltas(statement, plan, known, sets) if known.unread else known


def _write_of(plan: Plan) -> WriteFromQuery | None:
    if isinstance(plan, PointWrite):
        return plan.fallback
    return plan if isinstance(plan, WriteFromQuery) else None


def refuse_policy(given: ConflictPolicy | None) -> None:
    """Of a statement that writes no rows. Raises FeatureNotSupported."""
    if given is not None:
        raise FeatureNotSupported("only INSERT, UPDATE and DELETE take a conflict policy")


def _made(plan: WriteFromQuery, policy: ConflictPolicy) -> StatementPolicy:
    table = plan.table
    assigned = _mask(plan.assigned) if plan.operation is Operation.UPDATE else ALL_COLUMNS
    check = _row_check(table, policy) if table.checks and policy in _MIXES else None
    unread = taken = 0
    if policy is ConflictPolicy.MERGE:
        sums = [position for position in plan.assigned if table.columns[position].merge == "sum"]
        unread = _mask(position for position, _ in plan.deltas if position in sums and _is_exact(table.columns[position].type))
        taken = _mask(sums) & ~unread
    elif policy is ConflictPolicy.REPLACE:
        taken = _mask(range(len(table.columns))) & ~assigned
    return StatementPolicy(RowPolicy(policy, table, assigned, None, check), unread, taken)


def _mask(positions: Iterable[int]) -> int:
    return sum({1 << position for position in positions})


def _is_exact(sql_type: SqlType) -> bool:
    """Can what was added be found again, by subtraction? Not with floating-point numbers."""
    return sql_type.is_integer or sql_type.kind == "DECIMAL"


def _exact_deltas(statement: Statement, plan: WriteFromQuery, policy: StatementPolicy, sets: Iterable[Any]) -> StatementPolicy:
    """The policy of an UPDATE with these sets of parameters: a number that is rounded when it is added makes its column one that is read,
    because what it adds depends on what was there."""
    added = [(position, index) for position, index in plan.deltas if index is not None and policy.unread >> position & 1]
    if not added:
        return policy
    inexact = 0
    for parameters in sets:
        values = normalise(statement.parameters, parameters)
        inexact |= _mask(position for position, index in added if not _is_added_exactly(plan.table.columns[position].type, values[index]))
    return replace(policy, unread=policy.unread & ~inexact, taken=policy.taken | inexact) if inexact else policy


def _is_added_exactly(sql_type: SqlType, value: Any) -> bool:
    if type(value) is int:
        return -(1 << 63) < value < 1 << 63
    if type(value) is Decimal and sql_type.kind == "DECIMAL" and value.is_finite():
        return -int(value.as_tuple().exponent) <= sql_type.scale
    return value is None


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
