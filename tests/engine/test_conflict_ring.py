"""The ring of conflicts: bounded in entries, keys and text, and counted without loss."""

from __future__ import annotations

import threading

import pytest

from khonsu_engine.commands import EVERY_KEY, KeyRange, Refusal
from khonsu_engine.conflict_ring import ENTRIES_MAX, ConflictRing
from khonsu_engine.database import Database
from khonsu_engine.errors import EngineError, SerializationConflict
from khonsu_engine.evidence import KEYS_MAX, conflict, facts, shown_key
from khonsu_engine.mvcc.recent_commits import RecentCommits
from khonsu_engine.tally import Tally
from tests.engine.accounts import create, finish, put, update


def told(*keys: object) -> SerializationConflict:
    return SerializationConflict("x", hint="h", evidence=facts("write-write", ("t", None), keys, transaction_id=b"me"))


def test_an_error_without_a_rule_is_no_conflict() -> None:
    ring = ConflictRing()
    ring.add(EngineError("disk"), told=True)
    ring.add(EngineError("damage", evidence={"index": 5}), told=True)
    assert len(ring) == 0


def test_entries_keys_and_texts_are_bounded() -> None:
    ring = ConflictRing()
    for number in range(10_000):
        ring.add(told(*range(number, number + 20), "x" * 5_000), told=number % 2 == 0)
    assert len(ring) == len(ring.listed()) == ENTRIES_MAX
    last = ring.listed()[-1]
    assert last.keys == tuple(str(number) for number in range(9_999, 9_999 + KEYS_MAX)) and not last.told and last.hint == "h"
    assert ring.told["write-write"].value == ring.restarts.value == 5_000
    ring.add(told(("k" * 5_000, 1)), told=True)
    assert [len(key) for key in ring.listed()[-1].keys] == [100]


def test_ten_thousand_conflicts_leave_a_bounded_trace() -> None:
    """Everything that is kept for conflicts, after as many of them."""
    database = Database.open(None)
    database.state.recent = RecentCommits(1_000)
    table = create(database, balances={1: 0})
    for number in range(10_000):
        loser = database.begin()
        update(loser, table, 1, number)
        winner = database.begin(writes_first=True)
        put(winner, table, 1, number)
        finish(winner)
        with pytest.raises(SerializationConflict) as caught:
            loser.commit()
        database.conflicts.add(caught.value, told=True)
    sizes = database.metrics
    assert sizes["conflicts_kept"] == ENTRIES_MAX and sizes["conflicts_write_write"] == 10_000
    assert sizes["recent_commits_kept"] <= 2_000
    assert sizes["change_list_entries"] <= 2_048 and sizes["outcomes_kept"] <= 4_096
    assert sizes["open_transactions"] == sizes["locks_held"] == sizes["lock_waits_kept"] == 0
    database.close()


def test_lock_waits_are_remembered_within_bounds() -> None:
    database = Database.open(None)
    table = create(database)
    for number in range(3_000):
        database.locks.recent_waits.append((0.0, *database.place_of(table.id, number)))
    assert len(database.locks.recent_waits) == 1_024
    database.close()


def test_a_tally_loses_nothing() -> None:
    tally = Tally()
    threads = [threading.Thread(target=lambda: [tally.add() for _ in range(5_000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.value == 40_000 and tally.value == 40_000, "looking does not count"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (1, "1"),
        (("a", 2), "a, 2"),
        ("x" * 101, "x" * 99 + "…"),
        (EVERY_KEY, "every key"),
        (KeyRange(1, 5, True, False), "[1 to 5)"),
        (KeyRange(("a",), None, False), "(a to …)"),
        (KeyRange(None, 3), "(… to 3]"),
    ],
)
def test_keys_as_text(key: object, text: str) -> None:
    assert shown_key(key) == text


def test_a_snapshot_that_has_moved_over_a_change_is_not_said_to_be_older() -> None:
    """What an own row was computed from may be older than the snapshot; the words must not claim otherwise."""
    for timestamp, words in ((20 << 20, "after this transaction's snapshot at 10 ms."), (5 << 20, "after it was read.")):
        error = conflict(Refusal("write-write", 64, (1,), timestamp), b"o" * 16, ("t", None), b"m" * 16, 10 << 20)
        assert error.detail is not None and error.detail.endswith(words)
        assert error.evidence["commit_timestamp"] == timestamp
