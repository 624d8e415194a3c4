"""What a zone map rules out is not there: every small chunk against every small predicate, and it does rule something out."""

from __future__ import annotations

from itertools import combinations_with_replacement, product
from typing import Any

from khonsu_engine.columns.segment_meta import ColumnStatistics
from khonsu_engine.columns.zone_map import may_match
from khonsu_engine.mvcc.predicates import And, Compare, In, IsNull, Not, Or, Predicate, matcher

NAN = float("nan")
VALUES: tuple[Any, ...] = (None, 1.0, 2.0, 3.0, NAN)
OPERATORS = ("=", "<>", "<", "<=", ">", ">=")

LEAVES: tuple[Predicate, ...] = (
    *(Compare(0, operator, value) for operator, value in product(OPERATORS, VALUES)),
    *(In(0, values) for values in ((1.0,), (2.0, 3.0), (None, 2.0), (NAN,))),
    IsNull(0),
)


def statistics_of(chunk: tuple[Any, ...]) -> ColumnStatistics:
    """The least and the greatest, NaN above all."""
    there = [value for value in chunk if value is not None]
    order = sorted(there, key=lambda value: (value != value, value))
    return ColumnStatistics(order[0] if order else None, order[-1] if order else None, len(chunk) - len(there))


def test_no_row_that_matches_is_ruled_out() -> None:
    predicates = [
        *LEAVES,
        *(Not(leaf) for leaf in LEAVES),
        *(kind((left, right)) for kind in (And, Or) for left, right in product(LEAVES[::3], LEAVES[::4])),
        *(Not(kind((left, right))) for kind in (And, Or) for left, right in product(LEAVES[::3], LEAVES[::4])),
    ]
    ruled_out = 0
    for size in (1, 2, 3):
        for chunk in combinations_with_replacement(VALUES, size):
            statistics = statistics_of(chunk)
            for predicate in predicates:
                possible = may_match(predicate, (statistics,), size)
                ruled_out += not possible
                matches = matcher(predicate)
                assert possible or not any(matches((value,)) for value in chunk), f"{predicate} in {chunk}"
    assert ruled_out > 1_000


def test_what_is_known_is_used() -> None:
    statistics = (ColumnStatistics(1.0, 2.0, 0),)
    for operator, value, possible in (("<=", 1.0, True), ("<", 1.0, False), (">=", 2.0, True), (">", 2.0, False), ("=", 3.0, False)):
        assert may_match(Compare(0, operator, value), statistics, 5) is possible
