"""Random workloads of many threads, recorded and judged by the history checker: each level at each mode keeps what it promises.

Registers, lists (appended by `v = v || …`) and scans of key ranges in which rows appear (phantoms), over few keys, so that transactions meet.
Every writer tells its commit index, so the checker knows the order of all versions. `make histories` plays a million per level.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import khonsu_sql
from khonsu_sql import Connection
from khonsu_sql.checker import Level, Recorder, Recording, Report, check

THREADS = 8
LEVELS = {"SERIALIZABLE": Level.SERIALIZABLE, "REPEATABLE READ": Level.REPEATABLE_READ, "READ COMMITTED": Level.READ_COMMITTED}
MODES = ("OPTIMISTIC", "ADAPTIVE", "PESSIMISTIC")
REGISTERS, LISTS, FRESH_KEYS = 8, 4, 24
PER_LEVEL = int(os.environ.get("KHONSU_HISTORIES", "21000"))


class Workload:
    """`transactions` over `THREADS` threads on a database in memory of that name."""

    def __init__(self, name: str, level: str, mode: str, transactions: int, seed: int) -> None:
        self.recorder = Recorder()
        self.failures: dict[str, int] = {}
        self._url, self._level, self._mode, self._seed = f":memory:{name}", level, mode, seed
        self._left = transactions
        self._latch = threading.Lock()
        self._values = 0

    def run(self) -> Report:
        with khonsu_sql.connect(self._url) as keeper:
            keeper.execute("CREATE TABLE r (k BIGINT PRIMARY KEY, v BIGINT NOT NULL)")
            keeper.execute("CREATE TABLE l (k BIGINT PRIMARY KEY, v VARCHAR NOT NULL)")
            keeper.executemany("INSERT INTO l VALUES (?, '')", [(key,) for key in range(LISTS)])
            keeper.commit()
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(self._work, range(THREADS)))
        return check(self.recorder.transactions, LEVELS[self._level])

    def _work(self, process: int) -> None:
        dice = random.Random(f"{self._seed} {process}")
        with khonsu_sql.connect(self._url, isolation_level=self._level, locking=self._mode) as connection:
            while self._taken():
                steps = dice.choices(STEPS, k=dice.randint(1, 4))
                try:
                    with self.recorder.transaction(process) as recording:
                        for step in steps:
                            step(self, connection, recording, dice)
                            if dice.random() < 0.3:
                                time.sleep(0)  # a thought, in which others may come between
                        wrote = any(step in WRITES for step in steps)
                        connection.commit()
                        outcome = connection.last_commit
                        if wrote and outcome is not None:
                            recording.commit = outcome.index
                except (khonsu_sql.SerializationFailure, khonsu_sql.DeadlockDetected, khonsu_sql.UniqueViolation) as error:
                    connection.rollback()
                    with self._latch:
                        self.failures[error.sqlstate] = self.failures.get(error.sqlstate, 0) + 1

    def _taken(self) -> bool:
        with self._latch:
            self._left -= 1
            return self._left >= 0

    def value(self) -> int:
        with self._latch:
            self._values += 1
            return self._values


def read(self: Workload, connection: Connection, recording: Recording, dice: random.Random) -> None:
    key = dice.randrange(REGISTERS)
    rows = connection.execute("SELECT v FROM r WHERE k = ?", (key,)).fetchall()
    recording.read(named(key), rows[0][0] if rows else None)


def write(self: Workload, connection: Connection, recording: Recording, dice: random.Random) -> None:
    put(connection, recording, dice.randrange(REGISTERS), self.value())


def insert(self: Workload, connection: Connection, recording: Recording, dice: random.Random) -> None:
    """A row that was not there, perhaps within what others scan."""
    put(connection, recording, dice.randrange(REGISTERS, REGISTERS + FRESH_KEYS), self.value())


def put(connection: Connection, recording: Recording, key: int, value: int) -> None:
    if connection.execute("UPDATE r SET v = ? WHERE k = ?", (value, key)).rowcount == 0:
        connection.execute("INSERT INTO r VALUES (?, ?)", (key, value))
    recording.write(named(key), value)


def scan(self: Workload, connection: Connection, recording: Recording, dice: random.Random) -> None:
    low = dice.randrange(REGISTERS + FRESH_KEYS)
    high = low + dice.randint(1, 10)
    sql = dice.choice(("SELECT k, v FROM r WHERE k >= ? AND k < ?", "SELECT k, v FROM r WHERE k + 0 >= ? AND k < ?"))
    recording.scan((named(low), named(high)), {named(key): value for key, value in connection.execute(sql, (low, high)).fetchall()})


def append(self: Workload, connection: Connection, recording: Recording, dice: random.Random) -> None:
    key, value = dice.randrange(LISTS), self.value()
    connection.execute("UPDATE l SET v = v || ',' || CAST(? AS VARCHAR) WHERE k = ?", (value, key))
    recording.append(f"l/{key}", value)


def read_list(self: Workload, connection: Connection, recording: Recording, dice: random.Random) -> None:
    key = dice.randrange(LISTS)
    ((text,),) = connection.execute("SELECT v FROM l WHERE k = ?", (key,)).fetchall()
    recording.read_list(f"l/{key}", [int(part) for part in text.split(",")[1:]])


def named(key: int) -> str:
    return f"r/{key:04}"


Step = Callable[[Workload, Connection, Recording, random.Random], None]
WRITES: tuple[Step, ...] = (write, insert, append)
STEPS: tuple[Step, ...] = (read, read, write, write, insert, scan, scan, append, read_list)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", LEVELS)
def test_a_level_keeps_its_promise(level: str, mode: str) -> None:
    report = Workload(f"{level} {mode}", level, mode, 800, seed=1).run()
    assert report.ok, str(report)


@pytest.mark.deep
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", LEVELS)
def test_many_transactions_keep_the_promise(level: str, mode: str) -> None:
    """In pieces: lists grow, and every read holds the whole list."""
    left, seed = PER_LEVEL // len(MODES), 0
    while left > 0:
        seed += 1
        report = Workload(f"many {level} {mode}", level, mode, min(left, 3_000), seed).run()
        assert report.ok, str(report)
        left -= 3_000


def test_the_workload_finds_write_skew() -> None:
    """What REPEATABLE READ allows does happen, and SERIALIZABLE's promise would notice."""
    for seed in range(20):
        workload = Workload("skewed", "REPEATABLE READ", "OPTIMISTIC", 800, seed)
        workload.run()
        if not check(workload.recorder.transactions, Level.SERIALIZABLE).ok:
            return
    raise AssertionError("no anomaly in 16,000 transactions: nothing is tested")
