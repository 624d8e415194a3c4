"""From a predicate to the keys it can be true for: one range, or one point.

Called by the front's planner and by transactions. *Widen, never narrow*: every row that satisfies the predicate has its key in
the range. For a key of several columns the range is that of a prefix: equality on the leading ones, then at most one range.
Values are canonical and of their column's type (`SqlType.exact`); what a type orders differently from Python must not come here
(`SqlType.sql_ordered`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from khonsu_engine.commands import EVERY_KEY, Key, KeyRange
from khonsu_engine.mvcc.predicates import And, Compare, In, Or, Predicate

__all__ = ["key_range", "point_key"]


class _Bounds(NamedTuple):
    """What is known of one column. None: open."""

    low: Any = None
    high: Any = None
    low_inclusive: bool = True
    high_inclusive: bool = True


def key_range(predicate: Predicate, key_columns: Sequence[int]) -> KeyRange:
    """The tightest single range of keys that `predicate` implies; EVERY_KEY if none."""
    prefix: list[Any] = []
    for column in key_columns:
        bounds = _bounds(predicate, column)
        if not _is_point(bounds):
            return _range(prefix, bounds, len(key_columns) == 1)
        prefix.append(bounds.low)
    return _range(prefix, _Bounds(), len(key_columns) == 1)


def point_key(predicate: Predicate, key_columns: Sequence[int]) -> Key | None:
    """The one key for which `predicate` can be true, if it fixes all key columns by equality, else None."""
    found = []
    for column in key_columns:
        bounds = _bounds(predicate, column)
        if not _is_point(bounds):
            return None
        found.append(bounds.low)
    return found[0] if len(found) == 1 else tuple(found)


def _range(prefix: list[Any], bounds: _Bounds, single: bool) -> KeyRange:
    """The range of keys that begin with `prefix` and go on within `bounds`."""
    if single:
        return KeyRange(prefix[0], prefix[0]) if prefix else _made(bounds, lambda value: value)
    whole = _made(bounds, lambda value: (*prefix, value))
    if not prefix:
        return whole
    low = whole.low if bounds.low is not None else tuple(prefix)
    high = whole.high if bounds.high is not None else tuple(prefix)
    return KeyRange(low, high, whole.low_inclusive, whole.high_inclusive)


def _made(bounds: _Bounds, bound: Callable[[Any], Any]) -> KeyRange:
    if bounds == (None, None, True, True):
        return EVERY_KEY
    low = None if bounds.low is None else bound(bounds.low)
    high = None if bounds.high is None else bound(bounds.high)
    return KeyRange(low, high, bounds.low_inclusive, bounds.high_inclusive)


def _is_point(bounds: _Bounds) -> bool:
    return bounds.low is not None and bounds.low_inclusive and bounds.high_inclusive and _order(bounds.low, bounds.high) == 0


def _bounds(predicate: Predicate, column: int) -> _Bounds:
    """What `predicate` says of `column` alone."""
    match predicate:
        case Compare(column=found, operator=operator, value=value) if found == column and value is not None:
            return _compared(operator, value)
        case In(column=found, values=values) if found == column:
            return _hull([value for value in values if value is not None])
        case And(operands=operands):
            bounds = _Bounds()
            for operand in operands:
                bounds = _both(bounds, _bounds(operand, column))
            return bounds
        case Or(operands=operands) if operands:
            bounds = _bounds(operands[0], column)
            for operand in operands[1:]:
                bounds = _either(bounds, _bounds(operand, column))
            return bounds
    return _Bounds()


def _compared(operator: str, value: Any) -> _Bounds:
    match operator:
        case "=":
            return _Bounds(value, value)
        case "<":
            return _Bounds(None, value, True, False)
        case "<=":
            return _Bounds(None, value)
        case ">":
            return _Bounds(value, None, False, True)
        case ">=":
            return _Bounds(value, None)
    return _Bounds()


def _hull(values: list[Any]) -> _Bounds:
    """From the least to the greatest of `values`."""
    bounds = _Bounds()
    for number, value in enumerate(values):
        low = value if number == 0 or _order(value, bounds.low) == -1 else bounds.low
        high = value if number == 0 or _order(value, bounds.high) == 1 else bounds.high
        bounds = _Bounds(low, high)
    return bounds


def _both(left: _Bounds, right: _Bounds) -> _Bounds:
    """The tighter of two bounds on either side. Values that cannot be compared leave the left one."""
    low, low_inclusive = _tighter((left.low, left.low_inclusive), (right.low, right.low_inclusive), 1)
    high, high_inclusive = _tighter((left.high, left.high_inclusive), (right.high, right.high_inclusive), -1)
    return _Bounds(low, high, low_inclusive, high_inclusive)


def _tighter(left: tuple[Any, bool], right: tuple[Any, bool], sign: int) -> tuple[Any, bool]:
    if left[0] is None or right[0] is None:
        return right if left[0] is None else left
    order = _order(right[0], left[0])
    if order == 0:
        return left[0], left[1] and right[1]
    return right if order == sign else left


def _either(left: _Bounds, right: _Bounds) -> _Bounds:
    """The bounds that hold wherever one of the two does. Values that cannot be compared leave that side open."""
    low, low_inclusive = _wider((left.low, left.low_inclusive), (right.low, right.low_inclusive), -1)
    high, high_inclusive = _wider((left.high, left.high_inclusive), (right.high, right.high_inclusive), 1)
    return _Bounds(low, high, low_inclusive, high_inclusive)


def _wider(left: tuple[Any, bool], right: tuple[Any, bool], sign: int) -> tuple[Any, bool]:
    order = None if left[0] is None or right[0] is None else _order(right[0], left[0])
    if order is None:
        return None, True
    if order == 0:
        return left[0], left[1] or right[1]
    return right if order == sign else left


def _order(left: Any, right: Any) -> int | None:
    """-1, 0, 1, with NaN equal to itself and above all else; None when there is no order."""
    try:
        if left != left or right != right:
            return int(left != left) - int(right != right)
        if left == right:
            return 0
        return -1 if left < right else 1
    except TypeError:
        return None
