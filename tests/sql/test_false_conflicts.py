"""Predicates are exact: SERIALIZABLE does not refuse what is harmless, and does refuse its twin.

1,000 pairs of transactions: one reads with a condition, the other changes a row that does not meet it (or, in the twin, does);
then the first one writes elsewhere and commits. Disjoint pairs must all commit; each shape's overlapping twin must conflict.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

import khonsu_sql

PAIRS = 1_000

READS = (
    "SELECT n, s FROM t WHERE n = {v}",
    "SELECT count(*) FROM t WHERE n IN ({v}, -1)",
    "SELECT sum(id) FROM t WHERE n >= {v} AND n < {v} + 1",
    "SELECT s FROM t WHERE n BETWEEN {v} AND {v}",
    "SELECT n FROM t WHERE n = {v} OR n = -{v} - 7",
    "SELECT u.id FROM u JOIN t ON t.n = u.id WHERE t.n = {v}",
    "SELECT id FROM u WHERE id IN (SELECT n FROM t WHERE n = {v})",
    "SELECT id FROM u WHERE EXISTS (SELECT 1 FROM t WHERE t.n = {v})",
    "WITH c AS (SELECT * FROM t WHERE n = {v}) SELECT count(*) FROM c",
    "SELECT max(s) FROM t WHERE n = {v} AND s IS NOT NULL",
    "UPDATE u SET w = 1 WHERE id = (SELECT max(n) FROM t WHERE n = {v})",
    "INSERT INTO u SELECT 1000000 + id, 0 FROM t WHERE n = {v} AND id < 0",
    "SELECT n FROM t WHERE n = ?",
    "SELECT id FROM t WHERE n > ? - 1 AND n < 1 + ?",
)
"""`{v}` or the parameters are the value of n that is read."""


@pytest.fixture
def connections() -> Iterator[tuple[khonsu_sql.Connection, khonsu_sql.Connection]]:
    with khonsu_sql.connect(":memory:false", autocommit=True) as setup:
        setup.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, s VARCHAR)")
        setup.execute("CREATE TABLE u (id INTEGER PRIMARY KEY, w INTEGER)")
        setup.executemany("INSERT INTO t VALUES (?, ?, ?)", [(n, n, f"row {n}") for n in range(100)])
        with khonsu_sql.connect(":memory:false") as reader, khonsu_sql.connect(":memory:false") as writer:
            yield reader, writer


def conflicts(reader: khonsu_sql.Connection, writer: khonsu_sql.Connection, read: str, value: int, changed: int, number: int) -> bool:
    """Does reading `value` conflict with a change of the row with n = `changed`?"""
    parameters = (value,) * read.count("?")
    cursor = reader.execute(read.format(v=value), parameters)
    if cursor.description is not None:
        cursor.fetchall()
    writer.execute("UPDATE t SET s = ? WHERE id = ?", (f"change {number}", changed))
    writer.commit()
    reader.execute("INSERT INTO u VALUES (?, 0)", (number,))
    try:
        reader.commit()
    except khonsu_sql.errors.SerializationFailure:
        return True
    return False


def test_disjoint_pairs_never_conflict(connections: tuple[khonsu_sql.Connection, khonsu_sql.Connection]) -> None:
    reader, writer = connections
    chance = random.Random(7)
    refused = []
    for number in range(PAIRS):
        read = READS[number % len(READS)]
        value, changed = chance.sample(range(100), 2)
        if conflicts(reader, writer, read, value, changed, 1_000 + number):
            refused.append((read, value, changed))
    assert refused == [], f"{len(refused)} of {PAIRS} disjoint pairs were refused"


@pytest.mark.parametrize("read", READS)
def test_a_row_that_enters_conflicts(connections: tuple[khonsu_sql.Connection, khonsu_sql.Connection], read: str) -> None:
    reader, writer = connections
    cursor = reader.execute(read.format(v=42), (42,) * read.count("?"))
    if cursor.description is not None:
        cursor.fetchall()
    writer.execute("INSERT INTO t VALUES (-1, 42, 'new')")
    writer.commit()
    reader.execute("INSERT INTO u VALUES (9000, 0)")
    with pytest.raises(khonsu_sql.errors.SerializationFailure):
        reader.commit()


NOTHING = (
    "SELECT n FROM t WHERE id = 550",
    "SELECT n FROM t WHERE id IN (540, 550)",
    "SELECT n FROM t WHERE id BETWEEN 500 AND 600",
    "SELECT count(*) FROM t WHERE id > 500",
    "SELECT id FROM t WHERE c = 550",
    "SELECT id FROM t WHERE c > 500",
    "SELECT n FROM t WHERE n = 550",
    "SELECT n FROM t WHERE s LIKE 'nobody%'",
    "SELECT u.id FROM u JOIN t ON t.n = u.id WHERE t.n = 550",
    "UPDATE t SET s = 'none' WHERE n = 550",
    "UPDATE t SET s = 'none' WHERE id = 550",
    "DELETE FROM t WHERE id > 500",
    "INSERT INTO u SELECT id, 0 FROM t WHERE n = 550",
)
"""What finds nothing, until (550, 550, 'nobody', 550) is there."""

SOMETHING = (
    "SELECT n FROM t WHERE id = 42",
    "SELECT n FROM t WHERE id IN (41, 42)",
    "SELECT n FROM t WHERE id BETWEEN 40 AND 44",
    "SELECT sum(n) FROM t WHERE id > 40",
    "SELECT n FROM t WHERE c = 42",
    "SELECT n FROM t WHERE c > 40",
    "SELECT id FROM t WHERE n = 42",
    "SELECT n FROM t ORDER BY id",
    "SELECT u.id FROM u JOIN t ON t.n = u.id WHERE t.id = 42",
    "INSERT INTO u SELECT 5000 + n, 0 FROM t WHERE id = 42",
)
"""What uses n of row 42, and not its s."""


def unique_column(writer: khonsu_sql.Connection) -> None:
    """t with a column more: c, unique and equal to n."""
    writer.execute("DROP TABLE t")
    writer.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, s VARCHAR, c INTEGER UNIQUE)")
    writer.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", [(n, n, f"row {n}", n) for n in range(100)])
    writer.commit()


def committed_after(reader: khonsu_sql.Connection, writer: khonsu_sql.Connection, read: str, change: str) -> bool:
    """Does the reader, who writes elsewhere, commit after that change?"""
    cursor = reader.execute(read)
    if cursor.description is not None:
        cursor.fetchall()
    writer.execute(change)
    writer.commit()
    reader.execute("INSERT INTO u VALUES (9000, 0)")
    try:
        reader.commit()
    except khonsu_sql.errors.SerializationFailure:
        return False
    return True


@pytest.mark.parametrize("read", NOTHING)
def test_a_read_of_nothing_is_a_read(connections: tuple[khonsu_sql.Connection, khonsu_sql.Connection], read: str) -> None:
    reader, writer = connections
    unique_column(writer)
    assert not committed_after(reader, writer, read, "INSERT INTO t VALUES (550, 550, 'nobody', 550)")


@pytest.mark.parametrize("read", SOMETHING)
def test_the_columns_used_are_those_that_conflict(connections: tuple[khonsu_sql.Connection, khonsu_sql.Connection], read: str) -> None:
    reader, writer = connections
    unique_column(writer)
    assert not committed_after(reader, writer, read, "UPDATE t SET n = -1 WHERE id = 42")
    writer.execute("UPDATE t SET n = 42 WHERE id = 42")
    writer.commit()
    assert committed_after(reader, writer, read, "UPDATE t SET s = 'other' WHERE id = 42")


@pytest.mark.parametrize("columns", ["n", "n, s", "s, n"])
def test_the_columns_of_several_reads_of_a_row_add_up(
    connections: tuple[khonsu_sql.Connection, khonsu_sql.Connection], columns: str
) -> None:
    reader, writer = connections
    for column in columns.split(", "):
        reader.execute(f"SELECT {column} FROM t WHERE id = 42").fetchall()
    assert not committed_after(reader, writer, "SELECT id FROM t WHERE id = 42", "UPDATE t SET n = -1 WHERE id = 42")
