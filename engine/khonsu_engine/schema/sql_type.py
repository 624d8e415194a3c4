"""The one table of SQL types: what each is called, its Arrow type, its Python class and its conversions.

`SqlType` is an immutable value that msgspec encodes as part of a catalog `Table`. Imported through `schema.types`.
Nothing here loads pyarrow until `.arrow` is asked for.

Invariants: `.arrow` is the type of the column in segments and in every batch served to DuckDB; where DuckDB would read it as
another type (`duckdb_cast`) the view casts it back to `.sql`. Left out: BIT, TIMETZ, UHUGEINT, UNION, fixed-size arrays.
"""

from __future__ import annotations

import datetime
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import msgspec

from khonsu_engine.schema.codecs import codec_of
from khonsu_engine.schema.values import Codec, Converter, identity

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BIGINT", "BLOB", "BOOLEAN", "DOUBLE", "INTEGER", "KINDS", "VARCHAR", "Kind", "SqlType"]


class Kind(NamedTuple):
    """One line of the table.

    arrow   name and arguments of the pyarrow factory; None: depends on the type's parameters
    python  class of the values the driver returns
    fast    a value of exactly the canonical class is canonical (integers: if within low and high)
    cast    DuckDB reads the Arrow type as another one
    key     may be part of a key: its equality in SQL is that of canonical values, and they have an order
    """

    arrow: tuple[Any, ...] | None
    python: type
    fast: type | None = None
    cast: bool = False
    key: bool = True
    low: int = 0
    high: int = 0


def _int(arrow: str, bits: int, signed: bool) -> Kind:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return Kind((arrow,), int, fast=int, low=low, high=high)


_HUGEINT_MAX = 10**38 - 1  # what DECIMAL(38,0), the form in which DuckDB and Arrow exchange it, can hold

KINDS: dict[str, Kind] = {
    "TINYINT": _int("int8", 8, True),
    "SMALLINT": _int("int16", 16, True),
    "INTEGER": _int("int32", 32, True),
    "BIGINT": _int("int64", 64, True),
    "HUGEINT": Kind(("decimal128", 38, 0), int, fast=int, cast=True, low=-_HUGEINT_MAX, high=_HUGEINT_MAX),
    "UTINYINT": _int("uint8", 8, False),
    "USMALLINT": _int("uint16", 16, False),
    "UINTEGER": _int("uint32", 32, False),
    "UBIGINT": _int("uint64", 64, False),
    "DECIMAL": Kind(None, Decimal),
    "REAL": Kind(("float32",), float),
    "DOUBLE": Kind(("float64",), float),
    "BOOLEAN": Kind(("bool_",), bool, fast=bool),
    "VARCHAR": Kind(("string",), str),
    "BLOB": Kind(("binary",), bytes, fast=bytes),
    "DATE": Kind(("date32",), datetime.date, fast=datetime.date),
    "TIME": Kind(("time64", "us"), datetime.time),
    "TIMESTAMP": Kind(("timestamp", "us"), datetime.datetime),
    "TIMESTAMP_S": Kind(("timestamp", "s"), datetime.datetime),
    "TIMESTAMP_MS": Kind(("timestamp", "ms"), datetime.datetime),
    "TIMESTAMP_NS": Kind(("timestamp", "ns"), object),
    "TIMESTAMPTZ": Kind(("timestamp", "us", "UTC"), datetime.datetime),
    "INTERVAL": Kind(("month_day_nano_interval",), datetime.timedelta, key=False),
    "UUID": Kind(("string",), UUID, fast=UUID, cast=True),
    "JSON": Kind(("string",), str, cast=True, key=False),
    "ENUM": Kind(("string",), str, cast=True),
    "LIST": Kind(None, list, key=False),
    "STRUCT": Kind(None, dict, key=False),
    "MAP": Kind(None, dict, key=False),
    "TUPLE": Kind(None, tuple, key=False),
    "NULL": Kind(("null",), type(None), key=False),
}
"""All kinds by DuckDB's name. TUPLE is the type of `SELECT (1, 2)`, NULL that of `SELECT NULL`: results only."""


class SqlType(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """One SQL type.

    kind       a key of KINDS
    precision, scale   of DECIMAL
    length     of VARCHAR(n), in characters; 0: unbounded
    members    of ENUM, in order
    fields     of STRUCT and TUPLE: (name, type)
    element    of LIST and (the values) of MAP
    key        of MAP
    """

    kind: str
    precision: int = 0
    scale: int = 0
    length: int = 0
    members: tuple[str, ...] = ()
    fields: tuple[tuple[str, SqlType], ...] = ()
    element: SqlType | None = None
    key: SqlType | None = None

    def __str__(self) -> str:
        return self.sql

    @cached_property
    def sql(self) -> str:
        """DuckDB's spelling, for casts and messages. DuckDB ignores the length of VARCHAR(n): `canonical` and `conform` enforce it."""
        match self.kind:
            case "DECIMAL":
                return f"DECIMAL({self.precision},{self.scale})"
            case "VARCHAR" if self.length:
                return f"VARCHAR({self.length})"
            case "ENUM":
                return f"ENUM({', '.join(quoted(member, chr(39)) for member in self.members)})"
            case "LIST":
                return f"{self.parts[0].sql}[]"
            case "STRUCT":
                return f"STRUCT({', '.join(f'{quoted(name)} {part.sql}' for name, part in self.fields)})"
            case "TUPLE":
                return f"TUPLE({', '.join(part.sql for part in self.parts)})"
            case "MAP":
                return f"MAP({self.parts[0].sql}, {self.parts[1].sql})"
        return self.kind if self.kind != "NULL" else quoted("NULL")

    @cached_property
    def parts(self) -> tuple[SqlType, ...]:
        """The types this one is made of: (element,), the fields' types, (key, value), or ()."""
        if self.fields:
            return tuple(part for _, part in self.fields)
        return tuple(part for part in (self.key, self.element) if part is not None)

    @cached_property
    def arrow(self) -> pa.DataType:
        """The Arrow type in segments and of what DuckDB scans."""
        import pyarrow as pa

        factory = KINDS[self.kind].arrow
        if factory is not None:
            return getattr(pa, factory[0])(*factory[1:])
        match self.kind:
            case "DECIMAL":
                return pa.decimal128(self.precision, self.scale)
            case "LIST":
                return pa.list_(self.parts[0].arrow)
            case "MAP":
                return pa.map_(self.parts[0].arrow, self.parts[1].arrow)
        return pa.struct([pa.field(name, part.arrow) for name, part in self.fields])

    @cached_property
    def duckdb_cast(self) -> bool:
        """True when a column served from Arrow must be cast to `.sql` to have this type in DuckDB."""
        return KINDS[self.kind].cast or any(part.duckdb_cast for part in self.parts)

    @cached_property
    def codec(self) -> Codec:
        """The conversions of this type."""
        return codec_of(self)

    @cached_property
    def canonical(self) -> Converter:
        """Any Python value -> the canonical value an assignment stores. Raises InvalidValue, NumericOutOfRange, NeedsCast."""
        return self.codec.canonical

    @cached_property
    def exact(self) -> Converter:
        """Any Python value -> the canonical value it equals in a comparison. Raises NeedsCast when that is not certain."""
        return self.codec.exact

    @cached_property
    def to_python(self) -> Converter:
        """Canonical value -> what the driver returns."""
        return self.codec.to_python

    @cached_property
    def from_python(self) -> Converter:
        """The inverse of `to_python`, for values the driver returned (a parameter from elsewhere: `canonical`)."""
        return self.codec.from_python

    @cached_property
    def to_log(self) -> Converter:
        """Canonical value -> what MessagePack carries exactly."""
        return self.codec.to_log

    @cached_property
    def from_log(self) -> Converter:
        """The inverse of `to_log`."""
        return self.codec.from_log

    @cached_property
    def python_identity(self) -> bool:
        """True when the driver returns canonical values as they are."""
        return self.codec.to_python is identity

    @cached_property
    def to_log_identity(self) -> bool:
        """True when `to_log` changes nothing."""
        return self.codec.to_log is identity

    @cached_property
    def log_identity(self) -> bool:
        """True when neither `to_log` nor `from_log` changes anything (floats: only `from_log` does, for NaN)."""
        return self.to_log_identity and self.codec.from_log is identity

    @cached_property
    def canonical_fast(self) -> type | None:
        """A class of which every value (integers: from `low` to `high`) is canonical already; None: ask `canonical`."""
        return KINDS[self.kind].fast

    @cached_property
    def low(self) -> int:
        """The smallest value of an integer type."""
        return KINDS[self.kind].low

    @cached_property
    def high(self) -> int:
        """The largest value of an integer type."""
        return KINDS[self.kind].high

    @cached_property
    def python_type(self) -> type:
        """Class of the values the driver returns."""
        return KINDS[self.kind].python

    @cached_property
    def is_integer(self) -> bool:
        """True for all integer types, HUGEINT included."""
        return KINDS[self.kind].low < KINDS[self.kind].high

    @cached_property
    def hashable(self) -> bool:
        """True when what the driver returns can be a key in a dict."""
        return self.kind not in ("LIST", "STRUCT", "MAP") and all(part.hashable for part in self.parts)

    @cached_property
    def can_be_key(self) -> bool:
        """True when columns of this type may be part of a primary key or unique constraint."""
        return KINDS[self.kind].key

    @cached_property
    def sql_ordered(self) -> bool:
        """True when SQL's order is the canonical values' one (so ranges on the column are ranges of values). ENUM's is its members'."""
        return self.can_be_key and self.kind != "ENUM"

    @cached_property
    def sql_equal(self) -> bool:
        """True when values are equal in SQL exactly when their canonical values are. Not so: INTERVAL, and what contains one."""
        return self.kind not in ("INTERVAL", "NULL") and all(part.sql_equal for part in self.parts)


def quoted(name: str, mark: str = '"') -> str:
    """`name` between quotation marks, those within doubled."""
    return f"{mark}{name.replace(mark, mark * 2)}{mark}"


INTEGER = SqlType("INTEGER")
BIGINT = SqlType("BIGINT")
DOUBLE = SqlType("DOUBLE")
BOOLEAN = SqlType("BOOLEAN")
VARCHAR = SqlType("VARCHAR")
BLOB = SqlType("BLOB")
