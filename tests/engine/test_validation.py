"""Validation by itself: bulk changes, ranges, unknown values, and what is committed between its two looks.

A large commit is looked at twice: outside the commit latch against everything published, and under it against the remainder. Here a rival
commits in the middle of the first look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from khonsu_engine import committer
from khonsu_engine.commands import Isolation, KeyRange
from khonsu_engine.database import Database
from khonsu_engine.errors import SerializationConflict
from khonsu_engine.mvcc.predicates import ALL, And, Compare, In, Not, Or, matcher
from khonsu_engine.mvcc.validation import in_range
from khonsu_engine.schema.catalog import Table
from khonsu_engine.transaction import LocalTransaction
from tests.engine.accounts import NEVER_BY_ITSELF, create, delete, finish, got, insert, listed, overwrite, put_bulk, scanned

SERIALIZABLE, REPEATABLE_READ = Isolation.SERIALIZABLE, Isolation.REPEATABLE_READ

ROWS = 100
MANY = committer.PREVALIDATE_READS_MIN + 6

Act = Callable[[LocalTransaction, Table], Any]


@pytest.fixture
def database() -> Iterator[Database]:
    opened = Database.open(None, limits=NEVER_BY_ITSELF)
    yield opened
    opened.close()


@pytest.fixture
def accounts(database: Database) -> Table:
    return create(database, balances={key: key * 10 for key in range(ROWS)})


def changed(transaction: LocalTransaction, table: Table, key: int) -> None:
    """A blind write: nothing is recorded as read."""
    before = transaction.peek(table.id, key)
    assert before is not None
    overwrite(transaction, table, before, before[1] + 1)


def committed(database: Database, table: Table, act: Act) -> None:
    rival = database.begin(writes_first=True)
    act(rival, table)
    finish(rival)


def many_writes(transaction: LocalTransaction, table: Table) -> None:
    for key in range(MANY):
        changed(transaction, table, key)


def many_points(transaction: LocalTransaction, table: Table) -> None:
    got(transaction, table, [*range(MANY), 501])
    changed(transaction, table, 90)


def a_search(transaction: LocalTransaction, table: Table) -> None:
    scanned(transaction, table, predicate=Compare(1, ">=", 900))
    changed(transaction, table, 1)


def a_range(transaction: LocalTransaction, table: Table) -> None:
    listed(transaction, table, KeyRange(90, 501))
    changed(transaction, table, 1)


def a_bulk_write(transaction: LocalTransaction, table: Table) -> None:
    put_bulk(transaction, table, dict.fromkeys(range(500, 510), 0))


def a_replacement(transaction: LocalTransaction, table: Table) -> None:
    put_bulk(transaction, table, dict.fromkeys(range(5), 0), truncate=True)


def a_drop(transaction: LocalTransaction, table: Table) -> None:
    transaction.drop_table(transaction.catalog.by_id[table.id])


RIVALS: dict[str, Act] = {
    "updates 5": lambda rival, table: changed(rival, table, 5),
    "updates 95": lambda rival, table: changed(rival, table, 95),
    "deletes 5": lambda rival, table: delete(rival, table, 5),
    "deletes 95": lambda rival, table: delete(rival, table, 95),
    "inserts 501": lambda rival, table: insert(rival, table, 501, 901),
    "inserts 601": lambda rival, table: insert(rival, table, 601, 1),
    "brings 501": lambda rival, table: put_bulk(rival, table, {501: 901, 502: 902}),
    "brings 601": lambda rival, table: put_bulk(rival, table, {601: 1, 602: 2}),
    "truncates": lambda rival, table: put_bulk(rival, table, {}, truncate=True),
}

MEETINGS: dict[str, tuple[Act, Isolation, set[str]]] = {
    "many writes": (many_writes, REPEATABLE_READ, {"updates 5", "deletes 5", "truncates"}),
    "many points": (many_points, SERIALIZABLE, {"updates 5", "deletes 5", "inserts 501", "brings 501", "truncates"}),
    "a search": (a_search, SERIALIZABLE, {"updates 95", "deletes 95", "inserts 501", "brings 501", "truncates"}),
    "a range": (a_range, SERIALIZABLE, {"updates 95", "deletes 95", "inserts 501", "brings 501", "truncates"}),
    "a bulk write": (a_bulk_write, REPEATABLE_READ, {"inserts 501", "brings 501", "truncates"}),
    "a replacement": (a_replacement, REPEATABLE_READ, set(RIVALS)),
    "a drop": (a_drop, REPEATABLE_READ, set(RIVALS)),
}
"""What a transaction does, its level, and the rivals that it conflicts with."""


@pytest.mark.parametrize("earlier", [False, True], ids=["first", "after others"])
@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("meeting", MEETINGS)
@pytest.mark.parametrize("moment", ["before the first look", "between the two looks"])
def test_whoever_commits_meanwhile_is_seen(
    database: Database, accounts: Table, monkeypatch: pytest.MonkeyPatch, moment: str, meeting: str, rival: str, earlier: bool
) -> None:
    act, isolation, conflicts = MEETINGS[meeting]
    other = create(database, "other", {1: 1})
    transaction = database.begin(isolation)
    act(transaction, accounts)
    if earlier:
        committed(database, other, RIVALS["inserts 601"])
    looks = []
    if moment == "before the first look":
        committed(database, accounts, RIVALS[rival])
    else:
        true_validate = committer.validate

        def validate(state: Any, command: Any, floor: int = 0) -> Any:
            found = true_validate(state, command, floor)
            if command.transaction_id == transaction.id:
                looks.append(floor)
                if len(looks) == 1:
                    committed(database, accounts, RIVALS[rival])
            return found

        monkeypatch.setattr(committer, "validate", validate)
    if rival in conflicts:
        with pytest.raises(SerializationConflict):
            transaction.commit()
    else:
        finish(transaction)
    if looks:
        assert len(looks) == 2 and looks[0] == 0 < looks[1], "the second look begins where the first one ended"


# --- keys and ranges

NAN = float("nan")


@pytest.mark.parametrize(
    ("key", "range", "inside"),
    [
        (5, KeyRange(1, 5), True),
        (5, KeyRange(1, 5, True, False), False),
        (1, KeyRange(1, 5), True),
        (1, KeyRange(1, 5, False, True), False),
        (6, KeyRange(1, 5), False),
        (0, KeyRange(1, 5), False),
        (7, KeyRange(1, None), True),
        ((5, "b"), KeyRange((5,), (5,)), True),
        ((5, "b"), KeyRange((5,), (5,), False, True), False),
        ((6, "b"), KeyRange((5,), (5,)), False),
        ("a", KeyRange(1, 5), True),
        (None, KeyRange(1, 5), True),
        (NAN, KeyRange(1, 5), True),
        (NAN, KeyRange(1, 5, False, False), True),
    ],
)
def test_a_key_is_outside_only_where_that_is_certain(key: Any, range: KeyRange, inside: bool) -> None:
    assert in_range(key, range) is inside


# --- predicates on rows

ROW = (1, None, "text")


@pytest.mark.parametrize(
    ("predicate", "matches"),
    [
        (ALL, True),
        (Compare(0, "=", 1), True),
        (Compare(0, "<>", 1), False),
        (Compare(1, "=", 5), False),
        (Not(Compare(1, "=", 5)), False),
        (Not(Not(Compare(1, "=", 5))), False),
        (Not(In(1, (5,))), False),
        (Not(In(0, (5, None))), False),
        (In(0, (1, None)), True),
        (And((Compare(0, "=", 1), Compare(1, "=", 5))), False),
        (Or((Compare(0, "=", 1), Compare(1, "=", 5))), True),
        (Not(Or((Compare(0, "=", 2), Compare(1, "=", 5)))), False),
        (Compare(2, "<", 5), True),
        (Not(Compare(2, "<", 5)), True),
        (Compare(7, "=", 5), True),
    ],
)
def test_unknown_is_no_match_and_an_error_is_one(predicate: Any, matches: bool) -> None:
    assert matcher(predicate)(ROW) is matches
