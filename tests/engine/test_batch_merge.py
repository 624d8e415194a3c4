"""`merged`: against a model in plain Python, and type by type."""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from khonsu_engine.errors import InvalidArgument, SchemaMismatch, UniqueViolation
from khonsu_engine.keyed.batch_codec import decode_batch, encode_batch
from khonsu_engine.keyed.merge import merged

SCHEMA = pa.schema([("id", pa.float64()), ("tags", pa.list_(pa.dictionary(pa.int8(), pa.string()))), ("n", pa.int8())])
KEYS = st.none() | st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, math.nan, math.inf])
ROWS = st.lists(
    st.fixed_dictionaries(
        {"id": KEYS, "tags": st.none() | st.lists(st.none() | st.sampled_from("abc"), max_size=2), "n": st.none() | st.integers(-9, 9)}
    ),
    max_size=12,
)


def same(left: Any, right: Any) -> bool:
    """Equality of keys: NULL equals nothing, NaN itself."""
    return left is not None and right is not None and (left == right or (left != left and right != right))


def plain(rows: Any) -> str:
    return repr([sorted(row.items()) for row in rows]).replace("-0.0", "0.0")


@given(ROWS, ROWS, st.sampled_from([None, "id", "n"]), st.integers(0, 3), st.integers(0, 3))
def test_as_the_model_says(theirs: list[Any], mine: list[Any], column: str | None, skipped: int, cut: int) -> None:
    key = column or "id"
    one = pa.RecordBatch.from_pylist(theirs, schema=SCHEMA).slice(skipped)
    other = pa.RecordBatch.from_pylist(mine, schema=SCHEMA).slice(cut)
    theirs, mine = theirs[skipped:], mine[cut:]
    if any(same(row[key], later[key]) for number, row in enumerate(mine) for later in mine[number + 1 :]):
        with pytest.raises(UniqueViolation):
            merged(one, other, column)
        return
    kept = [row for row in theirs if not any(same(row[key], new[key]) for new in mine)]
    result = merged(one, other, column)
    result.validate(full=True)
    assert plain(result.to_pylist()) == plain(kept + mine)
    assert result.schema.equals(SCHEMA) and merged(None, other, column) is other
    assert plain(decode_batch(encode_batch(result, "k"), "k").to_pylist()) == plain(kept + mine)


DAY = datetime.datetime(2026, 1, 2, 3, 4, 5)
VALUES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "bool": (pa.bool_(), [False, True]),
    "int8": (pa.int8(), [-1, 0, 1]),
    "uint64": (pa.uint64(), [0, 2**64 - 1]),
    "float16": (pa.float16(), [0.0, 1.5, 2.5]),
    "float32": (pa.float32(), [0.0, 1.5, math.inf]),
    "string": (pa.string(), ["", "a", "ä"]),
    "large_string": (pa.large_string(), ["", "a"]),
    "string_view": (pa.string_view(), ["", "a", "longer than twelve bytes"]),
    "binary": (pa.binary(), [b"", b"a"]),
    "large_binary": (pa.large_binary(), [b"", b"a"]),
    "binary_view": (pa.binary_view(), [b"", b"a"]),
    "fixed": (pa.binary(2), [b"ab", b"cd"]),
    "date32": (pa.date32(), [DAY.date(), datetime.date(1900, 1, 1)]),
    "date64": (pa.date64(), [DAY.date(), datetime.date(1900, 1, 1)]),
    "time32": (pa.time32("ms"), [datetime.time(1), datetime.time(2)]),
    "time64": (pa.time64("us"), [datetime.time(1), datetime.time(2)]),
    "timestamp": (pa.timestamp("us"), [DAY, datetime.datetime(1900, 1, 1)]),
    "timestamp_ns_zone": (
        pa.timestamp("ns", "UTC"),
        [DAY.replace(tzinfo=datetime.UTC), datetime.datetime(1900, 1, 1, tzinfo=datetime.UTC)],
    ),
    "duration": (pa.duration("s"), [datetime.timedelta(0), datetime.timedelta(1)]),
    "interval": (pa.month_day_nano_interval(), [pa.MonthDayNano([1, 2, 3]), pa.MonthDayNano([0, 0, 1])]),
    "decimal32": (pa.decimal32(5, 2), [decimal.Decimal("1.25"), decimal.Decimal("-1.00")]),
    "decimal128": (pa.decimal128(20, 2), [decimal.Decimal("1.25"), decimal.Decimal("-1.00")]),
    "decimal256": (pa.decimal256(60, 2), [decimal.Decimal("1.25"), decimal.Decimal("-1.00")]),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["a", "b"]),
    "list": (pa.list_(pa.int32()), [[], [1, None]]),
    "large_list": (pa.large_list(pa.int32()), [[], [1, None]]),
    "list_view": (pa.list_view(pa.int32()), [[], [1, None]]),
    "fixed_list": (pa.list_(pa.int32(), 2), [[1, 2], [3, None]]),
    "struct": (pa.struct([("x", pa.int32()), ("y", pa.list_(pa.string()))]), [{"x": 1, "y": ["a"]}, {"x": None, "y": None}]),
    "map": (pa.map_(pa.string(), pa.int32()), [[("a", 1)], []]),
    "uuid": (pa.uuid(), [b"a" * 16, b"b" * 16]),
}


@pytest.mark.parametrize("name", list(VALUES))
def test_every_type_as_key_and_as_a_column(name: str) -> None:
    """Rows with the first value are replaced; NULLs stay and equal nothing."""
    arrow, values = VALUES[name]

    def made(numbers: list[int | None], payload: list[int]) -> pa.RecordBatch:
        column = pa.array([None if number is None else values[number] for number in numbers], arrow)
        return pa.record_batch({"id": column, "again": column, "n": payload})

    theirs, mine = made([0, 1, None, 0], [1, 2, 3, 4]), made([0, None, None], [5, 6, 7])
    result = merged(theirs, mine)
    assert result.column("n").to_pylist() == [2, 3, 5, 6, 7]
    assert result.column("again").is_null().to_pylist() == [False, True, False, True, True]
    assert result.column("again").to_pylist()[0] == theirs.column("again").to_pylist()[1]
    assert result.column("id").to_pylist()[2] == mine.column("id").to_pylist()[0]
    with pytest.raises(UniqueViolation) as told:
        merged(theirs, made([1, 0, 1], [0, 0, 0]))
    assert told.value.sqlstate == "23505"
    assert merged(theirs, mine, "n").column("n").to_pylist() == [1, 2, 3, 4, 5, 6, 7]


def test_run_ends_and_nulls_and_unions() -> None:
    runs = pc.run_end_encode(pa.array([1, 1, None, 2]))
    theirs = pa.record_batch({"id": runs, "nothing": pa.nulls(4)})
    mine = pa.record_batch({"id": pc.run_end_encode(pa.array([1])), "nothing": pa.nulls(1)})
    assert merged(theirs, mine).column("id").to_pylist() == [None, 2, 1]
    assert merged(theirs, mine, "nothing").num_rows == 5
    union = pa.UnionArray.from_sparse(pa.array([0, 1, 0], pa.int8()), [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])])
    assert merged(pa.record_batch({"id": union}), pa.record_batch({"id": union.slice(1, 1)})).column("id").to_pylist() == [1, 3, "b"]


def test_dictionaries_that_differ_become_one() -> None:
    one, other = (pa.record_batch({"id": pa.array(values).dictionary_encode()}) for values in (["a", "b"], ["c", "b"]))
    result = merged(one, other)
    assert result.column("id").to_pylist() == ["a", "c", "b"]
    assert decode_batch(encode_batch(result, "k"), "k").equals(result)


def test_without_a_key_column_rows_are_only_added() -> None:
    one = pa.record_batch({"x": [1, 1]})
    assert merged(one, one).column("x").to_pylist() == [1, 1, 1, 1]
    assert merged(one, one.slice(0, 1), "x").column("x").to_pylist() == [1]


def test_schema_metadata_is_theirs_and_no_part_of_the_schema() -> None:
    theirs = pa.record_batch([pa.array([1])], schema=pa.schema([pa.field("id", pa.int64(), metadata={"a": "1"})], metadata={"b": "2"}))
    mine = pa.record_batch({"id": [2]})
    assert merged(theirs, mine).schema.equals(theirs.schema, check_metadata=True)
    assert merged(theirs, mine).column("id").to_pylist() == [1, 2]


@pytest.mark.parametrize(
    "schema",
    [
        [("id", pa.int32())],
        [("ID", pa.int64())],
        [("id", pa.int64()), ("more", pa.int64())],
        [pa.field("id", pa.int64(), nullable=False)],
        [],
    ],
)
def test_another_schema_is_an_error(schema: Any) -> None:
    other = pa.RecordBatch.from_pylist([], schema=pa.schema(schema))
    with pytest.raises(SchemaMismatch):
        merged(pa.record_batch({"id": [1]}), other)


def test_columns_that_cannot_be_the_key() -> None:
    one = pa.record_batch({"id": [1]})
    twice = pa.record_batch([pa.array([1]), pa.array([2])], names=["id", "id"])
    for call in (lambda: merged(one, one, "ID"), lambda: merged(one, one, 0), lambda: merged(twice, twice)):  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            call()
