"""Watches: what wakes a sleeper and what does not, that no wake-up is lost, and what ends a sleep.

A wait of 0 seconds is a look: it says whether what was read has been touched. Where a thread sleeps in earnest the test waits until it is
listed, or uses the moment between its listing and its look.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from khonsu_engine.commands import EVERY_KEY, KeyRange
from khonsu_engine.database import Database
from khonsu_engine.errors import CommitOutcomeUnknown, EngineClosed, StoreFailed
from khonsu_engine.mvcc.predicates import ALL, Compare
from khonsu_engine.schema.catalog import Table
from khonsu_engine.state_machine import CHANGES_TRIM
from khonsu_engine.transaction import LocalTransaction
from khonsu_engine.watches import Watch, Watches
from tests.engine.accounts import NEVER_BY_ITSELF, create, delete, finish, got, insert, listed, overwrite, put, put_bulk, shape, update
from tests.stores import CrashingStore, FaultyStore, RecordingStore

PATIENCE_SECONDS = 30.0


@pytest.fixture
def database() -> Iterator[Database]:
    opened = Database.open(None, limits=NEVER_BY_ITSELF)
    yield opened
    opened.close()


@pytest.fixture
def accounts(database: Database) -> Table:
    return create(database, balances={key: key * 10 for key in range(1, 6)})


def watch(database: Database, read: Callable[[LocalTransaction], object]) -> Watch:
    """What a transaction that reads so, and is rolled back, would sleep on."""
    transaction = database.begin()
    read(transaction)
    made = transaction.watch()
    assert made is not None
    transaction.rollback()
    return made


def change(database: Database, write: Callable[[LocalTransaction], object]) -> None:
    transaction = database.begin(writes_first=True)
    write(transaction)
    finish(transaction)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.001)


class Sleeper:
    """A thread that waits on a watch; `result` or `error` is what came of it."""

    def __init__(self, database: Database, watched: Watch, timeout_seconds: float | None = PATIENCE_SECONDS) -> None:
        self.result: bool | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(watched, timeout_seconds), daemon=True)
        before = len(database.watches)
        self._thread.start()
        until(lambda: len(database.watches) > before)

    def _run(self, watched: Watch, timeout_seconds: float | None) -> None:
        try:
            self.result = watched.wait(timeout_seconds)
        except BaseException as error:
            self.error = error

    @property
    def asleep(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "it sleeps on"


# --- what wakes


def test_only_what_touches_the_reads_wakes(database: Database, accounts: Table) -> None:
    rich = KeyRange(), Compare(1, ">=", 40)
    sets = {
        "a row": lambda t: t.get(accounts.id, 2),
        "one column of a row": lambda t: t.get(accounts.id, 2, columns=1 << 2),
        "a row that is not there": lambda t: t.get(accounts.id, 9),
        "a condition": lambda t: listed(t, accounts, *rich),
    }
    changes: list[tuple[Callable[[LocalTransaction], object], set[str]]] = [
        (lambda t: update(t, accounts, 1, 11), set()),
        (lambda t: update(t, accounts, 2, 21), {"a row"}),
        (lambda t: update(t, accounts, 2, 99), {"a row", "a condition"}),
        (lambda t: delete(t, accounts, 2), {"a row", "one column of a row", "a condition"}),
        (lambda t: insert(t, accounts, 9, 0), {"a row that is not there"}),
        (lambda t: put_bulk(t, accounts, {20: 5, 21: 500}), {"a condition"}),
        (lambda t: put_bulk(t, accounts, {}, truncate=True), set(sets)),
    ]
    for write, touched in changes:
        watches = {name: watch(database, read) for name, read in sets.items()}
        change(database, write)
        assert {name for name, made in watches.items() if made.wait(0.0)} == touched
        assert len(database.watches) == 0


def test_a_dropped_table_wakes_and_a_new_one_does_not(database: Database, accounts: Table) -> None:
    made = watch(database, lambda t: got(t, accounts, [1]))
    sleeper = Sleeper(database, made)
    change(database, lambda t: t.create_table(shape("other")))
    assert sleeper.asleep
    change(database, lambda t: t.drop_table(accounts))
    sleeper.join()
    assert sleeper.result is True


def test_own_writes_are_no_reason_and_a_key_found_free_is_one(database: Database, accounts: Table) -> None:
    def work(transaction: LocalTransaction) -> None:
        got(transaction, accounts, [1])
        insert(transaction, accounts, 7, 0)
        overwrite(transaction, accounts, (3, 30, None), 0)
        made = transaction.create_table(shape("own"))
        insert(transaction, made, 1, 1)
        listed(transaction, made)

    made = watch(database, work)
    assert made.wait(0.0) is False
    change(database, lambda t: update(t, accounts, 3, 1))
    assert made.wait(0.0) is False
    change(database, lambda t: insert(t, accounts, 7, 1))
    assert made.wait(0.0) is True


def test_a_bulk_write_wakes(database: Database, accounts: Table) -> None:
    sleeper = Sleeper(database, watch(database, lambda t: listed(t, accounts)))
    change(database, lambda t: put_bulk(t, accounts, {20: 5, 21: 500}))
    sleeper.join()
    assert sleeper.result is True


def test_a_guard_wakes_too(database: Database, accounts: Table) -> None:
    other = create(database, "other", {1: 1})
    for guarded in (2, Compare(0, "=", 3)):
        sleeper = Sleeper(database, watch(database, lambda t, guarded=guarded: (got(t, accounts, [1]), t.guard(other.id, guarded))))
        change(database, lambda t: update(t, other, 1, 0))
        assert sleeper.asleep
        change(database, lambda t, guarded=guarded: insert(t, other, 2 if guarded == 2 else 3, 0))
        sleeper.join()
        assert sleeper.result is True


def test_nothing_read_is_nothing_to_watch(database: Database, accounts: Table) -> None:
    def watched(work: Callable[[LocalTransaction], object]) -> Watch | None:
        transaction = database.begin(writes_first=True)
        work(transaction)
        made = transaction.watch()
        transaction.rollback()
        return made

    def own_table(transaction: LocalTransaction) -> None:
        table = transaction.create_table(shape("own"))
        insert(transaction, table, 1, 1)
        listed(transaction, table)

    assert watched(lambda t: None) is None
    assert watched(lambda t: insert(t, accounts, 7, 0)) is None
    assert watched(own_table) is None
    assert watched(lambda t: got(t, accounts, [8])) is not None


# --- no wake-up is lost


def test_a_commit_between_the_last_read_and_the_listing(database: Database, accounts: Table) -> None:
    made = watch(database, lambda t: got(t, accounts, [1]))
    change(database, lambda t: update(t, accounts, 1, 0))
    assert made.wait(PATIENCE_SECONDS) is True


@pytest.mark.parametrize("first", ["listed", "committed"])
def test_a_commit_around_the_listing(database: Database, accounts: Table, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """Whatever was looked at before the listing would be too old."""
    made = watch(database, lambda t: got(t, accounts, [1]))
    add = Watches.add

    def add_beside_a_commit(self: Watches, watched: Watch) -> None:
        if first == "listed":
            add(self, watched)
        change(database, lambda t: update(t, accounts, 1, 0))
        if first == "committed":
            add(self, watched)

    monkeypatch.setattr(Watches, "add", add_beside_a_commit)
    assert made.wait(PATIENCE_SECONDS) is True


def test_a_commit_between_the_look_and_the_sleep(database: Database, accounts: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    made = watch(database, lambda t: got(t, accounts, [1]))
    look, looks = Watch._touched, []

    def look_and_be_late(self: Watch) -> bool:
        looks.append(look(self))
        if len(looks) == 1:
            change(database, lambda t: update(t, accounts, 1, 0))
        return looks[-1]

    monkeypatch.setattr(Watch, "_touched", look_and_be_late)
    assert made.wait(PATIENCE_SECONDS) is True
    assert looks == [False, True]


def test_a_list_of_changes_that_was_cut_counts_as_touched(database: Database, accounts: Table) -> None:
    made, other = (watch(database, lambda t, key=key: got(t, accounts, [key])) for key in (1, 2))
    change(database, lambda t: update(t, accounts, 1, 0))
    for number in range(2 * CHANGES_TRIM):
        change(database, lambda t, number=number: put(t, accounts, 100, number))
    assert database.state.cut[accounts.id] > other._seen, "nothing was cut"
    assert made.wait(0.0) is True
    assert other.wait(0.0) is True, "it cannot know better"


def test_who_looks_in_time_needs_no_list_from_long_ago(database: Database, accounts: Table) -> None:
    made = watch(database, lambda t: got(t, accounts, [1]))
    for number in range(2 * CHANGES_TRIM):
        change(database, lambda t, number=number: put(t, accounts, 100, number))
        assert number % 100 or made.wait(0.0) is False
    assert database.state.cut[accounts.id] > made._command.read_timestamp, "nothing was cut"


def test_sleepers_hold_no_snapshot(database: Database, accounts: Table) -> None:
    sleeper = Sleeper(database, watch(database, lambda t: listed(t, accounts, EVERY_KEY, ALL)))
    assert len(database.snapshots) == 0
    change(database, lambda t: update(t, accounts, 1, 0))
    sleeper.join()
    assert sleeper.result is True
    assert database.watches.listed == {}


def test_each_sleeper_is_woken_by_its_own_table(database: Database, accounts: Table) -> None:
    other = create(database, "other", {1: 1})
    first = Sleeper(database, watch(database, lambda t: got(t, accounts, [1])))
    second = Sleeper(database, watch(database, lambda t: got(t, other, [1])))
    change(database, lambda t: update(t, other, 1, 0))
    second.join()
    assert first.asleep
    change(database, lambda t: update(t, accounts, 1, 0))
    first.join()
    assert (first.result, second.result) == (True, True)


# --- durability


def test_a_change_is_told_when_it_is_durable() -> None:
    store = RecordingStore()
    database = Database(store, limits=NEVER_BY_ITSELF)
    try:
        accounts = create(database, balances={1: 10})
        sleeper = Sleeper(database, watch(database, lambda t: got(t, accounts, [1])))
        store.hold_sync()
        writer = database.begin(writes_first=True)
        update(writer, accounts, 1, 0)
        ticket: Any = writer.commit()
        store.wait_until_held() if not ticket.wait(0.0) else None
        assert sleeper.asleep and database.state.durable < database.state.published
        store.release_sync()
        sleeper.join()
        assert sleeper.result is True
        assert got(database.begin(), accounts, [1]) == {1: 0}
    finally:
        store.release_sync()
        database.close()


def test_a_failed_sync_ends_every_sleep() -> None:
    store = FaultyStore(CrashingStore())
    database = Database(store, limits=NEVER_BY_ITSELF)
    accounts, other = create(database, balances={1: 10}), create(database, "other", {1: 1})
    made = watch(database, lambda t: got(t, accounts, [1]))
    sleeper = Sleeper(database, made)
    store.fail("sync", times=None)
    with pytest.raises(CommitOutcomeUnknown):
        change(database, lambda t: update(t, other, 1, 0))
    sleeper.join()
    assert isinstance(sleeper.error, StoreFailed)
    with pytest.raises(StoreFailed):
        made.wait(0.0)
    database.close()


# --- what else ends a sleep


def test_closing_the_database_ends_it(database: Database, accounts: Table) -> None:
    made = watch(database, lambda t: got(t, accounts, [1]))
    sleeper = Sleeper(database, made, None)
    database.close()
    sleeper.join()
    assert isinstance(sleeper.error, EngineClosed)
    with pytest.raises(EngineClosed):
        made.wait()


def test_a_timeout_and_a_cancel_end_it(database: Database, accounts: Table) -> None:
    made = watch(database, lambda t: got(t, accounts, [1]))
    assert made.wait(0.01) is False and not made.cancelled
    sleeper = Sleeper(database, made, None)
    made.cancel()
    sleeper.join()
    assert sleeper.result is False and made.cancelled
    assert made.wait() is False, "a cancel before the wait counts, too"
    assert database.watches.listed == {}


def test_a_watch_nobody_has_is_not_kept(database: Database, accounts: Table) -> None:
    made = watch(database, lambda t: got(t, accounts, [1]))
    database.watches.add(made)  # as if its thread had been torn out of `wait`
    assert len(database.watches) == 1
    del made
    gc.collect()
    assert len(database.watches) == 0
    other = watch(database, lambda t: got(t, accounts, [2]))
    assert other.wait(0.0) is False
    assert database.watches.listed == {}


def test_a_deletion_that_a_checkpoint_forgot_before_the_first_look_wakes(database: Database, accounts: Table) -> None:
    """A watch holds no snapshot, so the newest table version need not know of the deletion any more; the list of changes does."""
    change(database, lambda transaction: insert(transaction, accounts, 9, 0))
    asleep = watch(database, lambda transaction: transaction.get(accounts.id, 9))
    change(database, lambda transaction: delete(transaction, accounts, 9))
    database.checkpoint()
    assert asleep.wait(0) is True
