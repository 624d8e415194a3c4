"""`run_transaction`: what is retried, what never is, and how it tells."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import khonsu_sql
from khonsu_sql import Connection, RetryReport, run_transaction
from khonsu_sql import retry as retry_module


@pytest.fixture
def counter(connect: Any) -> Iterator[Connection]:
    connection = connect(":memory:retry")
    connection.execute("CREATE TABLE counter (id INTEGER PRIMARY KEY, n BIGINT)")
    connection.execute("INSERT INTO counter VALUES (1, 0)")
    connection.commit()
    yield connection


def count(connection: Connection) -> int:
    with connection.transaction(read_only=True):
        value = connection.execute("SELECT n FROM counter WHERE id = 1").fetchone()[0]
    assert isinstance(value, int)
    return value


def test_the_result_comes_back_and_the_work_is_committed(counter: Connection) -> None:
    def work(connection: Connection) -> str:
        assert connection is counter
        connection.execute("UPDATE counter SET n = n + 1 WHERE id = 1")
        return "done"

    assert run_transaction(counter, work) == "done"
    assert not counter.in_transaction
    assert count(counter) == 1
    report = counter.last_retry
    assert report is not None and (report.attempts, report.reasons, report.waited_seconds) == (1, (), 0.0)


def test_a_real_conflict_is_retried(counter: Connection, connect: Any) -> None:
    other = connect(":memory:retry", autocommit=True)
    attempts = 0

    def work(connection: Connection) -> None:
        nonlocal attempts
        attempts += 1
        n = connection.execute("SELECT n FROM counter WHERE id = 1").fetchone()[0]
        if attempts < 3:
            other.execute("UPDATE counter SET n = n + 10 WHERE id = 1")
        connection.execute("UPDATE counter SET n = ? WHERE id = 1", (n + 1,))

    run_transaction(counter, work)
    assert attempts == 3
    assert count(counter) == 21
    report = counter.last_retry
    assert report is not None and report.attempts == 3
    assert [reason.sqlstate for reason in report.reasons] == ["40001", "40001"]
    assert report.waited_seconds > 0


def test_no_increment_is_lost_between_threads(counter: Connection) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with khonsu_sql.connect(":memory:retry") as connection:
                for _ in range(25):
                    run_transaction(connection, lambda c: c.execute("UPDATE counter SET n = n + 1 WHERE id = 1"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert count(counter) == 100


def conflict(_: Connection) -> None:
    raise khonsu_sql.SerializationFailure("someone was faster")


def test_attempts_are_bounded_and_told(counter: Connection) -> None:
    with pytest.raises(khonsu_sql.SerializationFailure) as caught:
        run_transaction(counter, conflict, attempts_max=3)
    assert caught.value.attempts == 3
    assert any("3 attempt" in note for note in caught.value.__notes__)
    assert counter.last_retry is not None and counter.last_retry.attempts == len(counter.last_retry.reasons) == 3
    assert not counter.in_transaction


def test_the_deadline_ends_it(counter: Connection) -> None:
    with pytest.raises(khonsu_sql.SerializationFailure) as caught:
        run_transaction(counter, conflict, deadline_seconds=0.05)
    assert caught.value.attempts > 1
    assert any("deadline" in note for note in caught.value.__notes__)
    with pytest.raises(khonsu_sql.SerializationFailure) as caught:
        run_transaction(counter, conflict, deadline_seconds=0)
    assert caught.value.attempts == 1


@pytest.mark.parametrize(
    "error",
    [
        khonsu_sql.UniqueViolation("twice"),
        khonsu_sql.CommitOutcomeUnknown("perhaps", transaction_id=b"x" * 16),
        khonsu_sql.InFailedSqlTransaction("failed"),
        ZeroDivisionError("not ours"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not_retried_and_roll_back(counter: Connection, error: BaseException) -> None:
    calls = 0

    def work(connection: Connection) -> None:
        nonlocal calls
        calls += 1
        connection.execute("UPDATE counter SET n = 99 WHERE id = 1")
        raise error

    with pytest.raises(type(error)) as caught:
        run_transaction(counter, work)
    assert caught.value is error
    assert calls == 1
    assert not counter.in_transaction
    assert count(counter) == 0


def test_waits_grow_with_jitter_and_are_capped(counter: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(retry_module.time, "sleep", waits.append)
    with pytest.raises(khonsu_sql.SerializationFailure):
        run_transaction(counter, conflict, attempts_max=200)
    assert len(waits) == 199
    assert all(retry_module.WAIT_SECONDS_MIN <= wait <= retry_module.WAIT_SECONDS_MAX for wait in waits)
    assert max(waits) > 10 * waits[0]
    assert len(set(waits)) > 50


def test_it_asks_for_an_idle_connection_and_sane_limits(counter: Connection) -> None:
    with pytest.raises(khonsu_sql.InterfaceError, match="str"):
        run_transaction("counter", conflict)  # type: ignore[arg-type]
    with pytest.raises(khonsu_sql.InvalidOptionValue):
        run_transaction(counter, conflict, attempts_max=0)
    with pytest.raises(khonsu_sql.InvalidOptionValue):
        run_transaction(counter, conflict, deadline_seconds=-1)
    counter.execute("SELECT 1")
    with pytest.raises(khonsu_sql.ActiveSqlTransaction):
        run_transaction(counter, conflict)


def test_the_isolation_level_is_the_callers(counter: Connection) -> None:
    assert run_transaction(counter, lambda _: 7, isolation_level="REPEATABLE READ") == 7
    with pytest.raises(khonsu_sql.InvalidOptionValue):
        run_transaction(counter, conflict, isolation_level="CHAOS")


def test_deadlocks_are_retried_and_lock_timeouts_when_asked(counter: Connection) -> None:
    raised: list[khonsu_sql.Error] = []

    def work(connection: Connection) -> int:
        if raised:
            raise raised.pop()
        return 5

    for error, options in (
        (khonsu_sql.DeadlockDetected("crossed"), {}),
        (khonsu_sql.LockNotAvailable("busy"), {"retry_sqlstates": ("55P03",)}),
    ):
        raised.append(error)
        report = RetryReport()
        assert run_transaction(counter, work, report=report, **options) == 5
        assert report.attempts == 2 and report.reasons == (error,)
    raised.append(khonsu_sql.LockNotAvailable("busy"))
    with pytest.raises(khonsu_sql.LockNotAvailable):
        run_transaction(counter, work)


def test_an_unknown_outcome_cannot_be_asked_for(counter: Connection) -> None:
    for states in (("55P03", "08007"), "55P03"):
        with pytest.raises(khonsu_sql.InvalidOptionValue, match="08007"):
            run_transaction(counter, conflict, retry_sqlstates=states)
    unknown = khonsu_sql.CommitOutcomeUnknown("perhaps", transaction_id=b"x" * 16)
    unknown.retryable = True

    def work(_: Connection) -> None:
        raise unknown

    with pytest.raises(khonsu_sql.CommitOutcomeUnknown):
        run_transaction(counter, work)
    assert counter.last_retry is not None and counter.last_retry.attempts == 1


def test_the_report_is_kept_up_to_date(counter: Connection) -> None:
    report, told = RetryReport(attempts=7, retries=3), []

    def work(connection: Connection) -> None:
        if report.attempts < 3:
            conflict(connection)

    run_transaction(counter, work, report=report, on_retry=lambda r: told.append((r is report, r.attempts, len(r.reasons))))
    assert told == [(True, 1, 1), (True, 2, 2)]
    assert counter.last_retry is report
    assert (report.attempts, report.retries, report.slept_seconds) == (3, 0, 0.0)


def test_without_a_deadline_it_goes_on(counter: Connection) -> None:
    def work(connection: Connection) -> int:
        assert counter.last_retry is not None
        if counter.last_retry.attempts < 20:
            conflict(connection)
        return 1

    assert run_transaction(counter, work, deadline_seconds=None) == 1


@pytest.mark.parametrize("script", [["COMMIT"], ["ROLLBACK"], ["COMMIT", "BEGIN"], ["ROLLBACK", "UPDATE counter SET n = 7 WHERE id = 1"]])
@pytest.mark.parametrize("autocommit", [False, True])
def test_a_function_that_ends_the_transaction_is_told(counter: Connection, script: list[str], autocommit: bool) -> None:
    counter.autocommit = autocommit

    def work(connection: Connection) -> None:
        connection.execute("UPDATE counter SET n = n + 1 WHERE id = 1")
        for statement in script:
            connection.execute(statement)

    with pytest.raises(khonsu_sql.InvalidTransactionTermination, match="ended inside it"):
        run_transaction(counter, work)
    assert not counter.in_transaction
    late = autocommit and len(script) == 2 and script[0] == "ROLLBACK"  # then that statement was a transaction by itself
    assert count(counter) == (7 if late else script[0] == "COMMIT")
    for method in (Connection.commit, Connection.rollback):
        with pytest.raises(khonsu_sql.InvalidTransactionTermination, match="inside a transaction"):
            run_transaction(counter, method)


def test_a_failed_transaction_is_told_as_such(counter: Connection) -> None:
    def work(connection: Connection) -> None:
        with pytest.raises(khonsu_sql.UndefinedTable):
            connection.execute("SELECT * FROM nowhere")

    with pytest.raises(khonsu_sql.InFailedSqlTransaction):
        run_transaction(counter, work)


def test_within_another_it_runs_once_in_a_savepoint(counter: Connection) -> None:
    calls: list[str] = []

    def inner(connection: Connection) -> None:
        calls.append("inner")
        connection.execute("UPDATE counter SET n = n + 10 WHERE id = 1")
        if len(calls) < 4:
            conflict(connection)

    def outer(connection: Connection) -> str:
        calls.append("outer")
        connection.execute("UPDATE counter SET n = n + 1 WHERE id = 1")
        run_transaction(connection, inner, attempts_max=9)
        return "done"

    assert run_transaction(counter, outer) == "done"
    assert calls == ["outer", "inner"] * 2
    assert count(counter) == 11

    def careless(connection: Connection) -> None:
        calls.clear()
        with pytest.raises(khonsu_sql.SerializationFailure):
            run_transaction(connection, inner)

    run_transaction(counter, careless)
    assert count(counter) == 11, "the savepoint was kept"

    def optioned(connection: Connection) -> None:
        run_transaction(connection, inner, isolation_level="READ COMMITTED")

    with pytest.raises(khonsu_sql.ActiveSqlTransaction):
        run_transaction(counter, optioned)


def test_another_threads_attempt_is_no_outer_one(counter: Connection) -> None:
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            run_transaction(counter, lambda connection: None)
        except BaseException as error:
            errors.append(error)

    def work(connection: Connection) -> None:
        connection.execute("SELECT 1")
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    run_transaction(counter, work)
    assert [type(error) for error in errors] == [khonsu_sql.ActiveSqlTransaction]


def test_every_attempt_has_the_options(counter: Connection, connect: Any) -> None:
    other = connect(":memory:retry", timeout=0.05, locking="PESSIMISTIC")
    told: list[Any] = []

    def work(connection: Connection) -> None:
        connection.execute("UPDATE counter SET n = n + 1 WHERE id = 1")
        try:
            other.execute("UPDATE counter SET n = n + 1 WHERE id = 1")
        except khonsu_sql.Error as error:
            told.append(error.sqlstate)
        other.rollback()
        if len(told) < 2:
            conflict(connection)

    run_transaction(counter, work, locking="PESSIMISTIC")
    assert told == ["55P03", "55P03"]
    with pytest.raises(khonsu_sql.ReadOnlySqlTransaction):
        run_transaction(counter, lambda c: c.execute("UPDATE counter SET n = 0"), read_only=True)
