"""The limits of Python's calendar, by the column.

Called by `arrow_rows` before it makes dates, and by `arrow_checks` before foreign ones are stored.
"""

from __future__ import annotations

from typing import Any

from khonsu_engine.schema.temporal import beyond, time_of

__all__ = ["check_bounds"]

_DAYS = (-719_162, 2_932_896)  # 0001-01-01 and 9999-12-31
_UNITS_PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000}
_NANOSECONDS_MAX = (1 << 63) - 2


def check_bounds(column: Any) -> None:
    """Can all values of this Arrow column of dates, times (us) or timestamps be canonical values? Raises DatetimeOutOfRange."""
    import pyarrow as pa
    import pyarrow.compute as pc

    integer = pa.int32() if column.type == pa.date32() else pa.int64()
    bounds = pc.min_max(column.cast(integer)).as_py()
    if bounds["min"] is None:
        return
    if pa.types.is_time64(column.type):
        time_of(bounds["min"]), time_of(bounds["max"])
    low, high = _limits(column.type)
    if not low <= bounds["min"] <= bounds["max"] <= high:
        raise beyond("date" if integer == pa.int32() else "timestamp")


def _limits(arrow: Any) -> tuple[int, int]:
    import pyarrow as pa

    if pa.types.is_date32(arrow):
        return _DAYS
    if arrow.unit == "ns" or pa.types.is_time64(arrow):
        return -_NANOSECONDS_MAX, _NANOSECONDS_MAX
    per_day = _UNITS_PER_DAY[arrow.unit]
    return _DAYS[0] * per_day, (_DAYS[1] + 1) * per_day - 1
