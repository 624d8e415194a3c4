"""Timeouts as users of the driver meet them: options, blocks, streams, threads, forks; and a storm of all of them at once."""

from __future__ import annotations

import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import khonsu_sql
from khonsu_engine.limits import Limits
from khonsu_sql import Connection
from khonsu_sql.opening import connect as connect_to

Connect = Callable[..., Connection]
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0
LONG = "SELECT sum(a.range * b.range) FROM range(100000000) a, range(100000) b"


def shown(connection: Connection, name: str) -> str:
    return str(connection.execute(f"SHOW {name}").fetchone()[0])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


def metrics(connection: Connection) -> dict[str, int]:
    return connection._lease.database.metrics


@pytest.fixture
def keeper(connect: Connect) -> Connection:
    keeper = connect(":memory:timeouts", autocommit=True)
    keeper.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER NOT NULL)")
    keeper.execute("INSERT INTO t VALUES (1, 10), (2, 20)")
    return keeper


# --- options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"statement_timeout": 1_500}, "1500ms 0 0"),
        ({"statement_timeout": "30s", "transaction_timeout": "5min"}, "30s 5min 0"),
        ({"idle_in_transaction_timeout": "1h"}, "0 0 1h"),
        ({"idle_in_transaction_session_timeout": 2_000}, "0 0 2s"),
        ({"idle_in_transaction_session_timeout": "2s", "idle_in_transaction_timeout": "2s"}, "0 0 2s"),
        ({"statement_timeout": 0.5}, "500us 0 0"),
    ],
)
def test_options_of_connect(connect: Connect, options: dict[str, Any], expected: str) -> None:
    names = ("statement_timeout", "transaction_timeout", "idle_in_transaction_timeout")
    connection = connect(**options)
    assert " ".join(shown(connection, name) for name in names) == expected
    url = connect("khonsu:///:memory:?" + "&".join(f"{name}={value}" for name, value in options.items()))
    assert " ".join(shown(url, name) for name in names) == expected


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"statement_timeout": "soon"}, khonsu_sql.InvalidOptionValue),
        ({"statement_timeout": -1}, khonsu_sql.InvalidOptionValue),
        ({"transaction_timeout": None}, khonsu_sql.InvalidOptionValue),
        ({"transaction_timeout": True}, khonsu_sql.InvalidOptionValue),
        ({"idle_in_transaction_timeout": "1s", "idle_in_transaction_session_timeout": "2s"}, khonsu_sql.InvalidOption),
        ({"idle_timeout": "1s"}, khonsu_sql.InvalidOption),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[khonsu_sql.Error]) -> None:
    with pytest.raises(error):
        khonsu_sql.connect(":memory:", **options)


def test_the_keyword_wins_over_the_url(connect: Connect) -> None:
    connection = connect("khonsu:///:memory:?statement_timeout=30s&transaction_timeout=1min", statement_timeout="5s")
    assert (shown(connection, "statement_timeout"), shown(connection, "transaction_timeout")) == ("5s", "1min")


# --- statements


def test_a_query_of_another_thread_and_of_the_main_one(keeper: Connection) -> None:
    keeper.execute("SET statement_timeout = 50")
    with ThreadPoolExecutor(1) as pool:
        for run in (lambda: keeper.execute(LONG), lambda: pool.submit(keeper.execute, LONG).result()):
            with pytest.raises(khonsu_sql.QueryCanceled, match="canceling statement due to statement timeout"):
                run()


@pytest.mark.parametrize("point_path", ["on", "off"])
def test_executemany(connect: Connect, point_path: str) -> None:
    connection = connect(limits=Limits(bulk_rows_min=10_000_000))
    connection.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER)")
    connection.execute("INSERT INTO t VALUES (1, 0)")
    connection.commit()
    connection.execute(f"SET point_path = {point_path}")
    connection.execute("SET statement_timeout = 50")
    with pytest.raises(khonsu_sql.QueryCanceled):
        connection.executemany("UPDATE t SET v = v + ? WHERE k = ?", itertools.repeat((1, 1), 300_000))
    connection.rollback()
    assert metrics(connection)["snapshots"] == 0


def test_rows_that_are_written_one_by_one(connect: Connect) -> None:
    """An UPDATE of so many rows spends its time in Python."""
    connection = connect(limits=Limits(bulk_rows_min=10_000_000))
    connection.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER)")
    connection.execute("SET statement_timeout = 100")
    with pytest.raises(khonsu_sql.QueryCanceled):
        connection.execute("INSERT INTO t SELECT range, 0 FROM range(500000)")
    connection.rollback()


def test_statement_timeout_leaves_the_next_statement_its_time(keeper: Connection) -> None:
    """Also when it was cancelled in the last moment: storms of short statements never meet the mark of the one before."""
    keeper.execute("SET point_path = on")
    keeper.execute("SELECT v FROM t WHERE k = 1").fetchall()  # compiled from now on, and so never too long
    keeper.execute("SET statement_timeout = '1ms'")
    outcomes = set()
    for _ in range(300):
        try:
            keeper.execute("SELECT sum(range) FROM range(20000)").fetchall()
            outcomes.add("ok")
        except khonsu_sql.QueryCanceled as error:
            outcomes.add(error.message)
        rows = keeper.execute("SELECT v FROM t WHERE k = 1").fetchall()
        assert rows == [(10,)]
    assert outcomes <= {"ok", "canceling statement due to statement timeout"}


def test_cancel_says_what_it_is(keeper: Connection) -> None:
    keeper.execute("SET statement_timeout = '1h'")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(keeper.execute, LONG)
        while not running.done():
            keeper.cancel()
            time.sleep(0.001)
        with pytest.raises(khonsu_sql.QueryCanceled, match="the statement was cancelled"):
            running.result()


# --- streams

STREAM = "SELECT i FROM range(1000000000000) r(i) WHERE i < 50000 OR i % 99999999999 = 1"


def test_a_fetch_that_takes_too_long(keeper: Connection) -> None:
    """The result ends, the transaction goes on."""
    keeper.execute("BEGIN")
    cursor = keeper.execute(STREAM)
    assert cursor.fetchone() == (0,)
    keeper.execute("SET statement_timeout = 50")
    with pytest.raises(khonsu_sql.QueryCanceled, match="statement timeout"):
        cursor.fetchall()
    with pytest.raises(khonsu_sql.InvalidCursorState):
        cursor.fetchone()
    assert keeper.transaction_status == "active"
    keeper.execute("SET statement_timeout = 0")
    assert keeper.execute("SELECT count(*) FROM t").fetchone() == (2,)
    keeper.rollback()


@pytest.mark.parametrize("how", ["fetch_arrow_table", "fetch_record_batch", "fetchmany", "iterate"])
def test_every_way_to_fetch(keeper: Connection, how: str) -> None:
    cursor = keeper.execute(STREAM)
    keeper.execute("SET statement_timeout = 50")
    ways: dict[str, Callable[[], object]] = {
        "fetch_arrow_table": cursor.fetch_arrow_table,
        "fetch_record_batch": lambda: cursor.fetch_record_batch().read_all(),
        "fetchmany": lambda: cursor.fetchmany(1_000_000),
        "iterate": lambda: list(cursor),
    }
    with pytest.raises(Exception, match="statement timeout"):
        ways[how]()


def look(connection: Connection, hours: float) -> None:
    session: Any = connection._session
    session._core.deadlines.look(time.monotonic() + hours * 3_600)


def test_only_fetching_counts(keeper: Connection) -> None:
    """Between two fetches the reaper may come as late as it likes."""
    cursor = keeper.execute("SELECT range FROM range(200000)")
    keeper.execute("SET statement_timeout = '1h'")
    for _ in range(20):
        assert len(cursor.fetchmany(9_000)) == 9_000
        look(keeper, 2)
    assert len(cursor.fetchall()) == 20_000


def test_a_fetch_is_no_idleness(keeper: Connection) -> None:
    keeper.execute("BEGIN")
    cursor = keeper.execute("SELECT range FROM range(200000)")
    keeper.execute("SET idle_in_transaction_timeout = '1h'")
    session: Any = keeper._session
    with session.fetching():
        look(keeper, 2)
    touched = session._core.deadlines._touched
    cursor.fetchmany(50_000)
    assert keeper.transaction_status == "active"
    assert session._core.deadlines._touched > touched
    look(keeper, 2)
    assert keeper.transaction_status == "failed"
    assert len(cursor.fetchall()) == 150_000, "it shows nothing of its own, so it may be read on"
    keeper.rollback()


# --- transactions


def test_a_block_ends_with_the_timeout(keeper: Connection) -> None:
    """Its COMMIT tells; an exception in it goes on as it is; afterwards the connection is as good as new."""
    keeper.execute("SET idle_in_transaction_timeout = '1h'")
    with pytest.raises(khonsu_sql.IdleInTransactionTimeout), keeper.transaction():
        keeper.execute("UPDATE t SET v = 0")
        look(keeper, 2)
    assert not keeper.in_transaction
    with pytest.raises(khonsu_sql.IdleInTransactionTimeout), keeper.transaction(), keeper.transaction():
        keeper.execute("UPDATE t SET v = 0")
        look(keeper, 2)
    with pytest.raises(KeyError), keeper.transaction(), keeper.transaction():
        keeper.execute("UPDATE t SET v = 0")
        look(keeper, 2)
        raise KeyError
    assert not keeper.in_transaction
    assert keeper.execute("SELECT sum(v) FROM t").fetchone() == (30,)


def test_the_reaper_frees_locks_at_once(connect: Connect, keeper: Connection) -> None:
    forgotten = connect(":memory:timeouts", locking="PESSIMISTIC", transaction_timeout="50ms")
    try:
        forgotten.execute("UPDATE t SET v = v + 1 WHERE k = 1")
    except khonsu_sql.TransactionTimeout:
        forgotten.rollback()
    assert keeper.execute("UPDATE t SET v = v + 1 WHERE k = 1").rowcount == 1
    until(lambda: metrics(keeper)["snapshots"] == 0)
    assert keeper.execute("SELECT v FROM t WHERE k = 1").fetchone() == (11,)
    forgotten.rollback()


def test_run_transaction_does_not_try_again(keeper: Connection) -> None:
    keeper.execute("SET transaction_timeout = '1h'")

    def work(connection: Connection) -> None:
        connection.execute("UPDATE t SET v = 0")
        look(connection, 2)

    with pytest.raises(khonsu_sql.TransactionTimeout):
        khonsu_sql.run_transaction(keeper, work)
    assert keeper.last_retry is not None and keeper.last_retry.attempts == 1


def test_a_dropped_connection_holds_nothing(keeper: Connection) -> None:
    dropped = connect_to(":memory:timeouts", locking="PESSIMISTIC", idle_in_transaction_timeout="1h")
    dropped.execute("UPDATE t SET v = v + 1 WHERE k = 1")
    dropped.execute("SELECT * FROM t").fetchall()
    assert metrics(keeper)["snapshots"] == 1
    with pytest.warns(ResourceWarning):
        del dropped
        gc.collect()
    until(lambda: metrics(keeper)["snapshots"] == 0 and not keeper._lease.database.locks.listed())


def test_close_while_the_reaper_comes(keeper: Connection) -> None:
    for _ in range(50):
        with connect_to(":memory:timeouts", idle_in_transaction_timeout="1ms", transaction_timeout="2ms") as connection:
            try:
                connection.execute("UPDATE t SET v = v + 1 WHERE k = 1")
                connection.rollback()
            except khonsu_sql.InternalError:
                connection.rollback()
    until(lambda: metrics(keeper)["snapshots"] == 0)
    assert keeper._lease.database.reaper.failure is None


FORK = """
import os, sys, threading, time, khonsu_sql

def waits(name):
    connection = khonsu_sql.connect(name)
    connection.execute("BEGIN; SET transaction_timeout = '20ms'")
    while connection.transaction_status == "active":
        time.sleep(0.001)
    return connection

connection = waits(":memory:parent")
connection.rollback()
connection.execute("BEGIN")
child = os.fork()
if child == 0:
    try:
        connection.execute("SELECT 1")
    except khonsu_sql.ConnectionDoesNotExist:
        waits(":memory:child").close()
        sys.exit(0)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
while connection.transaction_status == "active":
    time.sleep(0.001)
print(sum(thread.name == "khonsu-deadlines" for thread in threading.enumerate()))
connection.close()
print(sum(thread.name == "khonsu-deadlines" for thread in threading.enumerate()))
left = khonsu_sql.connect(":memory:left", transaction_timeout="1h")
left.execute("SELECT 1")
"""


def test_forks_and_the_end_of_the_process() -> None:
    path = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'engine'}"}
    answer = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], env=path, capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stdout.split(), answer.stderr) == (0, ["1", "0"], "")


# --- a storm

TOLD = {"57014", "25P03", "25P04", "40001", "40P01", "55P03"}


def storm(keeper: Connection, number: int, rounds: int) -> set[int]:
    """Transfers with timeouts of about what they take. Returns the ids of those that were acknowledged."""
    dice, done = random.Random(number), set()
    pause = threading.Event()
    level = dice.choice(["SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED"])
    with connect_to(
        ":memory:timeouts", isolation_level=level, locking=dice.choice(["OPTIMISTIC", "ADAPTIVE", "PESSIMISTIC"])
    ) as connection:
        for turn in range(rounds):
            name, amount = number * 1_000_000 + turn, dice.randint(1, 5)
            setting = dice.choice(["statement_timeout", "transaction_timeout", "idle_in_transaction_timeout"])
            connection.rollback()
            for other in ("statement_timeout", "transaction_timeout", "idle_in_transaction_timeout"):
                connection.execute(f"SET {other} = {dice.choice([1, 2, 5]) if other == setting else 0}")
            try:
                connection.execute("UPDATE t SET v = v - ? WHERE k = 1", (amount,))
                pause.wait(dice.choice([0, 0, 0.001, 0.003]))
                connection.execute("INSERT INTO ledger VALUES (?, ?)", (name, amount))
                connection.execute("UPDATE t SET v = v + ? WHERE k + 0 = 2", (amount,))
                pause.wait(dice.choice([0, 0, 0.001]))
                connection.commit()
                done.add(name)
            except khonsu_sql.Error as error:
                assert error.sqlstate in TOLD, repr(error)
        connection.rollback()
    return done


@pytest.mark.parametrize("rounds", [60, pytest.param(2_000, marks=pytest.mark.deep)])
def test_a_storm(keeper: Connection, rounds: int) -> None:
    """Whatever was acknowledged is there, whatever was refused is not, and nobody holds anything at the end."""
    keeper.execute("CREATE TABLE ledger (id BIGINT PRIMARY KEY, amount INTEGER)")
    with ThreadPoolExecutor(6) as pool:
        acknowledged = set().union(*pool.map(lambda number: storm(keeper, number, rounds), range(6)))
    assert {row[0] for row in keeper.execute("SELECT id FROM ledger").fetchall()} == acknowledged
    ((moved,),) = keeper.execute("SELECT coalesce(sum(amount), 0) FROM ledger").fetchall()
    assert keeper.execute("SELECT v FROM t ORDER BY k").fetchall() == [(10 - moved,), (20 + moved,)]
    assert metrics(keeper)["snapshots"] == 0 and keeper._lease.database.locks.listed() == []
    assert keeper._lease.database.reaper.failure is None
    assert acknowledged and len(acknowledged) < 6 * rounds


def test_ctrl_c_at_random_moments(connect: Connect, keeper: Connection) -> None:
    """Nothing is held afterwards, no mark is left, and the reaper still finds what rests."""
    connection = connect(":memory:timeouts", locking="PESSIMISTIC", statement_timeout="1h", idle_in_transaction_timeout="1h")
    deadlines = connection._session._core.deadlines  # type: ignore[union-attr]
    dice, interrupts = random.Random(11), 0

    def ring(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(1_000):
            try:
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(5e-6, 300e-6))
                connection.execute("UPDATE t SET v = v + 1 WHERE k = 1")
                connection.execute("UPDATE t SET v = v + 1 WHERE k = 2")
                connection.commit()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupts += 1
                connection.rollback()
            assert not connection.in_transaction and not deadlines.active
            assert keeper._lease.database.locks.listed() == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 200
    connection.execute("UPDATE t SET v = v + 1 WHERE k = 1")
    look(connection, 2)
    assert connection.transaction_status == "failed" and metrics(keeper)["snapshots"] == 0
    connection.rollback()
    ((one, two),) = keeper.execute("SELECT min(v), max(v) FROM t").fetchall()
    assert two - one == 10
