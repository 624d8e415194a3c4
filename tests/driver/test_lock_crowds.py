"""Very many threads that want one row: everybody gets a turn or an error, in the order of asking, and nothing is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

import khonsu_sql
from khonsu_engine import lock_waiter
from khonsu_engine import locks as locks_module
from khonsu_engine.lock_waiter import LockWaiter
from khonsu_sql import Connection
from khonsu_sql.opening import connect as connect_to

Connect = Callable[..., Connection]
DATABASE = ":memory:lock-crowds"
PATIENCE = 120.0
STACK_BYTES = 256 << 10


@pytest.fixture
def keeper(connect: Connect) -> Connection:
    one = connect(DATABASE, autocommit=True)
    one.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER NOT NULL)")
    one.execute("INSERT INTO t VALUES (1, 0), (2, 0)")
    return one


@pytest.fixture
def small_stacks() -> Iterator[None]:
    before = threading.stack_size(STACK_BYTES)
    yield
    threading.stack_size(before)


def bump(connection: Connection, key: int = 1) -> None:
    connection.execute("UPDATE t SET v = v + 1 WHERE k = ?", (key,))


def waiting(keeper: Connection) -> int:
    return sum(not info.granted for info in keeper._lease.database.locks.listed())


def until_waiting(keeper: Connection, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while waiting(keeper) < count:
        assert time.monotonic() < deadline, f"{waiting(keeper)} of {count} wait"
        threading.Event().wait(0.005)


class Crowd:
    """Threads that each bump the row once. `told`: how each ended, None or an SQLSTATE, in the order of the ends."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str | None]] = []
        self._threads: list[threading.Thread] = []

    def start(self, number: int, timeout_seconds: float, *, dies: bool = False) -> None:
        thread = threading.Thread(target=self._work, args=(number, timeout_seconds, dies), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, number: int, timeout_seconds: float, dies: bool) -> None:
        with connect_to(DATABASE, locking="PESSIMISTIC", timeout=timeout_seconds) as connection:
            try:
                bump(connection)
                if dies:
                    self.told.append((number, "rolled back"))
                    connection.rollback()
                    return
                self.told.append((number, None))  # before the commit: then the next one has its turn
                connection.commit()
            except khonsu_sql.Error as error:
                connection.rollback()
                self.told.append((number, error.sqlstate))

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads), "a thread hangs"


def play(keeper: Connection, count: int, end: str) -> None:
    """`count` threads queue behind a holder; every tenth has no patience, every seventh rolls back. Then the holder ends."""
    holder = connect_to(DATABASE, locking="PESSIMISTIC")
    bump(holder)
    crowd, impatient = Crowd(), range(0, count, 10)
    patient = [number for number in range(count) if number not in impatient]
    for number in patient:
        crowd.start(number, 0, dies=number % 7 == 0)
    until_waiting(keeper, len(patient))
    for number in impatient:
        crowd.start(number, 0.3)
    until = time.monotonic() + PATIENCE
    while len(crowd.told) < len(impatient):
        assert time.monotonic() < until, "a lock timeout does not come"
        threading.Event().wait(0.005)
    assert sorted(crowd.told) == [(number, "55P03") for number in impatient], "only those without patience have ended"
    assert waiting(keeper) == len(patient)

    bump(keeper, 2)  # another row is free
    getattr(holder, end)()
    crowd.join()
    ends = dict(crowd.told)
    assert len(crowd.told) == count
    assert {number: ends[number] for number in patient} == {number: "rolled back" if number % 7 == 0 else None for number in patient}
    done = sum(state is None for state in ends.values()) + (end == "commit")
    assert keeper.execute("SELECT v FROM t ORDER BY k").fetchall() == [(done,), (1,)]
    assert keeper._lease.database.locks.listed() == []
    assert keeper._lease.database.metrics["snapshots"] == 0
    holder.close()


@pytest.mark.usefixtures("small_stacks")
@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_a_hundred_waiting_threads(keeper: Connection, end: str) -> None:
    play(keeper, 100, end)


@pytest.mark.deep
@pytest.mark.usefixtures("small_stacks")
@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_a_thousand_waiting_threads(keeper: Connection, end: str) -> None:
    play(keeper, 1_000, end)


@pytest.mark.usefixtures("small_stacks")
def test_turns_are_in_the_order_of_asking(keeper: Connection) -> None:
    holder = connect_to(DATABASE, locking="PESSIMISTIC")
    bump(holder)
    crowd = Crowd()
    for number in range(50):
        crowd.start(number, 0)
        until_waiting(keeper, number + 1)
    holder.commit()
    crowd.join()
    assert crowd.told == [(number, None) for number in range(50)]
    holder.close()


def test_who_waits_looks_less_and_less_often(keeper: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks are counted, and the clock is the test's: a thousand who wait for a minute must not keep the machine busy."""
    looks, now = [0], [0.0]
    look = locks_module.Locks.look

    class Unlucky:
        """A lock whose wake-up never comes; waiting for it takes the time it says, at once."""

        def acquire(self, timeout: float = 0.0) -> bool:
            now[0] += timeout
            return False

        def locked(self) -> bool:
            return False

    def counted(self: locks_module.Locks, waiter: LockWaiter) -> bool:
        looks[0] += 1
        waiter._lock = Unlucky()  # type: ignore[assignment]
        return look(self, waiter)

    class Clock:
        monotonic = time = staticmethod(lambda: now[0])

    holder, other = connect_to(DATABASE, locking="PESSIMISTIC"), connect_to(DATABASE, locking="PESSIMISTIC", timeout=60)
    bump(holder)
    monkeypatch.setattr(locks_module.Locks, "look", counted)
    monkeypatch.setattr(locks_module, "time", Clock)
    monkeypatch.setattr(lock_waiter, "time", Clock)
    with pytest.raises(khonsu_sql.LockNotAvailable):
        bump(other)
    assert now[0] == pytest.approx(60, abs=0.01), "it ends when its time is up, not at the next look"
    assert 10 < looks[0] < 40
    other.rollback()
    holder.rollback()
    assert keeper._lease.database.locks.listed() == []
    other.close()
    holder.close()


# -- soft intents -----------------------------------------------------------------------------------------------------


def test_an_intent_is_seen_by_those_who_begin_later(connect: Connect, keeper: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """ADAPTIVE: who wrote while nobody else was there is waited for all the same, and nobody conflicts. An intent left out because
    nobody would see it costs two threads that take turns every second transaction."""
    monkeypatch.setattr(lock_waiter, "PATIENCE_SECONDS", PATIENCE)
    first = connect(DATABASE)
    bump(first)
    second = threading.Thread(target=late, daemon=True)
    second.start()
    until_waiting(keeper, 1)
    first.commit()
    second.join(PATIENCE)
    assert keeper.execute("SELECT v FROM t WHERE k = 1").fetchall() == [(2,)]
    assert keeper._lease.database.metrics["conflicts_write_write"] == 0


def late() -> None:
    with connect_to(DATABASE) as connection:
        bump(connection)
        connection.commit()


@pytest.mark.parametrize("threads", [2, 16])
def test_a_hot_row_queues(keeper: Connection, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """ADAPTIVE, a transaction that thinks while it holds the row: next to nobody is refused."""
    monkeypatch.setattr(lock_waiter, "PATIENCE_SECONDS", PATIENCE)  # a slow machine is no reason to go on without
    each, refused, failures = 320 // threads, [0] * threads, []

    def work(number: int) -> None:
        try:
            with connect_to(DATABASE) as connection:
                done = 0
                while done < each:
                    try:
                        bump(connection)
                        threading.Event().wait(0.0002)  # others get the interpreter in the middle
                        connection.execute("INSERT INTO t VALUES (?, 0)", (1_000 + number * each + done,))
                        connection.commit()
                        done += 1
                        threading.Event().wait(0.0002)  # and between two transactions
                    except khonsu_sql.SerializationFailure:
                        connection.rollback()
                        refused[number] += 1
        except BaseException as error:
            failures.append(error)

    crowd = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(PATIENCE)
    assert failures == []
    assert keeper.execute("SELECT v FROM t WHERE k = 1").fetchall() == [(each * threads,)]
    assert sum(refused) <= each * threads / 100
