"""The workloads, each a function Settings -> results. Every one checks what it left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

import khonsu_sql
from benchmarks import data
from benchmarks.measure import Comparison, Fact, clock, compare, percentile
from benchmarks.rivals import duckdb_connection, sqlite_connection

__all__ = ["WORKLOADS", "Settings"]


class Settings(msgspec.Struct):
    """`rows` of the big table, `scale` 0..1 shrinks operation counts (quick runs), `directory` for files.

    The concurrent workloads: `seconds` a side and round, with each of these numbers of `threads`."""

    directory: Path
    rows: int = 1_000_000
    scale: float = 1.0
    rounds: int = 5
    seconds: float = 1.0
    threads: tuple[int, ...] = (1, 2, 4, 8, 16)

    def count(self, full: int) -> int:
        return max(32, int(full * self.scale))


def _filled(settings: Settings, name: str, table: pa.Table | None = None) -> Path:
    """A Khonsu database with the big table, ingested, checkpointed and closed."""
    path = settings.directory / name
    with khonsu_sql.connect(path, autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute(data.CREATE)
        cursor.ingest("items", table if table is not None else data.table_of(settings.rows), mode="append")
        connection.checkpoint()
    return path


def _sqlite_filled(settings: Settings, path: str = ":memory:") -> Any:
    connection = sqlite_connection(path)
    connection.execute(data.CREATE)
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", data.rows_of(data.table_of(settings.rows)))
    connection.execute("COMMIT")
    return connection


def _duckdb_filled(settings: Settings, path: str = ":memory:") -> Any:
    connection = duckdb_connection(path)
    connection.execute(data.CREATE)
    rows = data.table_of(settings.rows)
    connection.register("incoming", rows)
    connection.execute("INSERT INTO items SELECT * FROM incoming")
    connection.unregister("incoming")
    return connection


SELECT = "SELECT id, price, quantity, name FROM items WHERE id = ?"
UPDATE = "UPDATE items SET quantity = ? WHERE id = ?"


def _reads(execute: Callable[..., Any], keys: list[int]) -> Callable[[], int]:
    def run() -> int:
        for key in keys:
            row = execute(SELECT, (key,)).fetchone()
            assert row[0] == key
        return len(keys)

    return run


def _updates(execute: Callable[..., Any], keys: list[int]) -> Callable[[], int]:
    state = [0]

    def run() -> int:
        state[0] += 1
        value = state[0]
        for key in keys:
            execute(UPDATE, (value, key))
        assert execute(SELECT, (keys[0],)).fetchone()[2] == value
        return len(keys)

    return run


def point_select(settings: Settings) -> Iterator[Comparison | Fact]:
    """Point SELECT of all columns on rows that were ingested, checkpointed and reopened."""
    path = _filled(settings, "select.khonsu")
    started = clock()
    connection = khonsu_sql.connect(path, autocommit=True)
    cursor = connection.cursor()
    cursor.execute(SELECT, (0,)).fetchone()
    yield Fact("open 1M rows and read one", (clock() - started) * 1e3, 100 + 50, "ms", "a process that has the modules loaded")
    sqlite = _sqlite_filled(settings)
    keys = data.keys_of(settings.rows, settings.count(200_000))
    sqlite_cursor = sqlite.cursor()
    theirs = _reads(sqlite_cursor.execute, keys)
    yield compare("point SELECT, autocommit", "sqlite3 memory", 0.5, _reads(cursor.execute, keys), theirs, rounds=settings.rounds)
    few = keys[: settings.count(1_000)]
    duck = _duckdb_filled(settings)
    yield compare(
        "point SELECT, autocommit", "DuckDB memory", 50, _reads(cursor.execute, few), _reads(duck.execute, few), rounds=settings.rounds
    )
    connection.close()
    transactional = khonsu_sql.connect(path)
    yield compare(
        "point SELECT, SERIALIZABLE, 100 per transaction",
        "sqlite3 memory",
        0.4,
        _in_transactions(transactional.cursor().execute, transactional.commit, keys, None),
        _in_transactions(sqlite_cursor.execute, sqlite.commit, keys, "BEGIN"),
        rounds=settings.rounds,
    )
    transactional.close()


def _in_transactions(execute: Callable[..., Any], commit: Callable[[], None], keys: list[int], begin: str | None) -> Callable[[], int]:
    def run() -> int:
        for start in range(0, len(keys), 100):
            if begin is not None:
                execute(begin)
            for key in keys[start : start + 100]:
                assert execute(SELECT, (key,)).fetchone()[0] == key
            commit()
        return len(keys)

    return run


def point_update(settings: Settings) -> Iterator[Comparison]:
    """Point UPDATE, all in memory, and durable."""
    keys = data.keys_of(settings.rows, settings.count(20_000))
    few = keys[: settings.count(500)]
    ours = khonsu_sql.connect(":memory:", autocommit=True)
    ours.cursor().execute(data.CREATE)
    ours.cursor().ingest("items", data.table_of(settings.rows), mode="append")
    duck = _duckdb_filled(settings)
    mine = _updates(ours.cursor().execute, keys)
    yield compare("point UPDATE, memory, autocommit", "DuckDB memory", 50, mine, _updates(duck.execute, few), rounds=settings.rounds)
    sqlite = _sqlite_filled(settings)
    yield compare(
        "point UPDATE, memory, autocommit", "sqlite3 memory", 0, mine, _updates(sqlite.cursor().execute, keys), rounds=settings.rounds
    )
    ours.close()
    durable = khonsu_sql.connect(_filled(settings, "update.khonsu"), autocommit=True)
    file = _duckdb_filled(settings, str(settings.directory / "update.duckdb"))
    some = keys[: settings.count(2_000)]
    yield compare(
        "point UPDATE, durable, autocommit",
        "DuckDB file",
        2,
        _updates(durable.cursor().execute, some),
        _updates(file.execute, few),
        rounds=settings.rounds,
    )
    durable.close()


def ingest(settings: Settings) -> Iterator[Comparison | Fact]:
    """Bulk ingest of the big table with a primary key, sorted and shuffled, durable; and what it does to other threads."""
    number = [0]
    for order in ("sorted", "shuffled"):
        table = data.table_of(settings.rows, shuffled=order == "shuffled")
        tuples = data.rows_of(table)

        def ours(table: pa.Table = table) -> int:
            number[0] += 1
            with khonsu_sql.connect(settings.directory / f"ingest{number[0]}.khonsu", autocommit=True) as connection:
                cursor = connection.cursor()
                cursor.execute(data.CREATE)
                cursor.ingest("items", table, mode="append")
                assert cursor.execute("SELECT count(*) FROM items").fetchone() == (settings.rows,)
            return settings.rows

        def duck(table: pa.Table = table) -> int:
            number[0] += 1
            connection = duckdb_connection(str(settings.directory / f"ingest{number[0]}.duckdb"))
            connection.execute(data.CREATE)
            connection.register("incoming", table)
            connection.execute("INSERT INTO items SELECT * FROM incoming")
            assert connection.execute("SELECT count(*) FROM items").fetchone() == (settings.rows,)
            connection.close()
            return settings.rows

        def sqlite(tuples: list[Any] = tuples) -> int:
            number[0] += 1
            connection = sqlite_connection(str(settings.directory / f"ingest{number[0]}.sqlite"))
            connection.execute(data.CREATE)
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", tuples)
            connection.execute("COMMIT")
            assert connection.execute("SELECT count(*) FROM items").fetchone() == (settings.rows,)
            connection.close()
            return settings.rows

        yield compare(f"ingest, keys {order}", "DuckDB file", 0.7, ours, duck, rounds=min(3, settings.rounds))
        yield compare(f"ingest, keys {order}", "sqlite3 executemany", 5, ours, sqlite, rounds=1)
    yield _stall(settings)


def _stall(settings: Settings) -> Fact:
    """p99 of how late a thread is that does one point read a millisecond while another thread ingests."""
    connection = khonsu_sql.connect(settings.directory / "stall.khonsu", autocommit=True)
    cursor = connection.cursor()
    cursor.execute(data.CREATE)
    cursor.execute("CREATE TABLE other (id BIGINT PRIMARY KEY, n INTEGER)")
    cursor.execute("INSERT INTO other VALUES (1, 1)")
    table = data.table_of(settings.rows, shuffled=True)
    done = threading.Event()

    def work() -> None:
        with khonsu_sql.connect(settings.directory / "stall.khonsu", autocommit=True) as mine:
            mine.cursor().ingest("items", table, mode="append")
        done.set()

    late: list[float] = []
    worker = threading.Thread(target=work)
    worker.start()
    while not done.is_set():
        due = clock() + 0.001
        time.sleep(0.001)
        cursor.execute("SELECT n FROM other WHERE id = 1").fetchone()
        late.append((clock() - due) * 1e3)
    worker.join()
    connection.close()
    note = f"{len(late)} reads, worst {max(late):.1f} ms"
    return Fact("stall of other threads during ingest, p99", percentile(late, 0.99), 10, "ms", note)


QUERIES = {
    "sum, avg": "SELECT count(*), sum(quantity), avg(price) FROM items",
    "filter": "SELECT count(*), max(price) FROM items WHERE quantity BETWEEN 100 AND 300 AND price > 50",
    "group by text": "SELECT name, count(*), sum(price) FROM items GROUP BY name ORDER BY 2 DESC, 1 LIMIT 5",
    "self-join": "SELECT count(*), sum(a.price) FROM items a JOIN items b ON b.id = a.id + 2 WHERE a.quantity = b.quantity",
    "window": "SELECT max(r) FROM (SELECT row_number() OVER (PARTITION BY quantity ORDER BY price) AS r FROM items)",
}


def analytics(settings: Settings) -> Iterator[Comparison]:
    """Aggregates and joins over the whole table against DuckDB's own storage, clean and with 1 % of the rows updated."""
    connection = khonsu_sql.connect(_filled(settings, "scan.khonsu"), autocommit=True)
    duck = _duckdb_filled(settings, str(settings.directory / "scan.duckdb"))
    duck.execute("CHECKPOINT")
    yield from _queries("clean", 0.6, connection, duck, settings)
    keys = sorted(set(data.keys_of(settings.rows, settings.rows // 100)))
    cursor = connection.cursor()
    cursor.execute("BEGIN")
    for key in keys:
        cursor.execute("UPDATE items SET price = price + 1 WHERE id = ?", (key,))
    cursor.execute("COMMIT")
    duck.register("changed", pa.table({"id": keys}))
    duck.execute("UPDATE items SET price = price + 1 WHERE id IN (SELECT id FROM changed)")
    yield from _queries("1 % updated", 0.35, connection, duck, settings)
    connection.close()


def _queries(state: str, target: float, connection: Any, duck: Any, settings: Settings) -> Iterator[Comparison]:
    for name, query in QUERIES.items():
        expected = duck.execute(query).fetchall()
        got = connection.execute(query).fetchall()
        assert _close(got, expected), f"{name}: {got} and {expected}"

        def run(execute: Callable[[str], Any], query: str = query) -> int:
            for _ in range(3):
                execute(query).fetchall()
            return 3

        yield compare(
            f"{name}, {state}",
            "DuckDB file",
            target,
            lambda run=run: run(connection.execute),
            lambda run=run: run(duck.execute),
            rounds=settings.rounds,
        )


def _close(left: list[Any], right: list[Any]) -> bool:
    pairs = zip([value for row in left for value in row], [value for row in right for value in row], strict=True)
    return all(abs(a - b) <= 1e-6 * max(1.0, abs(b)) if isinstance(b, float) else a == b for a, b in pairs)


def growth(settings: Settings) -> Iterator[Fact]:
    """A durable single-row INSERT must not care how large the table is."""
    small = khonsu_sql.connect(_filled(settings, "small.khonsu", data.table_of(1_000)), autocommit=True)
    large = khonsu_sql.connect(_filled(settings, "large.khonsu"), autocommit=True)
    numbers = {id(small): 1, id(large): 1}

    def insert(connection: Any) -> int:
        cursor = connection.cursor()
        for _ in range(settings.count(2_000)):
            numbers[id(connection)] += 2
            cursor.execute("INSERT INTO items VALUES (?, 1.5, 3, 'new')", (-numbers[id(connection)],))
        return settings.count(2_000)

    compared = compare("", "", 0, lambda: insert(small), lambda: insert(large), rounds=settings.rounds)
    small.close()
    large.close()
    yield Fact("durable INSERT, 1M rows against 1k rows", compared.ratio, 1.3, "x the time")


MEMORY = """
import sys, khonsu_sql
def rss():
    return int([line for line in open("/proc/self/status") if line.startswith("VmRSS")][0].split()[1]) * 1024
connection = khonsu_sql.connect(sys.argv[1], autocommit=True)
cursor = connection.cursor()
cursor.execute("SELECT count(id), sum(price), sum(quantity), max(length(name)) FROM items").fetchall()
for key in range(0, 2 * int(sys.argv[2]), 2000):
    cursor.execute("SELECT id, price, quantity, name FROM items WHERE id = ?", (key,)).fetchone()
print(rss())
"""


def memory(settings: Settings) -> Iterator[Fact]:
    """RSS of a fresh process that read every column and every 1,000th row, less that of one on an empty table."""
    table = data.table_of(settings.rows)
    full, empty = _filled(settings, "full.khonsu"), _filled(settings, "empty.khonsu", table.slice(0, 0))
    commands = [[sys.executable, "-c", MEMORY, str(path), str(settings.rows)] for path in (full, empty)]
    sizes = [int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for command in commands]
    ratio = (sizes[0] - sizes[1]) / table.nbytes
    yield Fact("memory of 1M rows, of their Arrow size", ratio, 1.5, "x", f"{(sizes[0] - sizes[1]) >> 20} MiB for {table.nbytes >> 20} MiB")


WORKLOADS: dict[str, Callable[[Settings], Iterator[Comparison | Fact]]] = {
    "point_select": point_select,
    "point_update": point_update,
    "ingest": ingest,
    "analytics": analytics,
    "growth": growth,
    "memory": memory,
}
