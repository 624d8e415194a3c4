"""The point path means exactly what the DuckDB path means, errors included, and it is really taken.

Two databases run the same statements with the same parameters, one with the point path, one without. After each statement rows, row
counts or the error's SQLSTATE must be the same, and at the end the tables. Parameters are mostly ordinary and sometimes absurd.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import khonsu_sql
from khonsu_sql.sql import execute as executor

CREATE = """CREATE TABLE t (
    a BIGINT, b VARCHAR, n INTEGER CHECK (n >= -5 AND n <> 4 OR n IN (4, 5)), x DOUBLE,
    s VARCHAR NOT NULL, d DECIMAL(9,2), day DATE, ok BOOLEAN, small SMALLINT,
    PRIMARY KEY (a, b))"""
SIMPLE = "CREATE TABLE k (id BIGINT PRIMARY KEY, v INTEGER CHECK (v < 1000), label VARCHAR UNIQUE, w DOUBLE DEFAULT 1.5)"
LOOSE = "CREATE TABLE loose (n INTEGER, s VARCHAR)"
PAIRED = "CREATE TABLE p (a INTEGER PRIMARY KEY, k_id BIGINT, u BIGINT UNIQUE, c INTEGER NOT NULL, e VARCHAR NOT NULL, f DATE, UNIQUE (c, e), UNIQUE (e, f))"

keys = st.integers(-3, 6)
names = st.sampled_from(["", "a", "b", "Ä", "ab", "z" * 20])
integers = st.one_of(st.integers(-5, 5), st.sampled_from([2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63), 32_767]))
floats = st.one_of(st.sampled_from([0.0, -0.0, 1.5, -2.25, 1e308, float("nan"), float("inf")]), st.floats(-10, 10, width=32))
texts = st.one_of(names, st.text(max_size=4))
decimals = st.decimals(-99, 99, places=2)
days = st.dates(datetime.date(1999, 1, 1), datetime.date(2001, 1, 1))
absurd = st.one_of(st.none(), st.booleans(), st.sampled_from([10**30, "7", "nul\0", "\ud800", b"x", 2.5, Decimal("1.10")]))


def mostly(ordinary: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Nine times of ten an ordinary value."""
    return st.integers(0, 9).flatmap(lambda dice: absurd if dice == 0 else ordinary)


def nullable(ordinary: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return mostly(st.one_of(ordinary, ordinary, ordinary, st.none()))


OPEN_RANGE = "SELECT a FROM p WHERE e = ? ORDER BY a"
"""Not to be found through UNIQUE (e, f), which knows no row with a NULL in f."""

TEMPLATES: list[tuple[str, tuple[st.SearchStrategy[Any], ...]]] = [
    ("SELECT * FROM k WHERE id = ?", (mostly(keys),)),
    ("SELECT label, id FROM k WHERE ? = id AND v > ?", (mostly(keys), mostly(integers))),
    *[(f"SELECT id FROM k WHERE id = ? AND v {sign} ?", (keys, keys)) for sign in ("=", "<>", "<", "<=", ">", ">=")],
    ("SELECT v, w FROM k WHERE label = ?", (mostly(texts),)),
    ("SELECT id FROM k WHERE id = ? AND w <= ?", (mostly(keys), mostly(floats))),
    ("SELECT id, v FROM k WHERE id = ? AND (label = ? OR v IS NULL)", (mostly(keys), mostly(texts))),
    ("SELECT id FROM k WHERE id >= ? AND id < ? ORDER BY id", (mostly(keys), mostly(keys))),
    ("SELECT id, v FROM k WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT ?", (mostly(keys), mostly(keys), mostly(st.integers(0, 4)))),
    ("SELECT count(*), sum(v), min(v), max(label), count(label) FROM k WHERE id > ?", (mostly(keys),)),
    ("SELECT id, v FROM k WHERE id > ? ORDER BY v DESC, id", (mostly(keys),)),
    ("SELECT v FROM k WHERE id > ? AND v IN (1, ?, 3) ORDER BY id", (mostly(keys), mostly(integers))),
    ("SELECT s, x, d, day, ok FROM t WHERE a = ? AND b = ?", (mostly(keys), mostly(names))),
    ("SELECT b, n FROM t WHERE a = ? ORDER BY b", (mostly(keys),)),
    ("SELECT count(*), min(day), max(d) FROM t WHERE a = ? AND b > ?", (mostly(keys), mostly(names))),
    ("SELECT a FROM t WHERE a = ? AND b = ? AND day = ?", (mostly(keys), mostly(names), mostly(days))),
    ("SELECT a FROM t WHERE a = ? AND b = ? AND d < ?", (mostly(keys), mostly(names), mostly(decimals))),
    ("SELECT 1, id FROM k WHERE id = ?", (mostly(keys),)),
    ("SELECT id, v FROM k WHERE id IN (?, 3, ?) ORDER BY id DESC", (mostly(keys), mostly(keys))),
    ("SELECT id, v FROM k WHERE label IN (?, 'label 1', ?) AND NOT v = ? ORDER BY label", (mostly(texts), mostly(texts), mostly(keys))),
    ("SELECT id FROM k WHERE id IN (1, 2, ?) AND NOT (v = ? OR label IS NULL) ORDER BY v, id", (mostly(keys), mostly(keys))),
    ("SELECT id, label FROM k WHERE label >= ? AND label < ? ORDER BY label DESC LIMIT 3", (mostly(texts), mostly(texts))),
    ("SELECT id, label FROM k WHERE label >= ? ORDER BY v DESC NULLS FIRST, label DESC, id", (mostly(texts),)),
    ("SELECT count(*), max(v) FROM k WHERE label > ? AND v > ?", (mostly(texts), mostly(keys))),
    ("SELECT a, u FROM p WHERE u BETWEEN ? AND ? ORDER BY u", (mostly(keys), mostly(keys))),
    ("SELECT * FROM p WHERE c = ? ORDER BY e", (mostly(keys),)),
    ("SELECT a FROM p WHERE c = ? AND e > ? ORDER BY e DESC", (mostly(keys), mostly(names))),
    (OPEN_RANGE, (mostly(names),)),
    ("SELECT a FROM p WHERE e = ? AND f >= ? ORDER BY f", (mostly(names), mostly(days))),
    ("SELECT p.a, k.v, k.label FROM p JOIN k ON k.id = p.k_id WHERE p.a = ?", (mostly(keys),)),
    ("SELECT k.*, p.a FROM p JOIN k ON k.id = p.k_id WHERE p.a >= ? AND k.v < ? ORDER BY p.a", (mostly(keys), mostly(keys))),
    ("SELECT k.id, p.a FROM k JOIN p ON p.k_id = k.id WHERE p.u = ?", (mostly(keys),)),
    ("SELECT p.a, k.v FROM p LEFT JOIN k ON k.id = p.k_id AND k.v > ? WHERE p.a > ? ORDER BY p.a DESC", (mostly(keys), mostly(keys))),
    ("SELECT p.a, k.id FROM p LEFT JOIN k ON k.id = p.k_id WHERE p.a > ? AND k.id IS NULL ORDER BY 1", (mostly(keys),)),
    ("SELECT k.id, t.b, t.n FROM k LEFT JOIN t ON t.a = k.id AND t.b > ? WHERE k.id > ? ORDER BY id, b", (mostly(names), mostly(keys))),
    ("SELECT k.id, t.b FROM k LEFT JOIN t ON t.a = k.id WHERE k.id IN (?, 2) ORDER BY t.b NULLS FIRST, k.id", (mostly(keys),)),
    ("SELECT count(*), count(t.n), sum(t.n), max(k.label) FROM k JOIN t ON t.a = k.id WHERE k.id >= ?", (mostly(keys),)),
    ("SELECT x.id, y.id FROM k x JOIN k y ON y.id = x.v WHERE x.id > ? AND x.label <> y.label ORDER BY x.id", (mostly(keys),)),
    ("SELECT x.id, y.a, z.a FROM k x JOIN p y ON y.u = x.id JOIN p z ON z.c = y.c WHERE x.id > ? ORDER BY 1, 2, 3", (mostly(keys),)),
    ("SELECT x.a, y.a FROM p x JOIN p y USING (c, e) WHERE x.a > ? ORDER BY c, x.a, y.a", (mostly(keys),)),
    (
        "INSERT INTO p VALUES (?, ?, ?, ?, ?, ?)",
        (keys, nullable(keys), nullable(keys), mostly(st.integers(0, 2)), mostly(names), nullable(days)),
    ),
    ("UPDATE p SET k_id = k_id + ? WHERE u = ?", (mostly(keys), mostly(keys))),
    ("UPDATE p SET k_id = ? WHERE c = ? AND e = ? AND a > 0 RETURNING a, k_id", (nullable(keys), mostly(keys), mostly(names))),
    ("DELETE FROM p WHERE u = ? RETURNING *", (mostly(keys),)),
    ("DELETE FROM k WHERE id = ? AND v < ?", (mostly(keys), mostly(keys))),
    ("INSERT INTO k VALUES (?, ?, ?, ?)", (mostly(keys), nullable(integers), nullable(texts), nullable(floats))),
    ("INSERT INTO k (id, label) VALUES (?, ?)", (mostly(keys), nullable(texts))),
    (
        "INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            mostly(keys),
            mostly(names),
            nullable(integers),
            nullable(floats),
            nullable(texts),
            nullable(decimals),
            nullable(days),
            nullable(st.booleans()),
            nullable(st.integers(-9, 9)),
        ),
    ),
    ("INSERT INTO loose VALUES (?, ?)", (nullable(integers), nullable(texts))),
    ("UPDATE k SET v = v + ? WHERE id = ?", (mostly(integers), mostly(keys))),
    ("UPDATE k SET v = ?, w = w - ? WHERE id = ? AND v <> ?", (nullable(integers), mostly(floats), mostly(keys), mostly(integers))),
    ("UPDATE k SET v = v - 1 WHERE id = ? RETURNING v, id", (mostly(keys),)),
    ("UPDATE t SET n = n + 1, s = ?, d = ? WHERE a = ? AND b = ?", (nullable(texts), nullable(decimals), mostly(keys), mostly(names))),
    ("UPDATE t SET small = small + ?, x = ? WHERE a = ? AND b = ?", (mostly(integers), nullable(floats), mostly(keys), mostly(names))),
    ("DELETE FROM t WHERE a = ? AND b = ?", (mostly(keys), mostly(names))),
    ("DELETE FROM t WHERE a = ? AND b = ? AND ok = ? RETURNING s, n", (mostly(keys), mostly(names), mostly(st.booleans()))),
]

statements = st.sampled_from(TEMPLATES).flatmap(lambda pair: st.tuples(st.just(pair[0]), st.tuples(*pair[1])))
scripts = st.lists(statements, min_size=1, max_size=12)


class Taken:
    """How many statements ran, and how many of them on the general path."""

    def __init__(self) -> None:
        self.statements = self.general = 0


@pytest.fixture(scope="module")
def taken() -> Iterator[Taken]:
    """Counts what reaches the general path of the connection under test."""
    counted = Taken()
    patch = pytest.MonkeyPatch()
    for name in ("run_query", "run_write"):
        original = getattr(executor, name)

        def spy(plan: Any, values: Any, context: Any, original: Any = original) -> Any:
            counted.general += context.settings.point_path
            return original(plan, values, context)

        patch.setattr(executor, name, spy)
    yield counted
    patch.undo()


def outcome(connection: khonsu_sql.Connection, sql: str, parameters: Any) -> Any:
    """What a statement did: rows and row count, or the kind of its error."""
    try:
        cursor = connection.execute(sql, parameters)
        rows = cursor.fetchall() if cursor.description is not None else None
    except khonsu_sql.Error as error:
        return type(error).__name__, error.sqlstate
    types = None if cursor.description is None else [str(column[1]) for column in cursor.description]
    return _comparable(rows), cursor.rowcount, types


def _comparable(rows: Any) -> Any:
    """Rows with every value beside its type, NaN equal to itself, -0.0 unlike 0.0."""
    return None if rows is None else [tuple((type(value).__name__, repr(value)) for value in row) for row in rows]


def contents(connection: khonsu_sql.Connection) -> list[Any]:
    return [_comparable(connection.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()) for table in ("t", "k", "loose", "p")]


def opened(point_path: str, name: str = "") -> khonsu_sql.Connection:
    connection = khonsu_sql.connect(f":memory:{name}", autocommit=True)
    connection.execute(f"SET point_path = {point_path}")
    for create in (CREATE, SIMPLE, LOOSE, PAIRED):
        connection.execute(create)
    connection.executemany("INSERT INTO k VALUES (?, ?, ?, ?)", [(n, n, f"label {n}", n / 2) for n in range(5)])
    pairs = [
        (n, n // 2 if n % 3 else None, None if n == 2 else n, n % 3, "ab"[n % 2], datetime.date(2000, 1, 1 + n) if n else None)
        for n in range(5)
    ]
    connection.executemany("INSERT INTO p VALUES (?, ?, ?, ?, ?, ?)", pairs)
    numbered = enumerate(["", "a", "b", "Ä"])
    rows = [(n % 3, name, n, n / 4, name, Decimal(n), datetime.date(2000, 1, 1 + n), n % 2 == 0, n) for n, name in numbered]
    connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    return connection


@pytest.mark.skipif(os.environ.get("KHONSU_POINT_PATH") == "off", reason="there is no point path to compare with")
def test_both_paths_agree(taken: Taken) -> None:
    @settings(max_examples=150)
    @given(scripts, st.booleans())
    def agree(script: list[tuple[str, tuple[Any, ...]]], in_transaction: bool) -> None:
        with opened("on") as quick, opened("off") as general:
            for connection in (quick, general):
                connection.autocommit = not in_transaction
            for sql, parameters in script:
                before = taken.general
                expected = outcome(general, sql, parameters)
                assert outcome(quick, sql, parameters) == expected, (sql, parameters)
                if expected[0].__class__ is not str:
                    taken.statements += 1
                    continue
                taken.general = before  # a statement that fails has to go the general way
                for connection in (quick, general):
                    connection.rollback()
            counted = taken.general
            assert contents(quick) == contents(general)
            taken.general = counted

    agree()
    assert taken.statements > 300
    share = 1 - taken.general / taken.statements
    assert share >= 0.6, f"only {share:.0%} of {taken.statements} statements took the point path"


@pytest.mark.parametrize("sign", ["=", "<>", "<", "<=", ">", ">="])
def test_every_comparison_at_its_boundary(sign: str) -> None:
    """Below, at and above the value, on both sides, as a filter and as the bound of a range."""
    templates = (f"SELECT id FROM k WHERE id = 3 AND v {sign} ?", f"SELECT id FROM k WHERE id = 3 AND ? {sign} v")
    ranges = (f"SELECT id FROM k WHERE id {sign} ? ORDER BY id", f"SELECT id FROM k WHERE ? {sign} id AND id >= 0 ORDER BY id DESC")
    with opened("on") as quick, opened("off") as general:
        for sql in templates + ranges:
            for value in (2, 3, 4, None):
                assert outcome(quick, sql, (value,)) == outcome(general, sql, (value,)), (sql, value)


def test_named_parameters_take_the_point_path(taken: Taken) -> None:
    """By name in any order; names that are missing, too many, or not given at all are the general path's to refuse."""
    statements = (
        ("SELECT v FROM k WHERE id = :key AND v < :high", {"high": 9, "key": 3}),
        ("UPDATE k SET v = v + $step WHERE id = $key", {"step": 2, "key": 3}),
        ("INSERT INTO k (id, label) VALUES (:key, :label)", {"label": "new", "key": 77}),
    )
    unusual: list[Any] = [{"key": 3}, {"key": 3, "high": 9, "step": 2, "label": "x"}, (3, 9), None, {1: 2}]
    with opened("on") as quick, opened("off") as general:
        for sql, parameters in statements:
            assert outcome(quick, sql, parameters) == outcome(general, sql, parameters)
        before = taken.general
        for key in (1, 2, 3):
            parameters = {"high": 9, "key": key}
            assert outcome(quick, statements[0][0], parameters) == outcome(general, statements[0][0], parameters)
        assert taken.general == before
        for sql, _ in statements:
            for wrong in unusual:
                assert outcome(quick, sql, wrong) == outcome(general, sql, wrong), (sql, wrong)
        assert contents(quick) == contents(general)


def test_every_template_has_a_point_plan() -> None:
    """That both paths agree would prove nothing of statements that have only one."""
    with opened("on") as connection:
        for sql, parameters in TEMPLATES:
            if sql == OPEN_RANGE:
                continue
            plan = connection.execute(f"EXPLAIN {sql}", [1] * len(parameters)).fetchall()
            assert plan[0][0].startswith("point path: "), (sql, plan)


@pytest.mark.parametrize(
    ("sql", "plan"),
    [
        ("SELECT 1 FROM k WHERE label = 'x'", "k by unique constraint k_label_key"),
        ("SELECT * FROM k WHERE id IN (1, 2)", "k by 2 keys of primary key"),
        ("SELECT u FROM p WHERE u > 3", "range of p by unique constraint p_u_key"),
        ("SELECT * FROM p JOIN k ON k.id = p.k_id WHERE p.c = 1", "range of p by unique constraint p_c_e_key, k by primary key"),
        ("SELECT 1 FROM k JOIN p ON p.k_id = k.id WHERE p.a = 1", "p by primary key, k by primary key"),
        ("SELECT 1 FROM k LEFT JOIN t ON t.a = k.id WHERE k.id = 1", "k by primary key, range of t by primary key"),
    ],
)
def test_how_rows_are_found(sql: str, plan: str) -> None:
    with opened("on") as connection:
        assert connection.execute(f"EXPLAIN {sql}").fetchall() == [(f"point path: {plan}",)]


@pytest.mark.parametrize(
    "sql",
    [
        OPEN_RANGE.replace("?", "'a'"),
        "SELECT 1 FROM k JOIN p ON p.k_id = k.id WHERE k.id = 1",  # no index on k_id
        "SELECT 1 FROM k LEFT JOIN p ON p.a = k.id WHERE p.a = 1",  # the key of the filled side says nothing about k
        "SELECT 1 FROM k, p WHERE k.id = 1 AND p.a > 1",
        "SELECT 1 FROM k WHERE id = v",
        "SELECT 1 FROM k WHERE id = 1 OR id = 2",
        "SELECT 1 FROM k FULL JOIN p ON p.a = k.id WHERE k.id = 1",
        "SELECT 1 FROM k JOIN t ON t.a = k.w WHERE k.id = 1",  # a DOUBLE compared with a BIGINT
    ],
)
def test_what_has_no_point_plan(sql: str) -> None:
    with opened("on") as connection:
        assert connection.execute(f"EXPLAIN {sql}").fetchone()[0].startswith("DuckDB path"), sql


@pytest.mark.parametrize(
    ("read", "write", "conflict"),
    [
        ("SELECT a FROM p WHERE u BETWEEN 5 AND 9", "INSERT INTO p VALUES (7, 3, 7, 0, 'q', NULL)", True),
        ("SELECT a FROM p WHERE u BETWEEN 5 AND 9 AND k_id = 4", "INSERT INTO p VALUES (7, 3, 7, 0, 'q', NULL)", False),
        ("SELECT a FROM p WHERE u BETWEEN 0 AND 3", "UPDATE p SET k_id = 9 WHERE a = 1", False),
        ("SELECT a, k_id FROM p WHERE u BETWEEN 0 AND 3", "UPDATE p SET k_id = 9 WHERE a = 1", True),
        ("SELECT a FROM p WHERE u BETWEEN 0 AND 3", "UPDATE p SET u = 19 WHERE a = 1", True),
        ("SELECT a FROM p WHERE u IN (2, 77)", "INSERT INTO p VALUES (7, 3, 77, 0, 'q', NULL)", True),
        ("SELECT v FROM p JOIN k ON k.id = p.k_id WHERE p.a = 4", "UPDATE k SET v = 9 WHERE id = 2", True),
        ("SELECT v FROM p JOIN k ON k.id = p.k_id WHERE p.a = 4", "UPDATE k SET v = 9 WHERE id = 3", False),
        ("SELECT v FROM p LEFT JOIN k ON k.id = p.k_id WHERE p.a = 77", "INSERT INTO p VALUES (77, 2, NULL, 0, 'q', NULL)", True),
        ("SELECT n FROM k LEFT JOIN t ON t.a = k.id WHERE k.id = 4", "UPDATE t SET n = 5 WHERE a = 1 AND b = 'a'", False),
        ("SELECT n FROM k LEFT JOIN t ON t.a = k.id WHERE k.id = 1", "UPDATE t SET n = 5 WHERE a = 1 AND b = 'a'", True),
    ],
)
def test_exactly_what_was_read_conflicts(read: str, write: str, conflict: bool) -> None:
    """A reader that writes elsewhere, and a writer that commits in between."""
    with opened("on", "shared") as reader, khonsu_sql.connect(":memory:shared", autocommit=True) as writer:
        assert reader.execute(f"EXPLAIN {read}").fetchone()[0].startswith("point path")
        reader.execute("BEGIN")
        reader.execute(read).fetchall()
        reader.execute("INSERT INTO loose VALUES (1, 'read')")
        writer.execute(write)
        if conflict:
            with pytest.raises(khonsu_sql.errors.SerializationFailure):
                reader.execute("COMMIT")
        else:
            reader.execute("COMMIT")
