"""Threads on one database: no increment is lost, no reader sees a sum that never was, every scan is a prefix of history.

Bounds are tiny, so flushes, merges and checkpoints go on beside them all the time (that they do is asserted), in memory and on disk.
Every test is bounded by a number of commits and by a clock, whichever ends first; the longer ones are marked `deep`.
"""

from __future__ import annotations

import gc
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from khonsu_engine.commands import Isolation, KeyRange
from khonsu_engine.database import Database
from khonsu_engine.errors import EngineError, SerializationConflict, UniqueViolation
from khonsu_engine.limits import TINY
from khonsu_engine.mvcc.predicates import And, Compare
from khonsu_engine.schema.catalog import Table
from khonsu_engine.transaction import LocalTransaction
from tests.engine.accounts import LEVELS, content, create, delete, finish, got, insert, listed, put, put_bulk, scanned, update

LIMITS = msgspec.structs.replace(
    TINY, checkpoint_commits=30, memtable_versions_max=40, segment_rows_max=24, chunk_rows_max=8, overlap_max=2
)
SECONDS = 4.0
PATIENCE_SECONDS = 60.0


@pytest.fixture(params=["memory", "rocks"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(None if request.param == "memory" else tmp_path / "db", limits=LIMITS)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def eager_switches() -> Iterator[None]:
    """Threads change places a hundred times as often as they would."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


class Crowd:
    """Threads that run until the goal is reached, the time is up, or one of them fails."""

    def __init__(self, database: Database, goal: Callable[[], bool] | None = None, seconds: float = SECONDS) -> None:
        """The goal is reached when checkpoints and merges have run beside the threads and `goal` says so."""
        self.errors: list[BaseException] = []
        self._database = database
        self._goal = goal
        self._end = time.monotonic() + seconds
        self._enough = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def over(self) -> bool:
        if self._enough.is_set() or time.monotonic() > self._end:
            return True
        maintenance = self._database.maintenance
        if maintenance.checkpoints >= 3 and maintenance.compactions >= 1 and self._goal is not None and self._goal():
            self._enough.set()
        return self._enough.is_set()

    def start(self, work: Callable[[], object]) -> None:
        thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self.errors.append(error)
            self._enough.set()

    def join(self) -> None:
        """Wait until all are through, and raise what one of them raised."""
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
        assert not any(thread.is_alive() for thread in self._threads), "a thread hangs"
        if self.errors:
            raise self.errors[0]


def check_end(database: Database) -> None:
    """No snapshot stays, and what should run beside the threads did."""
    gc.collect()
    metrics = database.metrics
    assert metrics["snapshots"] == 0
    assert metrics["checkpoints"] >= 2 and metrics["compactions"] >= 1, f"nothing ran beside the threads: {metrics}"
    assert database.maintenance.failure is None


# -- increments -------------------------------------------------------------------------------------------------------


def increment(database: Database, table: Table, isolation: Isolation, key: int, writes_first: bool) -> int:
    """Add one, again until it works; returns the number of conflicts."""
    conflicts = 0
    while True:
        writer = database.begin(isolation, writes_first=writes_first)
        try:
            row = writer.get(table.id, key)
            assert row is not None
            time.sleep(0)  # a thought, in which others may come between
            update(writer, table, key, row[1] + 1)
            finish(writer)
            return conflicts
        except SerializationConflict:
            conflicts += 1
        finally:
            writer.rollback()


@pytest.mark.parametrize("isolation", LEVELS)
@pytest.mark.parametrize("spread", [1, 25], ids=["hot", "spread"])
def test_increments(database: Database, isolation: Isolation, spread: int) -> None:
    """[story 10] The final value is the number of successful commits."""
    table = create(database, balances=dict.fromkeys(range(spread), 0))
    done, conflicts = [0] * 6, [0] * 6
    crowd = Crowd(database, lambda: sum(done) > 300 and (spread > 1 or sum(conflicts) > 5))

    def work(thread: int) -> None:
        dice = random.Random(thread)
        while not crowd.over:
            conflicts[thread] += increment(database, table, isolation, dice.randrange(spread), thread % 2 == 0)
            done[thread] += 1

    for number in range(6):
        crowd.start(lambda number=number: work(number))
    crowd.join()
    assert sum(content(database, table).values()) == sum(done) > 50
    if spread == 1:
        assert sum(conflicts) > 0, "no two of them ever met"
    check_end(database)


def test_increments_as_point_writes(database: Database) -> None:
    """`write_point` never conflicts, beside transactions that do."""
    table = create(database, balances=dict.fromkeys(range(3), 0))
    done = [0] * 6
    crowd = Crowd(database, lambda: min(done) > 50)

    def work(thread: int) -> None:
        dice = random.Random(thread)
        name = b"thread.%d" % thread
        while not crowd.over:
            key = dice.randrange(3)
            if thread < 3:
                _, ticket = database.committer.write_point(table, key, lambda row: row and (row[0], row[1] + 1, None), name)
                if ticket is not None:
                    ticket.wait()
            else:
                increment(database, table, Isolation.SERIALIZABLE, key, True)
            done[thread] += 1

    for number in range(6):
        crowd.start(lambda number=number: work(number))
    crowd.join()
    assert sum(content(database, table).values()) == sum(done) > 50
    check_end(database)


# -- a bank -----------------------------------------------------------------------------------------------------------

ACCOUNTS = 40
EACH = 100


def transfer(database: Database, table: Table, isolation: Isolation, dice: random.Random) -> None:
    """Money from one account to another; at times an account is closed and opened again."""
    writer = database.begin(isolation, writes_first=dice.random() < 0.5)
    try:
        source, target = dice.sample(range(ACCOUNTS), 2)
        balances = got(writer, table, (source, target))
        if source in balances and target in balances:
            if dice.random() < 0.2:
                delete(writer, table, source)
                update(writer, table, target, balances[target] + balances[source])
            else:
                amount = dice.randint(0, 30)
                update(writer, table, source, balances[source] - amount)
                update(writer, table, target, balances[target] + amount)
        elif target in balances:
            insert(writer, table, source, balances[target] // 2)
            update(writer, table, target, balances[target] - balances[target] // 2)
        finish(writer)
    except (SerializationConflict, UniqueViolation):
        pass
    finally:
        writer.rollback()


def total(database: Database, table: Table, isolation: Isolation, how: str, dice: random.Random) -> int:
    reader = database.begin(isolation, read_only=dice.random() < 0.5, writes_first=dice.random() < 0.3)
    try:
        if how == "get":
            return sum(got(reader, table, range(ACCOUNTS)).values())
        if how == "rows":
            return sum(listed(reader, table).values())
        if how == "scan":
            return sum(scanned(reader, table).values())
        middle = dice.randrange(ACCOUNTS)
        low, high = KeyRange(None, middle, True, False), KeyRange(middle, None)
        low_rows = listed(reader, table, low) if dice.random() < 0.5 else scanned_within(reader, table, None, middle)
        high_rows = listed(reader, table, high) if dice.random() < 0.5 else scanned_within(reader, table, middle, None)
        return sum(low_rows.values()) + sum(high_rows.values())
    finally:
        reader.rollback()


def scanned_within(reader: LocalTransaction, table: Table, low: int | None, high: int | None) -> dict[int, int]:
    """A scan with a predicate returns at least what matches: filtered again, as callers do."""
    parts = [] if low is None else [Compare(0, ">=", low)]
    parts += [] if high is None else [Compare(0, "<", high)]
    range = KeyRange(low, high, True, False)
    found = scanned(reader, table, range, parts[0] if len(parts) == 1 else And(tuple(parts)))
    return {key: value for key, value in found.items() if (low is None or key >= low) and (high is None or key < high)}


@pytest.mark.parametrize("isolation", LEVELS)
def test_every_snapshot_of_a_bank_adds_up(database: Database, isolation: Isolation) -> None:
    table = create(database, balances=dict.fromkeys(range(ACCOUNTS), EACH))
    checks = dict.fromkeys(("get", "rows", "scan", "ranges"), 0)
    crowd = Crowd(database, lambda: min(checks.values()) >= 20)

    def moving(number: int) -> None:
        dice = random.Random(number)
        while not crowd.over:
            transfer(database, table, isolation, dice)

    def reading(how: str) -> None:
        dice = random.Random(how)
        while not crowd.over:
            found = total(database, table, isolation, how, dice)
            assert found == ACCOUNTS * EACH, f"by {how}: {found}"
            checks[how] += 1

    for number in range(4):
        crowd.start(lambda number=number: moving(number))
    for how in checks:
        crowd.start(lambda how=how: reading(how))
    crowd.join()
    assert sum(content(database, table).values()) == ACCOUNTS * EACH
    assert min(checks.values()) >= 5, checks
    check_end(database)


def test_a_long_snapshot_stays_what_it_was(database: Database) -> None:
    """Read again and again while everything is moved below it, by every way to read."""
    table = create(database, balances=dict.fromkeys(range(ACCOUNTS), EACH))
    rereads = 0
    crowd = Crowd(database, lambda: rereads >= 100)

    def moving(number: int) -> None:
        dice = random.Random(number)
        while not crowd.over:
            transfer(database, table, Isolation.REPEATABLE_READ, dice)

    def rereading(number: int) -> None:
        nonlocal rereads
        while not crowd.over:
            reader = database.begin(read_only=True, writes_first=number == 0)
            first = listed(reader, table)
            assert sum(first.values()) == ACCOUNTS * EACH
            for _ in range(10):
                assert scanned(reader, table) == first
                assert got(reader, table, range(ACCOUNTS)) == first
                assert listed(reader, table) == first
                rereads += 1
            reader.rollback()

    for number in range(3):
        crowd.start(lambda number=number: moving(number))
    for number in range(2):
        crowd.start(lambda number=number: rereading(number))
    crowd.join()
    assert rereads >= 20
    check_end(database)


# -- prefixes of history ----------------------------------------------------------------------------------------------

WIDTH = 10_000


def half_and_half(reader: LocalTransaction, table: Table) -> dict[int, int]:
    """Counters by a range, rows by a scan."""
    return {**listed(reader, table, KeyRange(None, 0)), **scanned(reader, table, KeyRange(1, None))}


def test_every_scan_is_a_prefix_of_history(database: Database) -> None:
    """Each thread appends 0, 1, 2, … and raises a counter with each. A snapshot has all up to the counter, and nothing above.

    Threads also pass a baton: a transaction copies the counter of another one, so a snapshot that has the copy has the original."""
    writers = 3
    table = create(database, balances=dict.fromkeys(range(-2 * writers, 0), 0))
    scans = [0] * 3
    crowd = Crowd(database, lambda: min(scans) >= 8)

    def append(thread: int, number: int) -> None:
        """One commit: row `number`, counter = number + 1, the copy of the neighbour's counter. Every ninth goes through files."""
        while True:
            writer = database.begin(Isolation.REPEATABLE_READ, writes_first=True)
            try:
                neighbour = got(writer, table, (-1 - (thread + 1) % writers,))
                if number % 9 == 5:
                    put_bulk(writer, table, {(thread + 1) * WIDTH + number: number})
                else:
                    insert(writer, table, (thread + 1) * WIDTH + number, number)
                put(writer, table, -1 - thread, number + 1)
                put(writer, table, -1 - writers - thread, next(iter(neighbour.values())))
                finish(writer)
                return
            finally:
                writer.rollback()

    def writing(thread: int) -> None:
        for number in range(WIDTH):
            if crowd.over:
                return
            append(thread, number)

    def scanning(number: int) -> None:
        read = (scanned, listed, half_and_half)[number]
        last = [0] * writers
        while not crowd.over:
            reader = database.begin(read_only=True, writes_first=number == 1)
            rows = read(reader, table)
            reader.rollback()
            for thread in range(writers):
                upto = rows[-1 - thread]
                found = [key - (thread + 1) * WIDTH for key in rows if (thread + 1) * WIDTH <= key < (thread + 2) * WIDTH]
                assert found == list(range(upto)) or sorted(found) == list(range(upto)), f"counter {upto}, rows {found}"
                assert rows[-1 - (thread + 1) % writers] >= rows[-1 - writers - thread], "a copy without its original"
                assert upto >= last[thread], "a later snapshot is older"
                last[thread] = upto
            scans[number] += 1

    for number in range(writers):
        crowd.start(lambda number=number: writing(number))
    for number in range(3):
        crowd.start(lambda number=number: scanning(number))
    crowd.join()
    assert min(scans) >= 3, scans
    check_end(database)


def read_pair(reader: LocalTransaction, table: Table, pair: int, how: int) -> dict[int, int]:
    """The two rows by one of the ways to read."""
    within = KeyRange(pair, pair + 1)
    if how == 0:
        return got(reader, table, (pair, pair + 1))
    found = listed(reader, table, within) if how == 1 else scanned(reader, table, within)
    return {key: value for key, value in found.items() if key in (pair, pair + 1)}


def test_write_skew_among_threads(database: Database) -> None:
    """[story 5] Two withdrawals from A and B under A + B >= 0: SERIALIZABLE never lets both through, whatever the reads look like."""
    pairs = 6
    table = create(database, balances=dict.fromkeys(range(2 * pairs), 50))
    withdrawn = [0] * 4
    crowd = Crowd(database, lambda: sum(withdrawn) > 500)

    def withdrawing(thread: int) -> None:
        dice = random.Random(thread)
        while not crowd.over:
            pair = 2 * dice.randrange(pairs)
            writer = database.begin(Isolation.SERIALIZABLE, writes_first=dice.random() < 0.5)
            try:
                both = read_pair(writer, table, pair, dice.randrange(3))
                key = pair + dice.randrange(2)
                if sum(both.values()) >= 20:
                    update(writer, table, key, both[key] - 20)
                elif dice.random() < 0.5:
                    update(writer, table, key, both[key] + 60)
                finish(writer)
                withdrawn[thread] += 1
            except SerializationConflict:
                pass
            finally:
                writer.rollback()

    def watching() -> None:
        while not crowd.over:
            reader = database.begin(read_only=True)
            rows = scanned(reader, table)
            reader.rollback()
            assert all(rows[2 * pair] + rows[2 * pair + 1] >= 0 for pair in range(pairs)), f"overdrawn: {rows}"

    for number in range(4):
        crowd.start(lambda number=number: withdrawing(number))
    crowd.start(watching)
    crowd.join()
    assert sum(withdrawn) > 50
    check_end(database)


def test_tables_come_and_go_beside_writers(database: Database) -> None:
    """DDL, TRUNCATE and bulk writes by some threads, rows by others: every commit is on the table it was meant for."""
    lasting = create(database, "lasting", {0: 0})
    created: list[str] = []
    counted = [0]
    crowd = Crowd(database, lambda: len(created) >= 15)

    def making(thread: int) -> None:
        for number in range(1_000):
            if crowd.over:
                return
            name = f"t{thread}_{number}"
            table = create(database, name, {key: key for key in range(5)})
            writer = database.begin(writes_first=True)
            put_bulk(writer, table, {key: key for key in range(10, 30)}, truncate=number % 2 == 0)
            finish(writer)
            expected = {key: key for key in range(10, 30)} | ({} if number % 2 == 0 else {key: key for key in range(5)})
            assert content(database, table) == expected, name
            if number % 3:
                dropper = database.begin(writes_first=True)
                dropper.drop_table(table)
                finish(dropper)
                assert database.catalog.find(name) is None
            else:
                created.append(name)

    def counting() -> None:
        while not crowd.over:
            increment(database, lasting, Isolation.SERIALIZABLE, 0, True)
            counted[0] += 1

    for number in range(3):
        crowd.start(lambda number=number: making(number))
    crowd.start(counting)
    crowd.join()
    assert content(database, lasting) == {0: counted[0]}
    for name in created:
        table = database.catalog.find(name)
        assert table is not None and len(content(database, table)) in (20, 25)
    assert set(database.catalog.tables) == {("main", name) for name in (*created, "lasting")}
    database.checkpoint()
    check_end_of_tables(database, len(created) + 1)


def check_end_of_tables(database: Database, tables: int) -> None:
    gc.collect()
    assert database.metrics["snapshots"] == 0 and database.maintenance.failure is None
    assert len(database.state.tables) == tables + 1, "dropped tables are kept for ever"


def test_closing_beside_writers(tmp_path: Path) -> None:
    """Whoever is told of a commit finds it; the others get an error, and nobody hangs."""
    database = Database.open(tmp_path / "db", limits=LIMITS)
    table = create(database)
    told: list[list[int]] = [[], [], [], []]
    crowd = Crowd(database, None, PATIENCE_SECONDS)
    under_way = threading.Barrier(5)

    def writing(thread: int) -> None:
        for number in range(100_000):
            if number == 20:
                under_way.wait(PATIENCE_SECONDS)
            try:
                writer = database.begin(writes_first=True)
                insert(writer, table, thread * 1_000_000 + number, number)
                finish(writer)
            except EngineError:
                return
            told[thread].append(thread * 1_000_000 + number)

    for number in range(4):
        crowd.start(lambda number=number: writing(number))
    under_way.wait(PATIENCE_SECONDS)
    database.close()
    crowd.join()
    reopened = Database.open(tmp_path / "db", limits=LIMITS)
    found = content(reopened, table)
    for keys in told:
        assert set(keys) <= found.keys()
    assert len(found) <= sum(map(len, told)) + 4
    reopened.close()


# -- longer -----------------------------------------------------------------------------------------------------------


@pytest.mark.deep
@pytest.mark.parametrize("isolation", LEVELS)
def test_a_bank_at_length(tmp_path: Path, isolation: Isolation) -> None:
    """A minute of everything at once, reopened in between."""
    for round in range(3):
        database = Database.open(tmp_path / "db", limits=LIMITS)
        known = database.catalog.find("accounts")
        table = known or create(database, balances=dict.fromkeys(range(ACCOUNTS), EACH))
        crowd = Crowd(database, None, 8.0)

        def moving(number: int, database: Database = database, table: Table = table, crowd: Crowd = crowd) -> None:
            dice = random.Random(number)
            while not crowd.over:
                transfer(database, table, isolation, dice)

        def reading(how: str, database: Database = database, table: Table = table, crowd: Crowd = crowd) -> None:
            dice = random.Random(how)
            while not crowd.over:
                assert total(database, table, isolation, how, dice) == ACCOUNTS * EACH, how

        for number in range(6):
            crowd.start(lambda number=number, moving=moving, round=round: moving(number + 10 * round))
        for how in ("get", "rows", "scan", "ranges"):
            crowd.start(lambda how=how, reading=reading: reading(how))
        crowd.join()
        check_end(database)
        database.close()
