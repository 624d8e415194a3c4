"""`retry` and `or_else`: consumers that sleep until there is something to do, and never poll.

`on_retry` runs between an attempt that has given up and its sleep: what is committed there is what a lost wake-up would miss.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import khonsu_sql
from khonsu_sql import Connection, RetryReport, run_transaction

NAME = ":memory:blocking"
PATIENCE_SECONDS = 60.0


@pytest.fixture
def database(connect: Any) -> Iterator[Connection]:
    """A connection to a database with two queues and a log; it commits by itself."""
    connection = connect(NAME, autocommit=True)
    for queue in ("urgent", "normal", "log"):
        connection.execute(f"CREATE TABLE {queue} (id BIGINT PRIMARY KEY, item VARCHAR)")
    yield connection


@pytest.fixture
def consumer(database: Connection, connect: Any) -> Connection:
    made: Connection = connect(NAME)
    return made


def put(connection: Connection, queue: str, number: int, item: str = "x") -> None:
    connection.execute(f"INSERT INTO {queue} VALUES (?, ?)", (number, item))


def take(queue: str) -> Callable[[Connection], tuple[str, int]]:
    def work(connection: Connection) -> tuple[str, int]:
        row = connection.execute(f"SELECT id FROM {queue} ORDER BY id LIMIT 1").fetchone()
        if row is None:
            connection.retry()
        connection.execute(f"DELETE FROM {queue} WHERE id = ?", row)
        return queue, row[0]

    return work


def rows(connection: Connection, table: str) -> list[int]:
    return [row[0] for row in connection.execute(f"SELECT id FROM {table} ORDER BY id").fetchall()]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.001)


def sleepers(connection: Connection) -> int:
    return len(connection._lease.database.watches)


class InThread:
    """`run_transaction` in a thread of its own, asleep when the constructor returns."""

    def __init__(self, connection: Connection, work: Callable[[Connection], Any], **options: Any) -> None:
        self.report = RetryReport()
        self.result: Any = None
        self.error: BaseException | None = None
        self._arguments = (connection, work)
        self._options = {"report": self.report, "deadline_seconds": PATIENCE_SECONDS} | options
        before = sleepers(connection)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        until(lambda: sleepers(connection) > before or not self._thread.is_alive())

    def _run(self) -> None:
        try:
            self.result = run_transaction(*self._arguments, **self._options)
        except BaseException as error:
            self.error = error

    @property
    def asleep(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> Any:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "it sleeps on"
        if self.error is not None:
            raise self.error
        return self.result


# --- retry


def test_it_sleeps_until_what_it_read_has_changed(database: Connection, consumer: Connection) -> None:
    waiting = InThread(consumer, take("urgent"))
    put(database, "normal", 1)
    put(database, "log", 1)
    assert waiting.asleep
    put(database, "urgent", 7)
    assert waiting.join() == ("urgent", 7)
    assert (waiting.report.attempts, waiting.report.retries, waiting.report.reasons) == (2, 1, ())
    assert waiting.report.slept_seconds > 0
    assert rows(database, "urgent") == [] and sleepers(database) == 0


def test_a_commit_before_the_sleep_is_not_missed(database: Connection, consumer: Connection) -> None:
    def late(report: RetryReport) -> None:
        put(database, "urgent", report.retries)

    report = RetryReport()
    assert run_transaction(consumer, take("urgent"), on_retry=late, report=report) == ("urgent", 1)
    assert (report.attempts, report.retries) == (2, 1)


def test_what_it_wrote_is_gone_and_its_locks_are_free(database: Connection, consumer: Connection, connect: Any) -> None:
    def work(connection: Connection) -> None:
        connection.execute("INSERT INTO log VALUES (1, 'mine')")
        take("urgent")(connection)

    waiting = InThread(consumer, work, locking="PESSIMISTIC")
    other = connect(NAME, autocommit=True, timeout=0.5, locking="PESSIMISTIC")
    put(other, "log", 1, "theirs")
    assert database._lease.database.metrics["snapshots"] == 0, "a sleeper holds no snapshot"
    put(database, "urgent", 1)
    with pytest.raises(khonsu_sql.UniqueViolation):
        waiting.join()
    assert database.execute("SELECT item FROM log").fetchall() == [("theirs",)]


def test_a_sleeper_keeps_no_open_result(database: Connection, consumer: Connection) -> None:
    database.executemany("INSERT INTO log VALUES (?, 'x')", [(n,) for n in range(20_000)])

    cursors: list[Any] = []

    def work(connection: Connection) -> tuple[str, int]:
        cursor = connection.execute("SELECT * FROM log")  # more rows than are read at once
        cursor.fetchone()
        cursors.append(weakref.ref(cursor))
        return connection.or_else(take("normal"), take("urgent"))

    gc.disable()  # nothing may hang on a cycle
    try:
        waiting = InThread(consumer, work)
        assert [cursor() for cursor in cursors] == [None]
    finally:
        gc.enable()
    put(database, "urgent", 1)
    assert waiting.join() == ("urgent", 1)


def test_dropping_the_table_wakes_with_the_natural_error(database: Connection, consumer: Connection) -> None:
    waiting = InThread(consumer, take("urgent"))
    database.execute("DROP TABLE urgent")
    with pytest.raises(khonsu_sql.UndefinedTable):
        waiting.join()


def test_every_item_is_consumed_once_and_nobody_polls(database: Connection) -> None:
    items, consumers = 60, 3
    consumed: list[int] = []
    reports: list[RetryReport] = []
    errors: list[BaseException] = []

    def consume() -> None:
        try:
            with khonsu_sql.connect(NAME) as connection:
                while True:
                    report = RetryReport()
                    item = run_transaction(connection, take("urgent"), deadline_seconds=PATIENCE_SECONDS, report=report)[1]
                    reports.append(report)
                    if item >= items:
                        return
                    consumed.append(item)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=consume, daemon=True) for _ in range(consumers)]
    for thread in threads:
        thread.start()
    for number in range(items):
        put(database, "urgent", number)
    until(lambda: len(consumed) == items or bool(errors))
    for number in range(consumers):
        put(database, "urgent", items + number)
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert errors == [] and not any(thread.is_alive() for thread in threads)
    assert sorted(consumed) == list(range(items))
    # Every wake-up has a commit to answer for, of a producer or of a consumer.
    commits = 2 * (items + consumers)
    assert sum(report.retries for report in reports) <= consumers * commits


def test_ping_pong_never_loses_a_wake_up(database: Connection, connect: Any) -> None:
    """Two threads, each of which sleeps until the other has moved: one lost wake-up and it stands still."""
    rounds = 150
    database.execute("INSERT INTO log VALUES (0, '0')")
    errors: list[BaseException] = []

    def play(parity: int) -> None:
        def move(connection: Connection) -> int:
            n = int(connection.execute("SELECT item FROM log WHERE id = 0").fetchone()[0])
            if n < rounds and n % 2 != parity:
                connection.retry()
            connection.execute("UPDATE log SET item = ? WHERE id = 0", (str(n + 1),))
            return n

        try:
            with khonsu_sql.connect(NAME) as connection:
                report = RetryReport()
                while run_transaction(connection, move, deadline_seconds=PATIENCE_SECONDS, report=report) < rounds:
                    assert report.retries <= 1 and report.reasons == ()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=play, args=(parity,), daemon=True) for parity in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert errors == []
    assert int(database.execute("SELECT item FROM log").fetchone()[0]) >= rounds


def test_a_commit_that_is_not_durable_yet_wakes_once(tmp_path: Any, connect: Any) -> None:
    path = str(tmp_path / "db")
    producer, consumer = connect(path, autocommit=True), connect(path)
    producer.execute("CREATE TABLE urgent (id BIGINT PRIMARY KEY, item VARCHAR)")
    for number in range(5):
        waiting = InThread(consumer, take("urgent"))
        put(producer, "urgent", number)
        assert waiting.join() == ("urgent", number)
        assert (waiting.report.attempts, waiting.report.retries) == (2, 1)


# --- what ends a sleep


def test_the_deadline_ends_it(database: Connection, consumer: Connection) -> None:
    with pytest.raises(khonsu_sql.QueryCanceled, match=r"deadline of 0\.05 s") as caught:
        run_transaction(consumer, take("urgent"), deadline_seconds=0.05)
    assert caught.value.attempts == 1
    assert consumer.last_retry is not None and consumer.last_retry.retries == 1
    assert not consumer.in_transaction and sleepers(database) == 0


def test_cancel_ends_it(database: Connection, consumer: Connection) -> None:
    waiting = InThread(consumer, take("urgent"), deadline_seconds=None)
    consumer.cancel()
    with pytest.raises(khonsu_sql.QueryCanceled, match="cancelled"):
        waiting.join()
    put(database, "urgent", 1)
    assert run_transaction(consumer, take("urgent")) == ("urgent", 1)


def test_close_ends_it(database: Connection, consumer: Connection) -> None:
    waiting = InThread(consumer, take("urgent"), deadline_seconds=None)
    consumer.close()
    with pytest.raises(khonsu_sql.ConnectionDoesNotExist):
        waiting.join()


def test_close_before_the_sleep_ends_it(database: Connection, consumer: Connection) -> None:
    with pytest.raises(khonsu_sql.ConnectionDoesNotExist):
        run_transaction(consumer, take("urgent"), deadline_seconds=None, on_retry=lambda report: consumer.close())


def test_close_just_before_the_sleep_ends_it(consumer: Connection) -> None:
    session: Any = consumer._open_session()
    with consumer.transaction():
        rows(consumer, "urgent")
        watch = session.watch()
    consumer.close()
    with pytest.raises(khonsu_sql.ConnectionDoesNotExist):
        session.sleep(watch, None)


def test_ctrl_c_ends_it(database: Connection, consumer: Connection) -> None:
    def interrupt() -> None:
        until(lambda: sleepers(database) == 1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        run_transaction(consumer, take("urgent"), deadline_seconds=None)
    thread.join()
    assert not consumer.in_transaction and sleepers(database) == 0
    put(database, "urgent", 1)
    assert run_transaction(consumer, take("urgent")) == ("urgent", 1)


# --- or_else


def either(connection: Connection) -> tuple[str, int]:
    return connection.or_else(take("urgent"), take("normal"))


def test_the_first_that_can_go_on(database: Connection, consumer: Connection) -> None:
    put(database, "normal", 1)
    assert run_transaction(consumer, either) == ("normal", 1)
    put(database, "normal", 2)
    put(database, "urgent", 2)
    assert run_transaction(consumer, either) == ("urgent", 2)
    assert rows(database, "normal") == [2]


@pytest.mark.parametrize("queue", ["urgent", "normal"])
def test_it_sleeps_on_what_either_has_read(database: Connection, consumer: Connection, queue: str) -> None:
    waiting = InThread(consumer, either)
    put(database, "log", 1)
    assert waiting.asleep
    put(database, queue, 5)
    assert waiting.join() == (queue, 5)
    assert waiting.report.attempts == 2


def test_what_the_first_wrote_is_taken_back(database: Connection, consumer: Connection) -> None:
    def first(connection: Connection) -> str:
        connection.execute("INSERT INTO log VALUES (1, 'first')")
        connection.retry()

    def second(connection: Connection) -> str:
        connection.execute("INSERT INTO log VALUES (2, 'second')")
        return "second"

    def work(connection: Connection) -> str:
        connection.execute("INSERT INTO log VALUES (3, 'before')")
        return connection.or_else(first, second)

    assert run_transaction(consumer, work) == "second"
    assert rows(database, "log") == [2, 3]


def test_what_the_first_read_stays_read(database: Connection, consumer: Connection) -> None:
    """The second alternative was right only as long as the first had nothing to do."""
    put(database, "normal", 1)
    calls: list[str] = []

    def second(connection: Connection) -> tuple[str, int]:
        if not calls:
            put(database, "urgent", 9)
        calls.append("second")
        return take("normal")(connection)

    assert run_transaction(consumer, lambda c: c.or_else(take("urgent"), second)) == ("urgent", 9)
    assert calls == ["second"] and rows(database, "normal") == [1]


def test_it_nests_on_either_side(database: Connection, consumer: Connection) -> None:
    put(database, "log", 4)

    def left(connection: Connection) -> tuple[str, int]:
        return connection.or_else(either, take("log"))

    def right(connection: Connection) -> tuple[str, int]:
        return connection.or_else(take("urgent"), lambda c: c.or_else(take("normal"), take("log")))

    assert run_transaction(consumer, left) == ("log", 4)
    for work in (left, right):
        for queue in ("urgent", "normal", "log"):
            waiting = InThread(consumer, work)
            put(database, queue, 1)
            assert waiting.join() == (queue, 1)


def test_errors_of_an_alternative_are_not_caught(database: Connection, consumer: Connection) -> None:
    def bad(connection: Connection) -> tuple[str, int]:
        connection.execute("INSERT INTO log VALUES (1, 'x')")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_transaction(consumer, lambda c: c.or_else(bad, take("normal")))
    assert rows(database, "log") == []


def test_a_run_transaction_within_another_is_part_of_it(database: Connection, consumer: Connection) -> None:
    calls = 0

    def inner(connection: Connection) -> tuple[str, int]:
        nonlocal calls
        calls += 1
        return take("urgent")(connection)

    def outer(connection: Connection) -> tuple[str, int]:
        connection.execute("INSERT INTO log VALUES (1, 'outer')")
        return run_transaction(connection, inner)

    waiting = InThread(consumer, outer)
    assert rows(database, "log") == []
    put(database, "urgent", 1)
    assert waiting.join() == ("urgent", 1)
    assert calls == 2 and waiting.report.attempts == 2
    assert consumer.last_retry is waiting.report
    put(database, "normal", 2)
    assert run_transaction(consumer, lambda c: c.or_else(lambda d: run_transaction(d, inner), take("normal"))) == ("normal", 2)


# --- where they cannot be used


def test_outside_they_are_refused(database: Connection, consumer: Connection) -> None:
    for call in (consumer.retry, lambda: consumer.or_else(take("urgent"), take("normal"))):
        with pytest.raises(khonsu_sql.NoActiveSqlTransaction, match="inside run_transaction"):
            call()
    with consumer.transaction(), pytest.raises(khonsu_sql.NoActiveSqlTransaction):
        consumer.retry()
    refused: list[BaseException] = []

    def elsewhere(connection: Connection) -> None:
        def call() -> None:
            try:
                connection.retry()
            except BaseException as error:
                refused.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    run_transaction(consumer, elsewhere)
    assert [type(error) for error in refused] == [khonsu_sql.NoActiveSqlTransaction]


def test_nothing_read_is_an_error(database: Connection, consumer: Connection) -> None:
    def work(connection: Connection) -> None:
        connection.execute("INSERT INTO log VALUES (1, 'x')")
        connection.retry()

    for give_up in (Connection.retry, work):
        with pytest.raises(khonsu_sql.InternalError, match="nothing was read") as caught:
            run_transaction(consumer, give_up)
        assert caught.value.sqlstate == "25000"
        assert not consumer.in_transaction


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"isolation_level": "REPEATABLE READ"}, "REPEATABLE READ"),
        ({"isolation_level": "READ COMMITTED"}, "READ COMMITTED"),
        ({"read_only": True}, "read only"),
    ],
)
def test_without_recorded_reads_it_is_refused_by_name(database: Connection, consumer: Connection, options: Any, why: str) -> None:
    for work in (take("urgent"), either, Connection.retry):
        with pytest.raises(khonsu_sql.FeatureNotSupported, match=f"retry.* in .*{why}"):
            run_transaction(consumer, work, **options)


def test_a_failed_transaction_cannot_sleep(database: Connection, consumer: Connection) -> None:
    def work(connection: Connection) -> None:
        with pytest.raises(khonsu_sql.UndefinedTable):
            connection.execute("SELECT * FROM nowhere")
        connection.retry()

    with pytest.raises(khonsu_sql.InFailedSqlTransaction):
        run_transaction(consumer, work)


def test_an_attempt_that_swallows_it_does_not_commit(database: Connection, consumer: Connection) -> None:
    def swallow(connection: Connection) -> None:
        connection.execute("INSERT INTO log VALUES (1, 'x')")
        try:
            take("urgent")(connection)
        except BaseException:
            pass

    def within(connection: Connection) -> None:
        connection.or_else(swallow, lambda c: None)

    for work in (swallow, within):
        with pytest.raises(khonsu_sql.InternalError, match="went on") as caught:
            run_transaction(consumer, work)
        assert caught.value.sqlstate == "25000"
        assert rows(database, "log") == []

    def careful(connection: Connection) -> tuple[str, int]:
        try:
            return take("urgent")(connection)
        except Exception as error:
            raise AssertionError("retry() is no error") from error

    put(database, "normal", 1)
    assert run_transaction(consumer, lambda c: c.or_else(careful, take("normal"))) == ("normal", 1)


def test_giving_up_on_another_connection_passes_through(database: Connection, consumer: Connection, connect: Any) -> None:
    inner = connect(NAME)

    def work(outer: Connection) -> tuple[str, int]:
        def touch(connection: Connection) -> tuple[str, int]:
            connection.execute("INSERT INTO log VALUES (1, 'inner')")
            return connection.or_else(lambda c: take("urgent")(outer), take("normal"))

        return run_transaction(inner, touch)

    waiting = InThread(consumer, work)
    put(database, "normal", 1)
    assert waiting.asleep
    put(database, "urgent", 1)
    assert waiting.join() == ("urgent", 1)
    assert rows(database, "normal") == [1] and rows(database, "log") == [1]
