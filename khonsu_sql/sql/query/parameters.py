"""Python values as DuckDB's parameters, each with the type it should have there, or refused with an error that says why.

Called by `execution`. What DuckDB would take with another meaning is told apart here: decimals it would make floating point,
integers beyond HUGEINT, nanoseconds it would drop or take for an integer, an `Interval` it would take for a list, text with NUL.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

import duckdb

from khonsu_engine.errors import EngineError
from khonsu_engine.schema.texts import storable
from khonsu_engine.schema.types import KINDS, Interval
from khonsu_engine.schema.values import plain, shown
from khonsu_sql.errors import DataError, InterfaceError, NumericValueOutOfRange, translate

__all__ = ["parameter", "parameters"]

_AS_THEY_ARE = frozenset({type(None), bool, float, bytes, datetime.date, datetime.datetime, datetime.time, datetime.timedelta, UUID})
_HUGEINT = KINDS["HUGEINT"]
_DEPTH_MAX = 32


def parameters(values: Iterable[Any]) -> list[Any]:
    """`values` as DuckDB takes them. Raises DataError and its subclasses, InterfaceError (a Python type that is no SQL value)."""
    try:
        return [value if type(value) in _AS_THEY_ARE else parameter(value) for value in values]
    except EngineError as error:
        raise translate(error) from error


def parameter(value: Any, depth: int = 0) -> Any:
    """One value. A subclass of a known class counts as that class."""
    if depth > _DEPTH_MAX:
        raise DataError(f"a parameter is nested more than {_DEPTH_MAX} deep", sqlstate="54000")
    value = plain(value)
    match value:
        case str():
            return storable(str(value))
        case bool() | None | UUID() | datetime.date() if not isinstance(value, datetime.datetime):
            return value
        case int():
            return _integer(int(value))
        case datetime.datetime():
            return _moment(value)
        case datetime.time() | datetime.timedelta():
            return value
        case float():
            return float(value)
        case Decimal():
            return _decimal(value)
        case bytes() | bytearray() | memoryview():
            return bytes(value)
        case Interval():
            return duckdb.Value(str(value), duckdb.sqltypes.INTERVAL)
        case list() | tuple():
            return [parameter(part, depth + 1) for part in value]
        case Mapping():
            return {key: parameter(part, depth + 1) for key, part in value.items()}
    return _foreign(value, depth)


def _integer(value: int) -> int:
    if _HUGEINT.low <= value <= _HUGEINT.high:
        return value
    raise NumericValueOutOfRange(f"parameter {shown(value)} is out of range for type HUGEINT", hint="It has 38 digits at most.")


def _decimal(value: Decimal) -> Any:
    """A Decimal stays one. DuckDB finds no DECIMAL for a value with 38 digits after the point."""
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise DataError(f"parameter {value} is not a number that DECIMAL has", sqlstate="22P02", hint="Use a float.")
    if max(len(digits) + max(exponent, 0), -exponent) > 38:
        raise NumericValueOutOfRange(f"parameter {shown(value)} has more than the 38 digits of DECIMAL", hint="Round it, or use a float.")
    if len(digits) + exponent <= 0 and exponent == -38:
        return duckdb.Value(f"{value:f}", duckdb.sqltypes.DuckDBPyType("DECIMAL(38,38)"))
    return value


def _moment(value: datetime.datetime) -> Any:
    """pandas' Timestamps may have nanoseconds."""
    below = getattr(value, "nanosecond", 0)
    if not below:
        return value
    if value.tzinfo is not None:
        raise DataError(f"parameter {value} has nanoseconds, which TIMESTAMPTZ does not", sqlstate="22008", hint="Round it.")
    return duckdb.Value(f"{value:%Y-%m-%d %H:%M:%S.%f}{below:03}", duckdb.sqltypes.TIMESTAMP_NS)


def _foreign(value: Any, depth: int) -> Any:
    """NumPy's arrays, and its times that `datetime` cannot hold."""
    match type(value).__name__:
        case "ndarray":
            return parameter(value.tolist(), depth)
        case "datetime64":
            return duckdb.Value(str(value), duckdb.sqltypes.TIMESTAMP_NS)
        case "timedelta64" if str(value.dtype) == "timedelta64[ns]" and int(value.astype("int64")) % 1000 == 0:
            return datetime.timedelta(microseconds=int(value.astype("int64")) // 1000)
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    raise InterfaceError(f"a value of Python type {name} cannot be a parameter: {shown(value)}", sqlstate="HY105")
