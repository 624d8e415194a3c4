"""Canonical numbers and booleans: DuckDB's assignment casts, reproduced where they can be reproduced exactly.

Called by `codecs` only. What the casts do (measured on DuckDB 2.0, compared by `tests/engine/test_types_duckdb.py`):
float -> integer rounds half to even, Decimal -> anything rounds half away from zero, float -> DECIMAL multiplies by
the power of ten *in floating point* and then rounds half away from zero, an integer that does not fit is an error.
"""

from __future__ import annotations

import re
import struct
from decimal import ROUND_HALF_UP, Context, Decimal
from math import isfinite
from typing import Any

from khonsu_engine.schema.values import NAN, WIDEST, Codec, identity, needs_cast, out_of_range, plain

__all__ = ["boolean", "decimal", "double", "integer", "real"]

_INTEGER_TEXT = re.compile(r"[+-]?[0-9]{1,38}\Z")
_FLOAT_TEXT = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?\Z")
_DECIMAL_TEXT = re.compile(r"[+-]?[0-9]{1,38}(\.[0-9]+)?\Z")
_WIDE = Context(prec=100, rounding=ROUND_HALF_UP)
_ONE = Decimal(1)
_EXACT_FLOAT = 1 << 53
_LOG_INT = 1 << 63


def integer(name: str, low: int, high: int) -> Codec:
    """Integers from `low` to `high`."""

    def canonical(value: Any) -> Any:
        if type(value) is not int:
            value = _as_integer(value, name)
            if value is None:
                return None
        if low <= value <= high:
            return value
        raise out_of_range(value, name)

    def exact(value: Any) -> Any:
        value = plain(value)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and low <= value <= high):
            return value if value is None else int(value)
        raise needs_cast(value, name)

    wide = low < -_LOG_INT
    return Codec(canonical, exact, identity, _wide_to_log if wide else identity, _wide_from_log if wide else identity)


def _wide_to_log(value: int | None) -> int | str | None:
    """MessagePack's integers end at 64 bits; wider ones travel as text."""
    return value if value is None or -_LOG_INT <= value < _LOG_INT else str(value)


def _wide_from_log(value: Any) -> int | None:
    return None if value is None else int(value)


def _as_integer(value: Any, name: str) -> int | None:
    value = plain(value)
    match value:
        case None:
            return None
        case int():
            return int(value)
        case float():
            if isfinite(value):
                return round(value)
            raise out_of_range(value, name)
        case Decimal():
            return int(_rounded(value, 0, name))
        case str() if _INTEGER_TEXT.match(value):
            return int(value)
    raise needs_cast(value, name)


def _rounded(value: Decimal, scale: int, name: str) -> Decimal:
    """`value` at `scale` digits, half away from zero. More than 38 digits reach DuckDB as a DOUBLE: NeedsCast."""
    if not value.is_finite():
        raise out_of_range(value, name)
    if value.adjusted() > 38:
        raise out_of_range(value, name)
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    if max(len(digits) + max(exponent, 0), 1 - exponent) > 38:
        raise needs_cast(value, name)
    return value.quantize(_ONE.scaleb(-scale), context=_WIDE)


def decimal(precision: int, scale: int) -> Codec:
    """DECIMAL(precision, scale): Decimals with exactly `scale` digits after the point, never -0."""
    name = f"DECIMAL({precision},{scale})"
    quantum, bound, zero = _ONE.scaleb(-scale), Decimal(10) ** (precision - scale), Decimal(0).scaleb(-scale)

    def canonical(value: Any) -> Any:
        if type(value) is not Decimal or not value.same_quantum(quantum):
            value = _as_decimal(value, precision, scale, name)
            if value is None:
                return None
        if -bound < value < bound:
            return value if value else zero
        raise out_of_range(value, name)

    def exact(value: Any) -> Any:
        value = plain(value)
        if value is None:
            return None
        if type(value) is int or (type(value) is Decimal and value.is_finite() and value.adjusted() <= 38):
            result = Decimal(value).quantize(quantum, context=_WIDE) if -(10**40) < value < 10**40 else bound
            if result == value and -bound < result < bound:
                return result if result else zero
        raise needs_cast(value, name)

    return Codec(canonical, exact, identity, _text_or_none, lambda value: None if value is None else Decimal(value))


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)


def _as_decimal(value: Any, precision: int, scale: int, name: str) -> Decimal | None:
    value = plain(value)
    match value:
        case None:
            return None
        case Decimal():
            return _rounded(value, scale, name)
        case int() if abs(value) < 10**precision:
            return Decimal(int(value)).quantize(_ONE.scaleb(-scale), context=_WIDE)
        case int():
            raise out_of_range(value, name)
        case float():
            return _float_as_decimal(value, precision, scale, name)
        case str() if _DECIMAL_TEXT.match(value) and len(value.partition(".")[2]) <= scale:
            return Decimal(value).quantize(_ONE.scaleb(-scale), context=_WIDE)
    raise needs_cast(value, name)


def _float_as_decimal(value: float, precision: int, scale: int, name: str) -> Decimal:
    """The product is rounded in floating point on purpose: 2.675 becomes 2.68 and 1.005 becomes 1.00, as in DuckDB."""
    if not isfinite(value):
        raise out_of_range(value, name)
    scaled = value * float(f"1e{scale}")
    if not abs(scaled) < float(f"1e{precision}"):
        raise out_of_range(value, name)
    whole = int(scaled)
    if abs(scaled - whole) >= 0.5:
        whole += 1 if scaled > 0 else -1
    return Decimal(whole).scaleb(-scale, context=_WIDE)


def double() -> Codec:
    """DOUBLE: floats, with one NaN."""

    def canonical(value: Any) -> Any:
        if type(value) is float:
            return value if value == value else NAN
        return _as_float(value, "DOUBLE")

    return Codec(canonical, _exact_float, identity, identity, _one_nan)


def real() -> Codec:
    """REAL: the floats that 32 bits can hold."""
    return Codec(_real, _exact_real, identity, identity, _one_nan)


def _one_nan(value: Any) -> Any:
    return value if value == value else NAN


_SINGLE = struct.Struct("<f")


def _single(value: float) -> float:
    """`value` rounded to 32 bits. Raises OverflowError."""
    result: float = _SINGLE.unpack(_SINGLE.pack(value))[0]
    return result if result == result else NAN


def _real(value: Any) -> Any:
    if type(value) is not float:
        if isinstance(value, Decimal | str):
            raise needs_cast(value, "REAL")
        value = _as_float(value, "REAL")
        if value is None:
            return None
    try:
        return _single(value)
    except OverflowError:
        raise out_of_range(value, "REAL") from None


def _as_float(value: Any, name: str) -> float | None:
    value = plain(value)
    match value:
        case None:
            return None
        case float():
            return _one_nan(float(value))  # type: ignore[no-any-return]
        case int() if abs(value) <= _EXACT_FLOAT:
            return float(value)
        case Decimal():
            return _decimal_as_float(value, name)
        case str() if _FLOAT_TEXT.match(value) and isfinite(float(value)):
            return float(value)
    raise needs_cast(value, name)


def _decimal_as_float(value: Decimal, name: str) -> float:
    """Exact only where one correctly rounded division gives it: up to 2^53, divided by a power of ten up to 10^22."""
    sign, digits, exponent = value.as_tuple()
    if isinstance(exponent, int) and -22 <= exponent <= 0 and len(digits) <= 15:
        return float(value) if any(digits) or not sign else 0.0
    raise needs_cast(value, name)


def _exact_float(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, float):
        return _one_nan(float(value))
    if value is None or (type(value) is int and abs(value) <= _EXACT_FLOAT):
        return value if value is None else float(value)
    raise needs_cast(value, "DOUBLE")


def _exact_real(value: Any) -> Any:
    value = _exact_float(value)
    if value is None or value != value:
        return value
    try:
        if _single(value) == value:
            return value
    except OverflowError:
        raise needs_cast(value, "REAL") from None
    raise needs_cast(value, "REAL")


_TRUTH = {"true": True, "t": True, "false": False, "f": False}


def boolean() -> Codec:
    """BOOLEAN: bools; numbers other than 0 are true."""
    return Codec(_boolean, _exact_boolean, identity, identity, identity)


def _boolean(value: Any) -> Any:
    if type(value) is bool:
        return value
    value = plain(value)
    match value:
        case None | bool():
            return value
        case int() if abs(value) < WIDEST:
            return value != 0
        case str() if value.lower() in _TRUTH:
            return _TRUTH[value.lower()]
    raise needs_cast(value, "BOOLEAN")


def _exact_boolean(value: Any) -> Any:
    value = plain(value)
    if value is None or type(value) is bool:
        return value
    raise needs_cast(value, "BOOLEAN")
