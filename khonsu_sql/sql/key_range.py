"""The range of keys a filter allows: what a scan can skip without looking at a row.

Called by `context` for every source of a query, with the predicate's parameters filled in; calls nobody. Widens, never narrows:
only conjunctions of =, IN, <, <=, >, >= on the leading key columns count, in types whose SQL order is that of canonical values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from khonsu_engine.commands import EVERY_KEY, KeyRange
from khonsu_engine.mvcc.predicates import And, Compare, In, Predicate
from khonsu_engine.schema.catalog import Table

__all__ = ["key_range"]

Bound = tuple[Any, bool] | None
"""A value and whether it is included, or None: open."""


def key_range(table: Table, predicate: Predicate) -> KeyRange:
    """The keys of rows of `table` that can satisfy `predicate`."""
    conditions = list(_conjuncts(predicate))
    if not conditions:
        return EVERY_KEY
    prefix: list[Any] = []
    low: Bound = None
    high: Bound = None
    for position in table.key_columns:
        if not table.columns[position].type.sql_ordered:
            break
        low, high = _bounds([condition for condition in conditions if condition.column == position])
        if low is None or high is None or low != high or not low[1]:
            break
        prefix.append(low[0])
        low = high = None
    return _range(tuple(prefix), low, high, composite=len(table.key_columns) > 1)


def _conjuncts(predicate: Predicate) -> Iterator[Compare | In]:
    match predicate:
        case And(operands=operands):
            for operand in operands:
                yield from _conjuncts(operand)
        case Compare() | In():
            yield predicate


def _bounds(conditions: list[Compare | In]) -> tuple[Bound, Bound]:
    """The tightest bounds of one column. NaN and NULL bound nothing."""
    low: Bound = None
    high: Bound = None
    for condition in conditions:
        for value, inclusive, below, above in _limits(condition):
            if value is None or value != value:
                continue
            if below and (low is None or (value, not inclusive) > (low[0], not low[1])):
                low = (value, inclusive)
            if above and (high is None or (value, inclusive) < (high[0], high[1])):
                high = (value, inclusive)
    return low, high


def _limits(condition: Compare | In) -> Iterator[tuple[Any, bool, bool, bool]]:
    """(value, inclusive, is a lower bound, is an upper bound)."""
    match condition:
        case Compare(operator="=", value=value):
            yield value, True, True, True
        case Compare(operator=">" | ">=" as operator, value=value):
            yield value, operator == ">=", True, False
        case Compare(operator="<" | "<=" as operator, value=value):
            yield value, operator == "<=", False, True
        case In(values=values):
            known = [value for value in values if value is not None]
            if known and all(value == value for value in known):
                yield min(known), True, True, False
                yield max(known), True, False, True


def _range(prefix: tuple[Any, ...], low: Bound, high: Bound, *, composite: bool) -> KeyRange:
    if not composite:
        if prefix:
            return KeyRange(prefix[0], prefix[0])
        return KeyRange(low[0] if low else None, high[0] if high else None, low[1] if low else True, high[1] if high else True)
    start, start_inclusive = ((*prefix, low[0]), low[1]) if low else (prefix or None, True)
    end, end_inclusive = ((*prefix, high[0]), high[1]) if high else (prefix or None, True)
    return KeyRange(start, end, start_inclusive, end_inclusive)
