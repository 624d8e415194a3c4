"""Canonical intervals.

Called by `codecs` only. Months, days and microseconds do not convert into each other here; SQL's equality counts a month as 30
days and a day as 24 hours, so an INTERVAL is no key (`SqlType.sql_equal`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from khonsu_engine.errors import DatetimeOutOfRange
from khonsu_engine.schema.values import Codec, Interval, needs_cast, plain

__all__ = ["interval_codec"]

_MICROSECONDS_MAX = ((1 << 63) - 1) // 1000  # Arrow counts nanoseconds in 64 bits
_INT32 = 1 << 31


def interval_codec() -> Codec:
    """INTERVAL: `Interval`; a timedelta has no months."""

    def canonical(value: Any) -> Any:
        value = plain(value)
        match value:
            case None:
                return None
            case Interval():
                return _checked(value)
            case timedelta():
                return Interval(0, value.days, value.seconds * 1_000_000 + value.microseconds)
        raise needs_cast(value, "INTERVAL")

    def exact(value: Any) -> Any:
        if value is None:
            return None
        raise needs_cast(value, "INTERVAL")

    return Codec(canonical, exact, _interval_to_python, _interval_to_log, _interval_from_log, canonical)


def _checked(value: Interval) -> Interval:
    fits = -_INT32 <= value.months < _INT32 and -_INT32 <= value.days < _INT32
    if not fits or abs(value.microseconds) > _MICROSECONDS_MAX:
        raise DatetimeOutOfRange(f"interval out of range: {value}")
    return value


def _interval_to_python(value: Interval | None) -> Any:
    return None if value is None else value.to_python()


def _interval_to_log(value: Interval | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(value)


def _interval_from_log(value: Any) -> Interval | None:
    return None if value is None else Interval(*value)
