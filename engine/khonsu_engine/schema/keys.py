"""Order-preserving bytes of keys: `encode_key(types, a) < encode_key(types, b)` exactly when a sorts before b.

Called where keys leave memory: the store, and later the lock table, the hash ring and state hashes. Each part begins with a byte:
0x00 NULL (first in order), 0x01 a value; parts follow each other without separators because each tells its own end.

    integers      sign bit flipped, big-endian, as wide as the type (HUGEINT, DECIMAL: 16 bytes)
    floats        IEEE bits, order-preserving; -0.0 is 0.0; NaN is greatest
    text, bytes   0x00 written as 0x00 0xFF, ended by 0x00 0x00
    dates, times  as integers (days, microseconds, nanoseconds)

The three orders agree: canonical keys in Python (with `order_key`), Arrow's sort of the column, these bytes. Left out: types
that cannot be keys (`SqlType.can_be_key`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from khonsu_engine.errors import NotSupported
from khonsu_engine.schema.sql_type import SqlType
from khonsu_engine.schema.values import NAN

__all__ = ["decode_key", "encode_key", "order_key"]


class _Part(NamedTuple):
    """encode: canonical value -> bytes. decode: (bytes, position) -> (value, position after it)."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes, int], tuple[Any, int]]


def encode_key(types: Sequence[SqlType], key: Any) -> bytes:
    """The bytes of a canonical key: a scalar for one type, a tuple for several (or a prefix of it)."""
    parts = (key,) if len(types) == 1 else key
    return b"".join(
        [b"\0" if value is None else b"\1" + _part(sql_type).encode(value) for sql_type, value in zip(types, parts, strict=False)]
    )


def decode_key(types: Sequence[SqlType], data: bytes) -> Any:
    """The inverse of `encode_key` (-0.0 comes back as 0.0)."""
    values, position = [], 0
    for sql_type in types:
        marker, position = data[position], position + 1
        value = None
        if marker:
            value, position = _part(sql_type).decode(data, position)
        values.append(value)
    return values[0] if len(types) == 1 else tuple(values)


def order_key(types: Sequence[SqlType]) -> Callable[[Any], Any] | None:
    """A sort key for canonical keys of these types, None when Python's own order is right (only NaN needs more)."""
    floats = [sql_type.kind in ("REAL", "DOUBLE") for sql_type in types]
    if not any(floats):
        return None
    if len(types) == 1:
        return _nan_last
    return lambda key: tuple([_nan_last(part) if is_float else part for part, is_float in zip(key, floats, strict=False)])


def _nan_last(value: float) -> tuple[bool, float]:
    return (False, value) if value == value else (True, 0.0)


def _part(sql_type: SqlType) -> _Part:
    found = _PARTS.get(sql_type.kind)
    if found is not None:
        return found
    if sql_type.kind == "DECIMAL":
        return _decimal(sql_type.scale)
    raise NotSupported(f"a value of type {sql_type.sql} cannot be part of a key")


def _integer(size: int, signed: bool, to_int: Callable[[Any], int] = int, from_int: Callable[[int], Any] = int) -> _Part:
    bias = 1 << (8 * size - 1) if signed else 0

    def decode(data: bytes, position: int) -> tuple[Any, int]:
        end = position + size
        return from_int(int.from_bytes(data[position:end], "big") - bias), end

    return _Part(lambda value: (to_int(value) + bias).to_bytes(size, "big"), decode)


def _decimal(scale: int) -> _Part:
    from decimal import Context

    context = Context(prec=100)
    return _integer(16, True, lambda value: int(value.scaleb(scale, context)), lambda value: Decimal(value).scaleb(-scale, context))


_SIGN = 1 << 63


def _encode_float(value: float) -> bytes:
    if value != value:
        return b"\xff" * 8
    bits: int = struct.unpack(">Q", struct.pack(">d", value + 0.0))[0]
    return (bits ^ (_SIGN * 2 - 1) if bits & _SIGN else bits | _SIGN).to_bytes(8, "big")


def _decode_float(data: bytes, position: int) -> tuple[float, int]:
    bits = int.from_bytes(data[position : position + 8], "big")
    if bits == _SIGN * 2 - 1:
        return NAN, position + 8
    plain = bits & (_SIGN - 1) if bits & _SIGN else bits ^ (_SIGN * 2 - 1)
    value: float = struct.unpack(">d", plain.to_bytes(8, "big"))[0]
    return value, position + 8


def _encode_bytes(value: bytes) -> bytes:
    return value.replace(b"\0", b"\0\xff") + b"\0\0"


def _decode_bytes(data: bytes, position: int) -> tuple[bytes, int]:
    end = data.index(b"\0", position)
    while data[end + 1] == 0xFF:
        end = data.index(b"\0", end + 2)
    return data[position:end].replace(b"\0\xff", b"\0"), end + 2


def _decode_text(data: bytes, position: int) -> tuple[str, int]:
    raw, end = _decode_bytes(data, position)
    return raw.decode(), end


def _through_log(kind: str) -> _Part:
    """Times and timestamps are keys as the integers the log has."""
    sql_type = SqlType(kind)
    return _integer(8, True, sql_type.to_log, sql_type.from_log)


_FLOAT = _Part(_encode_float, _decode_float)
_TEXT = _Part(lambda value: _encode_bytes(value.encode()), _decode_text)

_PARTS: dict[str, _Part] = {
    "TINYINT": _integer(1, True),
    "SMALLINT": _integer(2, True),
    "INTEGER": _integer(4, True),
    "BIGINT": _integer(8, True),
    "HUGEINT": _integer(16, True),
    "UTINYINT": _integer(1, False),
    "USMALLINT": _integer(2, False),
    "UINTEGER": _integer(4, False),
    "UBIGINT": _integer(8, False),
    "BOOLEAN": _integer(1, False, int, bool),
    "REAL": _FLOAT,
    "DOUBLE": _FLOAT,
    "VARCHAR": _TEXT,
    "ENUM": _TEXT,
    "BLOB": _Part(_encode_bytes, _decode_bytes),
    "DATE": _integer(4, True, date.toordinal, date.fromordinal),
    "UUID": _Part(lambda value: value.bytes, lambda data, position: (UUID(bytes=data[position : position + 16]), position + 16)),
    **{kind: _through_log(kind) for kind in ("TIME", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMPTZ")},
}
