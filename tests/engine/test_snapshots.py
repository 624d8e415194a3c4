"""What a snapshot sees stays what it was, and is whole, however many commits, checkpoints and syncs come by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.commands import Isolation, KeyRange, Outcome
from khonsu_engine.database import Database
from khonsu_engine.errors import SerializationConflict
from khonsu_engine.mvcc.clock import next_timestamp
from khonsu_engine.schema.catalog import Table
from khonsu_engine.state_machine import CHANGES_TRIM
from khonsu_engine.tickets import CommitTicket
from khonsu_engine.transaction import LocalTransaction
from tests.engine.accounts import (
    LEVELS,
    NEVER_BY_ITSELF,
    content,
    create,
    delete,
    finish,
    got,
    insert,
    listed,
    overwrite,
    put,
    put_bulk,
    scanned,
)
from tests.stores import RecordingStore

READ_COMMITTED = Isolation.READ_COMMITTED
KEYS = range(10)
BEFORE = {key: key * 10 for key in KEYS}


@pytest.fixture
def database() -> Iterator[Database]:
    opened = Database.open(None, limits=NEVER_BY_ITSELF)
    yield opened
    opened.close()


@pytest.fixture
def accounts(database: Database) -> Table:
    return create(database, balances=BEFORE)


def commit(database: Database, table: Table, balances: dict[int, int | None]) -> None:
    """One transaction; None deletes."""
    writer = database.begin(writes_first=True)
    for key, balance in balances.items():
        if balance is None:
            delete(writer, table, key)
        else:
            put(writer, table, key, balance)
    finish(writer)


def seen_by(reader: LocalTransaction, table: Table) -> dict[int, int]:
    """By all three ways to read, which agree."""
    found = got(reader, table, range(40))
    assert listed(reader, table) == found
    assert scanned(reader, table) == found
    return found


# --- a commit is visible whole, or not at all


def test_nobody_sees_half_a_commit(database: Database, accounts: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader comes before each row that is installed: it sees all of them as they were."""
    true_install, seen = Memtable.install, []

    def install(memtable: Memtable, version: Any) -> None:
        reader = database.begin(writes_first=True)
        seen.append(sum(got(reader, accounts, KEYS).values()))
        reader.rollback()
        true_install(memtable, version)

    monkeypatch.setattr(Memtable, "install", install)
    commit(database, accounts, {1: 0, 2: 0, 3: 60 + 0, 9: 90})
    assert seen == [450] * 4
    monkeypatch.undo()
    assert sum(content(database, accounts).values()) == 450


@pytest.mark.parametrize("physical", [0, 4, 5, 6, 1 << 42])
def test_every_commit_has_a_moment_of_its_own(physical: int) -> None:
    """Also when the clock stands still, or goes back."""
    last = 5 << 20
    for _ in range(3):
        following = next_timestamp(physical, last)
        assert following > last
        last = following


# --- a snapshot in use


@pytest.mark.parametrize("way", ["one by one", "in bulk"])
@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("isolation", LEVELS)
def test_a_snapshot_stays_while_rows_are_overwritten(
    database: Database, accounts: Table, isolation: Isolation, checkpoints: bool, way: str
) -> None:
    """More often than the look at who reads comes by; and from segments as from memory."""
    if checkpoints:
        database.checkpoint()
    reader = database.begin(isolation)
    for turn in range(100):
        commit(database, accounts, {1: turn, 2: turn, 20 + turn % 7: turn})
    commit(database, accounts, {3: None, 4: None})
    if way == "in bulk":
        writer = database.begin(writes_first=True)
        put_bulk(writer, accounts, {30: 1, 31: 2, 32: 3, 33: 4})
        finish(writer)
    if checkpoints:
        database.checkpoint()
        commit(database, accounts, {5: None, 6: 0})
    assert seen_by(reader, accounts) == BEFORE
    reader.rollback()
    after = content(database, accounts)
    assert (after[1], after[2]) == (99, 99) and not {3, 4} & after.keys() and (5 in after) is not checkpoints


def test_a_snapshot_that_moved_stays_where_it_moved_to(database: Database, accounts: Table) -> None:
    reader = database.begin(READ_COMMITTED)
    assert seen_by(reader, accounts) == BEFORE
    reader.fresh = False
    commit(database, accounts, {1: 1_000})
    reader.begin_statement(writes=False)
    moved = BEFORE | {1: 1_000}
    assert seen_by(reader, accounts) == moved
    for turn in range(100):
        commit(database, accounts, {1: turn, 2: turn})
    assert seen_by(reader, accounts) == moved
    reader.rollback()


def test_own_writes_hide_what_the_snapshot_sees(database: Database, accounts: Table) -> None:
    """Not what others have committed since."""
    writer = database.begin()
    before = writer.peek(accounts.id, 1)
    assert before is not None
    overwrite(writer, accounts, before, 7)
    commit(database, accounts, {1: 1})
    commit(database, accounts, {1: 2, 2: 2})
    assert seen_by(writer, accounts) == BEFORE | {1: 7}
    writer.rollback()


def test_a_snapshot_at_the_very_moment_of_a_commit(database: Database, accounts: Table) -> None:
    """It sees that commit, and nothing of what it replaced: rows of memory, rows of segments, rows that are gone."""
    commit(database, accounts, {1: 1, 2: None})
    assert content(database, accounts) == {key: value for key, value in BEFORE.items() if key != 2} | {1: 1}
    database.checkpoint()
    commit(database, accounts, {1: 2, 3: None, 20: 20})
    assert content(database, accounts) == {key: value for key, value in BEFORE.items() if key not in (2, 3)} | {1: 2, 20: 20}


def test_a_dropped_table_stays_for_those_who_see_it(database: Database, accounts: Table) -> None:
    reader = database.begin()
    writer = database.begin(writes_first=True)
    writer.drop_table(writer.catalog.by_id[accounts.id])
    finish(writer)
    database.checkpoint()
    assert reader.catalog.find("accounts") is not None
    assert seen_by(reader, accounts) == BEFORE
    late = database.begin()
    assert late.catalog.find("accounts") is None
    for transaction in (late, reader):
        transaction.rollback()


# --- what is not durable yet


class BusyStore(RecordingStore):
    """Something else happens while it syncs."""

    during: Callable[[], object] | None = None

    def sync(self) -> None:
        during, self.during = self.during, None
        if during is not None:
            during()
        super().sync()


def test_the_next_snapshot_is_taken_at_the_last_durable_commit() -> None:
    """A hot row: one commit becomes durable, the next is published meanwhile, one more comes. Who begins now sees the durable one."""
    store = BusyStore()
    database = Database(store, limits=NEVER_BY_ITSELF)
    accounts = create(database, balances=BEFORE)

    def write(balance: int) -> CommitTicket:
        writer = database.begin(writes_first=True)
        put(writer, accounts, 1, balance)
        ticket = writer.commit()
        assert isinstance(ticket, CommitTicket)
        return ticket

    first = write(1)
    store.during = lambda: write(2)
    assert first.wait(), "this thread syncs"
    third = write(3)
    assert database.state.durable == first.timestamp < third.timestamp
    reader = database.begin()
    assert seen_by(reader, accounts) == BEFORE | {1: 1}
    reader.rollback()
    assert third.wait()
    database.close()


def test_read_committed_never_goes_back() -> None:
    """A statement that only reads looks at what is durable, but not behind the statement before it, which looked at what is published."""
    store = RecordingStore()
    database = Database(store, limits=NEVER_BY_ITSELF)
    accounts = create(database, balances=BEFORE)
    store.hold_sync()
    writer = database.begin(writes_first=True)
    put(writer, accounts, 1, 7)
    ticket = writer.commit()
    assert not isinstance(ticket, Outcome)
    reader = database.begin(READ_COMMITTED, writes_first=True)
    reader.begin_statement(writes=True)
    assert got(reader, accounts, [1]) == {1: 7}
    reader.fresh = False
    reader.begin_statement(writes=False)
    assert got(reader, accounts, [1]) == {1: 7}
    reader.rollback()
    store.release_sync()
    assert ticket.wait(30.0)
    database.close()


# --- what a snapshot must still be told of at its commit


@pytest.mark.parametrize("others", [0, CHANGES_TRIM * 3])
def test_a_change_is_remembered_as_long_as_somebody_may_meet_it(database: Database, accounts: Table, others: int) -> None:
    """However many harmless ones came after it."""
    reader = database.begin()
    assert listed(reader, accounts, KeyRange(100, 200)) == {}
    commit(database, accounts, {150: 1})
    for turn in range(others):
        commit(database, accounts, {1: turn})
    insert(reader, accounts, 300, 0)
    with pytest.raises(SerializationConflict) as caught:
        reader.commit()
    assert caught.value.evidence["keys"] == (150,)


@pytest.mark.parametrize("checkpoints", ["", "before", "after", "before and after"])
@pytest.mark.parametrize("isolation", LEVELS)
def test_a_deletion_is_no_less_a_change(database: Database, accounts: Table, isolation: Isolation, checkpoints: str) -> None:
    """Nobody brings a row back who did not know that it is gone, be it that nothing of it is left in memory, or in segments, or at all."""
    if "before" in checkpoints:
        database.checkpoint()
    writer = database.begin(isolation)
    before = writer.peek(accounts.id, 1)
    assert before is not None
    overwrite(writer, accounts, before, 7)
    commit(database, accounts, {1: None})
    if "after" in checkpoints:
        database.checkpoint()
    with pytest.raises(SerializationConflict):
        writer.commit()
    assert 1 not in content(database, accounts)
