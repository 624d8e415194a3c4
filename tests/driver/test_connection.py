"""Connections: transactions, settings, context managers, their end."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from decimal import Decimal
from typing import Any

import pytest

import khonsu_sql
from khonsu_sql import Connection, Isolation, databases


def balance(connection: Connection, account: int) -> Any:
    return connection.execute("SELECT balance FROM accounts WHERE id = ?", (account,)).fetchone()[0]


def test_a_transaction_begins_with_the_first_statement_and_ends_with_commit(accounts: Connection) -> None:
    assert not accounts.in_transaction
    accounts.execute("SELECT 1")
    assert accounts.in_transaction and accounts.transaction_status == "active"
    accounts.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    accounts.commit()
    assert not accounts.in_transaction
    accounts.rollback()
    assert balance(accounts, 1) == 0


def test_rollback_undoes(accounts: Connection) -> None:
    accounts.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    assert balance(accounts, 1) == 0
    accounts.rollback()
    assert balance(accounts, 1) == 100


def test_commit_and_rollback_without_a_transaction_do_nothing(connection: Connection) -> None:
    connection.commit()
    connection.rollback()
    assert connection.transaction_status == "idle"


def test_the_last_commit_is_told(accounts: Connection) -> None:
    before = accounts.last_commit
    assert before is not None and len(before.transaction_id) == 16
    accounts.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    accounts.rollback()
    accounts.execute("SELECT * FROM accounts")
    accounts.commit()
    assert accounts.last_commit == before
    accounts.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    accounts.commit()
    after = accounts.last_commit
    assert after is not None and after.timestamp > before.timestamp and after.index == before.index + 1


def test_autocommit_makes_each_statement_a_transaction(accounts: Connection) -> None:
    accounts.autocommit = True
    accounts.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    assert not accounts.in_transaction
    accounts.rollback()
    assert balance(accounts, 1) == 0


def test_settings_cannot_change_inside_a_transaction(accounts: Connection) -> None:
    accounts.execute("SELECT 1")
    for change in (lambda: setattr(accounts, "autocommit", True), lambda: setattr(accounts, "isolation_level", "REPEATABLE READ")):
        with pytest.raises(khonsu_sql.ActiveSqlTransaction):
            change()
    accounts.rollback()
    accounts.autocommit = True
    assert accounts.autocommit is True


def test_isolation_level_is_settable_between_transactions(connect: Any) -> None:
    connection = connect(isolation_level="repeatable read")
    assert connection.isolation_level == "REPEATABLE READ"
    connection.isolation_level = Isolation.SERIALIZABLE
    assert connection.isolation_level == "SERIALIZABLE"
    connection.isolation_level = "read uncommitted"
    assert connection.isolation_level == "READ COMMITTED"
    with pytest.raises(khonsu_sql.InvalidOptionValue):
        connection.autocommit = 1


def test_a_read_only_connection_refuses_writes(connect: Any) -> None:
    writer = connect(":memory:ro", autocommit=True)
    writer.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
    reader = connect(":memory:ro", autocommit=True, read_only=True)
    with pytest.raises(khonsu_sql.ReadOnlySqlTransaction) as caught:
        reader.execute("INSERT INTO t VALUES (1)")
    assert caught.value.sqlstate == "25006"
    assert reader.execute("SELECT count(*) FROM t").fetchall() == [(0,)]


def test_an_error_fails_the_transaction_until_rollback(accounts: Connection) -> None:
    accounts.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    with pytest.raises(khonsu_sql.UndefinedTable):
        accounts.execute("SELECT * FROM nowhere")
    assert accounts.transaction_status == "failed"
    with pytest.raises(khonsu_sql.InFailedSqlTransaction) as caught:
        accounts.execute("SELECT 1")
    assert caught.value.sqlstate == "25P02"
    accounts.rollback()
    assert balance(accounts, 1) == 100


def test_commit_of_a_failed_transaction_says_so_and_rolls_back(accounts: Connection) -> None:
    accounts.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    with pytest.raises(khonsu_sql.Error):
        accounts.execute("SELECT 1 / 0")
    with pytest.raises(khonsu_sql.InFailedSqlTransaction):
        accounts.commit()
    assert accounts.transaction_status == "idle"
    assert balance(accounts, 1) == 100


def test_the_context_manager_commits_and_closes(connect: Any) -> None:
    keeper = connect(":memory:with", autocommit=True)
    keeper.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
    with connect(":memory:with") as connection:
        connection.execute("INSERT INTO t VALUES (1)")
    assert connection.closed
    with pytest.raises(ZeroDivisionError), connect(":memory:with") as connection:
        connection.execute("INSERT INTO t VALUES (2)")
        1 / 0  # noqa: B018 - any exception
    assert connection.closed
    assert keeper.execute("SELECT a FROM t").fetchall() == [(1,)]


def test_a_transaction_block_commits_or_rolls_back(accounts: Connection) -> None:
    with accounts.transaction() as inside:
        assert inside is accounts
        accounts.execute("UPDATE accounts SET balance = 1 WHERE id = 1")
    assert not accounts.in_transaction
    with pytest.raises(ZeroDivisionError), accounts.transaction():
        accounts.execute("UPDATE accounts SET balance = 2 WHERE id = 1")
        1 / 0  # noqa: B018 - any exception
    assert not accounts.in_transaction
    assert balance(accounts, 1) == 1


def test_a_transaction_block_works_in_autocommit_too(accounts: Connection) -> None:
    accounts.autocommit = True
    with pytest.raises(ZeroDivisionError), accounts.transaction(isolation_level="REPEATABLE READ"):
        accounts.execute("UPDATE accounts SET balance = 2 WHERE id = 1")
        1 / 0  # noqa: B018 - any exception
    assert balance(accounts, 1) == 100


def test_a_read_only_transaction_block(accounts: Connection) -> None:
    with pytest.raises(khonsu_sql.ReadOnlySqlTransaction), accounts.transaction(read_only=True):
        accounts.execute("UPDATE accounts SET balance = 2 WHERE id = 1")
    assert balance(accounts, 1) == 100


def test_nested_blocks_are_savepoints(accounts: Connection) -> None:
    def withdraw(amount: int) -> None:
        accounts.execute("UPDATE accounts SET balance = balance - ? WHERE id = 1", (amount,))

    with accounts.transaction():
        withdraw(10)
        with accounts.transaction():
            withdraw(20)
            with pytest.raises(ZeroDivisionError), accounts.transaction():
                withdraw(40)
                1 / 0  # noqa: B018 - any exception
        with pytest.raises(khonsu_sql.UndefinedTable), accounts.transaction():
            accounts.execute("SELECT * FROM nowhere")
        assert accounts.transaction_status == "active"
        with pytest.raises(khonsu_sql.InvalidTransactionTermination), accounts.transaction():
            accounts.commit()
    assert (accounts.transaction_status, balance(accounts, 1)) == ("idle", 70)


def test_a_nested_block_takes_no_options(accounts: Connection) -> None:
    with accounts.transaction():
        with pytest.raises(khonsu_sql.ActiveSqlTransaction), accounts.transaction(isolation_level="READ COMMITTED"):
            pass
        accounts.execute("UPDATE accounts SET balance = 7 WHERE id = 1")
    assert balance(accounts, 1) == 7


def test_ctrl_c_in_a_nested_block_takes_the_whole_transaction_along(accounts: Connection) -> None:
    with pytest.raises(KeyboardInterrupt), accounts.transaction():
        accounts.execute("UPDATE accounts SET balance = 7 WHERE id = 1")
        with accounts.transaction():
            accounts.execute("UPDATE accounts SET balance = 8 WHERE id = 1")
            raise KeyboardInterrupt
    assert (accounts.transaction_status, balance(accounts, 1)) == ("idle", 100)


def test_results_of_what_is_rolled_back_to_a_savepoint_end_with_it(accounts: Connection) -> None:
    accounts.execute("UPDATE accounts SET balance = 1 WHERE id = 1")
    before = accounts.execute("SELECT * FROM accounts ORDER BY id")
    accounts.execute("SAVEPOINT s")
    accounts.execute("UPDATE accounts SET balance = 2 WHERE id = 1")
    after = accounts.execute("SELECT * FROM accounts ORDER BY id")
    accounts.execute("ROLLBACK TO s")
    with pytest.raises(khonsu_sql.InvalidCursorState):
        after.fetchone()
    first = before.fetchone()
    assert first is not None and first[2] == 1
    accounts.rollback()
    with pytest.raises(khonsu_sql.InvalidCursorState):
        before.fetchone()


@pytest.mark.parametrize("action", ["commit", "rollback"])
def test_a_block_ends_its_transaction_itself(accounts: Connection, action: str) -> None:
    with accounts.transaction():
        accounts.execute("UPDATE accounts SET balance = 7 WHERE id = 1")
        with pytest.raises(khonsu_sql.InvalidTransactionTermination):
            getattr(accounts, action)()
    assert balance(accounts, 1) == 7


def test_begin_inside_a_transaction_is_25001(accounts: Connection) -> None:
    accounts.execute("BEGIN")
    with pytest.raises(khonsu_sql.ActiveSqlTransaction) as caught:
        accounts.execute("BEGIN")
    assert caught.value.sqlstate == "25001"


def test_the_transaction_control_of_sql_is_the_connections(accounts: Connection) -> None:
    accounts.autocommit = True
    accounts.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert accounts.in_transaction
    accounts.execute("UPDATE accounts SET balance = 3 WHERE id = 1")
    accounts.execute("ROLLBACK")
    assert not accounts.in_transaction
    assert balance(accounts, 1) == 100


@pytest.mark.parametrize("action", [lambda c: c.cursor(), lambda c: c.commit(), lambda c: c.rollback(), lambda c: c.execute("SELECT 1")])
def test_a_closed_connection_refuses(connection: Connection, action: Any) -> None:
    connection.close()
    connection.close()
    with pytest.raises(khonsu_sql.ConnectionDoesNotExist) as caught:
        action(connection)
    assert caught.value.sqlstate == "08003"
    connection.cancel()


def test_close_rolls_back(connect: Any) -> None:
    keeper = connect(":memory:close", autocommit=True)
    keeper.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
    other = connect(":memory:close")
    other.execute("INSERT INTO t VALUES (1)")
    other.close()
    assert keeper.execute("SELECT count(*) FROM t").fetchone() == (0,)


class Bell:
    """Rings when the reaper comes to it, so after it dealt with everything that was dropped before."""

    def __init__(self) -> None:
        self.rung = threading.Event()

    def close(self) -> None:
        pass

    def release(self) -> None:
        self.rung.set()


def test_a_dropped_connection_warns_and_lets_its_database_go() -> None:
    connection = khonsu_sql.connect(":memory:dropped", autocommit=True)
    connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
    with pytest.warns(ResourceWarning, match="was not closed"):
        del connection
        gc.collect()
    bell: Any = Bell()
    databases.abandon(bell, bell)
    assert bell.rung.wait(60)
    with khonsu_sql.connect(":memory:dropped", autocommit=True) as fresh, pytest.raises(khonsu_sql.UndefinedTable):
        fresh.execute("SELECT * FROM t")


def test_connections_are_not_pickled_or_copied(connection: Connection) -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            attempt(connection)  # type: ignore[operator]


def test_the_exceptions_are_attributes(connection: Connection) -> None:
    with pytest.raises(connection.ProgrammingError):
        connection.execute("SELECT * FROM nowhere")
    assert connection.DataError is khonsu_sql.DataError


def test_threads_share_a_connection_one_statement_at_a_time(accounts: Connection) -> None:
    accounts.autocommit = True
    errors: list[BaseException] = []

    def work(account: int) -> None:
        try:
            for _ in range(50):
                accounts.execute("UPDATE accounts SET balance = balance + 1 WHERE id = ?", (account,))
                assert len(accounts.execute("SELECT id FROM accounts").fetchall()) == 5
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(1 + n % 2,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert balance(accounts, 1) == Decimal(200)
    assert balance(accounts, 2) == Decimal(300)


def test_cancel_from_another_thread(accounts: Connection) -> None:
    running = threading.Event()
    caught: list[BaseException] = []

    def work() -> None:
        running.set()
        try:
            accounts.execute("SELECT sum(a.range * b.range) FROM range(100000000) a, range(100000) b").fetchall()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    running.wait(10)
    while thread.is_alive():
        accounts.cancel()
        thread.join(0.05)
    assert isinstance(caught[0], khonsu_sql.QueryCanceled)
    assert caught[0].sqlstate == "57014"
    accounts.rollback()
    assert balance(accounts, 1) == 100
