"""Nothing leaves the engine that depends on a commit which is not durable, and what cannot be made durable is said.

A recording store knows which sync covered which record; faulty ones fail on demand. Crashes are in `test_crash_points`.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from khonsu_engine.commands import Outcome
from khonsu_engine.database import Database
from khonsu_engine.errors import CommitOutcomeUnknown, EngineError, SerializationConflict, StoreFailed
from khonsu_engine.protocols import Store
from khonsu_engine.schema.catalog import Table
from khonsu_engine.storage.keys import log_key
from khonsu_engine.storage.rocks import RocksStore
from khonsu_engine.tickets import CommitTicket
from khonsu_engine.transaction import LocalTransaction
from tests.engine.accounts import (
    NEVER_BY_ITSELF,
    content,
    create,
    delete,
    finish,
    got,
    insert,
    listed,
    put,
    put_bulk,
    scanned,
    shape,
    update,
)
from tests.stores import CrashingStore, FaultyStore, RecordingStore, disk_full

NAME = b"8 bytes."


@pytest.fixture(params=["keyspace in memory", "rocks"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RecordingStore:
    return RecordingStore(None if request.param == "keyspace in memory" else RocksStore(tmp_path / "db"))


@pytest.fixture
def database(store: RecordingStore) -> Iterator[Database]:
    opened = Database(store, limits=NEVER_BY_ITSELF)
    yield opened
    store.release_sync()
    opened.close()


@pytest.fixture
def accounts(database: Database) -> Table:
    return create(database, balances={key: key * 10 for key in range(1, 11)})


def begun(transaction: LocalTransaction) -> CommitTicket:
    """Commit without waiting; the sync is asked for."""
    result = transaction.commit()
    assert isinstance(result, CommitTicket), "told at once"
    assert result.wait(0.0) is False or result.outcome is not None
    return result


def changed(database: Database, table: Table, key: int, balance: int) -> CommitTicket:
    writer = database.begin(writes_first=True)
    put(writer, table, key, balance)
    return begun(writer)


def in_a_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


# -- acknowledgements -------------------------------------------------------------------------------------------------


def test_no_acknowledgement_before_its_sync(store: RecordingStore, database: Database, accounts: Table) -> None:
    """Every way to be told of a commit: its ticket, `outcome`, `wait_durable`, the ticket of a point write, a checkpoint."""
    store.hold_sync()
    writer = database.begin(name=NAME)
    update(writer, accounts, 1, 11)
    ticket = begun(writer)
    store.wait_until_held()
    assert ticket.wait(0.0) is False
    index = ticket.outcome.index if ticket.outcome else 0
    changed_row, second = database.committer.write_point(accounts, 2, lambda row: (2, 22, None), b"another.")
    assert changed_row and second is not None and second.wait(0.0) is False
    ways: list[Callable[[], object]] = [
        ticket.wait,
        lambda: database.outcome(writer.id),
        lambda: database.wait_durable(ticket.timestamp),
        second.wait,
        database.checkpoint,
    ]
    told: dict[int, int] = {}

    def asking(number: int) -> None:
        ways[number]()
        told[number] = store.note("told")

    threads = [in_a_thread(lambda number=number: asking(number)) for number in range(len(ways))]
    for thread in threads:
        thread.join(0.05)
    assert not told, "told while the sync was still held"
    store.release_sync()
    for thread in threads:
        thread.join(30.0)
    assert sorted(told) == list(range(len(ways)))
    assert all(store.was_durable(log_key(index), at=number) for number in told.values())
    assert store.was_durable(log_key(index + 1), at=told[3])


def test_a_commit_that_misses_a_sync_waits_for_the_next(store: RecordingStore, database: Database, accounts: Table) -> None:
    store.hold_sync()
    first = changed(database, accounts, 1, 11)
    store.wait_until_held()
    second = changed(database, accounts, 2, 22)
    store.release_sync()
    assert first.wait(30.0) and second.wait(30.0)
    assert first.outcome and second.outcome
    one, two = (store.durable_at(log_key(ticket.outcome.index)) for ticket in (first, second) if ticket.outcome)
    assert one is not None and two is not None and one < two


@pytest.mark.parametrize("threads", [1, 6])
def test_every_acknowledgement_of_many(store: RecordingStore, database: Database, accounts: Table, threads: int) -> None:
    """Threads commit as fast as they can; each acknowledgement must lie behind the sync of its record."""
    acknowledged: list[tuple[int, int]] = []

    def writing(thread: int) -> None:
        for number in range(25):
            outcome = finish_one(thread * 1_000 + number + 100)
            acknowledged.append((outcome.index, store.note("acknowledged")))

    def finish_one(key: int) -> Outcome:
        writer = database.begin(writes_first=True)
        insert(writer, accounts, key, key)
        return finish(writer)

    running = [in_a_thread(lambda number=number: writing(number)) for number in range(threads)]
    for thread in running:
        thread.join(60.0)
    assert len(acknowledged) == 25 * threads
    too_early = [index for index, told in acknowledged if not store.was_durable(log_key(index), at=told)]
    assert too_early == []


# -- rows -------------------------------------------------------------------------------------------------------------


def test_plain_readers_see_what_is_durable_and_never_wait(store: RecordingStore, database: Database, accounts: Table) -> None:
    store.hold_sync()
    pending = [changed(database, accounts, 1, 111)]
    changes = (
        lambda writer: delete(writer, accounts, 2),
        lambda writer: put_bulk(writer, accounts, {50: 50, 51: 51}),
        lambda writer: writer.create_table(shape("second")),
    )
    for change in changes:
        writer = database.begin(writes_first=True)
        change(writer)
        pending.append(begun(writer))
    before = {key: key * 10 for key in range(1, 11)}
    assert content(database, accounts) == before
    reader = database.begin()
    assert got(reader, accounts, range(60)) == before and reader.catalog.find("second") is None
    assert isinstance(reader.commit(), Outcome)
    store.release_sync()
    assert all(ticket.wait(30.0) for ticket in pending)
    assert content(database, accounts) == {key: value for key, value in before.items() if key != 2} | {1: 111, 50: 50, 51: 51}


def test_rows_of_a_snapshot_ahead_of_durable_say_what_to_wait_for(store: RecordingStore, database: Database, accounts: Table) -> None:
    """`seen`: who hands out a row waits for it first. A row of a bulk write, and the absence of a row, depend on commits too."""
    store.hold_sync()
    pending = [changed(database, accounts, 1, 111)]
    for change in (lambda t: delete(t, accounts, 2), lambda t: put_bulk(t, accounts, {50: 50})):
        writer = database.begin(writes_first=True)
        change(writer)
        pending.append(begun(writer))
    expected = {1: pending[0].timestamp, 2: pending[1].timestamp, 50: pending[2].timestamp}
    for key, timestamp in expected.items():
        reader = database.begin(writes_first=True)
        reader.get(accounts.id, key)
        assert timestamp <= reader.seen <= reader.read_timestamp, f"key {key}"
        reader.rollback()
    for read in (listed, scanned):
        reader = database.begin(writes_first=True)
        assert set(read(reader, accounts)) == {1, 3, 4, 5, 6, 7, 8, 9, 10, 50}
        assert reader.seen == reader.read_timestamp
        reader.rollback()
    truncating = database.begin(writes_first=True)
    put_bulk(truncating, accounts, {}, truncate=True)
    pending.append(begun(truncating))
    reader = database.begin(writes_first=True)
    assert reader.get(accounts.id, 3) is None
    assert reader.seen >= pending[-1].timestamp
    reader.rollback()
    store.release_sync()
    assert all(ticket.wait(30.0) for ticket in pending)


def test_a_reader_ahead_of_durable_waits_for_what_it_read(store: RecordingStore, database: Database, accounts: Table) -> None:
    store.hold_sync()
    pending = changed(database, accounts, 1, 111)
    reader = database.begin(writes_first=True)
    assert reader.get(accounts.id, 1) == (1, 111, None)
    ticket = begun(reader)
    assert ticket.wait(0.0) is False
    unchanged = database.committer.write_point(accounts, 1, lambda row: row, NAME)
    assert unchanged[0] is False and unchanged[1] is not None and unchanged[1].wait(0.0) is False
    store.release_sync()
    assert ticket.wait(30.0) and unchanged[1].wait(30.0) and pending.wait(30.0)


def test_a_conflict_names_the_commit_to_wait_for(store: RecordingStore, database: Database, accounts: Table) -> None:
    loser = database.begin()
    update(loser, accounts, 1, 12)
    store.hold_sync()
    winner = changed(database, accounts, 1, 11)
    with pytest.raises(SerializationConflict) as caught:
        loser.commit()
    assert caught.value.evidence["commit_timestamp"] == winner.timestamp
    store.release_sync()
    assert winner.wait(30.0)


def test_every_row_read_beside_writers_is_durable(store: RecordingStore, database: Database, accounts: Table) -> None:
    """Readers note each value; afterwards the record it came from must have been synced before the note."""
    index_of: dict[int, int] = {}
    seen: list[tuple[int, int]] = []
    stop = threading.Event()

    def reading() -> None:
        last = -1
        while not stop.is_set():
            reader = database.begin(read_only=True)
            value = (got(reader, accounts, [1]) or scanned(reader, accounts))[1]
            reader.rollback()
            if value != last:
                last = value
                seen.append((value, store.note("row")))

    readers = [in_a_thread(reading) for _ in range(2)]
    for number in range(1_000, 50_000):
        ticket = changed(database, accounts, 1, number)
        assert ticket.outcome
        index_of[number] = ticket.outcome.index
        if number % 3 == 0:
            ticket.wait(30.0)
        if number > 1_100 and len(seen) > 20:
            break
    ticket.wait(30.0)
    stop.set()
    for thread in readers:
        thread.join(30.0)
    found = [(value, note) for value, note in seen if value in index_of]
    assert len(found) > 15, "the readers saw nothing of it"
    assert [value for value, note in found if not store.was_durable(log_key(index_of[value]), at=note)] == []


def test_a_checkpoint_holds_nothing_that_is_not_durable(store: RecordingStore, database: Database, accounts: Table) -> None:
    """The manifest is written after the sync of every record it stands for, and records go after the sync of the manifest."""
    changed(database, accounts, 1, 111)
    database.checkpoint()
    newest = database.state.index
    manifest = [event.number for event in store.events if event.call == "write" and any(key[:1] == b"M" for key in event.keys)][-1]
    assert store.was_durable(log_key(newest), at=manifest)
    removal = [event.number for event in store.events if event.call == "write" and event.keys and event.keys[0][:1] == b"L"][-1]
    synced = [event.number for event in store.events if event.call == "sync" and manifest < event.number < removal]
    assert synced, "the log was shortened before the manifest was synced"
    files = [event for event in store.events if event.call == "add_file"]
    assert files and all(event.number < manifest for event in files)
    removed = [event.number for event in store.events if event.call == "remove_file"]
    assert all(number > synced[0] for number in removed)


# -- a sync that fails ------------------------------------------------------------------------------------------------


@pytest.fixture
def faulty() -> FaultyStore:
    return FaultyStore(CrashingStore())


@pytest.fixture
def shaky(faulty: FaultyStore) -> Iterator[Database]:
    opened = Database(faulty, limits=NEVER_BY_ITSELF)
    yield opened
    opened.close()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [None, disk_full()])
def test_a_failed_sync_is_unknown_and_final(faulty: FaultyStore, shaky: Database, after: bool, error: OSError | None) -> None:
    table = create(shaky, balances={1: 10, 2: 20})
    before = content(shaky, table)
    faulty.fail("sync", error=error, after=after)
    writer = shaky.begin()
    update(writer, table, 1, 11)
    ticket = begun(writer)
    for _ in range(2):
        with pytest.raises(CommitOutcomeUnknown) as caught:
            ticket.wait(30.0)
        assert caught.value.transaction_id == writer.id and caught.value.sqlstate == "08007"
    with pytest.raises(CommitOutcomeUnknown) as told:
        shaky.outcome(writer.id)
    assert told.value.transaction_id == writer.id
    assert content(shaky, table) == before
    ahead = shaky.begin(writes_first=True)
    assert got(ahead, table, [1, 2]) == before and scanned(ahead, table) == before
    insert(ahead, table, 3, 30)
    refused: list[Callable[[], object]] = [
        ahead.commit,
        lambda: shaky.committer.write_point(table, 1, lambda row: (1, 12, None), NAME),
        lambda: shaky.reserve_row_ids(table.id, 1),
        lambda: shaky.wait_durable(shaky.state.published),
        shaky.checkpoint,
    ]
    for call in refused:
        with pytest.raises(StoreFailed):
            call()
    assert content(shaky, table) == before and shaky.metrics["snapshots"] == 0
    assert isinstance(faulty.inner, CrashingStore)
    for found in (faulty.inner.crash(1), faulty.inner.killed(), faulty.inner.crash(None)):
        reopened = Database(found, limits=NEVER_BY_ITSELF)
        outcome = reopened.outcome(writer.id)
        assert content(reopened, table) == (before if outcome is None else {1: 11, 2: 20})
        reopened.close()


def test_nobody_who_shares_a_failed_sync_is_acknowledged() -> None:
    faulty = FaultyStore()
    store = RecordingStore(faulty)
    database = Database(store, limits=NEVER_BY_ITSELF)
    table = create(database)
    store.hold_sync()
    tickets = [changed(database, table, 1, 1)]
    store.wait_until_held()
    tickets += [changed(database, table, key, key) for key in (2, 3)]
    faulty.fail("sync")
    store.release_sync()
    for ticket in tickets:
        with pytest.raises(CommitOutcomeUnknown):
            ticket.wait(30.0)
    assert content(database, table) == {}
    database.close()


def test_a_sync_that_fails_under_a_checkpoint_ends_it_all(faulty: FaultyStore, shaky: Database) -> None:
    table = create(shaky, balances={1: 10})
    faulty.fail("sync")
    with pytest.raises(EngineError):
        shaky.checkpoint()
    writer = shaky.begin()
    update(writer, table, 1, 11)
    with pytest.raises((StoreFailed, CommitOutcomeUnknown)):
        finish(writer)
    assert content(shaky, table) == {1: 10}


# -- a write that fails -----------------------------------------------------------------------------------------------

LARGE = "x" * 100_000


def written(transaction: LocalTransaction, table: Table, how: str) -> None:
    """The same change by each of the ways a commit is written."""
    if how == "bulk":
        put_bulk(transaction, table, {5: 50})
    else:
        insert(transaction, table, 5, 50, LARGE if how == "large" else None)


@pytest.mark.parametrize(
    ("how", "call"), [("small", "put"), ("large", "put"), ("bulk", "put"), ("large", "add_file"), ("bulk", "add_file")]
)
def test_a_refused_write_leaves_nothing_and_others_go_on(faulty: FaultyStore, shaky: Database, how: str, call: str) -> None:
    table = create(shaky, balances={1: 10})
    files = set(faulty.files())
    published = shaky.state.published
    faulty.fail(call, error=disk_full())
    writer = shaky.begin()
    with pytest.raises((StoreFailed, OSError)) as caught:
        written(writer, table, how)
        writer.commit()
    assert call == "add_file" or isinstance(caught.value, StoreFailed), "no error of the outside leaves the engine"
    writer.rollback()
    assert shaky.state.published == published and shaky.outcome(writer.id) is None
    assert content(shaky, table) == {1: 10} and shaky.metrics["snapshots"] == 0
    again = shaky.begin()
    written(again, table, how)
    assert finish(again).index == shaky.state.index
    assert content(shaky, table) == {1: 10, 5: 50}
    del writer, again, caught
    gc.collect()  # the error and its frames refer to each other
    shaky.checkpoint()
    shaky.checkpoint()
    assert isinstance(faulty.inner, CrashingStore)
    orphans = set(faulty.files()) - files - shaky.maintenance._named
    assert orphans == set(), "files of a commit that did not happen stay for ever"
    found = faulty.inner.crash(None)
    reopened = Database(found, limits=NEVER_BY_ITSELF)
    assert content(reopened, table) == {1: 10, 5: 50}
    reopened.close()


def test_a_refused_reservation_hands_out_nothing(faulty: FaultyStore, shaky: Database) -> None:
    table = create(shaky)
    faulty.fail("put")
    with pytest.raises(StoreFailed):
        shaky.reserve_row_ids(table.id, 10)
    first = shaky.reserve_row_ids(table.id, 10)
    finish_marker = shaky.begin()
    insert(finish_marker, table, 1, 1)
    finish(finish_marker)
    assert isinstance(faulty.inner, CrashingStore)
    reopened = Database(faulty.inner.crash(None), limits=NEVER_BY_ITSELF)
    assert reopened.reserve_row_ids(table.id, 1) >= first + 10
    reopened.close()


@pytest.mark.parametrize("call", ["add_file", "write", "remove_file"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_checkpoint_that_fails_costs_nothing_but_itself(faulty: FaultyStore, shaky: Database, call: str, at: int) -> None:
    table = create(shaky, balances={key: key for key in range(40)})
    for key in range(0, 40, 3):
        finish_change(shaky, table, key)
    shaky.checkpoint()
    for key in range(0, 40, 5):
        finish_change(shaky, table, key)
    expected = content(shaky, table)
    faulty.fail(call, at=at)
    failed = False
    try:
        shaky.checkpoint()
    except StoreFailed:
        failed = True
    assert failed == (faulty.failures > 0)
    faulty.heal()
    assert content(shaky, table) == expected
    finish_change(shaky, table, 7)
    expected[7] = content(shaky, table)[7]
    assert isinstance(faulty.inner, CrashingStore)
    shaky.checkpoint()
    assert content(shaky, table) == expected
    reopened = Database(faulty.inner.crash(None), limits=NEVER_BY_ITSELF)
    assert content(reopened, table) == expected
    reopened.close()


def finish_change(database: Database, table: Table, key: int) -> None:
    writer = database.begin(writes_first=True)
    row = writer.get(table.id, key)
    assert row is not None
    update(writer, table, key, row[1] + 1_000)
    finish(writer)


# -- below `full` -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("synchronous", ["normal", "off"])
def test_below_full_durable_means_published_and_a_crash_keeps_a_prefix(synchronous: str) -> None:
    store = CrashingStore()
    database = Database(store, limits=msgspec.structs.replace(NEVER_BY_ITSELF, sync_delay_seconds=3_600), synchronous=synchronous)
    table = create(database)
    for key in range(30):
        writer = database.begin()
        insert(writer, table, key, key)
        assert isinstance(writer.commit(), Outcome)
        assert len(content(database, table)) == key + 1
    reopened = Database(store.crash(5), limits=NEVER_BY_ITSELF)
    if reopened.catalog.find("accounts") is not None:
        found = content(reopened, table)
        assert found == {key: key for key in range(len(found))}
    reopened.close()
    with pytest.raises(EngineError):
        database.close()


def test_at_normal_a_late_sync_takes_nothing_back() -> None:
    """A commit that is told while another one's sync is under way stays visible when that sync ends."""
    store = RecordingStore()
    database = Database(store, limits=NEVER_BY_ITSELF, synchronous="normal")
    table = create(database, balances={1: 10})
    database.checkpoint()
    store.hold_sync()
    for balance in (11, 12):
        writer = database.begin(writes_first=True)
        put(writer, table, 1, balance)
        assert isinstance(writer.commit(), Outcome)
        store.wait_until_held()
    syncs = database.committer.syncer.syncs
    store.release_sync()
    while database.committer.syncer.syncs == syncs:
        threading.Event().wait(0.0001)
        assert content(database, table) == {1: 12}
    assert content(database, table) == {1: 12}
    database.close()


@pytest.mark.parametrize("synchronous", ["full", "normal", "off"])
def test_close_makes_everything_durable(synchronous: str) -> None:
    store = RecordingStore(CrashingStore())
    database = Database(store, limits=NEVER_BY_ITSELF, synchronous=synchronous)
    table = create(database)
    for key in range(10):
        writer = database.begin()
        insert(writer, table, key, key)
        writer.commit()
    last = database.state.index
    database.close()
    assert store.was_durable(log_key(last))


def test_normal_syncs_by_itself() -> None:
    """Nobody waits, and yet the sync comes: the sync thread was woken by the commit."""
    store = RecordingStore()
    database = Database(store, limits=NEVER_BY_ITSELF, synchronous="normal")
    table = create(database)
    store.hold_sync()
    writer = database.begin()
    insert(writer, table, 1, 1)
    writer.commit()
    store.wait_until_held()
    store.release_sync()
    database.close()


def stored(store: Store) -> int:
    return len(list(store.scan(b"L", b"M")))


def test_the_log_is_shortened_by_a_checkpoint_also_after_a_crash_undid_it(faulty: FaultyStore, shaky: Database) -> None:
    """The removal of old records is not synced: a crash brings them back, and the next checkpoint must still find them."""
    table = create(shaky, balances={1: 1})
    for number in range(20):
        writer = shaky.begin()
        update(writer, table, 1, number)
        finish(writer)
    shaky.checkpoint()
    assert stored(faulty) == 0
    assert isinstance(faulty.inner, CrashingStore)
    found = faulty.inner.crash(None)
    assert stored(found) > 20, "the crash did not bring the records back: nothing is tested"
    reopened = Database(found, limits=NEVER_BY_ITSELF)
    assert content(reopened, table) == {1: 19}
    reopened.checkpoint()
    finish_change(reopened, table, 1)
    reopened.checkpoint()
    assert stored(found) == 0, "records below the checkpoint stay for ever"
    reopened.close()
