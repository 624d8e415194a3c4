"""Rows <-> Arrow: slices, chunks, dictionaries; what Python cannot hold; foreign data checked by the column."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from khonsu_engine.errors import DatetimeOutOfRange, InvalidValue, NotSupported, NumericOutOfRange, StringTooLong, UnstorableText
from khonsu_engine.schema.types import (
    NAN,
    Interval,
    NeedsCast,
    SqlType,
    arrow_from_rows,
    arrow_schema,
    conform,
    parse_type,
    python_rows_from_arrow,
    rows_from_arrow,
    type_of_arrow,
)
from tests.engine.type_samples import ALL_TYPES, nullable, same


@pytest.mark.parametrize("sql_type", ALL_TYPES, ids=str)
@settings(max_examples=25)
@given(data=st.data())
def test_slices_and_chunks_are_read_as_they_are(sql_type: SqlType, data: st.DataObject) -> None:
    rows = [(value,) for value in data.draw(st.lists(nullable(sql_type), max_size=8))]
    low = data.draw(st.integers(0, len(rows)))
    count = data.draw(st.integers(0, len(rows) - low))
    batch = arrow_from_rows([sql_type], rows, ["x"])
    assert same(rows_from_arrow([sql_type], batch.slice(low, count)), rows[low : low + count])
    chunked = pa.Table.from_batches([batch.slice(low), batch.slice(0, low)], batch.schema)
    assert same(rows_from_arrow([sql_type], chunked), rows[low:] + rows[:low])
    ours = conform([sql_type], batch.slice(low, count))
    assert same(rows_from_arrow([sql_type], ours), rows[low : low + count])


def test_rows_without_columns_are_counted() -> None:
    batch = arrow_from_rows([], [(), (), ()])
    assert (batch.num_rows, rows_from_arrow([], batch), python_rows_from_arrow([], batch)) == (3, [()] * 3, [()] * 3)
    assert rows_from_arrow([], arrow_from_rows([], [])) == []


def test_no_rows_still_have_their_schema() -> None:
    batch = arrow_from_rows(ALL_TYPES, [])
    assert batch.schema == arrow_schema(ALL_TYPES)
    assert rows_from_arrow(ALL_TYPES, batch) == []


def test_a_row_has_as_many_values_as_there_are_types() -> None:
    with pytest.raises(ValueError):
        arrow_from_rows([parse_type("INTEGER")], [(1, 2)])


def column(*values: Any, type: pa.DataType) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, type)], ["x"])


def raw(integer: int, arrow: pa.DataType) -> pa.RecordBatch:
    """One value of a type that is an integer underneath."""
    width = pa.int32() if pa.types.is_date32(arrow) else pa.int64()
    return pa.RecordBatch.from_arrays([pa.array([None, integer], width).view(arrow)], ["x"])


BEYOND = [
    ("DATE", 2**31 - 1),
    ("DATE", -(2**31 - 1)),
    ("DATE", 2_932_897),
    ("TIMESTAMP", 2**63 - 1),
    ("TIMESTAMP", -62_135_596_800_000_001),
    ("TIMESTAMP_S", 2**63 - 1),
    ("TIMESTAMP_MS", 253_402_300_800_000),
    ("TIMESTAMP_NS", 2**63 - 1),
    ("TIMESTAMPTZ", -(2**63 - 1)),
    ("TIME", 86_400_000_000),
]


@pytest.mark.parametrize(("name", "integer"), BEYOND)
def test_what_pythons_calendar_cannot_hold_is_refused_by_name(name: str, integer: int) -> None:
    batch = raw(integer, parse_type(name).arrow)
    for read in (rows_from_arrow, python_rows_from_arrow, conform):
        with pytest.raises(DatetimeOutOfRange) as raised:
            read([parse_type(name)], batch)
        assert raised.value.sqlstate == "22008"


def test_the_last_moments_of_the_calendar() -> None:
    assert rows_from_arrow([parse_type("TIMESTAMP")], raw(253_402_300_799_999_999, pa.timestamp("us")))[1][0] == datetime.max
    assert rows_from_arrow([parse_type("TIMESTAMPTZ")], raw(-62_135_596_800_000_000, pa.timestamp("us", "UTC")))[1][0] == datetime(
        1, 1, 1, tzinfo=UTC
    )


def test_nan_from_arrow_is_the_one_nan() -> None:
    rows = rows_from_arrow([parse_type("DOUBLE")], column(float("nan"), None, 1.5, type=pa.float64()))
    assert rows[0][0] is NAN and rows[1:] == [(None,), (1.5,)]


# --- foreign data


@pytest.mark.parametrize(
    ("name", "batch", "expected"),
    [
        ("BIGINT", column(1, None, type=pa.int8()), [1, None]),
        ("INTEGER", column(1.0, type=pa.float64()), [1]),
        ("VARCHAR", column("a", type=pa.large_string()), ["a"]),
        ("VARCHAR", column("a", type=pa.string_view()), ["a"]),
        ("VARCHAR", column("a", "b", "a", type=pa.dictionary(pa.int8(), pa.string())), ["a", "b", "a"]),
        ("VARCHAR(3)", column("abc  ", None, type=pa.string()), ["abc", None]),
        ("BLOB", column(b"ab", type=pa.binary(2)), [b"ab"]),
        ("DECIMAL(5,2)", column(Decimal("1.5"), type=pa.decimal64(5, 1)), [Decimal("1.50")]),
        ("HUGEINT", column(2**63, type=pa.uint64()), [2**63]),
        ("UUID", column(bytes(15) + b"\1", type=pa.binary(16)), [UUID(int=1)]),
        ("UUID", column("00000000-0000-0000-0000-00000000000A", type=pa.string()), [UUID(int=10)]),
        ("UUID", column(UUID(int=7).bytes, None, type=pa.uuid()), [UUID(int=7), None]),
        ("INTERVAL", column(timedelta(days=1, seconds=1), None, type=pa.duration("ms")), [Interval(0, 1, 1_000_000), None]),
        ("TIMESTAMP", column(1, type=pa.timestamp("s")), [datetime(1970, 1, 1, 0, 0, 1)]),
        ("TIMESTAMPTZ", column(1, type=pa.timestamp("s", "Europe/Paris")), [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)]),
        ("INTEGER[]", column([1, 2], None, type=pa.large_list(pa.int64())), [(1, 2), None]),
        ("INTEGER[]", column([1, 2], type=pa.list_(pa.int32(), 2)), [(1, 2)]),
        ("ENUM('a','b')", column("b", None, type=pa.dictionary(pa.int8(), pa.string())), ["b", None]),
        ("INTEGER", column(None, None, type=pa.null()), [None, None]),
    ],
)
def test_foreign_data_becomes_ours(name: str, batch: pa.RecordBatch, expected: list[Any]) -> None:
    sql_type = parse_type(name)
    ours = conform([sql_type], batch)
    assert ours.schema.types == [sql_type.arrow]
    assert same([row[0] for row in rows_from_arrow([sql_type], ours)], expected)


def invalid_utf8() -> pa.RecordBatch:
    buffers = [None, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff")]
    return pa.RecordBatch.from_arrays([pa.Array.from_buffers(pa.string(), 1, buffers)], ["x"])


@pytest.mark.parametrize(
    ("name", "batch", "error"),
    [
        ("TINYINT", column(128, type=pa.int64()), NumericOutOfRange),
        ("UINTEGER", column(-1, type=pa.int64()), NumericOutOfRange),
        ("INTEGER", column(1.5, type=pa.float64()), NumericOutOfRange),
        ("DECIMAL(3,2)", column(Decimal("10.00"), type=pa.decimal128(4, 2)), NumericOutOfRange),
        ("DECIMAL(3,1)", column(Decimal("1.25"), type=pa.decimal128(4, 2)), NumericOutOfRange),
        ("INTEGER", column("x", type=pa.string()), InvalidValue),
        ("INTEGER", column([1], type=pa.list_(pa.int32())), InvalidValue),
        ("VARCHAR", column("a\0b", type=pa.string()), UnstorableText),
        ("VARCHAR", invalid_utf8(), UnstorableText),
        ("VARCHAR[]", column(["a\0b"], type=pa.list_(pa.string())), UnstorableText),
        ("VARCHAR(3)", column("abcd", type=pa.string()), StringTooLong),
        ("VARCHAR(3)[]", column(["abcd"], type=pa.list_(pa.string())), StringTooLong),
        ("STRUCT(a VARCHAR(3))", column({"a": "abcd"}, type=pa.struct([("a", pa.string())])), StringTooLong),
        ("MAP(VARCHAR, DATE[])", column([("k", [2**31 - 1])], type=pa.map_(pa.string(), pa.list_(pa.int32()))), InvalidValue),
        ("ENUM('a','b')", column("c", type=pa.string()), InvalidValue),
        ("UUID", column("5", type=pa.string()), InvalidValue),
        ("UUID[]", column(["5"], type=pa.list_(pa.string())), InvalidValue),
        ("JSON", column("{", type=pa.string()), InvalidValue),
        ("JSON[]", column(["1", "{"], type=pa.list_(pa.string())), InvalidValue),
        ("TIMESTAMPTZ", column(1, type=pa.timestamp("us")), InvalidValue),
        ("TIMESTAMP", column(1, type=pa.timestamp("us", "UTC")), InvalidValue),
        ("TIMESTAMP", column(1, type=pa.timestamp("ns")), InvalidValue),
        ("INTERVAL", column((0, 0, 1), type=pa.month_day_nano_interval()), DatetimeOutOfRange),
        ("HUGEINT", pa.RecordBatch.from_arrays([pa.array([10**38], pa.decimal256(39, 0))], ["x"]), NumericOutOfRange),
    ],
)
def test_foreign_data_that_cannot_be_ours_names_its_column(name: str, batch: pa.RecordBatch, error: type[InvalidValue]) -> None:
    with pytest.raises(error) as raised:
        conform([parse_type(name)], batch)
    assert not isinstance(raised.value, NeedsCast)
    assert "'x'" in raised.value.message


def test_columns_that_need_nothing_are_passed_on() -> None:
    batch = column(1, 2, type=pa.int64())
    assert conform([parse_type("BIGINT")], batch).column(0).buffers()[1].address == batch.column(0).buffers()[1].address


@pytest.mark.parametrize("sql_type", ALL_TYPES, ids=str)
def test_arrow_types_have_sql_types(sql_type: SqlType) -> None:
    assert type_of_arrow(sql_type.arrow, sql_type.sql) == sql_type
    assert type_of_arrow(sql_type.arrow).arrow == sql_type.arrow


@pytest.mark.parametrize(
    ("arrow", "expected"),
    [
        (pa.large_string(), "VARCHAR"),
        (pa.float16(), "REAL"),
        (pa.date64(), "DATE"),
        (pa.time32("s"), "TIME"),
        (pa.timestamp("ms", "Europe/Paris"), "TIMESTAMPTZ"),
        (pa.duration("s"), "INTERVAL"),
        (pa.dictionary(pa.int8(), pa.large_string()), "VARCHAR"),
        (pa.decimal32(5, 2), "DECIMAL(5,2)"),
        (pa.large_list(pa.list_(pa.int8(), 3)), "TINYINT[][]"),
        (pa.uuid(), "UUID"),
        (pa.json_(), "JSON"),
        (pa.bool8(), "BOOLEAN"),
        (pa.binary(3), "BLOB"),
        (pa.null(), '"NULL"'),
    ],
)
def test_foreign_arrow_types(arrow: pa.DataType, expected: str) -> None:
    assert type_of_arrow(arrow).sql == expected


@pytest.mark.parametrize("arrow", [pa.decimal256(50, 2), pa.decimal128(5, -2), pa.dense_union([pa.field("a", pa.int8())]), pa.struct([])])
def test_arrow_types_without_a_home_are_refused(arrow: pa.DataType) -> None:
    with pytest.raises(NotSupported, match="has no SQL type"):
        type_of_arrow(arrow)
