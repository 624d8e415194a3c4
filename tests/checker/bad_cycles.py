"""Bad histories that READ COMMITTED allows and stronger levels forbid."""

from __future__ import annotations

from khonsu_sql.checker import Level
from tests.checker.histories import Bad, append, read, scan, t, values, write

RC, RR, SER, STRICT = Level

BAD_CYCLES = [
    Bad(
        "reads another value the second time",
        {"non-repeatable-read", "G-single"},
        RC,
        [t(1, read("x", None), read("x", 1)), t(2, write("x", 1))],
    ),
    Bad(
        "reads a longer list the second time",
        {"non-repeatable-read", "G-single"},
        RC,
        [t(1, values("x"), values("x", 1)), t(2, append("x", 1))],
    ),
    Bad("a row that is gone when it scans", {"non-repeatable-read", "G-single"}, RC, [t(1, read("x", 1), scan("x")), t(2, write("x", 1))]),
    Bad(
        "lost update of a list",
        {"lost-update", "G-single"},
        RC,
        [t(1, append("x", 1)), t(2, values("x", 1), append("x", 2)), t(3, values("x", 1), append("x", 3)), t(4, values("x", 1, 2, 3))],
    ),
    Bad(
        "lost update of a list that nobody read afterwards",
        {"lost-update", "G-single"},
        RC,
        [t(1, append("x", 1)), t(2, values("x", 1), append("x", 2)), t(3, values("x", 1), append("x", 3))],
    ),
    Bad(
        "lost update of a register",
        {"lost-update", "G-single"},
        RC,
        [t(1, read("x", None), write("x", 1)), t(2, read("x", None), write("x", 2))],
    ),
    Bad(
        "lost update of a register with commit order",
        {"lost-update", "G-single"},
        RC,
        [t(1, read("x", None), write("x", 1), commit=1), t(2, read("x", None), write("x", 2), commit=2)],
    ),
    Bad(
        "read skew: half of what another transaction did",
        {"G-single"},
        RC,
        [t(1, read("x", None), read("y", 1)), t(2, write("x", 1), write("y", 1))],
    ),
    Bad("read skew of lists", {"G-single"}, RC, [t(1, values("x"), values("y", 1)), t(2, append("x", 1), append("y", 1))]),
    Bad("a phantom within a transaction", {"G-single"}, RC, [t(1, scan("x"), scan("x", x1=1)), t(2, write("x1", 1))]),
    Bad(
        "a scan without a row whose sibling was read",
        {"G-single"},
        RC,
        [t(1, scan("x"), read("y", 1)), t(2, write("x1", 1), write("y", 1))],
    ),
    Bad(
        "long fork: two readers see two writes in opposite orders",
        {"G-nonadjacent"},
        RC,
        [t(1, write("x", 1)), t(2, write("y", 1)), t(3, read("x", 1), read("y", None)), t(4, read("x", None), read("y", 1))],
    ),
    Bad(
        "a long fork that a longer way makes a read skew",
        {"G-single"},
        RC,
        [
            t(1, write("x", 1)),
            t(2, write("y", 1), write("a", 1)),
            t(3, read("x", 1), read("y", None), read("d", 1)),
            t(4, read("x", None), read("y", 1)),
            t(5, read("a", 1), write("b", 1)),
            t(6, read("b", 1), write("c", 1)),
            t(7, read("c", 1), write("d", 1)),
        ],
    ),
    Bad(
        "write skew of registers",
        {"G2-item"},
        RR,
        [t(1, read("x", None), read("y", None), write("x", 1)), t(2, read("x", None), read("y", None), write("y", 1))],
    ),
    Bad("write skew of lists", {"G2-item"}, RR, [t(1, values("x"), append("y", 1)), t(2, values("y"), append("x", 1))]),
    Bad(
        "write skew of lists that nobody read afterwards, with commit order",
        {"G2-item"},
        RR,
        [t(1, values("x"), append("y", 1), commit=1), t(2, values("y"), append("x", 1), commit=2)],
    ),
    Bad(
        "the read-only anomaly",
        {"G2-item"},
        RR,
        [
            t(1, read("x", None), read("y", None), write("x", -11)),
            t(2, read("y", None), write("y", 20)),
            t(3, read("x", None), read("y", 20)),
        ],
    ),
    Bad("both count and both insert", {"G2"}, RR, [t(1, scan("x"), write("x1", 1)), t(2, scan("x"), write("x2", 1))]),
    Bad(
        "a predicate on one side, a row on the other",
        {"G2"},
        RR,
        [t(1, scan(("x", "y")), write("z", 1)), t(2, read("z", None), write("x2", 1))],
    ),
    Bad("each inserts into what the other counted", {"G2"}, RR, [t(1, scan("x"), write("y1", 1)), t(2, scan("y"), write("x1", 1))]),
    Bad("phantoms of lists", {"G2"}, RR, [t(1, scan("x"), append("x1", 1)), t(2, scan("x"), append("x2", 1))]),
    Bad(
        "rows that were there, changed",
        {"G2-item"},
        RR,
        [
            t(1, write("x1", 1), write("x2", 1)),
            t(2, scan("x", x1=1, x2=1), read("x1", 1), write("x1", 2)),
            t(3, scan("x", x1=1, x2=1), write("x2", 2)),
        ],
    ),
    Bad(
        "a stale read",
        {"G-single-realtime"},
        SER,
        [t(1, write("x", 1), at=(1, 2)), t(2, read("x", None), at=(3, 4))],
    ),
    Bad(
        "a stale read in one session",
        {"G-single-process"},
        SER,
        [t(1, append("x", 1), at=(1, 2), process=1), t(2, values("x"), at=(2, 4), process=1)],
    ),
    Bad(
        "time runs backwards in one session",
        {"G-single-process"},
        SER,
        [t(1, values("x", 1), at=(1, 20), process=1), t(2, values("x"), at=(30, 40), process=1), t(3, append("x", 1), at=(1, 90))],
    ),
    Bad(
        "a read of the future",
        {"G1c-realtime"},
        SER,
        [t(1, read("x", 1), at=(1, 2)), t(2, write("x", 1), at=(3, 4))],
    ),
    Bad(
        "a read of the future in one session",
        {"G1c-process"},
        SER,
        [t(1, read("x", 1), at=(1, 2), process=1), t(2, write("x", 1), at=(3, 4), process=1)],
    ),
    Bad(
        "versions against real time",
        {"G0-realtime"},
        SER,
        [t(1, append("x", 1), at=(1, 2)), t(2, append("x", 2), at=(3, 4)), t(3, values("x", 2, 1), at=(1, 9))],
    ),
    Bad(
        "versions against the order of a session",
        {"G0-process"},
        SER,
        [t(1, append("x", 1), at=(1, 2), process=1), t(2, append("x", 2), at=(3, 4), process=1), t(3, values("x", 2, 1), at=(1, 9))],
    ),
    Bad(
        "a long fork in real time",
        {"G-nonadjacent-realtime"},
        SER,
        [
            t(1, append("x", 1), at=(1, 100)),
            t(2, append("y", 1), at=(1, 100)),
            t(3, values("x"), values("y", 1), at=(1, 50)),
            t(4, values("x", 1), at=(20, 22)),
            t(5, values("y"), at=(30, 31)),
        ],
    ),
    Bad(
        "a chain of two missed writes that time closes",
        {"G2-item-realtime"},
        SER,
        [t(1, read("x", None), at=(10, 11)), t(2, write("x", 1), read("z", None), at=(0, 20)), t(3, write("z", 1), at=(1, 2))],
    ),
    Bad(
        "a chain of a missed row and a missed write that time closes",
        {"G2-realtime"},
        SER,
        [t(1, scan("x"), at=(10, 11)), t(2, write("x1", 1), read("z", None), at=(0, 20)), t(3, write("z", 1), at=(1, 2))],
    ),
    Bad(
        "a chain of two missed writes that a session closes",
        {"G2-item-process"},
        SER,
        [t(1, read("x", None), at=(2, 11), process=3), t(2, write("x", 1), read("z", None), at=(0, 20)), t(3, write("z", 1), at=(1, 2))],
    ),
    Bad(
        "a stale read much later",
        {"G-single-realtime"},
        SER,
        [t(1, write("x", 1), at=(1, 2)), t(2, at=(3, 99)), t(3, at=(0, 4)), t(4, read("x", None), at=(7, 8))],
    ),
    Bad(
        "read skew against an unknown transaction among indexed ones",
        {"G-single"},
        RC,
        [
            t(1, write("x", 1), commit=1),
            t(2, read("x", 1), write("x", 2), write("y", 2), status="unknown"),
            t(3, read("y", 2), read("x", 1), commit=3),
        ],
    ),
]
