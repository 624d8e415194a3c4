"""What becomes of a collision: FAIL, IGNORE, REPLACE, APPEND, MERGE.

A collision is a row somebody wrote whose newest committed version is newer than the one the write was based on. It is judged where
commits are ordered (`resolution`), against that newest version. A core: values in, values out; no clock, no I/O.

Invariants: `decided` never changes a key; a row made of both sides is checked again (`RowPolicy.check`) before anything is applied; what
no rule covers is a conflict, as under FAIL.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal
from functools import cached_property
from math import isfinite
from typing import Any

import msgspec

from khonsu_engine.commands import ConflictPolicy, Operation, Row, Timestamp, Write
from khonsu_engine.errors import CheckViolation
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.sql_type import SqlType

__all__ = ["CONFLICT", "MERGE_RULES", "RowPolicy", "decided", "merge_rule_fits", "policy_of_both"]


class RowPolicy(msgspec.Struct, frozen=True, dict=True):
    """The policy of one buffered row.

    `table`: the base table's schema. `assigned`: the columns written, as a bit mask (INSERT and DELETE: all). `combine`: instead of the
    rules of SQL rows, (before, mine, theirs) -> the new row, or None for a conflict; it also makes the row of REPLACE.
    `check`: a row -> the name of the CHECK it violates, or None; it runs where commits are ordered, so it takes microseconds.
    """

    policy: ConflictPolicy
    table: Table
    assigned: int
    combine: Callable[[Row | None, Row, Row | None], Row | None] | None = None
    check: Callable[[Row], str | None] | None = None

    @cached_property
    def keys(self) -> int:
        """The key columns, as a bit mask."""
        return sum(1 << position for position in self.table.key_columns)

    def with_assigned(self, assigned: int) -> RowPolicy:
        """The same for more columns."""
        if assigned | self.assigned == self.assigned:
            return self
        return msgspec.structs.replace(self, assigned=assigned | self.assigned)


def policy_of_both(earlier: Write, later: Write) -> RowPolicy | None:
    """Of a row written twice: that of both, if it is the same; none of a sum that was deleted in between."""
    one: RowPolicy | None = earlier.policy
    other: RowPolicy | None = later.policy
    if one is None or other is None or one.policy is not other.policy:
        return None
    if one.policy is ConflictPolicy.MERGE and earlier.row is None and earlier.before is not None:
        return None
    return other.with_assigned(one.assigned)


class _Conflict:
    """Nobody's rule covers it."""


_EXACT = Context(prec=80)
CONFLICT = _Conflict()


def decided(policy: RowPolicy, mine: Write, theirs: Row | None, timestamp: Timestamp) -> Write | _Conflict | None:
    """What is written in place of `mine`, now that the newest version of its key is `theirs` (None: a deletion), of `timestamp`.

    None: nothing, theirs stays. CONFLICT: as under FAIL. Raises CheckViolation, NumericOutOfRange."""
    kind = policy.policy
    if mine.row is None and mine.before is None:  # inserted and deleted again: there is nothing to put in its place
        return CONFLICT
    if kind is ConflictPolicy.IGNORE:
        return None
    row = mine.row
    if kind is ConflictPolicy.MERGE and (row is None or theirs is None) and policy.combine is None:
        return CONFLICT
    if row is not None:
        made = _combined(policy, mine.before, row, theirs)
        if made is None:
            return CONFLICT
        row = made
    elif theirs is None:
        return None
    operation = Operation.DELETE if row is None else Operation.INSERT if theirs is None else Operation.UPDATE
    return Write(operation, mine.key, row, theirs, timestamp, policy)


def _combined(policy: RowPolicy, before: Row | None, mine: Row, theirs: Row | None) -> Row | None:
    if policy.combine is not None:
        return policy.combine(before, mine, theirs)
    if theirs is None or policy.policy is ConflictPolicy.REPLACE:
        return mine
    make = _merged if policy.policy is ConflictPolicy.MERGE else _appended
    row = make(policy, before, mine, theirs)
    if row is not None and policy.check is not None and row not in (mine, theirs):
        violated = policy.check(row)
        if violated is not None:
            raise _violation(policy.table, violated, row)
    return row


def _appended(policy: RowPolicy, before: Row | None, mine: Row, theirs: Row) -> Row:
    """The columns I assigned are mine, the others theirs."""
    assigned = policy.assigned
    return tuple([own if assigned >> number & 1 else other for number, (own, other) in enumerate(zip(mine, theirs, strict=True))])


def _merged(policy: RowPolicy, before: Row | None, mine: Row, theirs: Row) -> Row | None:
    """Each column by its rule; without one, mine where only I changed it, theirs where only they did."""
    row = []
    for number, (column, own, other) in enumerate(zip(policy.table.columns, mine, theirs, strict=True)):
        base, rule = None if before is None else before[number], column.merge
        if before is not None and not policy.assigned >> number & 1:
            row.append(other)
        elif rule == "sum" and own is not None and other is not None:
            total = _sum(column.type, base, own, other)
            if isinstance(total, float) and not isfinite(total):  # what was added to infinity cannot be told
                return None
            row.append(total)
        elif _same(own, other) or (before is not None and _same(other, base)):
            row.append(own)
        elif rule is None or rule == "sum":
            return None
        else:
            row.append(_RULES[rule](column.type, base, own, other))
    return tuple(row)


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and one == other)


def _sum(sql_type: SqlType, base: Any, mine: Any, theirs: Any) -> Any:
    """Theirs and my change; without a base value, from 0."""
    if isinstance(theirs, Decimal):
        return sql_type.canonical(_EXACT.add(theirs, mine if base is None else _EXACT.subtract(mine, base)))
    return sql_type.canonical(theirs + (mine if base is None else mine - base))


def _greatest(sql_type: SqlType, base: Any, mine: Any, theirs: Any) -> Any:
    if mine is None or theirs is None:
        return theirs if mine is None else mine
    if mine != mine or theirs != theirs:  # NaN is greater than all
        return mine if mine != mine else theirs
    return max(mine, theirs)


def _least(sql_type: SqlType, base: Any, mine: Any, theirs: Any) -> Any:
    if mine is None or theirs is None:
        return theirs if mine is None else mine
    if mine != mine or theirs != theirs:
        return theirs if mine != mine else mine
    return min(mine, theirs)


def _union(sql_type: SqlType, base: Any, mine: Any, theirs: Any) -> Any:
    """Their elements in their order, then those of mine they lack."""
    if mine is None or theirs is None:
        return theirs if mine is None else mine
    lacking = [element for element in mine if not any(_same(element, other) for other in theirs)]
    return (*theirs, *lacking)


def _last(sql_type: SqlType, base: Any, mine: Any, theirs: Any) -> Any:
    return mine


_RULES: dict[str, Callable[[SqlType, Any, Any, Any], Any]] = {
    "sum": _sum,
    "max": _greatest,
    "min": _least,
    "union": _union,
    "last": _last,
}
MERGE_RULES = tuple(_RULES)
"""The merge rules a column can have."""


def merge_rule_fits(rule: str, sql_type: SqlType) -> bool:
    """Can columns of this type have this rule?"""
    match rule:
        case "sum":
            return sql_type.is_integer or sql_type.kind in ("DECIMAL", "REAL", "DOUBLE")
        case "max" | "min":
            return sql_type.sql_ordered
        case "union":
            return sql_type.kind == "LIST"
    return rule == "last"


def _violation(table: Table, check: str, row: Row) -> CheckViolation:
    shown = ", ".join(_shown(value) for value, column in zip(row, table.columns, strict=True) if not column.hidden)
    return CheckViolation(
        f'row merged for table "{table.name}" violates check constraint "{check}"',
        detail=f"Failing row contains ({shown}).",
        evidence={"table": table.name, "constraint": check},
    )


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 64 else text[:63] + "…"
