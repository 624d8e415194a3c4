"""Histories that are fine are accepted; histories that show nothing are called vacuous; counts are right."""

from __future__ import annotations

import pytest

from khonsu_sql.checker import Level, Transaction, check
from tests.checker.histories import append, read, scan, t, values, write

GOOD = {
    "a list that grows": [t(1, append("x", 1)), t(2, values("x", 1), append("x", 2), values("x", 1, 2)), t(3, values("x", 1, 2))],
    "appends after a read of its own": [t(1, append("x", 1), values("x", 1), append("x", 2), values("x", 1, 2)), t(2, values("x", 1, 2))],
    "a register that changes": [t(1, read("x", None), write("x", 1), read("x", 1)), t(2, read("x", 1), write("x", 2)), t(3, read("x", 2))],
    "aborted writes that nobody saw": [t(1, write("x", 1), status="aborted"), t(2, read("x", None), write("x", 2)), t(3, read("x", 2))],
    "aborted reads are not judged": [t(1, read("x", 7), values("y", 3), status="aborted"), t(2, write("x", 2)), t(3, read("x", 2))],
    "unknown and nobody saw it": [t(1, read("x", 9), write("x", 1), status="unknown"), t(2, read("x", None)), t(3, write("y", 1))],
    "unknown and somebody saw it": [t(1, read("x", None), write("x", 1), status="unknown"), t(2, read("x", 1), write("x", 2))],
    "unknown may happen later than it was given up": [
        t(1, append("x", 1), at=(1, 2), process=1, status="unknown"),
        t(2, values("x"), at=(3, 4), process=1),
        t(3, values("x", 1), at=(5, 6), process=1),
    ],
    "blind writes in any order": [t(1, write("x", 1)), t(2, write("x", 2)), t(3, read("x", 1)), t(4, read("x", 2)), t(5, read("x", None))],
    "a deleted register": [
        t(1, write("x", 1), commit=1),
        t(2, read("x", 1), write("x", None), read("x", None), commit=2),
        t(3, read("x", None)),
    ],
    "inserts its own row and scans again": [t(1, scan("x"), write("x1", 1), scan("x", x1=1)), t(2, scan("x", x1=1), write("x2", 1))],
    "a scan that looks elsewhere": [t(1, scan("x"), write("y1", 1)), t(2, scan(("z", None)), write("x1", 1))],
    "deletes its own row and scans": [t(1, write("x1", 1), write("x1", None), scan("x")), t(2, write("x2", 1))],
    "a scan after a deletion": [
        t(1, write("x1", 1)),
        t(2, read("x1", 1), write("x1", None), write("y", 1)),
        t(3, scan("x"), read("y", 1)),
    ],
    "equal times are no order": [t(1, write("x", 1), at=(1, 5)), t(2, read("x", None), at=(5, 6))],
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD.keys())
@pytest.mark.parametrize("backwards", [False, True], ids=["", "lines backwards"])
def test_it_is_accepted(history: list[Transaction], backwards: bool) -> None:
    report = check(history[::-1] if backwards else history, Level.STRICT_SERIALIZABLE, allow_vacuous=True)
    assert report.ok, str(report)
    assert report.strongest_level is Level.STRICT_SERIALIZABLE


def test_an_unknown_transaction_that_was_seen_is_judged_with_what_only_it_saw() -> None:
    first = t(1, write("x", 1), status="unknown")
    second = t(2, read("x", 1), write("y", 1), status="unknown")
    third = t(3, read("y", 1), read("x", None))
    assert check([first, second, t(3)], allow_vacuous=True).counts.committed == 1
    for history in ([first, second, third], [third, second, first]):
        report = check(history, allow_vacuous=True)
        assert report.counts.committed == 3
        assert set(report.classes()) == {"G-single"}


@pytest.mark.parametrize(
    ("history", "why"),
    [
        ([], "no two processes"),
        ([t(1, append("x", 1)), t(2, append("y", 1))], "no two processes"),
        (
            [t(1, append("x", 1), at=(1, 2), process=1), t(2, values("x", 1), at=(3, 4), process=1), t(3, append("y", 1), at=(1, 9))],
            "no two processes",
        ),
        ([t(1, append("x", 1), at=(1, 2)), t(2, values("x", 1), at=(3, 4))], "overlapped"),
        ([t(1, append("x", 1), at=(1, 2)), t(2, values("x", 1), at=(2, 4))], "overlapped"),
        ([t(1, append("x", 1), at=(1, 3), status="unknown"), t(2, values("x", 1), at=(2, 4))], "overlapped"),
    ],
)
def test_a_history_that_shows_nothing_is_vacuous(history: list[Transaction], why: str) -> None:
    report = check(history, Level.READ_COMMITTED)
    assert report.vacuous is not None and why in report.vacuous
    assert not report.ok and report.holds(Level.STRICT_SERIALIZABLE)
    assert check(history, Level.READ_COMMITTED, allow_vacuous=True).ok


def test_a_history_with_conflicts_and_concurrency_is_not_vacuous() -> None:
    report = check([t(1, append("x", 1), at=(1, 3)), t(2, values("x", 1), at=(2, 4))])
    assert report.vacuous is None and report.ok


def test_counts() -> None:
    history = [
        t(1, append("x", 1), at=(1, 10), process=1),
        t(2, append("x", 2), at=(11, 20), process=1),
        t(3, values("x", 1, 2), at=(15, 40), process=2),
        t(4, append("x", 3), at=(16, 17), process=3, status="aborted"),
        t(5, read("r", None), at=(18, 19), process=3),
        t(6, read("r", None), write("r", None), at=(30, 31), process=3, status="unknown"),
        t(7, write("r", None), read("s", None), at=(32, 33), process=4),
    ]
    counts = check(history).counts
    assert (counts.transactions, counts.committed, counts.aborted, counts.unknown) == (7, 5, 1, 1)
    assert counts.edges == {"ww": 1, "wr": 1, "rw": 0, "predicate-rw": 0, "process": 1, "realtime": counts.edges["realtime"]}
    assert counts.conflicts == 1
    assert counts.concurrent_pairs == 4, "2–3, 2–5, 3–5, 3–7"
    assert counts.unresolved_reads == 1


def test_a_transaction_without_duration_is_not_concurrent_with_itself() -> None:
    assert check([t(1, at=(5, 5)), t(2, at=(4, 6)), t(3, at=(5, 5))]).counts.concurrent_pairs == 2


def test_explanations_say_who_did_what() -> None:
    report = check([t(1, values("x"), append("y", 1)), t(2, values("y"), append("x", 7)), t(3, values("x", 7))], Level.SERIALIZABLE)
    (anomaly,) = report.anomalies
    assert anomaly.name == "G2-item" and set(anomaly.transactions) == {1, 2} and anomaly.forbidden_from is Level.SERIALIZABLE
    assert "T1 read x when it was empty, so it did not see that T2 appended 7 to x" in anomaly.explanation
    text = str(report)
    assert "strongest level that holds: repeatable-read" in text and "serializable: violated" in text and anomaly.explanation in text


def test_the_smallest_cycle_is_told() -> None:
    ring = [t(n, values(f"k{n}"), append(f"k{(n + 1) % 6}", 1)) for n in range(2, 6)]
    pair = [t(0, values("k0"), append("k1", 1), values("z")), t(1, values("k1"), append("k2", 1), append("z", 1))]
    (anomaly,) = check([*ring, *pair]).anomalies
    assert set(anomaly.transactions) == {0, 1}


def test_independent_cycles_are_told_each() -> None:
    pairs = [
        one
        for n in range(5)
        for one in (t(10 * n + 1, read(f"x{n}", None), write(f"y{n}", 1)), t(10 * n + 2, read(f"y{n}", None), write(f"x{n}", 1)))
    ]
    report = check(pairs)
    assert report.classes() == {"G2-item": 5}
    assert str(report).count("<") == 3 * 4, "three examples of two steps each"


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="sloppy"):
        check([], "sloppy")
