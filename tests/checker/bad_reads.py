"""Bad histories that READ COMMITTED forbids."""

from __future__ import annotations

from tests.checker.histories import Bad, append, read, scan, t, values, write

NONE = None

BAD_READS = [
    Bad(
        "two transactions append to two lists in opposite orders",
        {"G0"},
        NONE,
        [t(1, append("x", 1), append("y", 1)), t(2, append("x", 2), append("y", 2)), t(3, values("x", 1, 2), values("y", 2, 1))],
    ),
    Bad("a value of an aborted list append", {"G1a"}, NONE, [t(1, append("x", 1), status="aborted"), t(2, values("x", 1))]),
    Bad(
        "a value of an aborted append that is gone afterwards",
        {"G1a"},
        NONE,
        [
            t(1, append("x", 1)),
            t(2, append("x", 2), status="aborted"),
            t(3, values("x", 1, 2)),
            t(4, append("x", 3)),
            t(5, append("x", 4)),
            t(6, values("x", 1, 3, 4)),
            t(7, values("x", 1, 3)),
        ],
    ),
    Bad("a value of an aborted register write", {"G1a"}, NONE, [t(1, write("x", 1), status="aborted"), t(2, read("x", 1))]),
    Bad("an aborted row in a scan", {"G1a"}, NONE, [t(1, write("x", 1), status="aborted"), t(2, scan("x", x=1))]),
    Bad("half of two appends", {"G1b"}, NONE, [t(1, append("x", 1), append("x", 2)), t(2, values("x", 1))]),
    Bad(
        "half of two appends, the rest seen by others",
        {"G1b"},
        NONE,
        [t(1, append("x", 1), append("x", 2)), t(2, values("x", 1)), t(3, values("x", 1, 2))],
    ),
    Bad("a register in mid-transaction", {"G1b"}, NONE, [t(1, write("x", 1), write("x", 2)), t(2, read("x", 1))]),
    Bad(
        "each read what the other wrote (lists)",
        {"G1c"},
        NONE,
        [t(1, append("x", 1), values("y", 2)), t(2, append("y", 2), values("x", 1))],
    ),
    Bad(
        "each read what the other wrote (registers)", {"G1c"}, NONE, [t(1, write("x", 1), read("y", 2)), t(2, write("y", 2), read("x", 1))]
    ),
    Bad(
        "versions in the order opposite to a read",
        {"G1c"},
        NONE,
        [t(1, append("x", 1), values("y", 2)), t(2, append("x", 2), append("y", 2)), t(3, values("x", 1, 2))],
    ),
    Bad("nobody appended that", {"garbage-read"}, NONE, [t(1, append("x", 1)), t(2, values("x", 7))]),
    Bad("nobody wrote that", {"garbage-read"}, NONE, [t(1, write("x", 1)), t(2, read("x", 7))]),
    Bad("a value twice", {"duplicate"}, NONE, [t(1, append("x", 1)), t(2, append("x", 2)), t(3, values("x", 1, 2, 1))]),
    Bad(
        "two reads that cannot be of one list",
        {"incompatible-order"},
        NONE,
        [t(1, append("x", 1)), t(2, append("x", 2)), t(3, values("x", 1, 2)), t(4, values("x", 2))],
    ),
    Bad(
        "two reads that cannot be of one list, the longer one later",
        {"incompatible-order"},
        NONE,
        [
            t(1, append("x", 1)),
            t(2, append("x", 2)),
            t(3, values("x", 1, 2), write("a", 1)),
            t(4, append("x", 3), read("a", 1)),
            t(5, append("x", 4)),
            t(6, values("x", 1, 3, 4)),
        ],
    ),
    Bad(
        "list order against commit order",
        {"incompatible-order"},
        NONE,
        [t(1, append("x", 1), commit=2), t(2, append("x", 2), commit=1), t(3, values("x", 1, 2))],
    ),
    Bad(
        "an append that the commit order puts before what was read",
        {"lost-append"},
        NONE,
        [t(1, append("x", 1), commit=1), t(2, append("x", 2), commit=2), t(3, values("x", 2))],
    ),
    Bad("does not see its own append", {"internal"}, NONE, [t(1, append("x", 1), values("x"))]),
    Bad("does not see its own write", {"internal"}, NONE, [t(1, write("x", 1), read("x", None))]),
    Bad("does not find its own row", {"internal"}, NONE, [t(1, write("x", 1), scan("x"))]),
    Bad("loses a row it had changed", {"internal"}, NONE, [t(1, write("x1", 1)), t(2, read("x1", 1), write("x1", 2), scan("x"))]),
    Bad("another's append behind its own", {"G1c"}, NONE, [t(1, append("x", 1), values("x", 1, 2)), t(2, append("x", 2))]),
    Bad(
        "another's append between its own",
        {"G0", "G1c"},
        NONE,
        [t(1, append("x", 1), append("x", 3), values("x", 1, 2, 3)), t(2, append("x", 2))],
    ),
    Bad(
        "appends that only the commit order orders",
        {"G1c"},
        NONE,
        [t(1, append("x", 1), values("y", 5), commit=1), t(2, append("x", 2), append("y", 5), commit=2)],
    ),
    Bad("sees its own write too early", {"internal"}, NONE, [t(1, read("x", 1), write("x", 1))]),
    Bad("sees its own append too early", {"internal"}, NONE, [t(1, values("x", 1), append("x", 1))]),
]
