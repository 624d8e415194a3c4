"""Predicates: what a transaction read, as a tree over column numbers and values.

Made by the front from its own bound tree (never from what DuckDB happens to push down), recorded by transactions,
evaluated by `validation` on the before and after images of what others committed, and by `columns` for pruning.
Precision locking: Neumann, Mühlbauer, Kemper, "Fast Serializable Multi-Version Concurrency Control" (SIGMOD 2015).

Invariants: *widen, never narrow*. SQL's three values collapse to "true" and "not true"; an error while a predicate is
evaluated on a row counts as a match. No I/O, no clock, no SQL text, no DuckDB object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

__all__ = ["ALL", "All", "And", "Compare", "In", "IsNull", "Not", "Or", "Predicate", "columns_of", "conjunction", "matcher"]


class All(msgspec.Struct, frozen=True, gc=False, tag="all", array_like=True):
    """TRUE: every row."""


class Compare(msgspec.Struct, frozen=True, gc=False, tag="compare", array_like=True):
    """`column operator value` with operator one of = <> < <= > >=. A None value never matches."""

    column: int
    operator: str
    value: Any


class In(msgspec.Struct, frozen=True, gc=False, tag="in", array_like=True):
    """`column IN (values)`."""

    column: int
    values: tuple[Any, ...]


class IsNull(msgspec.Struct, frozen=True, gc=False, tag="null", array_like=True):
    """`column IS NULL`."""

    column: int


class And(msgspec.Struct, frozen=True, gc=False, tag="and", array_like=True):
    operands: tuple[Predicate, ...]


class Or(msgspec.Struct, frozen=True, gc=False, tag="or", array_like=True):
    operands: tuple[Predicate, ...]


class Not(msgspec.Struct, frozen=True, gc=False, tag="not", array_like=True):
    operand: Predicate


Predicate = All | Compare | In | IsNull | And | Or | Not

ALL = All()


def conjunction(operands: tuple[Predicate, ...]) -> Predicate:
    """AND of `operands`, flattened; ALL for none."""
    kept = tuple(operand for operand in operands if not isinstance(operand, All))
    if not kept:
        return ALL
    return kept[0] if len(kept) == 1 else And(kept)


def columns_of(predicate: Predicate) -> int:
    """The columns a predicate looks at, as a bit mask."""
    match predicate:
        case All():
            return 0
        case Compare(column=column) | In(column=column) | IsNull(column=column):
            return 1 << column
        case And(operands=operands) | Or(operands=operands):
            mask = 0
            for operand in operands:
                mask |= columns_of(operand)
            return mask
        case Not(operand=operand):
            return columns_of(operand)


def matcher(predicate: Predicate) -> Callable[[tuple[Any, ...]], bool]:
    """A function row -> may the row satisfy the predicate? True on any error of evaluation."""
    if isinstance(predicate, All):
        return _always
    evaluate = _truth(predicate)

    def matches(row: tuple[Any, ...]) -> bool:
        try:
            return evaluate(row) is True
        except (TypeError, ValueError, ArithmeticError, IndexError):
            return True

    return matches


Truth = Callable[[tuple[Any, ...]], bool | None]


def _always(row: tuple[Any, ...]) -> bool:
    return True


def _truth(predicate: Predicate) -> Truth:
    """SQL's three-valued truth of a predicate on a row (None: unknown)."""
    match predicate:
        case All():
            return _always
        case Compare(column=column, operator=operator, value=value):
            return _comparison(column, operator, value)
        case In(column=column, values=values):
            return _membership(column, values)
        case IsNull(column=column):
            return lambda row: row[column] is None
        case And(operands=operands):
            return _all_of([_truth(operand) for operand in operands])
        case Or(operands=operands):
            return _any_of([_truth(operand) for operand in operands])
        case Not(operand=operand):
            inner = _truth(operand)

            def negated(row: tuple[Any, ...]) -> bool | None:
                value = inner(row)
                return None if value is None else not value

            return negated


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _order(left: Any, right: Any) -> int:
    """-1, 0, 1 with SQL's NaN: equal to itself and greater than everything."""
    if _is_nan(left) or _is_nan(right):
        return int(_is_nan(left)) - int(_is_nan(right))
    if left == right:
        return 0
    return -1 if left < right else 1


_DECISIONS: dict[str, frozenset[int]] = {
    "=": frozenset({0}),
    "<>": frozenset({-1, 1}),
    "<": frozenset({-1}),
    "<=": frozenset({-1, 0}),
    ">": frozenset({1}),
    ">=": frozenset({0, 1}),
}


def _comparison(column: int, operator: str, value: Any) -> Truth:
    if value is None:
        return lambda row: None
    accepted = _DECISIONS[operator]
    return lambda row: None if row[column] is None else _order(row[column], value) in accepted


def _membership(column: int, values: tuple[Any, ...]) -> Truth:
    unknown = any(value is None for value in values)
    candidates = [value for value in values if value is not None]

    def contains(row: tuple[Any, ...]) -> bool | None:
        found = row[column]
        if found is None:
            return None
        if any(_order(found, value) == 0 for value in candidates):
            return True
        return None if unknown else False

    return contains


def _all_of(parts: list[Truth]) -> Truth:
    def conjoined(row: tuple[Any, ...]) -> bool | None:
        result: bool | None = True
        for part in parts:
            value = part(row)
            if value is False:
                return False
            if value is None:
                result = None
        return result

    return conjoined


def _any_of(parts: list[Truth]) -> Truth:
    def disjoined(row: tuple[Any, ...]) -> bool | None:
        result: bool | None = False
        for part in parts:
            value = part(row)
            if value is True:
                return True
            if value is None:
                result = None
        return result

    return disjoined
