"""The schema `khonsu`: its views are queried like tables, written by nobody, and read by no transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from khonsu_engine.database import Database
from khonsu_engine.schema.types import BIGINT, VARCHAR, arrow_from_rows
from khonsu_sql import errors
from khonsu_sql.local import LocalSession
from khonsu_sql.sql import system
from khonsu_sql.sql.cache import PlanCache
from khonsu_sql.sql.system.view import SystemView, view
from tests.stores import FaultyStore

Connect = Callable[..., LocalSession]


def rows(session: LocalSession, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    found = session.execute(sql, parameters).rows
    assert found is not None
    return found


@pytest.fixture
def shown() -> list[tuple[Any, ...]]:
    """What the view `khonsu.sample` shows."""
    return [("a", 1), ("b", 2), ("c", None)]


@pytest.fixture
def sample(shown: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A view that is declared as all are; the list grows with every time it is read."""
    read: list[int] = []

    def sample_rows(database: Database) -> list[tuple[Any, ...]]:
        read.append(len(shown))
        return list(shown)

    declared = view("sample", (("name", "VARCHAR"), ("number", "BIGINT")), sample_rows)
    monkeypatch.setitem(system._VIEWS, "sample", declared)
    yield read


# --- reading


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT * FROM khonsu.sample", [("a", 1), ("b", 2), ("c", None)]),
        ("SELECT number FROM khonsu.sample WHERE name = 'b'", [(2,)]),
        ('SELECT S."Number" FROM "Khonsu"."SAMPLE" AS s ORDER BY 1 LIMIT 1', [(1,)]),
        ("SELECT khonsu.sample.name FROM khonsu.sample WHERE khonsu.sample.number = 1", [("a",)]),
        ("SELECT count(*), sum(number) FROM khonsu.sample", [(3, 3)]),
        ("SELECT number IS NULL, count(*) FROM khonsu.sample GROUP BY 1 HAVING count(*) > 1", [(False, 2)]),
        ("SELECT v.name, t.v FROM t JOIN khonsu.sample AS v ON v.number = t.k ORDER BY t.k", [("a", "x"), ("b", "y")]),
        ("SELECT t.k FROM t LEFT JOIN khonsu.sample AS v ON v.number = t.k WHERE v.name IS NULL", [(3,)]),
        ("SELECT (SELECT name FROM khonsu.sample WHERE number = t.k) FROM t WHERE k = 2", [("b",)]),
        ("SELECT k FROM t WHERE k IN (SELECT number FROM khonsu.sample) ORDER BY k", [(1,), (2,)]),
        ("WITH sample AS (SELECT 9 AS n) SELECT n, number FROM sample, khonsu.sample AS v WHERE name = 'a'", [(9, 1)]),
        ("SELECT name FROM khonsu.sample UNION ALL SELECT v FROM t WHERE k = 3", [("a",), ("b",), ("c",), ("z",)]),
        ("SELECT x FROM khonsu.sample AS v(n, x) WHERE n = 'a'", [(1,)]),
    ],
)
def test_a_view_is_queried_like_a_table(session: LocalSession, sample: list[int], sql: str, expected: list[Any]) -> None:
    session.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v VARCHAR); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'z')")
    assert sorted(rows(session, sql)) == sorted(expected)
    assert len(sample) == 1, "read once, at the start of the statement"


def test_parameters_and_columns(session: LocalSession, sample: list[int]) -> None:
    result = session.execute("SELECT * FROM khonsu.sample WHERE number >= ?", (2,))
    assert result.rows == [("b", 2)]
    assert [(column.name, column.type) for column in result.columns or ()] == [("name", VARCHAR), ("number", BIGINT)]


def test_every_place_in_one_statement_sees_the_same_moment(session: LocalSession, sample: list[int]) -> None:
    assert rows(session, "SELECT count(*) FROM khonsu.sample AS a JOIN khonsu.sample AS b USING (name)") == [(3,)]
    assert len(sample) == 1


def test_each_statement_reads_it_anew(session: LocalSession, sample: list[int], shown: list[tuple[Any, ...]]) -> None:
    """Also in one transaction, whose snapshot stands, and with a plan from the cache."""
    session.execute("BEGIN")
    assert rows(session, "SELECT count(*) FROM khonsu.sample") == [(3,)]
    shown.append(("d", 4))
    assert rows(session, "SELECT count(*) FROM khonsu.sample") == [(4,)]


def test_a_view_may_be_an_arrow_table(session: LocalSession, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = arrow_from_rows([VARCHAR, BIGINT], [("a", 1)], ["name", "number"])
    declared = view("sample", (("name", "VARCHAR"), ("number", "BIGINT")), lambda database: pa.Table.from_batches([batch]))
    monkeypatch.setitem(system._VIEWS, "sample", declared)
    assert rows(session, "SELECT number, name FROM khonsu.sample") == [(1, "a")]


def test_plans_with_views_are_cached_and_survive_ddl(session: LocalSession, database: Database, sample: list[int]) -> None:
    plans: PlanCache = session._core._plans
    session.execute("SELECT name FROM khonsu.sample")
    session.execute("CREATE TABLE other (k INTEGER PRIMARY KEY)")
    assert plans.find("SELECT name FROM khonsu.sample", database.catalog) is not None


def test_explain_names_the_view(session: LocalSession, sample: list[int]) -> None:
    session.execute("CREATE TABLE t (k INTEGER PRIMARY KEY)")
    assert rows(session, "EXPLAIN SELECT * FROM khonsu.sample WHERE name = 'a'") == [("DuckDB path: system view khonsu.sample",)]
    (line,) = rows(session, "EXPLAIN SELECT * FROM t JOIN khonsu.sample ON k = number")[0]
    assert line.startswith("DuckDB path: scan t (") and line.endswith(", system view khonsu.sample")
    assert sample == [], "EXPLAIN runs nothing"


# --- writing what a view shows


def test_views_feed_writes(session: LocalSession, sample: list[int]) -> None:
    session.execute("CREATE TABLE t (k BIGINT PRIMARY KEY, v VARCHAR)")
    assert session.execute("INSERT INTO t SELECT number, name FROM khonsu.sample WHERE number IS NOT NULL").rowcount == 2
    assert session.execute("UPDATE t SET v = s.name || '!' FROM khonsu.sample AS s WHERE s.number = t.k").rowcount == 2
    assert rows(session, "DELETE FROM t WHERE k = 1 RETURNING v, (SELECT count(*) FROM khonsu.sample)") == [("a!", 3)]


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("INSERT INTO khonsu.locks VALUES (1)", "42501"),
        ("INSERT INTO Khonsu.LOCKS SELECT * FROM khonsu.locks", "42501"),
        ("UPDATE khonsu.locks SET mode = 'x'", "42501"),
        ("DELETE FROM khonsu.locks", "42501"),
        ("DROP TABLE khonsu.locks", "42501"),
        ("DROP TABLE IF EXISTS khonsu.Locks", "42501"),
        ("DROP TABLE khonsu.nothing", "42P01"),
        ("ALTER TABLE khonsu.locks SET (conflict_resolution = 'replace')", "42501"),
        ("CREATE TABLE khonsu.locks (a INTEGER)", "42501"),
        ("CREATE TABLE IF NOT EXISTS khonsu.mine (a INTEGER)", "42501"),
        ("SELECT * FROM khonsu.nothing", "42P01"),
        ("INSERT INTO khonsu.nothing VALUES (1)", "42P01"),
        ("SELECT * FROM other.khonsu.locks", "0A000"),
        ("SELECT nothing FROM khonsu.locks", "42703"),
        ("SELECT main.locks.mode FROM khonsu.locks", "42P01"),
        ("SELECT khonsu.t.k FROM t", "42P01"),
    ],
)
def test_refusals(session: LocalSession, sql: str, sqlstate: str) -> None:
    session.execute("CREATE TABLE t (k INTEGER PRIMARY KEY)")
    with pytest.raises(errors.Error) as caught:
        session.execute(sql)
    assert caught.value.sqlstate == sqlstate


def test_hints_name_the_view(session: LocalSession) -> None:
    for sql in ("SELECT * FROM khonsu.loks", "SELECT * FROM locks"):
        with pytest.raises(errors.UndefinedTable) as caught:
            session.execute(sql)
        assert caught.value.hint == 'Did you mean "khonsu.locks"?'


def test_a_table_of_the_same_name_is_another_one(session: LocalSession) -> None:
    session.execute("CREATE TABLE locks (k INTEGER PRIMARY KEY); INSERT INTO locks VALUES (1)")
    assert rows(session, "SELECT * FROM locks") == [(1,)]
    assert rows(session, "SELECT count(*) FROM khonsu.locks") == [(0,)]
    assert rows(session, "SELECT a.k FROM main.locks AS a LEFT JOIN khonsu.locks AS b ON b.key = 'x'") == [(1,)]


# --- nothing is read by it


def test_reading_a_view_is_no_read(connect: Connect, sample: list[int], shown: list[tuple[Any, ...]]) -> None:
    """At SERIALIZABLE: what a view shows may change under a transaction without a conflict."""
    a = connect()
    a.execute("CREATE TABLE t (k INTEGER PRIMARY KEY)")
    a.execute("BEGIN")
    rows(a, "SELECT * FROM khonsu.sample")
    engine = a._core.transaction.engine
    assert engine is not None and engine._reads.empty
    shown.clear()
    a.execute("INSERT INTO t VALUES (1)")
    a.commit()


def test_views_are_readable_while_writes_are_refused() -> None:
    store = FaultyStore()
    database = Database(store)
    session = LocalSession(database, autocommit=True)
    session.execute("CREATE TABLE t (k INTEGER PRIMARY KEY)")
    store.fail("sync")
    with pytest.raises(errors.CommitOutcomeUnknown):
        session.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(errors.IoError):
        session.execute("INSERT INTO t VALUES (2)")
    for name in system.view_names():
        assert rows(session, f"SELECT count(*) >= 0 FROM khonsu.{name}") == [(True,)]
    session.close()
    database.close()


def test_every_view_reads_its_declared_columns(session: LocalSession, database: Database) -> None:
    for name in system.view_names():
        declared: SystemView = system._VIEWS[name]
        result = session.execute(f"SELECT * FROM khonsu.{name}")
        assert [column.name for column in result.columns or ()] == [column.name for column in declared.table.columns]
        assert [column.type for column in result.columns or ()] == [column.type for column in declared.table.columns]


# --- what the views show


def test_looking_makes_no_transaction_id(connect: Connect) -> None:
    """Only the transaction's own thread makes it: one made by whoever looks would be another one."""
    a, b = connect(), connect()
    a.execute("CREATE TABLE t (k INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)")
    a.execute("BEGIN OPTIMISTIC")
    a.execute("INSERT INTO t VALUES (2)")
    assert rows(b, "SELECT transaction_id FROM khonsu.transactions WHERE writes = 1") == [(None,)]
    engine = a._core.transaction.engine
    assert engine is not None and engine._id is None
    a.commit()


def test_a_transaction_is_shown_as_what_its_session_does(connect: Connect, database: Database) -> None:
    a, b = connect(), connect()
    a.execute("CREATE TABLE t (k INTEGER PRIMARY KEY)")
    a.execute("BEGIN")
    a.execute("INSERT INTO t VALUES (1)")
    alone = database.begin()  # nobody's session
    shown = rows(b, "SELECT connection, state FROM khonsu.transactions")
    names = {session._core.transaction.name.hex(): state for session, state in ((a, "idle"), (b, "active"))}
    assert {name: state for name, state in shown if state is not None} == names
    assert [state for name, state in shown if name not in names] == [None]
    alone.rollback()


def test_a_transaction_that_is_dropped_is_gone(connect: Connect, database: Database) -> None:
    database.begin()
    assert rows(connect(), "SELECT count(*) FROM khonsu.transactions") == [(1,)], "the one that asks"


def test_bulk_writes_count_as_rows(connect: Connect) -> None:
    a, b = connect(), connect()
    a.execute("CREATE TABLE t (k BIGINT PRIMARY KEY)")
    a.execute("BEGIN")
    a.execute("INSERT INTO t SELECT range FROM range(10000)")
    assert rows(b, "SELECT writes FROM khonsu.transactions WHERE state = 'idle'") == [(10_000,)]
    a.rollback()


def test_metrics_are_what_the_database_measures(session: LocalSession, database: Database) -> None:
    session.execute("CREATE TABLE t (k INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)")
    shown = dict(rows(session, "SELECT name, value FROM khonsu.metrics"))
    assert shown.keys() == database.metrics.keys()
    for name in ("commits", "memtable_versions", "change_list_entries", "recent_commits_kept"):
        assert shown[name] == database.metrics[name] > 0, name
    database.checkpoint()
    after = dict(rows(session, "SELECT name, value FROM khonsu.metrics"))
    assert after["checkpoints"] == shown["checkpoints"] + 1 and after["segment_bytes"] > 0


def test_views_are_read_beside_busy_threads(connect: Connect, database: Database) -> None:
    """What they look at changes under them all the time."""
    connect().execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER, u VARCHAR UNIQUE)")
    stop = threading.Event()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        session, count = connect(), 0
        try:
            while not stop.is_set():
                count += 1
                try:
                    session.execute("BEGIN")
                    session.execute("INSERT INTO t VALUES (?, ?, ?)", (count % 5, number, f"{count % 7}"))
                    session.execute("DELETE FROM t WHERE k = ?", (count % 5,))
                    session.commit()
                except errors.DatabaseError:
                    session.rollback()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    reader = connect()
    try:
        for _ in range(30):
            for name in system.view_names():
                rows(reader, f"SELECT * FROM khonsu.{name}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert rows(reader, "SELECT name FROM khonsu.metrics WHERE name LIKE 'locks_%' AND value > 0") == []


def test_a_pinned_snapshot_is_no_transaction(connect: Connect, database: Database) -> None:
    """It keeps old versions all the same, so it counts as a snapshot."""
    session = connect()
    with database.snapshots.pinned(True, 0):
        assert rows(session, "SELECT count(*) FROM khonsu.transactions") == [(1,)]
        assert rows(session, "SELECT value FROM khonsu.metrics WHERE name IN ('open_transactions', 'snapshots') ORDER BY name") == [
            (1,),
            (2,),
        ]
