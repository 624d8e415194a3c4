"""One open database per real path and process: sharing, other options, other processes, forks, the end of the process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import khonsu_sql
from khonsu_sql import databases

ROOT = Path(__file__).resolve().parents[2]
PYTHONPATH = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'engine'}"}


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=PYTHONPATH, capture_output=True, text=True, timeout=60)


def test_a_database_survives_its_connections(tmp_path: Path) -> None:
    for count in range(3):
        with khonsu_sql.connect(tmp_path / "db") as connection:
            connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)") if count == 0 else None
            connection.execute("INSERT INTO t VALUES (?)", (count,))
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (count + 1,)


def test_connections_by_different_names_share_one_database(tmp_path: Path, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = connect(tmp_path / "db", autocommit=True)
    os.symlink(tmp_path / "db", tmp_path / "link")
    first.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
    for number, name in enumerate(("db", "link", "./db", "khonsu:///link", f"khonsu:///{tmp_path}/db")):
        connect(name, autocommit=True).execute("INSERT INTO t VALUES (?)", (number,))
    assert first.execute("SELECT count(*) FROM t").fetchone() == (5,)


def test_memory_is_private_unless_it_has_a_name(connect: Any) -> None:
    first, named = connect(":memory:", autocommit=True), connect(":memory:shared", autocommit=True)
    first.execute("CREATE TABLE t (a INTEGER)")
    named.execute("CREATE TABLE t (a INTEGER)")
    with pytest.raises(khonsu_sql.UndefinedTable):
        connect(":memory:").execute("SELECT * FROM t")
    with pytest.raises(khonsu_sql.UndefinedTable):
        connect(":memory:other").execute("SELECT * FROM t")
    assert connect(":memory:shared").execute("SELECT * FROM t").fetchall() == []


def test_a_named_database_in_memory_ends_with_its_last_connection(connect: Any) -> None:
    first = connect(":memory:ends", autocommit=True)
    second = connect(":memory:ends", autocommit=True)
    first.execute("CREATE TABLE t (a INTEGER)")
    first.close()
    second.execute("SELECT * FROM t")
    second.close()
    with pytest.raises(khonsu_sql.UndefinedTable):
        connect(":memory:ends").execute("SELECT * FROM t")


def test_other_options_at_the_second_connect_are_an_error(tmp_path: Path, connect: Any) -> None:
    connect(tmp_path / "db", synchronous="normal")
    with pytest.raises(khonsu_sql.ObjectInUse, match="synchronous") as caught:
        connect(tmp_path / "db")
    assert caught.value.sqlstate == "55006"
    connect(tmp_path / "db", synchronous="normal", isolation_level="REPEATABLE READ", autocommit=True).execute("SELECT 1")


def test_a_refused_connect_leaves_nothing_open(tmp_path: Path) -> None:
    first = khonsu_sql.connect(tmp_path / "db")
    with pytest.raises(khonsu_sql.ObjectInUse):
        khonsu_sql.connect(tmp_path / "db", synchronous="off")
    first.close()
    with khonsu_sql.connect(tmp_path / "db", synchronous="off") as connection:
        connection.execute("SELECT 1")


def test_another_process_is_refused(tmp_path: Path, connect: Any) -> None:
    connect(tmp_path / "db")
    code = "import khonsu_sql, sys\ntry: khonsu_sql.connect(sys.argv[1])\nexcept khonsu_sql.ObjectInUse as e: print(e.sqlstate, e)"
    answer = run(code, tmp_path / "db")
    assert answer.stdout.startswith("55006"), answer
    assert str(tmp_path / "db") in answer.stdout


def test_directories_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a database")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "something.txt").write_text("of another program")
    for name in ("file", "other", "file/below"):
        with pytest.raises(khonsu_sql.CannotConnect) as caught:
            khonsu_sql.connect(tmp_path / name)
        assert caught.value.sqlstate == "08001" and name.partition("/")[0] in str(caught.value)
    with pytest.raises(khonsu_sql.CannotConnect):
        khonsu_sql.connect(tmp_path / "absent", read_only=True)
    assert not (tmp_path / "absent").exists()


def test_many_threads_connect_and_close_at_once(tmp_path: Path) -> None:
    khonsu_sql.connect(tmp_path / "db", autocommit=True).execute("CREATE TABLE t (a INTEGER PRIMARY KEY)").connection.close()
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(10):
                with khonsu_sql.connect(tmp_path / "db", autocommit=True, synchronous="off") as connection:
                    connection.execute("INSERT INTO t VALUES (?)", (thread * 100 + number,))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    with khonsu_sql.connect(tmp_path / "db") as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (40,)


def test_a_dropped_connection_that_cannot_be_closed_stops_nobody_else(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = connect(":memory:good", autocommit=True)
    watcher.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
    watcher.execute("INSERT INTO t VALUES (1)")
    bad, good = khonsu_sql.connect(":memory:bad"), khonsu_sql.connect(":memory:good")
    good.execute("SELECT a FROM t FOR UPDATE")
    reaper, failed = databases._reaper, threading.Event()

    def close() -> None:
        failed.set()
        raise OSError("the disk is gone")

    monkeypatch.setattr(bad._lease.database.store, "close", close)
    with pytest.warns(ResourceWarning):
        del bad, good
        gc.collect()
    assert failed.wait(20)
    watcher.execute("UPDATE t SET a = 2")  # waits for the lock
    assert reaper is not None and reaper.is_alive() and reaper is databases._reaper


FORK_UNDER_LATCHES = """
import os, signal, threading
import khonsu_sql
from khonsu_engine.columns import recent
from khonsu_sql import databases, sessions
from khonsu_sql.sql import cache
from khonsu_sql.sql.query import instance
held, over = threading.Event(), threading.Event()
def hold():
    with recent._making, databases._latch, sessions._latch, cache._latch, instance._latch:
        held.set()
        over.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    connection = khonsu_sql.connect(":memory:")
    connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.commit()
    os._exit(connection.execute("SELECT sum(a) FROM t").fetchone() != (1,))
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
over.set()
thread.join()
assert status == 0, status
"""


def test_a_fork_while_others_hold_latches(tmp_path: Path) -> None:
    answer = run(FORK_UNDER_LATCHES, tmp_path / "db")
    assert answer.returncode == 0, answer.stderr


FORK = """
import os, sys, khonsu_sql
connection = khonsu_sql.connect(sys.argv[1], autocommit=True)
connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
connection.execute("INSERT INTO t VALUES (1)")
cursor = connection.execute("SELECT a FROM t")
child = os.fork()
if child == 0:
    for action in (lambda: connection.execute("SELECT 1"), connection.commit, connection.cursor, cursor.fetchone, cursor.fetchall):
        try:
            action()
        except khonsu_sql.ConnectionDoesNotExist as error:
            assert "forked" in str(error), error
        else:
            os._exit(1)
    try:
        khonsu_sql.connect(sys.argv[1])
    except khonsu_sql.ObjectInUse:
        pass
    else:
        os._exit(2)
    with khonsu_sql.connect(":memory:") as own:
        own.execute("CREATE TABLE mine (a INTEGER)")
    connection.close()
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert cursor.fetchall() == [(1,)]
connection.execute("INSERT INTO t VALUES (2)")
connection.close()
print(khonsu_sql.connect(sys.argv[1]).execute("SELECT count(*) FROM t").fetchone())
"""


def test_after_fork_a_connection_refuses_and_the_parents_database_is_whole(tmp_path: Path) -> None:
    answer = run(FORK, tmp_path / "db")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == ["(2,)"]


@pytest.mark.parametrize("synchronous", ["full", "normal", "off"])
def test_what_is_open_at_exit_is_closed_in_order(tmp_path: Path, synchronous: str) -> None:
    code = (
        "import khonsu_sql, sys\n"
        "connection = khonsu_sql.connect(sys.argv[1], autocommit=True, synchronous=sys.argv[2])\n"
        "connection.execute('CREATE TABLE t (a INTEGER PRIMARY KEY)')\n"
        "connection.execute('INSERT INTO t VALUES (1)')\n"
        "reader = connection.execute('SELECT range FROM range(1000000)')\n"
        "reader.fetchone()\n"
    )
    answer = run(code, tmp_path / "db", synchronous)
    assert (answer.returncode, answer.stdout) == (0, ""), answer.stderr
    assert "Traceback" not in answer.stderr and "leak" not in answer.stderr
    with khonsu_sql.connect(tmp_path / "db") as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]


def test_ctrl_c_cancels_the_statement_and_leaves_the_connection_usable(tmp_path: Path) -> None:
    code = """
import khonsu_sql, os, signal, sys, threading
connection = khonsu_sql.connect(sys.argv[1], autocommit=True)
connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
connection.execute("SELECT 1").fetchall()
timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
timer.start()
try:
    connection.execute("SELECT sum(a.range * b.range) FROM range(100000000) a, range(100000) b").fetchall()
except KeyboardInterrupt:
    print("interrupted")
connection.execute("INSERT INTO t VALUES (1)")
print(connection.execute("SELECT * FROM t").fetchall(), connection.in_transaction)
connection.close()
"""
    answer = run(code, tmp_path / "db")
    assert answer.stdout.splitlines() == ["interrupted", "[(1,)] False"], answer.stderr
