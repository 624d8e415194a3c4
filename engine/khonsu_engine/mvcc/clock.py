"""Timestamps of hybrid-logical-clock form (Kulkarni et al. 2014), one stamper per log.

One signed 64-bit integer: milliseconds since 1970 << 20 | counter. A core: the caller brings the physical time.
"""

from __future__ import annotations

__all__ = ["LOGICAL_BITS", "milliseconds_of", "next_timestamp"]

LOGICAL_BITS = 20


def next_timestamp(physical_milliseconds: int, last: int) -> int:
    """The next timestamp: physical time as far as the clock allows, always greater than `last` (clock steps included)."""
    physical = physical_milliseconds << LOGICAL_BITS
    return physical if physical > last else last + 1


def milliseconds_of(timestamp: int) -> int:
    """Milliseconds since 1970 of a timestamp."""
    return timestamp >> LOGICAL_BITS
