"""The types in a real DuckDB: Arrow columns arrive with their type, casts and comparisons mean what `canonical` and `exact` say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from khonsu_engine.errors import InvalidValue, UnstorableText
from khonsu_engine.schema.types import (
    NeedsCast,
    SqlType,
    arrow_from_rows,
    conform,
    parse_type,
    rows_from_arrow,
    type_of_arrow,
)
from tests.engine.type_samples import ALL_TYPES, KEY_TYPES, SCALARS, canonical_values, nullable, python_values, same

CONFIG = {"integer_division": "true", "arrow_lossless_conversion": "false", "threads": "1"}


@pytest.fixture(scope="module")
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(config=CONFIG)
    connection.execute("SET TimeZone = 'UTC'")
    yield connection
    connection.close()


def served(duck: duckdb.DuckDBPyConnection, sql_type: SqlType, values: list[Any]) -> duckdb.DuckDBPyConnection:
    """A view `t(x)` over an Arrow column of these values, cast back where the type asks for it."""
    batch = arrow_from_rows([sql_type], [(value,) for value in values], ["x"])
    duck.register("served", pa.Table.from_batches([batch]))
    column = f"CAST(x AS {sql_type.sql})" if sql_type.duckdb_cast else "x"
    return duck.execute(f"CREATE OR REPLACE TEMP VIEW t AS SELECT {column} AS x FROM served")


def arrow_of(duck: duckdb.DuckDBPyConnection, sql: str) -> tuple[SqlType, pa.Table]:
    relation = duck.sql(sql)
    table = relation.to_arrow_table()
    return type_of_arrow(table.schema.types[0], str(relation.types[0])), table


@pytest.mark.parametrize("sql_type", ALL_TYPES, ids=str)
@settings(max_examples=15)
@given(data=st.data())
def test_a_column_comes_back_with_its_type_and_its_values(duck: duckdb.DuckDBPyConnection, sql_type: SqlType, data: st.DataObject) -> None:
    values = data.draw(st.lists(nullable(sql_type), max_size=6))
    served(duck, sql_type, values)
    found, table = arrow_of(duck, "SELECT x FROM t")
    assert found == (SqlType("VARCHAR") if sql_type.length else sql_type)
    expected = [(value,) for value in values]
    assert same(rows_from_arrow([found], table), expected)
    for batch in table.to_batches():
        ours = conform([sql_type], batch, foreign=False)
        assert ours.schema.types == [sql_type.arrow]
        ours.validate(full=True)
    assert same(rows_from_arrow([sql_type], conformed(sql_type, table)), expected)


def conformed(sql_type: SqlType, table: pa.Table) -> pa.Table:
    schema = pa.schema([("x", sql_type.arrow)])
    return pa.Table.from_batches([conform([sql_type], batch, foreign=False) for batch in table.to_batches()], schema)


def duckdb_cast(duck: duckdb.DuckDBPyConnection, value: Any, sql_type: SqlType) -> Any:
    """What DuckDB makes of a parameter in a CAST, as a canonical value; its error if it refuses."""
    try:
        found, table = arrow_of_parameter(duck, value, sql_type)
        return rows_from_arrow([found], table)[0][0]
    except (duckdb.Error, InvalidValue) as error:
        return error


def arrow_of_parameter(duck: duckdb.DuckDBPyConnection, value: Any, sql_type: SqlType) -> tuple[SqlType, pa.Table]:
    relation = duck.sql(f"SELECT CAST($1 AS {sql_type.sql}) AS x", params=[value])
    table = relation.to_arrow_table()
    return type_of_arrow(table.schema.types[0], str(relation.types[0])), table


def near(sql_type: SqlType) -> st.SearchStrategy[Any]:
    """Parameters that a DuckDB parameter can be, close to what the type holds."""
    values = canonical_values(sql_type)
    if sql_type.kind == "INTERVAL":
        return values.map(lambda value: timedelta(days=value.days // 4, microseconds=value.microseconds))
    if sql_type.kind == "TIMESTAMP_NS":
        return values.map(lambda value: str(sql_type.to_python(value // 1000 * 1000)).replace("T", " "))
    if sql_type.is_integer or sql_type.kind == "DECIMAL":
        return values | values.map(str) | values.map(float) | values.map(lambda value: Decimal(value) + Decimal("0.5"))
    return values | values.map(str)


STRICTER = ("VARCHAR(3)", "HUGEINT")
"""Types that refuse more than DuckDB's cast does: text beyond the length, 39 digits."""


CASTS = [name for name in (*SCALARS, "INTERVAL", "JSON") if name != "DECIMAL(38,38)"]
"""DuckDB's driver binds a Decimal with 38 digits after the point as a DOUBLE: there we are exact and it is not."""


@pytest.mark.parametrize("name", CASTS)
@settings(max_examples=200)
@given(data=st.data())
def test_canonical_is_duckdbs_cast_or_says_that_it_does_not_know(duck: duckdb.DuckDBPyConnection, name: str, data: st.DataObject) -> None:
    sql_type = parse_type(name)
    value = data.draw(python_values | near(sql_type))
    try:
        ours = sql_type.canonical(value)
    except NeedsCast:
        return
    except InvalidValue:
        if name not in STRICTER:
            assert isinstance(duckdb_cast(duck, value, sql_type), Exception)
        return
    theirs = duckdb_cast(duck, value, sql_type)
    assert same(theirs, ours), (theirs, ours)


@pytest.mark.parametrize("sql_type", [sql_type for sql_type in ALL_TYPES if sql_type.sql_equal and not sql_type.length], ids=str)
@settings(max_examples=40)
@given(data=st.data())
def test_exact_values_compare_as_duckdb_compares_the_parameter(
    duck: duckdb.DuckDBPyConnection, sql_type: SqlType, data: st.DataObject
) -> None:
    stored = data.draw(st.lists(canonical_values(sql_type), min_size=1, max_size=5))
    asked = data.draw(st.sampled_from([sql_type.to_python(value) for value in stored]) | python_values)
    try:
        exact = sql_type.exact(asked)
    except (NeedsCast, UnstorableText):
        return
    served(duck, sql_type, stored)
    if sql_type.kind == "TIMESTAMP_NS" and type(asked).__name__ == "datetime64":
        return  # a DuckDB parameter cannot be one
    try:
        answers = duck.execute("SELECT x = $1, x < $1 FROM t", [asked]).fetchall()
    except duckdb.ConversionException:  # it casts the column to the type of the parameter, and a stored value does not fit (0.000)
        assert sql_type.kind == "DECIMAL"
        return
    equal, less = zip(*answers, strict=True)
    assert list(equal) == [value == exact or value is exact for value in stored]
    if sql_type.sql_ordered and exact == exact:
        assert list(less) == [value < exact for value in stored]


@pytest.mark.parametrize("sql_type", [sql_type for sql_type in KEY_TYPES if sql_type.sql_ordered], ids=str)
@settings(max_examples=20)
@given(data=st.data())
def test_sql_order_is_canonical_order(duck: duckdb.DuckDBPyConnection, sql_type: SqlType, data: st.DataObject) -> None:
    stored = data.draw(st.lists(canonical_values(sql_type), min_size=2, max_size=6))
    served(duck, sql_type, stored)
    found, table = arrow_of(duck, "SELECT x FROM t ORDER BY x")
    ordered = [row[0] for row in rows_from_arrow([found], table)]
    assert [repr(value + 0.0 if isinstance(value, float) else value) for value in ordered] == [
        repr(value + 0.0 if isinstance(value, float) else value)
        for value in sorted(stored, key=lambda value: (value != value, value if value == value else 0))
    ]
