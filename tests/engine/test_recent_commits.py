"""Who committed when: remembered within bounds, exact or unknown."""

from __future__ import annotations

from khonsu_engine.database import Database
from khonsu_engine.mvcc.recent_commits import GENERATION, RecentCommits
from tests.engine.accounts import create, finish, put


def test_what_is_remembered_is_exact() -> None:
    recent = RecentCommits()
    recent.add(10, b"a" * 16)
    recent.add(20, b"b" * 16)
    assert recent.transaction_at(10) == b"a" * 16 and recent.transaction_at(20) == b"b" * 16
    assert recent.transaction_at(15) is None and recent.transaction_at(0) is None


def test_adding_a_commit_again_changes_nothing() -> None:
    """As an interrupted publication does; also where a generation has just ended."""
    recent = RecentCommits(2)
    for _ in range(2):
        recent.add(1, b"a" * 16)
    for _ in range(2):
        recent.add(2, b"b" * 16)
    assert [recent.transaction_at(number) for number in (1, 2)] == [b"a" * 16, b"b" * 16]


def test_it_is_bounded_and_forgets_the_oldest() -> None:
    recent = RecentCommits(100)
    for number in range(10_000):
        recent.add(number, number.to_bytes(16, "big"))
        assert len(recent) <= 200
    known = [number for number in range(10_000) if recent.transaction_at(number) is not None]
    assert known == list(range(known[0], 10_000)) and len(known) >= 100
    assert all(recent.transaction_at(number) == number.to_bytes(16, "big") for number in known)


def test_a_database_remembers_its_last_commits_and_no_more() -> None:
    database = Database.open(None)
    database.state.recent = RecentCommits(100)
    table = create(database)
    outcomes = []
    for number in range(1_000):
        transaction = database.begin(writes_first=True)
        put(transaction, table, number % 50, number)
        outcomes.append(finish(transaction))
        assert len(database.state.recent) <= 200
    assert all(database.state.recent.transaction_at(one.timestamp) == one.transaction_id for one in outcomes[-100:])
    assert database.state.recent.transaction_at(outcomes[0].timestamp) is None
    assert GENERATION >= 10_000, "as many as a transaction of a second may need"
    database.close()


def test_it_is_known_after_the_log_was_read_again(tmp_path: object) -> None:
    database = Database.open(str(tmp_path))
    table = create(database)
    transaction = database.begin(writes_first=True)
    put(transaction, table, 1, 10)
    outcome = finish(transaction)
    database.close()
    again = Database.open(str(tmp_path))
    assert again.state.recent.transaction_at(outcome.timestamp) == outcome.transaction_id
    again.close()
