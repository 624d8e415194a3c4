"""What a chunk's statistics say about a predicate: pruning before anything is read.

Called by segments and scans. Each node is judged by two questions, may it be true and may it be false for some row, because
NOT exchanges them; unknown (NULL) is neither. *Widen, never narrow*: what is not certain is possible. NaN is greater than
every number, as in SQL: a chunk with NaN has it as maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from khonsu_engine.columns.key_order import Order, edges_of
from khonsu_engine.columns.segment_meta import ColumnStatistics
from khonsu_engine.commands import EVERY_KEY, KeyRange
from khonsu_engine.mvcc.predicates import All, And, Compare, In, IsNull, Not, Or, Predicate

__all__ = ["may_match", "range_meets"]

Possible = tuple[bool, bool]
"""(may be true, may be false)."""

_ANYTHING: Possible = (True, True)


def range_meets(range: KeyRange, first: Any, last: Any, order: Order = None) -> bool:
    """Does `range` meet the keys from `first` to `last`, both included?"""
    if range is EVERY_KEY:
        return True
    low, high = edges_of(range, order)
    if low is not None and low[0]((last,), low[1], key=order) == 1:
        return False
    return high is None or high[0]((first,), high[1], key=order) == 1


def may_match(predicate: Predicate, columns: Sequence[ColumnStatistics], rows: int) -> bool:
    """May one of the `rows` rows that `columns` describe satisfy `predicate`?"""
    return _possible(predicate, columns, rows)[0]


def _possible(predicate: Predicate, columns: Sequence[ColumnStatistics], rows: int) -> Possible:
    match predicate:
        case All():
            return True, False
        case Compare(column=column, operator=operator, value=value):
            return _comparison(columns[column], rows, operator, value)
        case In(column=column, values=values):
            return _membership(columns[column], rows, values)
        case IsNull(column=column):
            return columns[column].nulls > 0, columns[column].nulls < rows
        case Not(operand=operand):
            true, false = _possible(operand, columns, rows)
            return false, true
        case And(operands=operands):
            parts = [_possible(operand, columns, rows) for operand in operands]
            return all(part[0] for part in parts), any(part[1] for part in parts)
        case Or(operands=operands):
            parts = [_possible(operand, columns, rows) for operand in operands]
            return any(part[0] for part in parts), all(part[1] for part in parts)


def _comparison(known: ColumnStatistics, rows: int, operator: str, value: Any) -> Possible:
    if value is None or known.nulls == rows:
        return False, False
    try:
        low = None if known.minimum is None else _order(known.minimum, value)
        high = None if known.maximum is None else _order(known.maximum, value)
    except (TypeError, ValueError, ArithmeticError):
        return _ANYTHING
    below = low is None or low < 0
    above = high is None or high > 0
    equal = (low is None or low <= 0) and (high is None or high >= 0)
    match operator:
        case "=":
            return equal, below or above
        case "<>":
            return below or above, equal
        case "<":
            return below, above or equal
        case "<=":
            return below or equal, above
        case ">":
            return above, below or equal
        case ">=":
            return above or equal, below
    return _ANYTHING


def _membership(known: ColumnStatistics, rows: int, values: tuple[Any, ...]) -> Possible:
    if known.nulls == rows:
        return False, False
    return any(_comparison(known, rows, "=", value)[0] for value in values), True


def _order(left: Any, right: Any) -> int:
    """-1, 0, 1, where NaN equals itself and exceeds all else."""
    if left != left or right != right:
        return int(left != left) - int(right != right)
    if left == right:
        return 0
    return -1 if left < right else 1
