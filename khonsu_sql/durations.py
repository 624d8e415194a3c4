"""Durations as PostgreSQL's settings write them: a number of milliseconds, or one with a unit.

Called by `sql.settings` (SET, SHOW) and `dsn` (options of `connect`). Inside they are seconds; 0 is "without end".
"""

from __future__ import annotations

import re

__all__ = ["TIMEOUTS", "TIMEOUT_ALIAS", "seconds_of", "text_of"]

TIMEOUTS = ("statement_timeout", "transaction_timeout", "idle_in_transaction_timeout")
"""The settings that are options of `connect`, too."""

TIMEOUT_ALIAS = "idle_in_transaction_session_timeout"
"""What PostgreSQL calls idle_in_transaction_timeout: the same setting."""

MILLISECONDS_MAX = 2_147_483_647

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*([a-z]*)", re.ASCII)
_VALID = 'Valid units for this parameter are "us", "ms", "s", "min", "h" and "d"; a number without one is milliseconds'


def seconds_of(value: object, name: str) -> float:
    """The seconds `value` stands for: a number (milliseconds), or text like `30s`, `1.5 min`, `250`. `name`: of the setting.

    Raises ValueError with a hint when it is no duration, negative, or more than 2,147,483,647 ms."""
    found = None if isinstance(value, bool) else _DURATION.fullmatch(str(value).strip().casefold())
    unit = "" if found is None else found[2] or "ms"
    if found is None or unit not in _UNITS:
        raise ValueError(_VALID)
    seconds = float(found[1]) * _UNITS[unit]
    if not 0 <= seconds <= MILLISECONDS_MAX / 1000:
        raise ValueError(f"{found[1]} {unit} is outside the valid range for {name} (0 .. {MILLISECONDS_MAX} ms)")
    return seconds


def text_of(seconds: float) -> str:
    """With the largest unit that gives a whole number: `90s`, `2min`; `0` for none."""
    microseconds = round(seconds * 1e6)
    for unit in reversed(_UNITS):
        size = round(_UNITS[unit] * 1e6)
        if microseconds and microseconds % size == 0:
            return f"{microseconds // size}{unit}"
    return "0"
