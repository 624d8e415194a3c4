"""Keys: the order of canonical values in Python, of their column in Arrow, and of their bytes is one order."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from khonsu_engine.errors import NotSupported
from khonsu_engine.schema.keys import decode_key, encode_key, order_key
from khonsu_engine.schema.types import NAN, SqlType, arrow_from_rows, parse_type, rows_from_arrow
from tests.engine.type_samples import KEY_TYPES, OTHERS, canonical_values, same

key_types = st.sampled_from(KEY_TYPES)


@st.composite
def keyed(draw: st.DrawFn, parts_max: int = 3) -> tuple[list[SqlType], list[Any]]:
    """Types of a key and some keys of them; values repeat, so that later parts matter."""
    types = draw(st.lists(key_types, min_size=1, max_size=parts_max))
    columns = [draw(st.lists(canonical_values(sql_type), min_size=1, max_size=4)) for sql_type in types]
    rows = draw(st.lists(st.tuples(*[st.sampled_from(column) for column in columns]), min_size=2, max_size=12))
    return types, rows


def key_of(types: list[SqlType], row: Any) -> Any:
    return row[0] if len(types) == 1 else row


def normal(value: Any) -> Any:
    """A key as bytes give it back: -0.0 is 0.0."""
    if isinstance(value, tuple):
        return tuple(map(normal, value))
    return value + 0.0 if isinstance(value, float) and value == value else value


@given(keyed())
def test_python_arrow_and_bytes_agree_on_the_order(sample: tuple[list[SqlType], list[Any]]) -> None:
    types, rows = sample
    by_python = order_key(types) or (lambda key: key)
    in_python = sorted(rows, key=lambda row: by_python(key_of(types, row)))
    in_bytes = sorted(rows, key=lambda row: encode_key(types, key_of(types, row)))
    batch = arrow_from_rows(types, rows)
    order = pc.sort_indices(batch, sort_keys=[(name, "ascending") for name in batch.schema.names])
    in_arrow = rows_from_arrow(types, batch.take(order))
    assert [normal(row) for row in in_python] == [normal(row) for row in in_bytes] == [normal(row) for row in in_arrow]


@given(keyed())
def test_bytes_give_the_key_back(sample: tuple[list[SqlType], list[Any]]) -> None:
    types, rows = sample
    for row in rows:
        assert same(decode_key(types, encode_key(types, key_of(types, row))), normal(key_of(types, row)))


@given(keyed())
def test_equal_keys_and_only_they_have_equal_bytes(sample: tuple[list[SqlType], list[Any]]) -> None:
    types, rows = sample
    for left in rows:
        for right in rows:
            assert (encode_key(types, key_of(types, left)) == encode_key(types, key_of(types, right))) == (left == right)


@given(keyed(parts_max=2), st.integers(0, 2**32))
def test_null_comes_first_and_a_prefix_covers_its_keys(sample: tuple[list[SqlType], list[Any]], seed: int) -> None:
    types, rows = sample
    types = [*types, SqlType("INTEGER")]
    row = random.Random(seed).choice(rows)
    prefix = encode_key(types, row)
    with_null, with_value = encode_key(types, (*row, None)), encode_key(types, (*row, -(2**31)))
    assert with_null < with_value
    assert with_null.startswith(prefix) and with_value.startswith(prefix)
    assert decode_key(types, with_null)[-1] is None


def test_the_bytes_are_final() -> None:
    """They are stored: a change here is a new format."""
    cases: list[tuple[str, Any, str]] = [
        ("INTEGER", -1, "01 7fffffff"),
        ("BIGINT", 1, "01 8000000000000001"),
        ("UTINYINT", 255, "01 ff"),
        ("HUGEINT", 0, "01 80000000000000000000000000000000"),
        ("VARCHAR", "a\u00e9", "01 61c3a9 0000"),
        ("BLOB", b"\0\1", "01 00ff01 0000"),
        ("DOUBLE", 1.0, "01 bff0000000000000"),
        ("DOUBLE", -1.0, "01 400fffffffffffff"),
        ("DOUBLE", NAN, "01 ffffffffffffffff"),
        ("BOOLEAN", True, "01 01"),
        ("UUID", UUID(int=1), "01 00000000000000000000000000000001"),
        ("INTEGER", None, "00"),
    ]
    for name, value, expected in cases:
        assert encode_key([parse_type(name)], value) == bytes.fromhex(expected), name
    decimal = parse_type("DECIMAL(5,2)")
    assert encode_key([decimal], decimal.canonical("1.00")) == bytes.fromhex("01 80000000000000000000000000000064")


def test_minus_zero_is_zero_in_keys() -> None:
    for name in ("REAL", "DOUBLE"):
        assert encode_key([parse_type(name)], -0.0) == encode_key([parse_type(name)], 0.0)


@pytest.mark.parametrize("name", OTHERS)
def test_types_that_cannot_be_keys_say_so(name: str) -> None:
    sql_type = parse_type(name)
    assert not sql_type.can_be_key
    with pytest.raises(NotSupported, match="cannot be part of a key"):
        encode_key([sql_type], sql_type.canonical("1") if name == "JSON" else ())


def test_only_floats_need_an_order_of_their_own() -> None:
    assert order_key([parse_type("BIGINT"), parse_type("VARCHAR")]) is None
    order = order_key([parse_type("DOUBLE")])
    assert order is not None
    assert sorted([NAN, float("inf"), -1.0], key=order) == [-1.0, float("inf"), NAN]
    assert pa.array([NAN, float("inf"), -1.0]).take(pc.sort_indices(pa.array([NAN, float("inf"), -1.0]))).to_pylist()[1] == float("inf")
