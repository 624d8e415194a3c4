"""What DuckDB returns, with exactly our types: columns, rows, and streams of batches.

Called by `execution` and `streams`. DuckDB's own name of a column's type decides what it is, because Arrow forgets. Rows come in one
of two ways: as Python objects that DuckDB makes, where those are the very ones the shared converter would make (`faithful`), else as
Arrow through that converter.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from khonsu_engine.errors import EngineError
from khonsu_engine.schema.types import KINDS, SqlType, arrow_schema, parse_type
from khonsu_sql.errors import FeatureNotSupported, NumericValueOutOfRange
from khonsu_sql.session import ColumnInfo

if TYPE_CHECKING:
    from khonsu_sql.sql.query.bindings import Description

__all__ = ["columns_of", "exact", "faithful", "only_arrow", "schema_of"]


def columns_of(description: Description, names: Sequence[str] | None) -> tuple[ColumnInfo, ...]:
    """The columns of a result; `names` in place of DuckDB's. Raises FeatureNotSupported for types that SqlType does not have."""
    shown = [column[0] for column in description] if names is None else names
    return tuple(ColumnInfo(name, _type_of(name, str(column[1]))) for name, column in zip(shown, description, strict=True))


def schema_of(columns: Sequence[ColumnInfo]) -> pa.Schema:
    """The same in Arrow."""
    return arrow_schema([column.type for column in columns], [column.name for column in columns])


def _type_of(name: str, duckdb_type: str) -> SqlType:
    try:
        return parse_type(duckdb_type, duckdb=True)
    except EngineError as error:
        raise FeatureNotSupported(
            f"column {name!r} of the result has type {duckdb_type}, which is not supported", hint=error.hint or "CAST it to another type."
        ) from error


# --- rows that DuckDB makes

_ONLY_ARROW = frozenset({"TIMESTAMPTZ", "TIMESTAMP_NS", "INTERVAL", "LIST", "STRUCT", "MAP"})
_CLASSES: dict[str, type] = {"DATE": date, "TIME": time, "TIMESTAMP": datetime, "TIMESTAMP_S": datetime, "TIMESTAMP_MS": datetime}
_ENDS = {date: (date.min, date.max), datetime: (datetime.min, datetime.max), time: ()}
_HUGEINT_MAX = KINDS["HUGEINT"].high


def only_arrow(columns: Sequence[ColumnInfo]) -> bool:
    """True when some column's values are the driver's only if they come as Arrow: time zones, nanoseconds, months, nested values."""
    return any(column.type.kind in _ONLY_ARROW for column in columns)


def faithful(columns: Sequence[ColumnInfo], rows: list[tuple[Any, ...]]) -> bool:
    """False when a date or time among `rows` is one for which DuckDB made text, or stands for infinity. Raises NumericValueOutOfRange."""
    for position, column in enumerate(columns):
        kind = column.type.kind
        if kind in _CLASSES:
            if not _are_moments(_CLASSES[kind], [row[position] for row in rows]):
                return False
        elif kind == "HUGEINT":
            for row in rows:
                if row[position] is not None and abs(row[position]) > _HUGEINT_MAX:
                    raise _beyond_hugeint(column.name)
    return True


def _are_moments(expected: type, values: list[Any]) -> bool:
    ends = _ENDS[expected]
    return all(value is None or (type(value) is expected and value not in ends) for value in values)


def _beyond_hugeint(name: str) -> NumericValueOutOfRange:
    return NumericValueOutOfRange(f"column {name!r} of the result has a value of more than 38 digits", hint="CAST it to DOUBLE or VARCHAR.")


# --- Arrow


def exact(columns: Sequence[ColumnInfo], schema: pa.Schema, batch: pa.RecordBatch) -> pa.RecordBatch:
    """`batch` as DuckDB made it, with the Arrow types of `columns`. Raises NumericValueOutOfRange."""
    arrays = []
    for column, array, field in zip(columns, batch.columns, schema, strict=True):
        if not _fits(column.type, array):
            raise _beyond_hugeint(column.name)
        arrays.append(array if array.type.equals(field.type) else array.cast(field.type))
    if not arrays:
        return batch
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _fits(sql_type: SqlType, array: pa.Array) -> bool:
    """False when a HUGEINT within `array` has more than the 38 digits of the decimal it travels as."""
    if sql_type.kind == "HUGEINT":
        bounds = pc.min_max(array).as_py()
        return bounds["min"] is None or -_HUGEINT_MAX <= bounds["min"] <= bounds["max"] <= _HUGEINT_MAX
    if not _has_hugeint(sql_type):
        return True
    children = {"LIST": lambda: [array.flatten()], "MAP": lambda: [array.keys, array.items], "STRUCT": array.flatten}[sql_type.kind]()
    return all(_fits(part, child) for part, child in zip(sql_type.parts, children, strict=True))


def _has_hugeint(sql_type: SqlType) -> bool:
    return sql_type.kind == "HUGEINT" or any(_has_hugeint(part) for part in sql_type.parts)
