"""SET, SHOW, the plan cache, EXPLAIN and cancellation of a session."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from khonsu_engine.commands import Isolation
from khonsu_engine.schema.catalog import Catalog
from khonsu_sql import errors
from khonsu_sql.local import LocalSession
from khonsu_sql.session import TransactionStatus
from khonsu_sql.sql.cache import PlanCache
from khonsu_sql.sql.plan import ParameterSpec, Query, Statement
from khonsu_sql.sql.settings import SPECS


def shown(session: LocalSession, name: str) -> object:
    rows = session.execute(f"SHOW {name}").rows
    assert rows is not None
    return rows[0][0]


def test_set_and_show(session: LocalSession) -> None:
    session.execute("SET point_path = off")
    assert shown(session, "point_path") == "off"
    session.execute("SET default_transaction_isolation = 'repeatable read'")
    assert shown(session, "default_transaction_isolation") == "repeatable read"
    assert session.isolation is Isolation.REPEATABLE_READ
    assert session.status is TransactionStatus.IDLE
    everything = session.execute("SHOW ALL").rows
    assert everything is not None and ("point_path", "off") in [row[:2] for row in everything]


def test_default_gives_the_default_back(session: LocalSession) -> None:
    session.execute("SET stream_rows_min = 7")
    session.execute("SET stream_rows_min = DEFAULT")
    assert shown(session, "stream_rows_min") == "10000"


def test_the_environment_turns_the_point_path_off(session: LocalSession, connect: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KHONSU_POINT_PATH", "off")
    assert shown(connect(), "point_path") == "off"


@pytest.mark.parametrize(
    ("sql", "sqlstate", "message"),
    [
        ("SET pointpath = on", "42704", "point_path"),
        ("SHOW nothing_like_it", "42704", "SHOW ALL"),
        ("SET point_path = maybe", "22023", "on or off"),
        ("SET stream_rows_min = -1", "22023", "positive"),
        ("SET default_transaction_isolation = 'chaos'", "22023", "read committed"),
        ("SET lock_timeout = 'soon'", "22023", "milliseconds"),
        ("SET locking = 'never'", "22023", "optimistic"),
        ("SET history_window = 1", "0A000", "history"),
    ],
)
def test_bad_settings(session: LocalSession, sql: str, sqlstate: str, message: str) -> None:
    with pytest.raises(errors.Error) as caught:
        session.execute(sql)
    assert caught.value.sqlstate == sqlstate
    assert message in str(caught.value)


def test_the_statement_limit(session: LocalSession) -> None:
    session.execute("SET statement_bytes_max = 100")
    with pytest.raises(errors.ProgramLimitExceeded):
        session.execute(f"SELECT '{'x' * 100}'")


def test_explain_names_the_path(session: LocalSession) -> None:
    session.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, n INTEGER)")
    session.execute("INSERT INTO t SELECT i, i FROM range(20000) r(i)")
    session.execute("SET point_path = off")
    (line,) = session.execute("EXPLAIN SELECT sum(n) FROM t WHERE id < 5").rows or [("",)]
    assert str(line[0]).startswith("DuckDB path: scan t (")
    (line,) = session.execute("EXPLAIN UPDATE t SET n = 0").rows or [("",)]
    assert str(line[0]).startswith("DuckDB path: update t from scan t (")
    assert session.execute("SELECT sum(n) AS s FROM t").rows == [(sum(range(20000)),)]


def test_cancel_from_another_thread(session: LocalSession) -> None:
    caught: list[BaseException] = []
    started = threading.Event()

    def query() -> None:
        started.set()
        try:
            session.execute("SELECT count(*) AS c FROM range(100000) a(i), range(100000) b(j) WHERE (i * j) % 7 = 3")
        except errors.Error as error:
            caught.append(error)

    thread = threading.Thread(target=query)
    thread.start()
    started.wait()
    while thread.is_alive():
        session.cancel()
        thread.join(0.01)
    assert [type(error) for error in caught] == [errors.QueryCanceled]
    assert session.execute("SELECT 1 AS one").rows == [(1,)]


def test_every_setting_is_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "sql.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [spec.name for spec in SPECS]


# --- the plan cache


def statement(sql: str) -> Statement:
    return Statement(Query(sql, ()), ParameterSpec())


def test_the_cache_is_bounded_and_keeps_what_is_used() -> None:
    cache, catalog = PlanCache(3), Catalog(0, {})
    for name in "abc":
        cache.add(name, statement(name), catalog)
    assert cache.find("a", catalog) is not None
    cache.add("d", statement("d"), catalog)
    assert len(cache) == 3
    assert cache.find("b", catalog) is None
    assert all(cache.find(name, catalog) is not None for name in "acd")
    cache.add("e", statement("e"), catalog)
    assert len(cache) == 3


def test_long_texts_are_not_cached() -> None:
    cache, catalog = PlanCache(), Catalog(0, {})
    cache.add("x" * 100_000, statement("x"), catalog)
    assert len(cache) == 0
