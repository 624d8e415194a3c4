"""SQL types: their names, their canonical values from Python, and their way through Arrow, the log and back without a change."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from khonsu_engine.errors import EngineError, InvalidValue, NotSupported, NumericOutOfRange, StringTooLong, UndefinedType, UnstorableText
from khonsu_engine.schema.types import (
    KINDS,
    NAN,
    Interval,
    NeedsCast,
    SqlType,
    arrow_from_rows,
    parse_type,
    python_rows_from_arrow,
    rows_from_arrow,
)
from tests.engine.type_samples import ALL_TYPES, INTEGERS, SCALARS, canonical_values, nullable, python_values, same

# --- names


@pytest.mark.parametrize("sql_type", ALL_TYPES, ids=str)
def test_a_type_is_read_back_from_its_own_spelling(sql_type: SqlType) -> None:
    assert parse_type(sql_type.sql) == sql_type
    assert parse_type(sql_type.sql, duckdb=True) == sql_type
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sql_type), type=SqlType) == sql_type


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int", "INTEGER"),
        ("Int4", "INTEGER"),
        ("INT8", "BIGINT"),
        ("float", "DOUBLE"),
        ("float(24)", "REAL"),
        ("float4", "REAL"),
        ("double precision", "DOUBLE"),
        ("numeric", "DECIMAL(18,3)"),
        ("numeric(7)", "DECIMAL(7,0)"),
        ("decimal ( 10 , 2 )", "DECIMAL(10,2)"),
        ("text", "VARCHAR"),
        ("character varying(20)", "VARCHAR(20)"),
        ("char", "VARCHAR(1)"),
        ("bpchar", "VARCHAR"),
        ("bytea", "BLOB"),
        ("bool", "BOOLEAN"),
        ("timestamptz", "TIMESTAMPTZ"),
        ("timestamp with time zone", "TIMESTAMPTZ"),
        ("TIMESTAMP(6) WITH TIME ZONE", "TIMESTAMPTZ"),
        ("timestamp without time zone", "TIMESTAMP"),
        ("timestamp(3)", "TIMESTAMP_MS"),
        ("datetime", "TIMESTAMP"),
        ("integer[]", "INTEGER[]"),
        ("varchar(3)[][]", "VARCHAR(3)[][]"),
        ('struct(a int, "B c" text[])', 'STRUCT("a" INTEGER, "B c" VARCHAR[])'),
        ("map(text, int[])", "MAP(VARCHAR, INTEGER[])"),
        ("enum('it''s', 'b')", "ENUM('it''s', 'b')"),
    ],
)
def test_names_of_both_dialects(text: str, expected: str) -> None:
    assert parse_type(text).sql == expected


def test_duckdbs_own_names_of_results() -> None:
    assert parse_type("FLOAT", duckdb=True).kind == "REAL"
    assert parse_type('"NULL"', duckdb=True).kind == "NULL"
    assert parse_type("INTEGER[3]", duckdb=True) == parse_type("INTEGER[]")
    assert parse_type("TUPLE(INTEGER, VARCHAR)", duckdb=True).sql == "TUPLE(INTEGER, VARCHAR)"


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("intger", UndefinedType, "INTEGER"),
        ("varchr(3)", UndefinedType, "VARCHAR"),
        ("frobnicate", UndefinedType, "does not exist"),
        ("jsonb", NotSupported, "JSON"),
        ("serial", NotSupported, "BIGINT"),
        ("time with time zone", NotSupported, "TIMESTAMPTZ"),
        ("union(a int)", NotSupported, "STRUCT"),
        ("integer[3]", NotSupported, "list"),
        ("uhugeint", NotSupported, "HUGEINT"),
        ("decimal(39,0)", InvalidValue, "38"),
        ("decimal(3,4)", InvalidValue, "scale"),
        ("varchar(0)", InvalidValue, "at least 1"),
        ("integer(4)", InvalidValue, "arguments"),
        ("enum('a','a')", InvalidValue, "differ"),
        ("struct(a int, A int)", InvalidValue, "different names"),
        ("struct()", UndefinedType, "cannot read"),
        ("integer;", UndefinedType, "cannot read"),
        ("integer integer", UndefinedType, "cannot read"),
        ("", UndefinedType, "cannot read"),
        ("decimal(", UndefinedType, "cannot read"),
        ("list(" * 40 + "int" + ")" * 40, NotSupported, "deep"),
    ],
)
def test_names_that_are_refused_say_why(text: str, error: type[EngineError], says: str) -> None:
    with pytest.raises(error) as raised:
        parse_type(text)
    assert type(raised.value) is error
    assert says in raised.value.message + (raised.value.hint or "")


@given(st.text(max_size=30) | st.lists(st.sampled_from([*"()[],'\"", "int", "struct", "map", "enum", "a", "7", " "])).map("".join))
def test_any_text_is_a_type_or_a_clear_error(text: str) -> None:
    try:
        assert isinstance(parse_type(text), SqlType)
    except (UndefinedType, NotSupported, InvalidValue):
        pass


# --- the way of a value


@pytest.mark.parametrize("sql_type", ALL_TYPES, ids=str)
@settings(max_examples=40)
@given(data=st.data())
def test_a_value_survives_every_conversion(sql_type: SqlType, data: st.DataObject) -> None:
    """Python -> canonical -> Arrow -> canonical -> log -> canonical -> Python."""
    values = data.draw(st.lists(nullable(sql_type), max_size=5))
    batch = arrow_from_rows([sql_type], [(value,) for value in values])
    batch.validate(full=True)
    assert batch.schema.types == [sql_type.arrow]
    read = [row[0] for row in rows_from_arrow([sql_type], batch)]
    assert same(read, values)
    logged = msgspec.msgpack.decode(msgspec.msgpack.encode([sql_type.to_log(value) for value in read]))
    again = [sql_type.from_log(value) for value in logged]
    assert same(again, values)
    for value in again:
        hash(value)
    driver = [sql_type.to_python(value) for value in again]
    back = [sql_type.from_python(value) for value in driver]
    assert same(back, values) or ("INTERVAL" in sql_type.sql and list(map(sql_type.to_python, back)) == driver)
    assert driver == [row[0] for row in python_rows_from_arrow([sql_type], batch)] or "nan" in repr(driver)
    if sql_type.python_identity:
        assert same(driver, values)


@pytest.mark.parametrize("sql_type", ALL_TYPES, ids=str)
@settings(max_examples=30)
@given(data=st.data())
def test_what_the_driver_returns_can_be_given_back(sql_type: SqlType, data: st.DataObject) -> None:
    value = data.draw(canonical_values(sql_type))
    try:
        back = sql_type.canonical(sql_type.to_python(value))
        assert same(back, value) or ("INTERVAL" in sql_type.sql and sql_type.to_python(back) == sql_type.to_python(value))
    except NeedsCast:
        assert sql_type.parts, "only values within lists, structs and maps may differ in class"


@pytest.mark.parametrize("name", SCALARS)
@given(data=st.data())
def test_fast_classes_need_no_conversion(name: str, data: st.DataObject) -> None:
    sql_type = parse_type(name)
    value = data.draw(canonical_values(sql_type) | python_values)
    if type(value) is sql_type.canonical_fast and (not sql_type.is_integer or sql_type.low <= value <= sql_type.high):
        assert sql_type.canonical(value) is value
    if sql_type.is_integer and type(value) is int and not sql_type.low <= value <= sql_type.high:
        with pytest.raises(NumericOutOfRange):
            sql_type.canonical(value)


@pytest.mark.parametrize("sql_type", ALL_TYPES, ids=str)
@given(value=python_values | st.lists(python_values, max_size=2) | st.dictionaries(st.text(max_size=2), python_values, max_size=2))
def test_anything_is_a_canonical_value_or_a_clear_error(sql_type: SqlType, value: Any) -> None:
    for convert in (sql_type.canonical, sql_type.exact):
        try:
            result = convert(value)
        except InvalidValue as error:
            assert error.message
        else:
            hash(result)
            if not sql_type.parts and not sql_type.length and sql_type.kind != "TIMESTAMP_NS":
                assert same(sql_type.canonical(result), result)


@pytest.mark.parametrize("sql_type", ALL_TYPES, ids=str)
def test_null_is_null_everywhere(sql_type: SqlType) -> None:
    for missing in (None, pd.NaT, pd.NA):
        assert sql_type.canonical(missing) is None
    for convert in (sql_type.canonical, sql_type.exact, sql_type.to_python, sql_type.to_log, sql_type.from_log):
        assert convert(None) is None


# --- single values


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("INTEGER", True, 1),
        ("INTEGER", 2.5, 2),
        ("INTEGER", 3.5, 4),
        ("INTEGER", Decimal("2.5"), 3),
        ("INTEGER", "-007", -7),
        ("INTEGER", np.int64(5), 5),
        ("DOUBLE", np.float32(0.5), 0.5),
        ("BOOLEAN", np.bool_(True), True),
        ("BIGINT", 2.0**53, 2**53),
        ("DECIMAL(5,2)", 1, Decimal("1.00")),
        ("DECIMAL(5,2)", Decimal("1.005"), Decimal("1.01")),
        ("DECIMAL(5,2)", 2.675, Decimal("2.68")),
        ("DECIMAL(5,2)", Decimal("-0.001"), Decimal("0.00")),
        ("REAL", 0.1, 0.10000000149011612),
        ("DOUBLE", Decimal("0.1"), 0.1),
        ("BOOLEAN", 0, False),
        ("BOOLEAN", "True", True),
        ("VARCHAR", 5, "5"),
        ("VARCHAR", True, "true"),
        ("VARCHAR(3)", "abc   ", "abc"),
        ("VARCHAR(3)", "äöü", "äöü"),
        ("BLOB", bytearray(b"x"), b"x"),
        ("BLOB", memoryview(b"x"), b"x"),
        ("DATE", datetime(2000, 1, 2, 23), date(2000, 1, 2)),
        ("DATE", "2000-01-02", date(2000, 1, 2)),
        ("TIME", "01:02:03.5", time(1, 2, 3, 500000)),
        ("TIMESTAMP", date(2000, 1, 2), datetime(2000, 1, 2)),
        ("TIMESTAMP", "2000-01-02 03:04:05.1", datetime(2000, 1, 2, 3, 4, 5, 100000)),
        ("TIMESTAMP", np.datetime64("2000-01-02T03:04:05.000001000", "ns"), NeedsCast),
        ("TIMESTAMP", np.datetime64("2000-01-02T03:04:05.000001", "us"), datetime(2000, 1, 2, 3, 4, 5, 1)),
        ("TIMESTAMP", pd.Timestamp("2000-01-02"), datetime(2000, 1, 2)),
        ("TIMESTAMP_NS", pd.Timestamp(123456789), 123456789),
        ("TIMESTAMP_NS", np.datetime64(123456789, "ns"), 123456789),
        ("TIMESTAMPTZ", datetime(2000, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), datetime(2000, 1, 1, tzinfo=UTC)),
        ("TIMESTAMPTZ", "2000-01-01 02:00:00+02:00", datetime(2000, 1, 1, tzinfo=UTC)),
        ("INTERVAL", timedelta(days=-1, microseconds=5), Interval(0, -1, 5)),
        ("INTERVAL", Interval(1, 2, 3), Interval(1, 2, 3)),
        ("UUID", "00000000-0000-0000-0000-00000000000A", UUID(int=10)),
        ("JSON", {"a": [1, "é", None]}, '{"a":[1,"é",null]}'),
        ("JSON", ' {"a": 1}', ' {"a": 1}'),
        ("INTEGER[]", [1, None, 2], (1, None, 2)),
        ("INTEGER[]", (), ()),
        ("DOUBLE[]", np.array([1.5, 2.5]), (1.5, 2.5)),
        ("STRUCT(a INTEGER, b VARCHAR)", {"b": "x", "a": 1}, (1, "x")),
        ("MAP(VARCHAR, INTEGER)", {"b": 1, "a": 2}, (("b", 1), ("a", 2))),
        ("INTEGER", "1.5", NeedsCast),
        ("DOUBLE", Decimal("1234567890123456.7"), NeedsCast),
        ("DOUBLE", 2**53 + 1, NeedsCast),
        ("INTEGER", "٣", NeedsCast),
        ("INTEGER", date(2000, 1, 1), NeedsCast),
        ("TIMESTAMPTZ", datetime(2000, 1, 1), NeedsCast),
        ("TIMESTAMP", datetime(2000, 1, 1, tzinfo=UTC), NeedsCast),
        ("INTEGER[]", [1, "2"], NeedsCast),
        ("STRUCT(a INTEGER, b VARCHAR)", {"a": 1}, NeedsCast),
    ],
)
def test_canonical_values(name: str, value: Any, expected: Any) -> None:
    sql_type = parse_type(name)
    if expected is NeedsCast:
        with pytest.raises(NeedsCast):
            sql_type.canonical(value)
    else:
        assert same(sql_type.canonical(value), expected)


@pytest.mark.parametrize(
    ("name", "value", "error", "sqlstate"),
    [
        ("TINYINT", 128, NumericOutOfRange, "22003"),
        ("UBIGINT", -1, NumericOutOfRange, "22003"),
        ("INTEGER", float("inf"), NumericOutOfRange, "22003"),
        ("INTEGER", 1e300, NumericOutOfRange, "22003"),
        ("HUGEINT", 10**38, NumericOutOfRange, "22003"),
        ("DECIMAL(5,2)", 1000, NumericOutOfRange, "22003"),
        ("DECIMAL(5,2)", Decimal("999.995"), NumericOutOfRange, "22003"),
        ("DECIMAL(5,2)", Decimal("NaN"), NumericOutOfRange, "22003"),
        ("DECIMAL(5,2)", float("nan"), NumericOutOfRange, "22003"),
        ("REAL", 1e39, NumericOutOfRange, "22003"),
        ("VARCHAR", "a\0b", UnstorableText, "22021"),
        ("VARCHAR", "\ud800", UnstorableText, "22021"),
        ("JSON", {"a": "\ud800"}, UnstorableText, "22021"),
        ("VARCHAR(3)", "abcd", StringTooLong, "22001"),
        ("TIMESTAMP_NS", datetime(2300, 1, 1), InvalidValue, "22008"),
        ("TIMESTAMPTZ", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2))), InvalidValue, "22008"),
        ("INTERVAL", Interval(2**31, 0, 0), InvalidValue, "22008"),
        ("ENUM('a','b')", "c", InvalidValue, "22P02"),
        ("JSON", {"a": object()}, InvalidValue, "22P02"),
        ("JSON", [float("nan")], InvalidValue, "22P02"),
        ("UUID", 5, NeedsCast, "22P02"),
        ("BLOB", object(), NeedsCast, "22P02"),
    ],
)
def test_bad_values(name: str, value: Any, error: type[InvalidValue], sqlstate: str) -> None:
    with pytest.raises(error) as raised:
        parse_type(name).canonical(value)
    assert raised.value.sqlstate == sqlstate
    assert isinstance(raised.value, NeedsCast) == (error is NeedsCast)


@pytest.mark.parametrize("name", INTEGERS)
def test_exact_tells_what_no_value_of_the_column_can_equal(name: str) -> None:
    sql_type = parse_type(name)
    assert sql_type.exact(sql_type.high) == sql_type.high
    for value in (sql_type.high + 1, sql_type.low - 1, True, 1.0, "1", Decimal(1)):
        with pytest.raises(NeedsCast):
            sql_type.exact(value)


def test_there_is_one_nan() -> None:
    for name in ("REAL", "DOUBLE"):
        assert parse_type(name).canonical(float("nan")) is NAN
        assert parse_type(name).from_log(float("nan")) is NAN
        assert {parse_type(name).canonical(-float("nan")): 1}[NAN] == 1
    assert str(parse_type("DOUBLE").canonical(-0.0)) == "-0.0"


def test_intervals_become_timedeltas_where_these_say_the_same() -> None:
    interval = parse_type("INTERVAL")
    assert interval.to_python(Interval(0, 1, 5)) == timedelta(days=1, microseconds=5)
    assert interval.to_python(Interval(1, 0, 0)) == Interval(1, 0, 0)
    assert interval.to_python(Interval(0, 2**31 - 1, 0)) == Interval(0, 2**31 - 1, 0)


def test_every_kind_has_its_line_and_its_samples() -> None:
    assert {sql_type.kind for sql_type in ALL_TYPES} == set(KINDS) - {"NULL", "TUPLE"}
    for sql_type in ALL_TYPES:
        assert sql_type.sql_ordered <= sql_type.can_be_key <= sql_type.sql_equal


def test_importing_the_types_loads_no_library() -> None:
    engine = Path(__file__).resolve().parents[2] / "engine"
    code = f"import sys; sys.path.insert(0, {str(engine)!r}); import khonsu_engine.schema.types; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert "khonsu_engine.schema.types" in loaded
    assert not {"pyarrow", "numpy", "duckdb", "pandas"} & set(loaded)
