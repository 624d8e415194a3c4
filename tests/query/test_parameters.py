"""Python values as parameters: each arrives with the type and the value it has, or is refused."""

from __future__ import annotations

import enum
import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import khonsu_sql
from khonsu_engine.schema.types import Interval
from khonsu_sql.errors import CharacterNotInRepertoire, InterfaceError, NumericValueOutOfRange
from khonsu_sql.sql.plan import Query
from khonsu_sql.sql.query import Evaluator
from tests.query.relations import query_of


class Colour(enum.IntEnum):
    RED = 5


class Name(str):
    pass


def arrived(*values: Any) -> list[tuple[str, Any]]:
    """Type and value of each parameter, seen from within DuckDB."""
    chosen = ", ".join(f"typeof(${number + 1}), ${number + 1}" for number in range(len(values)))
    (row,) = Evaluator().run(query_of(f"SELECT {chosen}", parameters=len(values)), values, {}).rows or []
    return list(zip(row[::2], row[1::2], strict=True))


class Unknown:
    """No SQL value. Its name is the same in every process, as the ids of tests must be."""

    def __repr__(self) -> str:
        return "Unknown()"


@pytest.mark.parametrize(
    ("value", "sql_type"),
    [
        (None, '"NULL"'),
        (True, "BOOLEAN"),
        (1, "INTEGER"),
        (-(2**31) - 1, "BIGINT"),
        (2**63, "UBIGINT"),
        (2**64, "HUGEINT"),
        (10**38 - 1, "HUGEINT"),
        (-(10**38) + 1, "HUGEINT"),
        (1.5, "DOUBLE"),
        (float("inf"), "DOUBLE"),
        (-0.0, "DOUBLE"),
        (Decimal("1.50"), "DECIMAL(3,2)"),
        (Decimal(-(10**38) + 1), "DECIMAL(38,0)"),
        (Decimal("1E-38"), "DECIMAL(38,38)"),
        (Decimal("0." + "9" * 38), "DECIMAL(38,38)"),
        ("ß🜨'", "VARCHAR"),
        ("", "VARCHAR"),
        (b"\x00\xff", "BLOB"),
        (date(9999, 12, 31), "DATE"),
        (time(23, 59, 59, 999999), "TIME"),
        (datetime(1, 1, 1), "TIMESTAMP"),
        (datetime(2020, 1, 1, 1, 2, 3, 4, tzinfo=UTC), "TIMESTAMP WITH TIME ZONE"),
        (timedelta(days=-1, microseconds=1), "INTERVAL"),
        (Interval(14, -3, 5), "INTERVAL"),
        (UUID(int=2**128 - 1), "UUID"),
        ([1, None, 2**40], "BIGINT[]"),
        ([[1.5], []], "DOUBLE[][]"),
        ([Interval(1, 0, 0)], "INTERVAL[]"),
        ({"a": 1, "b c": ["x"]}, 'STRUCT(a INTEGER, "b c" VARCHAR[])'),
    ],
    ids=lambda value: re.sub(r" at 0x[0-9a-f]+", "", repr(value)),
)
def test_round_trip(value: Any, sql_type: str) -> None:
    ((found, back),) = arrived(value)
    assert (found, repr(back)) == (sql_type, repr(value))


@pytest.mark.parametrize(
    ("value", "sql_type", "expected"),
    [
        (Colour.RED, "INTEGER", 5),
        (Name("x"), "VARCHAR", "x"),
        (bytearray(b"ab"), "BLOB", b"ab"),
        (memoryview(b"abcd")[::2], "BLOB", b"ac"),
        ((1, 2), "INTEGER[]", [1, 2]),
        (np.int64(2**40), "BIGINT", 2**40),
        (np.float32(1.5), "DOUBLE", 1.5),
        (np.bool_(True), "BOOLEAN", True),
        (np.str_("x"), "VARCHAR", "x"),
        (np.array([1, 2]), "INTEGER[]", [1, 2]),
        (np.datetime64("2020-01-01"), "DATE", date(2020, 1, 1)),
        (np.datetime64("2020-01-01T00:00:00.000005"), "TIMESTAMP", datetime(2020, 1, 1, 0, 0, 0, 5)),
        (np.datetime64("2020-01-01T00:00:00.123456789"), "TIMESTAMP_NS", np.datetime64("2020-01-01T00:00:00.123456789")),
        (np.timedelta64(5, "s"), "INTERVAL", timedelta(seconds=5)),
        (np.timedelta64(5000, "ns"), "INTERVAL", timedelta(microseconds=5)),
        (np.datetime64("NaT"), '"NULL"', None),
        (pd.NA, '"NULL"', None),
        (pd.NaT, '"NULL"', None),
        (pd.Timestamp("2020-01-01 01:02:03"), "TIMESTAMP", datetime(2020, 1, 1, 1, 2, 3)),
        (pd.Timestamp("2020-01-01 00:00:00.000000009"), "TIMESTAMP_NS", np.datetime64("2020-01-01T00:00:00.000000009")),
        (datetime(2020, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")), "TIMESTAMP WITH TIME ZONE", datetime(2019, 12, 31, 23, tzinfo=UTC)),
        (Decimal("1E+10"), "DECIMAL(11,0)", Decimal(10**10)),
    ],
    ids=lambda value: re.sub(r" at 0x[0-9a-f]+", "", repr(value)),
)
def test_what_counts_as_another_class(value: Any, sql_type: str, expected: Any) -> None:
    ((found, back),) = arrived(value)
    assert (found, repr(back)) == (sql_type, repr(expected))


nested: list[Any] = []
for _ in range(100):
    nested = [nested]


@pytest.mark.parametrize(
    ("value", "error", "sqlstate"),
    [
        (10**38, NumericValueOutOfRange, "22003"),
        (-(2**200), NumericValueOutOfRange, "22003"),
        ([1, 10**40], NumericValueOutOfRange, "22003"),
        (Decimal(10**38), NumericValueOutOfRange, "22003"),
        (Decimal("1E-39"), NumericValueOutOfRange, "22003"),
        (Decimal("1E+1000000"), NumericValueOutOfRange, "22003"),
        (Decimal("NaN"), khonsu_sql.DataError, "22P02"),
        (Decimal("-Infinity"), khonsu_sql.DataError, "22P02"),
        ("a\0b", CharacterNotInRepertoire, "22021"),
        ("\ud800", CharacterNotInRepertoire, "22021"),
        (["ok", {"x": "\0"}], CharacterNotInRepertoire, "22021"),
        ({1}, InterfaceError, "HY105"),
        (Unknown(), InterfaceError, "HY105"),
        (1j, InterfaceError, "HY105"),
        (range(3), InterfaceError, "HY105"),
        ([Unknown()], InterfaceError, "HY105"),
        (np.timedelta64(5, "ns"), InterfaceError, "HY105"),
        (pd.Timestamp("2020-01-01 00:00:00.000000009", tz="UTC"), khonsu_sql.DataError, "22008"),
        (nested, khonsu_sql.DataError, "54000"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_refused(value: Any, error: type[khonsu_sql.Error], sqlstate: str) -> None:
    with pytest.raises(error) as raised:
        arrived(value)
    assert raised.value.sqlstate == sqlstate
    assert len(str(raised.value)) < 300, "a value may be long, a message may not"


def test_moments_that_leave_the_calendar_by_their_zone() -> None:
    """DuckDB's calendar is wider than Python's: such a moment can be compared and stored, but not shown."""
    moment = datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))
    assert Evaluator().run(query_of("SELECT $1 < TIMESTAMPTZ '0001-01-01'", parameters=1), [moment], {}).rows == [(True,)]
    with pytest.raises(khonsu_sql.DataError):
        arrived(moment)


def test_a_statement_takes_some_of_the_values_in_its_own_order() -> None:
    query = Query("SELECT $1 || $2 || $1", (), (2, 0))
    assert Evaluator().run(query, ["a", "b", "c"], {}).rows == [("cac",)]


@given(
    st.lists(
        st.integers(-(10**38) + 1, 10**38 - 1)
        | st.floats(allow_nan=False)
        | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
        | st.binary()
        | st.booleans(),
        min_size=1,
        max_size=6,
    )
)
def test_many_values_at_once_do_not_get_mixed_up(values: list[Any]) -> None:
    assert [repr(back) for _, back in arrived(*values)] == [repr(value) for value in values]


def test_types_of_one_statement_may_change_from_run_to_run() -> None:
    evaluator, query = Evaluator(), query_of("SELECT $1 AS x", parameters=1)
    for value in (1, "a", 2**70, None, Decimal("1.5"), UUID(int=1), [1], datetime(2020, 1, 1, tzinfo=UTC), 1):
        assert evaluator.run(query, [value], {}).rows == [(value,)]
