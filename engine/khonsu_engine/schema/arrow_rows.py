"""Rows <-> Arrow batches: the only converters of both evaluation paths.

Called by `columns` (segments, version chunks, own rows), by the front (results, INSERT … SELECT, RETURNING) and by bulk writes.
Rows are tuples of canonical values; `python_rows_from_arrow` gives what the driver hands out. Batches have the types'
`.arrow` on the way out; on the way in also what DuckDB returns for them (dictionaries for ENUM).

Invariants: no `as_py` of a type that may raise OverflowError is ever called; what Python cannot hold is DatetimeOutOfRange.
Values from foreign data go through `arrow_checks.conform` first; what is read here is trusted. pyarrow is loaded at the first call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC
from itertools import pairwise, repeat
from typing import TYPE_CHECKING, Any
from uuid import UUID

from khonsu_engine.schema.arrow_bounds import check_bounds
from khonsu_engine.schema.sql_type import SqlType
from khonsu_engine.schema.temporal import time_of
from khonsu_engine.schema.values import NAN, Interval

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["arrow_array", "arrow_from_rows", "arrow_schema", "column_values", "python_rows_from_arrow", "rows_from_arrow"]

Row = tuple[Any, ...]


def rows_from_arrow(types: Sequence[SqlType], batch: pa.RecordBatch | pa.Table) -> list[Row]:
    """The rows of `batch` as tuples of canonical values. Raises DatetimeOutOfRange."""
    if not types:
        return [()] * batch.num_rows
    columns = [column_values(sql_type, column) for sql_type, column in zip(types, batch.columns, strict=True)]
    return list(zip(*columns, strict=True))


def python_rows_from_arrow(types: Sequence[SqlType], batch: pa.RecordBatch | pa.Table) -> list[Row]:
    """The rows of `batch` as the driver returns them. Raises DatetimeOutOfRange."""
    if not types:
        return [()] * batch.num_rows
    columns = []
    for sql_type, column in zip(types, batch.columns, strict=True):
        values = column_values(sql_type, column)
        columns.append(values if sql_type.python_identity else list(map(sql_type.to_python, values)))
    return list(zip(*columns, strict=True))


def arrow_schema(types: Sequence[SqlType], names: Iterable[str] | None = None) -> pa.Schema:
    """The schema of batches of these columns; without names they are called c0, c1, …"""
    import pyarrow as pa

    chosen = list(names) if names is not None else [f"c{number}" for number in range(len(types))]
    return pa.schema([pa.field(name, sql_type.arrow) for name, sql_type in zip(chosen, types, strict=True)])


def arrow_from_rows(types: Sequence[SqlType], rows: Sequence[Row], names: Iterable[str] | None = None) -> pa.RecordBatch:
    """One batch of rows of canonical values."""
    import pyarrow as pa

    schema = arrow_schema(types, names)
    if not types:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * len(rows), pa.struct([])))
    columns: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else repeat((), len(types))
    arrays = [arrow_array(sql_type, values) for sql_type, values in zip(types, columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def arrow_array(sql_type: SqlType, values: Sequence[Any]) -> pa.Array:
    """One column of canonical values."""
    import pyarrow as pa

    convert = _to_arrow(sql_type)
    return pa.array(values if convert is None else [None if value is None else convert(value) for value in values], sql_type.arrow)


def _to_arrow(sql_type: SqlType) -> Callable[[Any], Any] | None:
    """Canonical value (not None) -> what `pa.array` takes for it; None: the value itself."""
    match sql_type.kind:
        case "UUID":
            return str
        case "INTERVAL":
            return lambda value: (value.months, value.days, value.microseconds * 1000)
    parts = [_to_arrow(part) for part in sql_type.parts]
    if sql_type.fields:
        return _struct_to_arrow([name for name, _ in sql_type.fields], parts)
    if all(part is None for part in parts):
        return None
    each = [_or_none(part) for part in parts]
    if sql_type.kind == "LIST":
        return lambda value: [each[0](part) for part in value]
    return lambda value: [(each[0](left), each[1](right)) for left, right in value]


def _or_none(convert: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    if convert is None:
        return lambda value: value
    return lambda value: None if value is None else convert(value)


def _struct_to_arrow(names: list[str], parts: list[Callable[[Any], Any] | None]) -> Callable[[Any], Any]:
    each = [_or_none(part) for part in parts]
    return lambda value: {name: convert(part) for name, convert, part in zip(names, each, value, strict=True)}


def column_values(sql_type: SqlType, column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The canonical values of one column."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        values: list[Any] = []
        for chunk in column.chunks:
            values += column_values(sql_type, chunk)
        return values
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    read = _READERS.get(sql_type.kind)
    return column.to_pylist() if read is None else read(sql_type, column)


def _floats(sql_type: SqlType, column: pa.Array) -> list[Any]:
    values: list[Any] = column.to_pylist()
    total = sum(value for value in values if value is not None) if column.null_count else sum(values)
    if total == total:
        return values
    return [value if value == value else NAN for value in values]


def _decimals(sql_type: SqlType, column: pa.Array) -> list[Any]:
    values: list[Any] = column.to_numpy(zero_copy_only=False).tolist()
    return values


def _huge_integers(sql_type: SqlType, column: pa.Array) -> list[Any]:
    return [None if value is None else int(value) for value in column.to_pylist()]


def _uuids(sql_type: SqlType, column: pa.Array) -> list[Any]:
    return [None if value is None else UUID(value) for value in column.to_pylist()]


def _times(sql_type: SqlType, column: pa.Array) -> list[Any]:
    import pyarrow as pa

    return list(map(time_of, column.cast(pa.int64()).to_pylist()))


def _dates(sql_type: SqlType, column: pa.Array) -> list[Any]:
    check_bounds(column)
    values: list[Any] = column.to_numpy(zero_copy_only=False).astype("datetime64[D]").astype(object).tolist()
    return values


def _timestamps(sql_type: SqlType, column: pa.Array) -> list[Any]:
    """NumPy makes datetimes twenty times faster than pyarrow does."""
    check_bounds(column)
    numbers = column.to_numpy(zero_copy_only=False)
    values: list[Any] = numbers.astype(f"datetime64[{column.type.unit}]").astype(object).tolist()
    return values


def _zoned(sql_type: SqlType, column: pa.Array) -> list[Any]:
    values = _timestamps(sql_type, column)
    return [None if value is None else value.replace(tzinfo=UTC) for value in values]


def _nanoseconds(sql_type: SqlType, column: pa.Array) -> list[Any]:
    import pyarrow as pa

    check_bounds(column)
    values: list[Any] = column.cast(pa.int64()).to_pylist()
    return values


def _intervals(sql_type: SqlType, column: pa.Array) -> list[Any]:
    return [None if value is None else Interval(value[0], value[1], value[2] // 1000) for value in column.to_pylist()]


def _lists(sql_type: SqlType, column: pa.Array) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    offsets, (values,) = _flattened(column, [column.values], [sql_type.parts[0]])
    return _cut(column, offsets, values)


def _maps(sql_type: SqlType, column: pa.Array) -> list[Any]:
    offsets, (keys, items) = _flattened(column, [column.keys, column.items], list(sql_type.parts))
    return _cut(column, offsets, list(zip(keys, items, strict=True)))


def _flattened(column: pa.Array, children: list[pa.Array], types: list[SqlType]) -> tuple[list[int], list[list[Any]]]:
    """Offsets from 0 and the canonical values of the children that belong to this (possibly sliced) column."""
    offsets: list[int] = column.offsets.to_pylist()
    start = offsets[0]
    parts = [column_values(part, child.slice(start, offsets[-1] - start)) for part, child in zip(types, children, strict=True)]
    return [offset - start for offset in offsets], parts


def _cut(column: pa.Array, offsets: list[int], values: list[Any]) -> list[Any]:
    pieces: list[Any] = [tuple(values[low:high]) for low, high in pairwise(offsets)]
    return _masked(column, pieces)


def _masked(column: pa.Array, values: list[Any]) -> list[Any]:
    if not column.null_count:
        return values
    return [value if valid else None for value, valid in zip(values, column.is_valid().to_pylist(), strict=True)]


def _structs(sql_type: SqlType, column: pa.Array) -> list[Any]:
    parts = [column_values(part, child) for part, child in zip(sql_type.parts, column.flatten(), strict=True)]
    return _masked(column, list(zip(*parts, strict=True)))


_READERS: dict[str, Callable[[SqlType, Any], list[Any]]] = {
    "REAL": _floats,
    "DOUBLE": _floats,
    "DECIMAL": _decimals,
    "HUGEINT": _huge_integers,
    "UUID": _uuids,
    "TIME": _times,
    "DATE": _dates,
    "TIMESTAMP": _timestamps,
    "TIMESTAMP_S": _timestamps,
    "TIMESTAMP_MS": _timestamps,
    "TIMESTAMP_NS": _nanoseconds,
    "TIMESTAMPTZ": _zoned,
    "INTERVAL": _intervals,
    "LIST": _lists,
    "MAP": _maps,
    "STRUCT": _structs,
    "TUPLE": _structs,
}
