"""Canonical dates, times and timestamps.

Called by `codecs`, and by whoever makes dates out of numbers (`arrow_rows`, `columns`). Python's calendar ends at the years 1
and 9999 and has neither infinity nor 24:00; what lies beyond is refused with DatetimeOutOfRange (22008), never shown as an
OverflowError. A naive datetime where a time zone is needed, or an aware one where none is wanted, means something only together
with the session's time zone: NeedsCast.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from khonsu_engine.errors import DatetimeOutOfRange
from khonsu_engine.schema.values import Codec, Converter, identity, needs_cast, plain

__all__ = [
    "beyond",
    "date_codec",
    "nanoseconds_codec",
    "time_codec",
    "time_of",
    "timestamp_codec",
    "timestamp_of",
    "zoned_codec",
    "zoned_of",
]

EPOCH = datetime(1970, 1, 1)
EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NANOSECONDS_MAX = (1 << 63) - 2

_DATE_TEXT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_TIME_TEXT = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?\Z")
_TIMESTAMP_TEXT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?\Z")
_ZONED_TEXT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}(:[0-9]{2})?)\Z")


def _parsed(parse: Callable[[str], Any], pattern: re.Pattern[str], text: str, name: str) -> Any:
    """`text` in the one spelling whose meaning is beyond doubt; years 0 and 30 February are DuckDB's to refuse."""
    if pattern.match(text):
        try:
            return parse(_six_digits(text))
        except ValueError:
            raise needs_cast(text, name) from None
    raise needs_cast(text, name)


def _six_digits(text: str) -> str:
    """A fraction of a second with 6 digits."""
    head, point, tail = text.partition(".")
    if not point:
        return text
    digits = re.match(r"[0-9]*", tail)
    assert digits is not None
    return f"{head}.{digits[0]:0<6}{tail[digits.end() :]}"


def _pure(value: datetime, name: str) -> datetime:
    """A plain `datetime` out of a subclass (pandas' Timestamp may carry nanoseconds), without fold."""
    if getattr(value, "nanosecond", 0):
        raise needs_cast(value, name)
    parts = (value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond)
    return datetime(*parts, tzinfo=value.tzinfo)


def date_codec() -> Codec:
    """DATE: `datetime.date`, exactly that class. A datetime loses its time."""

    def canonical(value: Any) -> Any:
        if type(value) is date:
            return value
        value = plain(value)
        match value:
            case None:
                return None
            case datetime() if value.tzinfo is None:
                return value.date()
            case date() if not isinstance(value, datetime):
                return date(value.year, value.month, value.day)
            case str():
                return _parsed(date.fromisoformat, _DATE_TEXT, value, "DATE")
        raise needs_cast(value, "DATE")

    def exact(value: Any) -> Any:
        value = plain(value)
        if value is None or type(value) is date:
            return value
        raise needs_cast(value, "DATE")

    return Codec(canonical, exact, identity, _date_to_log, _date_from_log)


def _date_to_log(value: date | None) -> int | None:
    return None if value is None else value.toordinal()


def _date_from_log(value: int | None) -> date | None:
    return None if value is None else date.fromordinal(value)


def time_codec() -> Codec:
    """TIME: naive `datetime.time`."""

    def exact(value: Any) -> Any:
        if type(value) is time and value.tzinfo is None and not value.fold:
            return value
        value = plain(value)
        if value is None:
            return None
        if isinstance(value, time) and value.tzinfo is None:
            return time(value.hour, value.minute, value.second, value.microsecond)
        raise needs_cast(value, "TIME")

    def canonical(value: Any) -> Any:
        match value:
            case str():
                return _parsed(time.fromisoformat, _TIME_TEXT, value, "TIME")
            case datetime() if value.tzinfo is None and value == value:  # pandas' NaT is a datetime unequal to itself
                return _pure(value, "TIME").time()
        return exact(value)

    return Codec(canonical, exact, identity, _time_to_log, time_of)


def _time_to_log(value: time | None) -> int | None:
    if value is None:
        return None
    return ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond


def time_of(microseconds: int | None) -> time | None:
    """The time of day so many microseconds after midnight. Raises DatetimeOutOfRange (24:00)."""
    if microseconds is None:
        return None
    if not 0 <= microseconds < 86_400_000_000:
        raise DatetimeOutOfRange("TIME 24:00:00 cannot be a Python time", hint="CAST it to VARCHAR, or store 00:00:00.")
    seconds, micro = divmod(microseconds, 1_000_000)
    minutes, second = divmod(seconds, 60)
    return time(*divmod(minutes, 60), second, micro)


def timestamp_codec(name: str, unit_microseconds: int) -> Codec:
    """TIMESTAMP, TIMESTAMP_MS, TIMESTAMP_S: naive datetimes that are whole multiples of the unit."""

    def whole(value: datetime) -> datetime:
        if value.microsecond % unit_microseconds:
            raise needs_cast(value, name)
        return value

    def exact(value: Any) -> Any:
        if type(value) is datetime and value.tzinfo is None and not value.fold:
            return whole(value)
        value = plain(value)
        match value:
            case None:
                return None
            case datetime() if value.tzinfo is None:
                return whole(_pure(value, name))
            case date() if not isinstance(value, datetime):
                return datetime(value.year, value.month, value.day)
        raise needs_cast(value, name)

    def canonical(value: Any) -> Any:
        if isinstance(value, str):
            if _DATE_TEXT.match(value):
                value += " 00:00:00"
            return whole(_parsed(datetime.fromisoformat, _TIMESTAMP_TEXT, value, name))
        return exact(value)

    return Codec(canonical, exact, identity, microseconds_of, timestamp_of)


def microseconds_of(value: datetime | None) -> int | None:
    """Microseconds from 1970 to a naive datetime."""
    return None if value is None else (value - EPOCH) // _MICROSECOND


def timestamp_of(microseconds: int | None) -> datetime | None:
    """The naive datetime so many microseconds after 1970. Raises DatetimeOutOfRange (infinity, years beyond 9999)."""
    if microseconds is None:
        return None
    try:
        return EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        raise beyond("timestamp") from None


def beyond(what: str) -> DatetimeOutOfRange:
    """The error for a date Python has no value for."""
    return DatetimeOutOfRange(
        f"a {what} is infinite or outside the years 1 to 9999, which Python's datetime cannot hold",
        hint="CAST it to VARCHAR to see it.",
    )


def _in_calendar(canonical: Converter, value: Any, name: str) -> Any:
    """`value` for a comparison: no text, and what lies beyond the calendar is greater or smaller than every value, not an error."""
    if isinstance(value, str):
        raise needs_cast(value, name)
    try:
        return canonical(value)
    except DatetimeOutOfRange:
        raise needs_cast(value, name) from None


def zoned_codec() -> Codec:
    """TIMESTAMPTZ: aware datetimes in UTC."""

    def canonical(value: Any) -> Any:
        if type(value) is datetime and value.tzinfo is UTC and not value.fold:
            return value
        if isinstance(value, str):
            value = _parsed(datetime.fromisoformat, _ZONED_TEXT, value, "TIMESTAMPTZ")
        value = plain(value)
        if value is None:
            return None
        if not isinstance(value, datetime) or value.utcoffset() is None:
            raise needs_cast(value, "TIMESTAMPTZ")
        return _to_utc(value)

    def exact(value: Any) -> Any:
        return _in_calendar(canonical, value, "TIMESTAMPTZ")

    return Codec(canonical, exact, identity, _zoned_to_log, zoned_of)


def _to_utc(value: datetime) -> datetime:
    if getattr(value, "nanosecond", 0):
        raise needs_cast(value, "TIMESTAMPTZ")
    offset = value.utcoffset()
    assert offset is not None
    try:
        return (_pure(value.replace(tzinfo=None), "TIMESTAMPTZ") - offset).replace(tzinfo=UTC)
    except OverflowError:
        raise beyond("timestamp") from None


def _zoned_to_log(value: datetime | None) -> int | None:
    return None if value is None else (value - EPOCH_UTC) // _MICROSECOND


def zoned_of(microseconds: int | None) -> datetime | None:
    """The aware datetime so many microseconds after 1970. Raises DatetimeOutOfRange."""
    if microseconds is None:
        return None
    try:
        return EPOCH_UTC + timedelta(microseconds=microseconds)
    except OverflowError:
        raise beyond("timestamp") from None


def nanoseconds_codec() -> Codec:
    """TIMESTAMP_NS: an int of nanoseconds since 1970; the driver returns `numpy.datetime64` (datetime has no nanoseconds)."""

    def canonical(value: Any) -> Any:
        if isinstance(value, str):
            if _DATE_TEXT.match(value):
                value += " 00:00:00"
            value = _parsed(datetime.fromisoformat, _TIMESTAMP_TEXT, value, "TIMESTAMP_NS")
        value = plain(value)
        if value is None:
            return None
        nanoseconds = _nanoseconds_of(value)
        if abs(nanoseconds) > _NANOSECONDS_MAX:
            raise DatetimeOutOfRange("TIMESTAMP_NS holds the years 1677 to 2262 only", hint="Use TIMESTAMP (microseconds).")
        return nanoseconds

    def exact(value: Any) -> Any:
        return _in_calendar(canonical, value, "TIMESTAMP_NS")

    return Codec(canonical, exact, _nanoseconds_to_python, identity, identity, canonical)


def _nanoseconds_of(value: Any) -> int:
    if isinstance(value, datetime) and value.tzinfo is None:
        below = int(getattr(value, "nanosecond", 0))
        naive = datetime(value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond)
        return (naive - EPOCH) // _MICROSECOND * 1000 + below
    if isinstance(value, date) and not isinstance(value, datetime):
        return (value - EPOCH.date()).days * 86_400_000_000_000
    if type(value).__name__ == "datetime64":
        nanoseconds = value.astype("datetime64[ns]")
        if nanoseconds == value:
            return int(nanoseconds.astype("int64"))
    raise needs_cast(value, "TIMESTAMP_NS")


def _nanoseconds_to_python(value: int | None) -> Any:
    if value is None:
        return None
    import numpy

    return numpy.datetime64(value, "ns")
