"""Ctrl-C at any moment: a commit is whole or absent, its outcome is told, and nobody else notices.

Two ways to be interrupted. *At every line*: a trace function raises KeyboardInterrupt before the n-th line that the engine executes for
one operation, for every n: nothing depends on luck. *At random*: a real signal, a thousand times and more, while other threads commit.
"""

from __future__ import annotations

import gc
import linecache
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import khonsu_engine
from khonsu_engine.commands import Isolation
from khonsu_engine.database import Database
from khonsu_engine.errors import SerializationConflict
from khonsu_engine.limits import TINY
from khonsu_engine.protocols import Store
from khonsu_engine.schema.catalog import Table
from khonsu_engine.storage.memory import MemoryStore
from khonsu_engine.storage.rocks import RocksStore
from tests.engine.accounts import NEVER_BY_ITSELF, content, contents, create, delete, finish, insert, put, put_bulk, shape, update
from tests.stores import CrashingStore, FaultyStore

ENGINE = Path(khonsu_engine.__file__).parent
ROOMS = {
    str(ENGINE / name)
    for name in (
        "committer.py",
        "syncer.py",
        "database.py",
        "maintenance.py",
        "state_machine.py",
        "transaction.py",
        "reading.py",
        "snapshots.py",
        "write_set.py",
        "columns/bulk_install.py",
        "columns/memtable.py",
        "columns/table_version.py",
        "mvcc/horizon.py",
    )
}
"""Where a commit is decided and installed. What computes without an effect (encoding, validation) is left out."""

NAME = b"8 bytes."
PATIENCE_SECONDS = 20.0


# -- at every line ----------------------------------------------------------------------------------------------------


class LineInterrupt:
    """Raises KeyboardInterrupt before the `at`-th line of the engine executed in this thread. `where` tells which it was.

    Lines that begin with `with` do not count: the interpreter looks at signals after calls and at the ends of loops, but not between
    the end of a block and the release of what it holds, and the trace shows that moment as such a line."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.where = ""

    def __enter__(self) -> LineInterrupt:
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename in ROOMS else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and not linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
            self._left -= 1
            if self._left == 0:
                sys.settrace(None)
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._line


def in_another_thread(action: Callable[[], object]) -> None:
    """Run it to its end; fails when it hangs or raises."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive(), "another thread hangs"
    assert errors == []


STORES: dict[str, tuple[Callable[[], Store], str]] = {
    "memory": (MemoryStore, "full"),
    "full": (CrashingStore, "full"),
    "normal": (CrashingStore, "normal"),
}


@pytest.fixture(params=list(STORES))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def opened(kind: str) -> tuple[Database, Table]:
    make, synchronous = STORES[kind]
    database = Database(make(), limits=NEVER_BY_ITSELF, synchronous=synchronous)
    return database, create(database, balances={1: 0})


@pytest.fixture
def database(kind: str) -> Iterator[Database]:
    made, _ = opened(kind)
    yield made
    made.close()


@pytest.fixture
def table(database: Database) -> Table:
    found = database.catalog.find("accounts")
    assert found is not None
    return found


def check_health(database: Database, table: Table, attempt: int, where: str) -> None:
    """Nothing is held, others commit and are told, what is published becomes durable by itself, no snapshot stays behind."""
    assert database.committer.latch.acquire(timeout=PATIENCE_SECONDS), f"{where}: the commit latch is held"
    database.committer.latch.release()

    def another() -> None:
        writer = database.begin(writes_first=True)
        put(writer, table, 1_000_000, attempt)
        finish(writer)
        reader = database.begin()
        row = reader.get(table.id, 1_000_000)
        assert row is not None and row[1] == attempt, "a commit that was told is not there"
        reader.rollback()

    in_another_thread(another)
    in_another_thread(lambda: database.wait_durable(database.state.published))
    thread = database.committer.syncer._thread
    assert thread is None or thread.is_alive(), f"{where}: the sync thread has ended"
    if database.metrics["snapshots"]:
        gc.collect()
    assert database.metrics["snapshots"] == 0, f"{where}: a snapshot stays registered"


def small(database: Database, table: Table, key: int) -> Any:
    writer = database.begin(name=NAME, writes_first=True)
    insert(writer, table, key, key)
    update(writer, table, 1, key)
    return writer


def every_kind(database: Database, table: Table, key: int) -> Any:
    """DDL, rows in two tables, a deletion, two bulk parts with a row over them."""
    writer = small(database, table, key)
    made = writer.create_table(shape("made"))
    insert(writer, made, 1, key)
    put_bulk(writer, table, {key * 100 + n: n for n in range(3)})
    put_bulk(writer, made, {key * 100 + n: n for n in range(3)})
    delete(writer, table, key * 100)
    return writer


def large(database: Database, table: Table, key: int) -> Any:
    writer = small(database, table, key)
    insert(writer, table, key + 1, 0, "x" * 70_000)
    return writer


def truncating(database: Database, table: Table, key: int) -> Any:
    writer = database.begin(name=NAME, writes_first=True)
    put_bulk(writer, table, {key: key, 1: key}, truncate=True)
    return writer


AFTER: dict[Callable[..., Any], dict[str, dict[int, int]]] = {
    small: {"accounts": {1: 7, 7: 7}},
    every_kind: {"accounts": {1: 7, 7: 7, 701: 1, 702: 2}, "made": {1: 7, 700: 0, 701: 1, 702: 2}},
    large: {"accounts": {1: 7, 7: 7, 8: 0}},
    truncating: {"accounts": {1: 7, 7: 7}},
}


DEEP = (every_kind, truncating)
"""Many more lines than the others: the deep ring plays these."""


@pytest.mark.parametrize("prepared", [pytest.param(kind, marks=[pytest.mark.deep] if kind in DEEP else []) for kind in AFTER])
def test_a_commit_interrupted_at_every_line(kind: str, prepared: Callable[[Database, Table, int], Any]) -> None:
    told = {True: 0, False: 0}
    at, through = 0, False
    while not through:
        at += 1
        database, table = opened(kind)
        writer = prepared(database, table, 7)
        with LineInterrupt(at) as interrupt:
            try:
                finish(writer)
                through = True
            except KeyboardInterrupt:
                pass
        outcome = writer.outcome
        told[outcome is not None] += 1
        assert outcome is None or database.state.durable >= outcome.timestamp, f"{interrupt.where}: told before it was durable"
        assert database.outcome(writer.id) == outcome
        expected = {"accounts": {1: 0}} if outcome is None else AFTER[prepared]
        assert contents(database) == expected, f"{interrupt.where}: {outcome}"
        writer.rollback()
        assert contents(database) == expected, f"{interrupt.where}: a rollback after the fact undid something"
        del writer
        check_health(database, table, at, interrupt.where)
        expected = {**expected, "accounts": {**expected["accounts"], 1_000_000: at}}
        if at % 5 == 0 or through:
            check_again(database, expected, interrupt.where, files=at % 10 == 0)
        else:
            database.close()
    assert min(told.values()) > 5, "interrupts on both sides of the commit"


def check_again(database: Database, expected: dict[str, dict[int, int]], where: str, *, files: bool) -> None:
    """After a checkpoint, and reopened, everything is the same. `files`: and none is left over (which takes a collection)."""
    if files:
        gc.collect()
    database.checkpoint()
    assert contents(database) == expected, where
    if files and database.store.durable:
        named = database.maintenance._named | set(database.committer.log_files)
        assert set(database.store.files()) == named, f"{where}: files that nobody names"
    database.close()
    if isinstance(database.store, CrashingStore):
        reopened = Database(database.store.killed(), limits=NEVER_BY_ITSELF)
        assert contents(reopened) == expected, where
        reopened.close()


def test_a_point_write_interrupted_at_every_line(database: Database, table: Table) -> None:
    at, told = 0, 0
    through = False
    while not through:
        at += 1
        before = content(database, table)[1]
        last = database.last_outcome(NAME)
        with LineInterrupt(at) as interrupt:
            try:
                _, ticket = database.committer.write_point(table, 1, lambda row: row and (1, row[1] + 1, None), NAME)
                if ticket is not None:
                    ticket.wait()
                through = True
            except KeyboardInterrupt:
                pass
        outcome = database.last_outcome(NAME)
        happened = outcome != last
        told += happened
        assert content(database, table)[1] == before + happened, interrupt.where
        check_health(database, table, at, interrupt.where)
        for _ in range(40):  # so that the chain of the row is short again and the trace ends
            database.committer.write_point(table, 1, lambda row: row and (1, row[1] + 1, None), b"another.")
        database.wait_durable(database.state.published)
    assert 5 < told < at


def test_everything_else_interrupted_at_every_line(database: Database, table: Table) -> None:
    """Begin, rollback, an outcome that is asked for, reservations, a wait."""

    def begin_and_roll_back() -> None:
        transaction = database.begin()
        transaction.rollback()

    def read() -> None:
        transaction = database.begin(writes_first=True)
        transaction.get(table.id, 1)
        finish(transaction)

    first: list[int] = []
    actions: list[Callable[[], object]] = [
        begin_and_roll_back,
        read,
        lambda: database.begin(writes_first=True),
        lambda: database.outcome(bytes(16)),
        lambda: first.append(database.reserve_row_ids(table.id, 2_000)),
        lambda: database.wait_durable(database.state.published),
        lambda: database.metrics,
        lambda: database.committer.durable_ticket(database.state.published),
    ]
    for number, action in enumerate(actions):
        at, through = 0, False
        while not through:
            at += 1
            with LineInterrupt(at) as interrupt:
                try:
                    action()
                    through = True
                except KeyboardInterrupt:
                    pass
            check_health(database, table, at, f"action {number} {interrupt.where}")
    assert first == sorted(set(first)), "a row id was handed out twice"
    assert all(later - earlier >= 2_000 for earlier, later in pairwise(first))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_two_interrupts_in_one_commit(after: bool) -> None:
    """One in the put, and one anywhere behind it: what is left pending is finished by whoever comes next."""
    left_pending = 0
    at, through = 0, False
    while not through:
        at += 1
        store = FaultyStore(CrashingStore())
        database = Database(store, limits=NEVER_BY_ITSELF)
        table = create(database, balances={1: 0})
        writer = small(database, table, 7)
        store.fail("put", error=KeyboardInterrupt(), after=after)
        with LineInterrupt(at) as interrupt, suppress(KeyboardInterrupt):
            finish(writer)
        store.heal()
        through = not interrupt.where
        left_pending += database.committer._pending is not None
        writer.rollback()
        if at % 2:
            check_health(database, table, at, interrupt.where)
        outcome = writer.outcome
        expected = {1: 0} if outcome is None else {1: 7, 7: 7}
        found = content(database, table)
        assert {key: value for key, value in found.items() if key != 1_000_000} == expected, interrupt.where
        assert isinstance(store.inner, CrashingStore)
        database.close()
        reopened = Database(store.inner.killed(), limits=NEVER_BY_ITSELF)
        assert content(reopened, table) == found
        assert (reopened.outcome(writer.id) is None) == (outcome is None)
        reopened.close()
    assert left_pending >= 3, "no commit was left half done: nothing is tested"


def test_a_checkpoint_interrupted_at_every_line() -> None:
    """A checkpoint is begun in vain as often as one likes; the next one does it all, and nothing is lost or kept for ever."""
    database = Database(CrashingStore(), limits=NEVER_BY_ITSELF)
    table = create(database, balances={key: key for key in range(20)})
    at, through = 0, False
    while not through:
        at += 37 + at // 16  # faster than a checkpoint grows by what the ones before it left
        writer = database.begin(writes_first=True)
        put(writer, table, at % 50, at)
        if at % 5 == 0:
            put_bulk(writer, table, {at + 1_000: at})
        finish(writer)
        expected = content(database, table)
        with LineInterrupt(at) as interrupt:
            try:
                database.checkpoint()
                through = True
            except KeyboardInterrupt:
                pass
        assert content(database, table) == expected, interrupt.where
        check_health(database, table, at, interrupt.where)
        expected[1_000_000] = at
        assert isinstance(database.store, CrashingStore)
        if at % 3 == 0:
            copy = CrashingStore(dict(database.store.scan(b"", b"\xff")), dict(database.store._files))
            found = Database(copy, limits=NEVER_BY_ITSELF)
            assert content(found, table) == expected, interrupt.where
            found.close()
    database.close()


# -- at random --------------------------------------------------------------------------------------------------------


class Alarm:
    """A real signal at a random moment of `action`, which raises KeyboardInterrupt only while the engine is at work."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._armed = False
        self.interrupts = 0

    def __enter__(self) -> Alarm:
        self._before = signal.signal(signal.SIGALRM, self._ring)
        return self

    def __exit__(self, *_: object) -> None:
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if not self._armed:
            return
        while frame is not None and not frame.f_code.co_filename.startswith(str(ENGINE)):
            frame = frame.f_back
        if frame is None:
            signal.setitimer(signal.ITIMER_REAL, 20e-6)
            return
        self._armed = False
        self.interrupts += 1
        raise KeyboardInterrupt

    def interrupted(self, action: Callable[[], object]) -> bool:
        """Run `action`; was it interrupted?"""
        self._armed = True
        signal.setitimer(signal.ITIMER_REAL, self._dice.uniform(5e-6, 400e-6))
        try:
            action()
        except KeyboardInterrupt:
            return True
        finally:
            self._armed = False
        return False


class Rivals:
    """Threads that go on committing to rows of their own and to a common one."""

    def __init__(self, database: Database, table: Table, threads: int = 2) -> None:
        self.committed = [0] * threads
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(database, table, number), daemon=True) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    def _work(self, database: Database, table: Table, thread: int) -> None:
        try:
            while not self._stop.wait(50e-6):  # gives up the interpreter: the main thread is the one to be interrupted
                writer = database.begin(Isolation.SERIALIZABLE, writes_first=True)
                update(writer, table, -1 - thread, self.committed[thread] + 1)
                row = writer.get(table.id, 0)
                assert row is not None
                update(writer, table, 0, row[1] + 1)
                with suppress(SerializationConflict):
                    finish(writer)
                    self.committed[thread] += 1
        except BaseException as error:
            self.errors.append(error)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive(), "another thread hangs"
        assert self.errors == []
        assert min(self.committed) > 0


class Victim:
    """The operations that are interrupted, and the model of what they did."""

    def __init__(self, database: Database, table: Table, dice: random.Random) -> None:
        self.database = database
        self.table = table
        self.model: dict[int, int] = {}
        self.hot = 0
        self._dice = dice
        self._number = 0

    def commit(self, alarm: Alarm) -> None:
        self._number += 1
        key, hot = self._dice.randint(1, 40), self._dice.random() < 0.3
        writer = self.database.begin(name=NAME, writes_first=self._dice.random() < 0.5)
        put(writer, self.table, key, self._number)
        if hot:
            row = writer.get(self.table.id, 0)
            assert row is not None
            update(writer, self.table, 0, row[1] + 1)
        conflict = False

        def run() -> None:
            nonlocal conflict
            try:
                finish(writer)
            except SerializationConflict:
                conflict = True

        alarm.interrupted(run)
        outcome = writer.outcome
        assert not (conflict and outcome)
        if outcome is not None:
            self.model[key] = self._number
            self.hot += hot
            assert self.database.state.durable >= outcome.timestamp

    def point_write(self, alarm: Alarm) -> None:
        self._number += 1
        key, number = self._dice.randint(1, 40), self._number
        last = self.database.last_outcome(NAME)

        def run() -> None:
            _, ticket = self.database.committer.write_point(self.table, key, lambda row: (key, number, None), NAME)
            if ticket is not None:
                ticket.wait()

        alarm.interrupted(run)
        if self.database.last_outcome(NAME) != last:
            self.model[key] = number

    def begin(self, alarm: Alarm) -> None:
        def run() -> None:
            for _ in range(20):
                self.database.begin(writes_first=True).rollback()

        alarm.interrupted(run)

    def rollback(self, alarm: Alarm) -> None:
        writers = [self.database.begin() for _ in range(20)]
        for writer in writers:
            put(writer, self.table, 1, -1)

        def run() -> None:
            for writer in writers:
                writer.rollback()

        alarm.interrupted(run)
        for writer in writers:
            writer.rollback()
            assert writer.outcome is None


def interrupted_often(database: Database, interrupts: int, seed: int) -> None:
    dice = random.Random(seed)
    table = create(database, balances={0: 0, -1: 0, -2: 0})
    victim = Victim(database, table, dice)
    rivals = Rivals(database, table)
    actions = [victim.commit] * 6 + [victim.point_write] * 3 + [victim.begin, victim.rollback]
    with Alarm(dice) as alarm:
        while alarm.interrupts < interrupts:
            dice.choice(actions)(alarm)
            if alarm.interrupts % 100 == 0:
                assert database.committer.latch.acquire(timeout=PATIENCE_SECONDS), "the commit latch is held"
                database.committer.latch.release()
    rivals.stop()
    expected = victim.model | {0: victim.hot + sum(rivals.committed)} | {-1 - n: count for n, count in enumerate(rivals.committed)}
    assert content(database, table) == expected
    thread = database.committer.syncer._thread
    assert thread is None or thread.is_alive()
    gc.collect()
    assert database.metrics["snapshots"] == 0
    assert database.metrics["commits"] > interrupts / 4
    database.checkpoint()
    assert content(database, table) == expected
    if isinstance(database.store, RocksStore):
        directory = database.store.directory
        database.close()
        reopened = Database.open(directory, limits=TINY)
        assert content(reopened, table) == expected
        reopened.close()
    else:
        database.close()


def test_a_thousand_interrupts_in_memory() -> None:
    interrupted_often(Database.open(None, limits=TINY), 1_000, 1)


def test_a_thousand_interrupts_on_disk(tmp_path: Path) -> None:
    interrupted_often(Database.open(tmp_path / "db", limits=TINY), 1_000, 2)


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_interrupts(tmp_path: Path, seed: int) -> None:
    interrupted_often(Database.open(tmp_path / "db", limits=TINY), 5_000, seed)
    interrupted_often(Database.open(None, limits=TINY), 5_000, seed)
