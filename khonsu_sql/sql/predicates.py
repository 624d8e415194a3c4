"""Conditions into predicates: exactly where that is possible, never narrower than what they say.

`predicate_of` is called by `pushdown` while a statement is bound; `instantiate` at every execution, to fill in the parameters. Loads
neither sqlglot nor DuckDB. The translation is done in negation normal form, so that everything that cannot be said exactly may
simply be left out of an AND, and makes an OR true.

Invariants: a row for which DuckDB's WHERE is true satisfies the predicate; for `=`, `<>`, `<`, `<=`, `>`, `>=`, IN, BETWEEN, IS [NOT] NULL,
IS [NOT] TRUE/FALSE, AND, OR, NOT over columns, constants and parameters whose values the column's type has, the converse holds too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from khonsu_engine.mvcc.predicates import ALL, All, And, Compare, In, IsNull, Not, Or, Predicate
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import BOOLEAN, SqlType
from khonsu_sql.sql.constants import Inexact, constant_of, value_of
from khonsu_sql.sql.plan import ParameterRef
from khonsu_sql.sql.shape import CastTo, ColumnRef, Constant, Expression, Merged, Operation

__all__ = ["instantiate", "null_rejecting", "predicate_of", "retyped"]

_MIRRORED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_NEGATED = {"=": "<>", "<>": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def predicate_of(expression: Expression, source: int, table: Table) -> Predicate | None:
    """The part of a condition that speaks of `table`, the `source`-th of the statement; None when there is none."""
    return _Reader(source, table).read(expression, False)


class _Reader:
    """Conditions on one table. `negated`: the expression stands under an odd number of NOTs."""

    def __init__(self, source: int, table: Table) -> None:
        self.source = source
        self.table = table

    def read(self, expression: Expression, negated: bool) -> Predicate | None:
        match expression:
            case Operation(name="and" | "or" as name, operands=operands):
                return self._all_of(operands, negated) if (name == "and") is not negated else self._any_of(operands, negated)
            case Operation(name="not", operands=(operand,)):
                return self.read(operand, not negated)
            case Operation(name="is null", operands=(operand,)):
                column = self._column(operand)
                return None if column is None else _negation(IsNull(column), negated)
            case Operation(name="is true" | "is false" as name, operands=(operand,)):
                return self._truth(operand, name == "is true", negated)
            case Operation(name="in", operands=(operand, *values)):
                return self._membership(operand, values, negated)
            case Operation(name="is not distinct from", operands=(left, right)):
                return self._same(left, right, negated)
            case Operation(name=name, operands=(left, right)) if name in _MIRRORED:
                return self._comparison(_NEGATED[name] if negated else name, left, right)
            case ColumnRef() | Merged():
                return self._boolean(expression, not negated)
        return None

    def _all_of(self, operands: Sequence[Expression], negated: bool) -> Predicate | None:
        known = [found for found in (self.read(operand, negated) for operand in operands) if found is not None]
        if len(known) < 2:
            return known[0] if known else None
        return And(tuple(known))

    def _any_of(self, operands: Sequence[Expression], negated: bool) -> Predicate | None:
        known: list[Predicate] = []
        for operand in operands:
            found = self.read(operand, negated)
            if found is None:
                return None
            known.append(found)
        return Or(tuple(known))

    def _column(self, expression: Expression) -> int | None:
        """The column of this table that `expression` is, possibly widened to a larger integer type."""
        match expression:
            case ColumnRef(source=self.source, column=column):
                return column
            case Merged(columns=columns):
                return next((ref.column for ref in columns if ref.source == self.source), None)
            case CastTo(operand=operand, type=target):
                inner = self._column(operand)
                if inner is not None and _keeps_meaning(self.table.columns[inner].type, target):
                    return inner
        return None

    def _type(self, column: int) -> SqlType:
        return self.table.columns[column].type

    def _comparison(self, operator: str, left: Expression, right: Expression) -> Predicate | None:
        column = self._column(left)
        if column is None:
            left, right, operator = right, left, _MIRRORED[operator]
            column = self._column(left)
        if column is None:
            return None
        column_type = self._type(column)
        if not (column_type.sql_equal if operator in ("=", "<>") else column_type.sql_ordered) or column_type.parts:
            return None
        try:
            return Compare(column, operator, constant_of(right, column_type))
        except Inexact:
            return None

    def _membership(self, operand: Expression, values: Sequence[Expression], negated: bool) -> Predicate | None:
        column = self._column(operand)
        if column is None or not self._type(column).sql_equal or self._type(column).parts:
            return None
        try:
            return _negation(In(column, tuple(constant_of(value, self._type(column)) for value in values)), negated)
        except Inexact:
            return None

    def _boolean(self, expression: Expression, wanted: bool) -> Predicate | None:
        column = self._column(expression)
        return Compare(column, "=", wanted) if column is not None and self._type(column) == BOOLEAN else None

    def _truth(self, operand: Expression, wanted: bool, negated: bool) -> Predicate | None:
        """IS [NOT] TRUE and IS [NOT] FALSE: never NULL."""
        if not negated:
            return self.read(operand, not wanted)
        column = self._column(operand)
        other = self._boolean(operand, not wanted)
        return None if column is None or other is None else Or((IsNull(column), other))

    def _same(self, left: Expression, right: Expression, negated: bool) -> Predicate | None:
        """IS [NOT] DISTINCT FROM a constant; parameters may be NULL, which changes the form, so they stay DuckDB's."""
        if self._column(left) is None:
            left, right = right, left
        column = self._column(left)
        if column is None or not isinstance(right, Constant):
            return None
        if right.value is None:
            return _negation(IsNull(column), negated)
        compared = self._comparison("<>" if negated else "=", left, right)
        return compared if compared is None or not negated else Or((IsNull(column), compared))


def _negation(leaf: In | IsNull, negated: bool) -> Predicate:
    return Not(leaf) if negated else leaf


def _keeps_meaning(source: SqlType, target: SqlType) -> bool:
    """Casts under which every comparison gives the same answer and none fails."""
    if source.is_integer and target.is_integer:
        return target.low <= source.low and source.high <= target.high
    return source.kind == target.kind == "VARCHAR" or source == target


# --- execution


def instantiate(predicate: Predicate, values: Sequence[Any]) -> Predicate:
    """`predicate` with its parameters filled in, each converted to its column's type; wider where a value has no exact counterpart."""
    if isinstance(predicate, All):
        return predicate
    filled = _filled(predicate, values)
    return ALL if filled is None else filled


def _filled(predicate: Predicate, values: Sequence[Any]) -> Predicate | None:
    match predicate:
        case Compare(column=column, operator=operator, value=ParameterRef() as reference):
            try:
                return Compare(column, operator, value_of(reference, values))
            except Inexact:
                return None
        case In(column=column, values=listed):
            try:
                return In(column, tuple(value_of(value, values) if type(value) is ParameterRef else value for value in listed))
            except Inexact:
                return None
        case And(operands=operands):
            known = tuple(found for found in (_filled(operand, values) for operand in operands) if found is not None)
            return And(known) if len(known) > 1 else known[0] if known else None
        case Or(operands=operands):
            parts = [_filled(operand, values) for operand in operands]
            return None if None in parts else Or(tuple(part for part in parts if part is not None))
        case Not(operand=operand):
            part = _filled(operand, values)
            return None if part is None else Not(part)
    return predicate


# --- properties


def null_rejecting(predicate: Predicate) -> bool:
    """Is it certain not to be true for a row of NULLs, whatever the parameters?"""
    return _of_nulls(predicate) is not True


def _of_nulls(predicate: Predicate) -> bool | None:
    match predicate:
        case IsNull() | All():
            return True
        case Not(operand=operand):
            value = _of_nulls(operand)
            return None if value is None else not value
        case And(operands=operands):
            found = [_of_nulls(operand) for operand in operands]
            return False if False in found else None if None in found else True
        case Or(operands=operands):
            found = [_of_nulls(operand) for operand in operands]
            return True if True in found else None if None in found else False
    return None


def retyped(predicate: Predicate, column: int, column_type: SqlType) -> Predicate:
    """A predicate of one column, said of another that is equal to it."""
    match predicate:
        case Compare(operator=operator, value=value):
            return Compare(column, operator, _retyped_value(value, column_type))
        case In(values=values):
            return In(column, tuple(_retyped_value(value, column_type) for value in values))
        case And(operands=operands):
            return And(tuple(retyped(operand, column, column_type) for operand in operands))
        case Or(operands=operands):
            return Or(tuple(retyped(operand, column, column_type) for operand in operands))
        case Not(operand=operand):
            return Not(retyped(operand, column, column_type))
        case IsNull():
            return IsNull(column)
    return predicate


def _retyped_value(value: Any, column_type: SqlType) -> Any:
    return ParameterRef(value.index, column_type, value.cast) if type(value) is ParameterRef else value
