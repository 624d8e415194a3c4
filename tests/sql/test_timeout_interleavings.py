"""The reaper comes at every line of a transaction, hours later: either all of it is committed, or nothing and the session says why.

The session's thread is stopped before a line of the rooms below, the reaper looks, the thread goes on. So every race between the
reaper and a thread that begins a statement, ends one, or commits is played, one by one.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import khonsu_engine
import khonsu_sql
from khonsu_engine.database import Database
from khonsu_engine.locks import Locking
from khonsu_sql import errors
from khonsu_sql.local import LocalSession
from khonsu_sql.session import TransactionStatus

HOUR = 3_600.0
ROOMS = frozenset(
    str(Path(str(package.__file__)).parent / name)
    for package, names in (
        (khonsu_sql, ("local.py", "core.py", "fast_lane.py", "session_transaction.py", "cancellation.py", "deadlines.py")),
        (khonsu_engine, ("transaction.py", "transaction_locks.py", "writing.py", "committer.py")),
    )
    for name in names
)
OUT_OF_TIME = ("57014", "25P03", "25P04")


class At:
    """Runs `action` before the `line`-th line that `session`'s thread comes to in one of the rooms, holding no latch."""

    def __init__(
        self, session: LocalSession, database: Database, line: int, action: Callable[[], object], rooms: frozenset[str] = ROOMS
    ) -> None:
        self._rooms = rooms
        self._latches = (
            session._core.deadlines._latch,
            database.committer.latch,
            database.snapshots.latch,
            database.locks._latch,
        )
        self._left = line
        self._action = action
        self.where = ""

    def __enter__(self) -> At:
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if not self.where and frame.f_code.co_filename in self._rooms else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event != "line" or self.where or any(latch.locked() for latch in self._latches):
            return self._line
        self._left -= 1
        if self._left == 0:
            self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            self._action()
        return self._line


def transaction(session: LocalSession) -> None:
    session.execute("UPDATE t SET v = v + 1 WHERE k = 1")
    session.execute("SELECT v FROM t WHERE k = 1")
    session.execute("UPDATE t SET v = v + 1 WHERE k = 2")
    session.commit()


def by_words(session: LocalSession) -> None:
    session.execute("BEGIN")
    session.execute("SET LOCAL lock_timeout = '1min'")
    session.execute("UPDATE t SET v = v + 1 WHERE k = 1")
    session.execute("SAVEPOINT s")
    session.execute("UPDATE t SET v = v + 1 WHERE k = 2")
    session.execute("RELEASE s")
    session.execute("COMMIT")


def one_by_key(session: LocalSession) -> None:
    session.execute("UPDATE t SET v = v + 1 WHERE k = 1")


def one_statement(session: LocalSession) -> None:
    session.execute("UPDATE t SET v = v + 1 WHERE k > 0")


def script(session: LocalSession) -> None:
    session.execute("UPDATE t SET v = v + 1 WHERE k = 1; UPDATE t SET v = v + 1 WHERE k = 2")


STORIES: list[tuple[Callable[[LocalSession], None], bool, dict[int, int]]] = [
    (transaction, False, {1: 1, 2: 1}),
    (by_words, True, {1: 1, 2: 1}),
    (one_by_key, True, {1: 1}),
    (one_statement, True, {1: 1, 2: 1}),
    (script, True, {1: 1, 2: 1}),
]
TIMEOUTS = {
    "statement": {"statement_timeout": HOUR},
    "transaction": {"transaction_timeout": HOUR},
    "idle": {"idle_in_transaction_timeout": HOUR},
    "all": {"statement_timeout": HOUR, "transaction_timeout": 1.5 * HOUR, "idle_in_transaction_timeout": HOUR},
}


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database.open(None)
    keeper = LocalSession(database, autocommit=True)
    keeper.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER); INSERT INTO t VALUES (1, 0), (2, 0)")
    yield database
    database.close()


def lines(deep: bool, seed: int) -> Iterator[int]:
    """Every line, or every eleventh from somewhere on."""
    line = 1 if deep else 1 + seed % 11
    while True:
        yield line
        line += 1 if deep else 11


def play(database: Database, number: int, timeouts: str, deep: bool) -> tuple[int, int]:
    """How often it was committed, and how often not."""
    story, autocommit, change = STORIES[number]
    watcher = LocalSession(database, autocommit=True)
    session = LocalSession(database, autocommit=autocommit, locking=Locking.PESSIMISTIC, timeouts=TIMEOUTS[timeouts])
    story(session)  # so that all plans are made
    committed = refused = 0
    for line in lines(deep, number):
        before = dict(watcher.execute("SELECT k, v FROM t").rows or [])
        error: errors.Error | None = None
        with At(session, database, line, lambda: session._core.deadlines.look(time.monotonic() + 2 * HOUR)) as at:
            try:
                story(session)
            except errors.Error as raised:
                error = raised
        if not at.where:
            assert error is None
            return committed, refused
        after = dict(watcher.execute("SELECT k, v FROM t").rows or [])
        if error is None:
            committed += 1
            assert after == {key: value + change.get(key, 0) for key, value in before.items()}, at.where
        else:
            refused += 1
            assert after == before, at.where
            assert error.sqlstate in OUT_OF_TIME, f"{at.where}: {error!r}"
            session.rollback()
        assert session.status is TransactionStatus.IDLE, at.where
        assert database.metrics["snapshots"] == 0 and database.locks.listed() == [], at.where
        assert session._settings.local == {}
    raise AssertionError


CASES = [(number, timeouts) for number in range(len(STORIES)) for timeouts in TIMEOUTS]
NAMES = [f"{STORIES[number][0].__name__}-{timeouts}" for number, timeouts in CASES]


def can_be_refused(number: int, timeouts: str) -> bool:
    """Compiled statements by key take microseconds, and nobody looks within; a session that never rests in a transaction never idles."""
    story = STORIES[number][0]
    if story is one_by_key or (story is transaction and timeouts == "statement"):
        return False
    return timeouts != "idle" or story in (transaction, by_words)


@pytest.mark.parametrize(("number", "timeouts"), CASES, ids=NAMES)
def test_the_reaper_comes_at_many_lines(database: Database, number: int, timeouts: str) -> None:
    committed, _ = play(database, number, timeouts, deep=False)
    assert committed > 0


@pytest.mark.deep
@pytest.mark.parametrize(("number", "timeouts"), CASES, ids=NAMES)
def test_the_reaper_comes_at_every_line(database: Database, number: int, timeouts: str) -> None:
    committed, refused = play(database, number, timeouts, deep=True)
    assert committed > 0
    assert (refused > 0) is can_be_refused(number, timeouts)


def test_a_cancel_before_a_wait_for_a_lock_is_not_lost(database: Database) -> None:
    """It comes at any line of the way there, when there is nothing to wake yet; the wait would be without end."""
    holder = LocalSession(database, locking=Locking.PESSIMISTIC)
    holder.execute("UPDATE t SET v = v + 1 WHERE k = 1")
    session = LocalSession(database, locking=Locking.PESSIMISTIC, lock_timeout_seconds=0)
    way = frozenset(room for room in ROOMS if Path(room).name in ("transaction_locks.py", "writing.py"))
    for line in itertools.count(1):
        session.execute("UPDATE t SET v = v + 1 WHERE k = 2")
        at = At(session, database, line, session.cancel, way)
        over = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            lost = pool.submit(rescue, session, database, at, over)
            with at, pytest.raises(errors.QueryCanceled):
                session.execute("UPDATE t SET v = v + 1 WHERE k + 0 = 1")
            over.set()
            assert not lost.result(), at.where
        session.rollback()
        if not at.where:
            break
    assert line > 10


def rescue(session: LocalSession, database: Database, at: At, over: threading.Event) -> bool:
    """Cancel a session that waits and whose line does not come any more. True: its line has come, and yet it waits."""
    deadline = time.monotonic() + 10.0
    while not over.wait(0.002):
        waiting = any(not info.granted for info in database.locks.listed())
        late = time.monotonic() > deadline
        if waiting and (late or not at.where):
            session.cancel()
            return late
    return False
