"""One example of every SQL type, and Hypothesis strategies for their canonical values and for parameters from Python."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from khonsu_engine.schema.types import NAN, Interval, SqlType, parse_type

INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
SCALARS = (
    *INTEGERS,
    *("DECIMAL(5,2)", "DECIMAL(18,3)", "DECIMAL(38,0)", "DECIMAL(38,38)", "DECIMAL(9)", "REAL", "DOUBLE", "BOOLEAN"),
    *("VARCHAR", "VARCHAR(3)", "BLOB", "UUID", "ENUM('z','a','B','')"),
    *("DATE", "TIME", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMPTZ"),
)
OTHERS = (
    *("INTERVAL", "JSON", "INTEGER[]", "VARCHAR[][]", "UUID[]", "HUGEINT[]", "ENUM('x','y')[]", "DOUBLE[]", "JSON[]"),
    *("STRUCT(a INTEGER, b VARCHAR)", 'STRUCT("a b" UUID, c TIMESTAMP_NS, d INTERVAL[])', "STRUCT(s STRUCT(t DATE))"),
    *("MAP(VARCHAR, INTEGER)", "MAP(UUID, TIMESTAMPTZ[])", "MAP(INTEGER[], DECIMAL(4,1))"),
)
KEY_TYPES = tuple(parse_type(name) for name in SCALARS)
ALL_TYPES = tuple(parse_type(name) for name in (*SCALARS, *OTHERS))

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
json_texts = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
).map(json.dumps)
intervals = st.builds(
    Interval,
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-9_223_372_036_854_775, 9_223_372_036_854_775),
)


def decimals(sql_type: SqlType) -> st.SearchStrategy[Decimal]:
    bound = 10**sql_type.precision - 1
    return st.integers(-bound, bound).map(lambda unscaled: Decimal(f"{unscaled}E-{sql_type.scale}"))


def one_nan(value: float) -> float:
    return value if value == value else NAN


SIMPLE: dict[str, st.SearchStrategy[Any]] = {
    "REAL": st.floats(width=32).map(one_nan),
    "DOUBLE": st.floats().map(one_nan),
    "BOOLEAN": st.booleans(),
    "VARCHAR": texts,
    "BLOB": st.binary(max_size=12),
    "UUID": st.uuids(),
    "DATE": st.dates(),
    "TIME": st.times().map(lambda value: value.replace(fold=0)),
    "TIMESTAMP": st.datetimes().map(lambda value: value.replace(fold=0)),
    "TIMESTAMP_S": st.datetimes().map(lambda value: value.replace(microsecond=0, fold=0)),
    "TIMESTAMP_MS": st.datetimes().map(lambda value: value.replace(microsecond=value.microsecond // 1000 * 1000, fold=0)),
    "TIMESTAMP_NS": st.integers(-(2**63) + 10**14, 2**63 - 2),
    "TIMESTAMPTZ": st.datetimes(timezones=st.just(UTC)).map(lambda value: value.replace(fold=0)),
    "INTERVAL": intervals,
    "JSON": json_texts,
}


def canonical_values(sql_type: SqlType) -> st.SearchStrategy[Any]:
    """Canonical values of the type, NULL not among them at the top."""
    if sql_type.is_integer:
        return st.integers(sql_type.low, sql_type.high)
    parts = [st.none() | canonical_values(part) for part in sql_type.parts]
    match sql_type.kind:
        case "DECIMAL":
            return decimals(sql_type)
        case "VARCHAR" if sql_type.length:
            return texts.map(lambda text: text[: sql_type.length])
        case "ENUM":
            return st.sampled_from(sql_type.members)
        case "LIST":
            return st.lists(parts[0], max_size=4).map(tuple)
        case "STRUCT":
            return st.tuples(*parts)
        case "MAP":
            keys = canonical_values(sql_type.parts[0])
            return st.lists(st.tuples(keys, parts[1]), max_size=3, unique_by=lambda pair: pair[0]).map(tuple)
    return SIMPLE[sql_type.kind]


def nullable(sql_type: SqlType) -> st.SearchStrategy[Any]:
    return st.none() | canonical_values(sql_type)


def same(left: Any, right: Any) -> bool:
    """Equal and of the same classes throughout, -0.0 told from 0.0 and NaN equal to itself only as the one object."""
    if type(left) is not type(right):
        return False
    if isinstance(left, tuple | list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return left is right if left != left else (left == right and repr(left) == repr(right))


numbers_of_python = (
    st.integers(-(10**6), 10**6)
    | st.integers()
    | st.integers(-(2**128), 2**128)
    | st.booleans()
    | st.floats()
    | st.integers(-2000, 2000).map(lambda value: value / 8)
    | st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**6), max_value=10**6)
    | st.decimals(allow_infinity=False, allow_nan=False)
)
texts_of_python = (
    texts
    | numbers_of_python.map(str)
    | st.dates().map(str)
    | st.datetimes().map(str)
    | st.times().map(str)
    | st.uuids().map(str)
    | st.sampled_from(["true", "f", "yes", " 5", "5 ", "1e3", "0x10", "1_000", ".5", "5.", "nan", "-inf", "2000-02-30", "0000-01-01"])
    | st.sampled_from(["2000-01-01 10:00:00+02", "2000-01-01T10:00:00Z", "2000-01-01 10:00", "٣", "１２", "24:00:00", "infinity", "epoch"])
)
python_values = (
    numbers_of_python
    | texts_of_python
    | st.binary(max_size=8)
    | st.uuids()
    | st.dates(min_value=date(1, 1, 2))
    | st.datetimes(min_value=datetime(1, 1, 2))
    | st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.timezones())
    | st.times()
    | st.timedeltas(timedelta(-(10**6)), timedelta(10**6))
    | st.just(time(1, 2, 3))
)
