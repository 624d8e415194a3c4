"""Canonical values: for every SQL value exactly one immutable, hashable Python value, and the errors when there is none.

The leaf of the type rooms: `numbers`, `temporal`, `texts` and `nested` build on it, `codecs` puts them together.

    integers            int                     DATE          datetime.date
    DECIMAL(p,s)        Decimal at scale s      TIME          datetime.time
    REAL, DOUBLE        float, one NaN object   TIMESTAMP     naive datetime (also _S, _MS)
    BOOLEAN             bool                    TIMESTAMP_NS  int: nanoseconds since 1970
    VARCHAR, ENUM       str                     TIMESTAMPTZ   aware datetime in UTC
    JSON                str: the text as given  INTERVAL      Interval
    BLOB                bytes                   LIST, STRUCT  tuple
    UUID                uuid.UUID               MAP           tuple of (key, value)

NULL is None in every type. -0.0 is kept in rows; it equals 0.0 as a dict key, and `keys.encode_key` makes them one.
Two ways in: `canonical` has the meaning of an *assignment* (`CAST` in DuckDB: 2.5 becomes 2 in an INTEGER column), `exact` that
of a *comparison* (2.5 equals no INTEGER). Where we do not reproduce DuckDB's result bit by bit, both raise `NeedsCast`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from khonsu_engine.errors import InvalidValue, NumericOutOfRange

__all__ = ["NAN", "WIDEST", "Codec", "Converter", "Interval", "NeedsCast", "identity", "needs_cast", "out_of_range", "plain", "shown"]

NAN = float("nan")
"""The only NaN that occurs in canonical values: dicts and tuples compare it by identity."""

WIDEST = 1 << 127
"""No integer parameter as large as this reaches DuckDB."""

Converter = Callable[[Any], Any]


class NeedsCast(InvalidValue):
    """Only DuckDB's own cast decides what this value means in this type: evaluate the statement there.

    Where no DuckDB is at hand it is what it says: a value that is not one of the type.
    """


class Interval(NamedTuple):
    """INTERVAL as SQL knows it: three numbers that do not convert into each other (a month has no fixed length).

    The driver hands out a `datetime.timedelta` when `months` is 0, else this; it takes both. A timedelta makes days of every 24
    hours and lets only the days be negative: what it gives back is equal in SQL, not always the same three numbers.
    """

    months: int
    days: int
    microseconds: int

    def __str__(self) -> str:
        return f"{self.months} months {self.days} days {self.microseconds} microseconds"

    def to_python(self) -> timedelta | Interval:
        """A timedelta if that says the same."""
        if self.months:
            return self
        try:
            return timedelta(days=self.days, microseconds=self.microseconds)
        except OverflowError:
            return self


def identity(value: Any) -> Any:
    """The conversion that changes nothing; compared with `is`."""
    return value


class Codec(NamedTuple):
    """The conversions of one type. Each maps None to None.

    canonical  parameter value -> canonical value, as an assignment would (raises InvalidValue, NeedsCast)
    exact      parameter value -> the canonical value it is equal to (raises NeedsCast when that is not certain)
    to_python  canonical value -> what the driver returns
    to_log     canonical value -> value that MessagePack carries exactly
    from_log   the inverse of `to_log`
    from_python  the inverse of `to_python`, for what the driver returned and nothing else
    """

    canonical: Converter
    exact: Converter
    to_python: Converter
    to_log: Converter
    from_log: Converter
    from_python: Converter = identity


def shown(value: Any) -> str:
    """`value` for a message, bounded."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def out_of_range(value: Any, type_name: str) -> NumericOutOfRange:
    """The error for a number its type cannot hold."""
    return NumericOutOfRange(f"value {shown(value)} is out of range for type {type_name}")


def needs_cast(value: Any, type_name: str) -> NeedsCast:
    """The error for a value whose meaning in the type is DuckDB's to decide."""
    return NeedsCast(f"a value of Python type {type(value).__name__} is not a {type_name}: {shown(value)}")


def plain(value: Any) -> Any:
    """NumPy scalars and arrays and pandas' missing values as plain Python; everything else unchanged.

    A `numpy.datetime64` with nanoseconds stays what it is: `datetime` cannot hold it.
    """
    module = type(value).__module__
    if module == "numpy" and type(value).__name__ == "ndarray":
        return value.tolist()
    if module == "numpy" and hasattr(value, "item"):
        item = value.item()
        return value if type(value).__name__ in ("datetime64", "timedelta64") and isinstance(item, int) else item
    if module.startswith("pandas.") and type(value).__name__ in ("NAType", "NaTType"):
        return None
    return value
