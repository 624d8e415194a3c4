"""Transactions of a session: when they begin, fail and end, and what that does to open results."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from khonsu_engine.commands import Isolation
from khonsu_engine.database import Database
from khonsu_engine.locks import Locking
from khonsu_sql import errors
from khonsu_sql.core import SessionCore
from khonsu_sql.local import LocalSession
from khonsu_sql.session import TransactionOptions, TransactionStatus

IDLE, ACTIVE, FAILED = TransactionStatus.IDLE, TransactionStatus.ACTIVE, TransactionStatus.FAILED
Connect = Callable[..., LocalSession]


@pytest.fixture
def table(session: LocalSession) -> LocalSession:
    session.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, n INTEGER)")
    session.execute("INSERT INTO t VALUES (1, 10), (2, 20)")
    return session


def rows(session: LocalSession, sql: str = "SELECT * FROM t ORDER BY id") -> list[tuple[object, ...]] | None:
    return session.execute(sql).rows


def test_autocommit_statements_are_transactions(table: LocalSession, connect: Connect) -> None:
    table.execute("UPDATE t SET n = 11 WHERE id = 1")
    assert table.status is IDLE
    assert rows(connect()) == [(1, 11), (2, 20)]


def test_an_error_in_autocommit_leaves_nothing_behind(table: LocalSession) -> None:
    with pytest.raises(errors.UniqueViolation):
        table.execute("INSERT INTO t VALUES (3, 30), (1, 99)")
    assert table.status is IDLE
    assert rows(table) == [(1, 10), (2, 20)]


def test_without_autocommit_the_first_statement_begins(table: LocalSession, connect: Connect) -> None:
    session = connect(autocommit=False)
    assert session.status is IDLE
    rows(session)
    assert session.status is ACTIVE
    table.execute("INSERT INTO t VALUES (3, 30)")
    assert rows(session) == [(1, 10), (2, 20)]
    session.commit()
    assert session.status is IDLE
    assert rows(session) == [(1, 10), (2, 20), (3, 30)]


def test_a_transaction_sees_its_own_writes_and_nobody_else_does(table: LocalSession, connect: Connect) -> None:
    session = connect(autocommit=False)
    session.execute("INSERT INTO t VALUES (3, 30)")
    session.execute("UPDATE t SET n = n + 1 WHERE id >= 2")
    session.execute("DELETE FROM t WHERE id = 1")
    assert rows(session) == [(2, 21), (3, 31)]
    assert rows(session, "SELECT sum(n) AS s FROM t WHERE id > 2") == [(31,)]
    assert rows(table) == [(1, 10), (2, 20)]
    session.commit()
    assert rows(table) == [(2, 21), (3, 31)]


def test_rollback_forgets(table: LocalSession) -> None:
    table.execute("BEGIN")
    table.execute("DELETE FROM t")
    assert rows(table) == []
    table.execute("ROLLBACK")
    assert rows(table) == [(1, 10), (2, 20)]


def test_begin_inside_a_transaction(table: LocalSession) -> None:
    table.execute("BEGIN")
    with pytest.raises(errors.ActiveSqlTransaction) as caught:
        table.execute("BEGIN")
    assert caught.value.sqlstate == "25001"


def test_the_end_of_no_transaction_is_a_notice(session: LocalSession) -> None:
    assert session.execute("COMMIT").notices
    assert session.execute("ROLLBACK").notices
    assert session.commit() is None


@pytest.mark.parametrize("bad", ["SELECT * FROM nowhere", "INSERT INTO t VALUES (1, 1)", "SELECT 1/0 FROM t", "SELEC 1"])
def test_an_error_fails_the_transaction(table: LocalSession, bad: str) -> None:
    table.execute("BEGIN")
    table.execute("INSERT INTO t VALUES (3, 30)")
    with pytest.raises(errors.Error):
        table.execute(bad)
    assert table.status is FAILED
    with pytest.raises(errors.InFailedSqlTransaction) as caught:
        rows(table)
    assert caught.value.sqlstate == "25P02"
    table.execute("ROLLBACK")
    assert table.status is IDLE
    assert rows(table) == [(1, 10), (2, 20)]


def test_commit_of_a_failed_transaction_does_not_pretend(table: LocalSession) -> None:
    for commit in (lambda: table.execute("COMMIT"), table.commit):
        table.execute("BEGIN")
        table.execute("INSERT INTO t VALUES (3, 30)")
        with pytest.raises(errors.UndefinedTable):
            table.execute("SELECT * FROM nowhere")
        with pytest.raises(errors.InFailedSqlTransaction):
            commit()
        assert table.status is IDLE
        assert rows(table) == [(1, 10), (2, 20)]


def test_a_syntax_error_when_idle_begins_nothing(connect: Connect) -> None:
    session = connect(autocommit=False)
    with pytest.raises(errors.SyntaxError_):
        session.execute("SELEC 1")
    assert session.status is IDLE


def test_a_failed_commit_ends_the_transaction(table: LocalSession, connect: Connect) -> None:
    first, second = connect(autocommit=False), connect(autocommit=False)
    for session, value in ((first, 1), (second, 2)):
        session.execute(f"UPDATE t SET n = {value} WHERE id = 1")
    first.commit()
    with pytest.raises(errors.SerializationFailure) as caught:
        second.commit()
    assert caught.value.retryable and caught.value.evidence["table"] == "t"
    assert second.status is IDLE
    assert rows(second) == [(1, 1), (2, 20)]


def test_write_skew_is_caught_at_serializable_only(table: LocalSession, connect: Connect) -> None:
    def crossing(isolation: Isolation) -> LocalSession:
        first, second = (connect(autocommit=False, isolation=isolation) for _ in range(2))
        rows(first, "SELECT n FROM t WHERE id = 1")
        rows(second, "SELECT n FROM t WHERE id = 2")
        first.execute("UPDATE t SET n = n + 1 WHERE id = 2")
        second.execute("UPDATE t SET n = n + 1 WHERE id = 1")
        first.commit()
        return second

    crossing(Isolation.REPEATABLE_READ).commit()
    with pytest.raises(errors.SerializationFailure):
        crossing(Isolation.SERIALIZABLE).commit()


def test_isolation_level_of_begin(table: LocalSession) -> None:
    table.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    table.execute("COMMIT")
    table.begin(TransactionOptions(isolation=Isolation.REPEATABLE_READ))
    assert table.status is ACTIVE
    table.rollback()


def test_a_script_is_one_transaction(table: LocalSession) -> None:
    with pytest.raises(errors.UniqueViolation):
        table.execute("INSERT INTO t VALUES (3, 30); INSERT INTO t VALUES (1, 99)")
    assert rows(table) == [(1, 10), (2, 20)]
    result = table.execute("INSERT INTO t VALUES (3, 30); SELECT count(*) AS c FROM t; DELETE FROM t WHERE id = 3")
    assert (result.status, result.rowcount) == ("INSERT", 1)
    assert result.next is not None and result.next.rows == [(3,)]
    assert result.next.next is not None and result.next.next.rowcount == 1
    assert rows(table) == [(1, 10), (2, 20)]


def test_a_script_with_transaction_control_obeys_it(table: LocalSession) -> None:
    with pytest.raises(errors.UniqueViolation):
        table.execute("BEGIN; INSERT INTO t VALUES (3, 30); COMMIT; BEGIN; INSERT INTO t VALUES (1, 99); COMMIT")
    assert table.status is FAILED
    table.rollback()
    assert rows(table) == [(1, 10), (2, 20), (3, 30)]


def test_a_script_takes_no_parameters(session: LocalSession) -> None:
    with pytest.raises(errors.ParameterMismatch):
        session.execute("SELECT ?; SELECT ?", (1,))


def test_an_empty_text_is_an_empty_result(session: LocalSession) -> None:
    result = session.execute(" -- nothing\n")
    assert result.columns is None and result.status == ""


def test_read_only(table: LocalSession, connect: Connect) -> None:
    session = connect(read_only=True)
    assert rows(session) == [(1, 10), (2, 20)]
    for sql in ("INSERT INTO t VALUES (3, 3)", "DELETE FROM t", "CREATE TABLE u (a INT)", "DROP TABLE t"):
        with pytest.raises(errors.ReadOnlySqlTransaction) as caught:
            session.execute(sql)
        assert caught.value.sqlstate == "25006"


def test_ddl_is_isolated_and_rolled_back(table: LocalSession, connect: Connect) -> None:
    session = connect(autocommit=False)
    session.execute("CREATE TABLE u (a INTEGER)")
    session.execute("INSERT INTO u VALUES (1)")
    session.execute("DROP TABLE t")
    assert rows(session, "SELECT * FROM u") == [(1,)]
    with pytest.raises(errors.UndefinedTable):
        table.execute("SELECT * FROM u")
    assert rows(table) == [(1, 10), (2, 20)]
    session.rollback()
    assert rows(session) == [(1, 10), (2, 20)]
    with pytest.raises(errors.UndefinedTable):
        session.execute("SELECT * FROM u")


def test_a_plan_does_not_outlive_its_table(table: LocalSession, connect: Connect) -> None:
    other = connect()
    assert rows(other) == [(1, 10), (2, 20)]
    table.execute("DROP TABLE t")
    with pytest.raises(errors.UndefinedTable):
        rows(other)
    table.execute("CREATE TABLE t (id VARCHAR PRIMARY KEY)")
    table.execute("INSERT INTO t VALUES ('a')")
    assert rows(other) == [("a",)]


# --- open results


def test_commit_does_not_end_an_open_result(table: LocalSession, connect: Connect) -> None:
    session = connect(autocommit=False)
    session.execute("INSERT INTO t SELECT i, i FROM range(100, 12100) r(i)")
    result = session.execute("SELECT id FROM t")
    assert result.rows is None and result.batches is not None and result.validity is not None
    session.commit()
    table.execute("DELETE FROM t")
    result.validity.check()
    assert sum(batch.num_rows for batch in result.batches) == 12_002


def test_rollback_ends_results_that_show_its_writes(table: LocalSession, connect: Connect) -> None:
    session = connect(autocommit=False)
    before = session.execute("SELECT * FROM t")
    assert before.validity is None
    session.execute("INSERT INTO t VALUES (3, 30)")
    result = session.execute("SELECT * FROM t")
    assert result.validity is not None
    session.rollback()
    with pytest.raises(errors.InvalidCursorState) as caught:
        result.validity.check()
    assert caught.value.sqlstate == "24000"


def test_results_stream_beyond_the_setting(session: LocalSession) -> None:
    assert len(session.execute("SELECT * FROM range(10000)").rows or ()) == 10_000
    assert session.execute("SELECT * FROM range(10001)").rows is None
    session.execute("SET stream_rows_min = 5")
    result = session.execute("SELECT * FROM range(6)")
    assert result.rows is None and result.rowcount == -1
    assert [row for batch in result.batches for row in batch.column(0).to_pylist()] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("bad", ["BEGIN", "SET nothing_like_it = 1", "SHOW point_pat", "SELECT ?", "SELECT 1; SELECT * FROM nowhere"])
def test_every_error_fails_the_transaction(table: LocalSession, bad: str) -> None:
    table.execute("BEGIN")
    table.execute("INSERT INTO t VALUES (3, 30)")
    with pytest.raises(errors.Error):
        table.execute(bad)
    assert table.status is FAILED
    table.execute("ROLLBACK")
    assert rows(table) == [(1, 10), (2, 20)]


def test_a_result_of_autocommit_is_never_taken_back(table: LocalSession) -> None:
    result = table.execute("UPDATE t SET n = 0 RETURNING id")
    assert sorted(result.rows or ()) == [(1,), (2,)] and result.validity is None


@pytest.mark.parametrize("moment", ["within", "after"])
@pytest.mark.parametrize("autocommit", [False, True])
def test_ctrl_c_leaves_nothing_half_done(
    table: LocalSession, connect: Connect, database: Database, monkeypatch: pytest.MonkeyPatch, autocommit: bool, moment: str
) -> None:
    """The transaction is rolled back at once, and its owner is told so until ROLLBACK; in autocommit there is nothing to tell."""
    true_advance = SessionCore._advance

    def within(*arguments: object) -> None:
        raise KeyboardInterrupt

    def after(self: SessionCore, error: BaseException | None) -> None:
        true_advance(self, error)
        raise KeyboardInterrupt

    session = connect(autocommit=autocommit, locking=Locking.PESSIMISTIC)
    session.execute("UPDATE t SET n = n + 1 WHERE id = 1")
    if moment == "within":
        monkeypatch.setattr("khonsu_sql.core.execute", within)
    else:
        monkeypatch.setattr(SessionCore, "_advance", after)
    with pytest.raises(KeyboardInterrupt):
        session.execute("SELECT count(*) AS c FROM t")
    monkeypatch.undo()
    assert (database.metrics["snapshots"], database.locks.listed()) == (0, [])
    assert session.status is (IDLE if autocommit else FAILED)
    if not autocommit:
        with pytest.raises(errors.InFailedSqlTransaction):
            session.execute("SELECT 1 AS one")
        session.rollback()
    assert rows(session) == [(1, 11 if autocommit else 10), (2, 20)]
