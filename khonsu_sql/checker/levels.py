"""What each isolation level forbids: the table that turns anomalies into a verdict.

Called by `report`. Invariants: the levels are ordered, each forbids all that the weaker ones forbid.
READ COMMITTED is Adya's PL-2, REPEATABLE READ is snapshot isolation (every cycle must have two adjacent anti-dependencies: Fekete et al.
2005; Cerone & Gotsman 2016), SERIALIZABLE is PL-3, STRICT SERIALIZABLE adds real time and the order within each process.
Source: Adya 1999; Berenson et al. 1995; Kingsbury & Alvaro 2020. Leaves out: PL-2.99 (repeatable read with phantoms), cursor stability.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["LEVELS", "Kind", "Level", "Variant", "forbids", "weakest_forbidding"]


class Level(StrEnum):
    """Isolation levels, weakest first."""

    READ_COMMITTED = "read-committed"
    REPEATABLE_READ = "repeatable-read"
    SERIALIZABLE = "serializable"
    STRICT_SERIALIZABLE = "strict-serializable"


LEVELS = tuple(Level)


class Kind(StrEnum):
    """Classes of anomalies, the worst first."""

    GARBAGE_READ = "garbage-read"
    INCOMPATIBLE_ORDER = "incompatible-order"
    DUPLICATE = "duplicate"
    LOST_APPEND = "lost-append"
    INTERNAL = "internal"
    G0 = "G0"
    G1A = "G1a"
    G1B = "G1b"
    G1C = "G1c"
    LOST_UPDATE = "lost-update"
    NON_REPEATABLE_READ = "non-repeatable-read"
    G_SINGLE = "G-single"
    G_NONADJACENT = "G-nonadjacent"
    G2_ITEM = "G2-item"
    G2 = "G2"


class Variant(StrEnum):
    """What a cycle needs beside dependencies: nothing, the order within a process, or real time."""

    PLAIN = ""
    PROCESS = "process"
    REALTIME = "realtime"


REPEATABLE = {Kind.LOST_UPDATE, Kind.NON_REPEATABLE_READ, Kind.G_SINGLE, Kind.G_NONADJACENT}


def weakest_forbidding(kind: Kind, variant: Variant) -> Level:
    """The weakest level under which this must not happen."""
    if variant is not Variant.PLAIN:
        return Level.STRICT_SERIALIZABLE
    if kind in (Kind.G2_ITEM, Kind.G2):
        return Level.SERIALIZABLE
    return Level.REPEATABLE_READ if kind in REPEATABLE else Level.READ_COMMITTED


def forbids(level: Level, kind: Kind, variant: Variant) -> bool:
    """Does `level` forbid it?"""
    return LEVELS.index(weakest_forbidding(kind, variant)) <= LEVELS.index(level)
