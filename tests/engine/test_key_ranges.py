"""Key ranges of predicates: tight where they can be, never too narrow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from khonsu_engine.columns.key_order import contains, order_of
from khonsu_engine.commands import EVERY_KEY, KeyRange
from khonsu_engine.mvcc.key_ranges import key_range, point_key
from khonsu_engine.mvcc.predicates import ALL, And, Compare, In, IsNull, Not, Or, Predicate, matcher
from khonsu_engine.schema.types import NAN
from tests.engine.columns_model import table_of


def eq(column: int, value: Any) -> Compare:
    return Compare(column, "=", value)


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (ALL, EVERY_KEY),
        (eq(0, 5), KeyRange(5, 5)),
        (eq(1, 5), EVERY_KEY),
        (Compare(0, "<>", 5), EVERY_KEY),
        (Compare(0, "<", 5), KeyRange(None, 5, True, False)),
        (Compare(0, ">=", 5), KeyRange(5, None)),
        (And((Compare(0, ">", 1), Compare(0, "<=", 9), Compare(0, ">", 3))), KeyRange(3, 9, False, True)),
        (And((Compare(0, ">", 3), Compare(0, ">=", 3))), KeyRange(3, None, False)),
        (In(0, (7, 3, None, 5)), KeyRange(3, 7)),
        (In(0, (7,)), KeyRange(7, 7)),
        (Or((eq(0, 7), Compare(0, "<", 3))), KeyRange(None, 7)),
        (Or((eq(0, 7), Compare(0, ">", 7))), KeyRange(7, None)),
        (Or((eq(0, 7), eq(1, 3))), EVERY_KEY),
        (And((Or((eq(0, 7), eq(0, 9))), eq(1, 3))), KeyRange(7, 9)),
        (Not(eq(0, 7)), EVERY_KEY),
        (IsNull(0), EVERY_KEY),
        (And((eq(0, 5), Compare(0, ">", "text"))), KeyRange(5, 5)),
        (Compare(0, "=", None), EVERY_KEY),
    ],
)
def test_one_column(predicate: Predicate, expected: KeyRange) -> None:
    assert key_range(predicate, (0,)) == expected


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (eq(2, 5), KeyRange((5,), (5,))),
        (And((eq(2, 5), eq(0, "x"))), KeyRange((5, "x"), (5, "x"))),
        (And((eq(2, 5), Compare(0, ">", "x"))), KeyRange((5, "x"), (5,), False, True)),
        (And((eq(2, 5), Compare(0, "<", "x"))), KeyRange((5,), (5, "x"), True, False)),
        (Compare(2, ">", 5), KeyRange((5,), None, False)),
        (And((Compare(2, ">", 5), eq(0, "x"))), KeyRange((5,), None, False)),
        (eq(0, "x"), EVERY_KEY),
        (In(2, (1, 2)), KeyRange((1,), (2,))),
    ],
)
def test_several_columns(predicate: Predicate, expected: KeyRange) -> None:
    assert key_range(predicate, (2, 0)) == expected


def test_points() -> None:
    assert point_key(eq(0, 5), (0,)) == 5
    assert point_key(In(0, (5, 5)), (0,)) == 5
    assert point_key(And((eq(0, "x"), eq(2, 5), Compare(1, ">", 1))), (2, 0)) == (5, "x")
    assert point_key(eq(2, 5), (2, 0)) is None
    assert point_key(Compare(0, ">", 5), (0,)) is None
    assert point_key(Or((eq(0, 5), eq(0, 6))), (0,)) is None
    assert point_key(eq(0, NAN), (0,)) is NAN


VALUES = st.sampled_from([NAN, None, -1.5, 0.0, 1.0, 2.0, 7.5])


def predicates() -> st.SearchStrategy[Predicate]:
    leaves = st.builds(Compare, st.integers(0, 1), st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), VALUES) | st.builds(
        In, st.integers(0, 1), st.lists(VALUES, max_size=3).map(tuple)
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.builds(Not, inner)
            | st.lists(inner, min_size=1, max_size=3).map(lambda parts: And(tuple(parts)))
            | st.lists(inner, min_size=1, max_size=3).map(lambda parts: Or(tuple(parts)))
        ),
        max_leaves=6,
    )


@given(predicates(), st.lists(st.tuples(VALUES.filter(lambda value: value is not None), VALUES.filter(lambda value: value is not None))))
def test_no_matching_key_is_outside(predicate: Predicate, rows: list[Any]) -> None:
    single, double = table_of("DOUBLE", "DOUBLE", key=(0,)), table_of("DOUBLE", "DOUBLE", key=(1, 0))
    matches = matcher(predicate)
    for row in filter(matches, rows):
        assert contains(key_range(predicate, (0,)), row[0], order_of(single))
        assert contains(key_range(predicate, (1, 0)), (row[1], row[0]), order_of(double))
        point = point_key(predicate, (1, 0))
        assert point is None or contains(KeyRange(point, point), (row[1], row[0]), order_of(double))
