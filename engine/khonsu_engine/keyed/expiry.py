"""When a value expires: what users give, as the moment that is stored.

Called by `batches` and `key_value`. Moments are aware datetimes in UTC. A transaction has one moment, that of its beginning on the
wall clock: relative expiries count from it, and what it reads has expired or not as of it, so a repeated read says the same.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from khonsu_engine.errors import InvalidArgument

__all__ = ["FORGET_AFTER", "Expires", "moment_at", "moment_of"]

Expires = float | timedelta | datetime
"""Seconds from the beginning of the transaction (int, float or timedelta), or a moment (an aware datetime)."""

FORGET_AFTER = timedelta(days=30)
"""A key that was deleted or has expired is remembered at least this long: its revision goes on if it is written again."""


def moment_at(seconds: float) -> datetime:
    """The moment of that wall clock time (seconds since 1970)."""
    return datetime.fromtimestamp(seconds, UTC)


def moment_of(expires: Any, now: datetime) -> datetime | None:
    """The moment `expires` stands for in a transaction that began at `now`; None for never.

    Raises InvalidArgument for what is no time, for a duration that is not positive, and for a datetime without a time zone."""
    if expires is None:
        return None
    if isinstance(expires, datetime):
        return _utc(expires)
    if isinstance(expires, bool) or not isinstance(expires, int | float | timedelta):
        raise InvalidArgument(f"expires takes seconds (int, float, timedelta) or a datetime, not {type(expires).__name__}")
    if isinstance(expires, float) and not math.isfinite(expires):
        raise InvalidArgument(f"expires must be a finite number of seconds, not {expires}")
    try:
        duration = expires if isinstance(expires, timedelta) else timedelta(seconds=expires)
        if duration <= timedelta(0):
            raise InvalidArgument(f"expires must be positive, not {expires}", hint="To remove a value at once, delete it.")
        return now + duration
    except OverflowError:
        raise InvalidArgument(f"expires is beyond the year 9999: {expires}", hint="Leave it out for a value that stays.") from None


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise InvalidArgument("expires needs a datetime with a time zone", hint="datetime.now(UTC) has one; datetime.now() has none.")
    try:
        return moment.astimezone(UTC).replace(fold=0)
    except OverflowError:
        raise InvalidArgument(f"expires is beyond the calendar: {moment}") from None
