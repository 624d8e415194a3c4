"""Conflict policies against a plain model written from the specification: every policy, whatever either side does to the row, every level
at which rows collide, with and without constraints; then random transactions. After each case: the unique entries say what the rows say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from decimal import Decimal
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import khonsu_sql
from khonsu_sql import Connection

Connect = Callable[..., Connection]
Row = dict[str, int | None]

RULES = {"n": "sum", "x": "max", "y": "min", "z": "last"}
COLUMNS = ("k", "a", "b", "u", *RULES)
VARIANTS = {
    "plain": "a INTEGER, b INTEGER, u INTEGER, n INTEGER, x INTEGER, y INTEGER, z INTEGER",
    "CHECK": "a INTEGER, b INTEGER, u INTEGER, n INTEGER, x INTEGER, y INTEGER, z INTEGER, "
    "CONSTRAINT ordered CHECK (a <= b), CONSTRAINT small CHECK (n <= 9)",
    "UNIQUE": "a INTEGER, b INTEGER, u INTEGER UNIQUE, n INTEGER, x INTEGER, y INTEGER, z INTEGER",
    "NOT NULL": "a INTEGER NOT NULL, b INTEGER NOT NULL, u INTEGER, n INTEGER NOT NULL, x INTEGER NOT NULL, y INTEGER, z INTEGER",
}
LEVELS = {
    "REPEATABLE READ": "REPEATABLE READ",
    "SERIALIZABLE": "SERIALIZABLE",
    "READ COMMITTED": "READ COMMITTED OPTIMISTIC",
}
ACTIONS = {"IGNORE": "ignored", "REPLACE": "replaced", "APPEND": "appended", "MERGE": "merged"}
POLICIES = ("FAIL", *ACTIONS)
MINE_AND_THEIRS = [
    *product(("update", "delete"), ("update", "delete", "recreate")),
    ("insert", "insert"),
    ("insert", "come and go"),
]


class Case(NamedTuple):
    """`mine`, `theirs`: what the sides say; `assigned`: the columns and values of my UPDATE, a delta as ("+", amount)."""

    policy: str
    mine: str
    theirs: str
    before: Row | None
    assigned: dict[str, Any]
    after_mine: Row | None
    after_theirs: Row | None
    bystander: Row


class Expected(NamedTuple):
    """`error`: a SQLSTATE, or None; `row`: what stands then; `reported`: the action, or None."""

    error: str | None
    row: Row | None
    reported: str | None


# --- the model


def judged(case: Case, level: str, variant: str) -> Expected:
    theirs, mine, before = case.after_theirs, case.after_mine, case.before
    conflict = Expected("40001", theirs, None)
    if case.policy == "FAIL" or (level == "SERIALIZABLE" and has_read(case)):
        return conflict
    reported = ACTIONS[case.policy]
    match case.policy:
        case "IGNORE":
            return Expected(None, theirs, reported)
        case "REPLACE":
            made = mine
        case "APPEND":
            made = (
                mine
                if mine is None or theirs is None
                else {c: mine[c] if c in case.assigned or before is None else theirs[c] for c in COLUMNS}
            )
        case _:
            if mine is None or theirs is None:
                return conflict
            merged = {column: merge(case, column, before, mine, theirs) for column in COLUMNS}
            if CONFLICT in merged.values():
                return conflict
            made = merged
    if made is None:
        return Expected(None, None, reported)
    if variant == "CHECK" and (greater(made["a"], made["b"]) or greater(made["n"], 9)):
        return Expected("23514", theirs, None)
    if variant == "UNIQUE" and made["u"] is not None and made["u"] == case.bystander["u"]:
        return Expected("23505", theirs, None)
    if variant == "NOT NULL" and None in (made["a"], made["b"], made["n"], made["x"]):
        return Expected("23502", theirs, None)
    return Expected(None, made, reported)


CONFLICT: Any = object()


def merge(case: Case, column: str, before: Row | None, mine: Row, theirs: Row) -> Any:
    own, other, base = mine[column], theirs[column], None if before is None else before[column]
    if before is not None and column not in case.assigned:
        return other
    rule = RULES.get(column)
    if rule == "sum" and own is not None and other is not None:
        return other + own - (base or 0)
    if own == other or (before is not None and other == base):  # only I changed it, or both to the same
        return own
    match rule:
        case "max" | "min":
            values = [value for value in (own, other) if value is not None]
            return max(values) if rule == "max" else min(values)
        case "last":
            return own
    return CONFLICT


def has_read(case: Case) -> bool:
    """Has my one statement read something that they changed?"""
    before, theirs = case.before, case.after_theirs
    if before is None:
        return False
    if theirs is None:  # it found the row
        return True
    read = {column for column, value in case.assigned.items() if isinstance(value, tuple)}
    if case.policy == "MERGE":
        read = {"n"} & case.assigned.keys() if not isinstance(case.assigned.get("n"), tuple) else set()
    if case.policy == "REPLACE" and case.mine == "update":
        read |= set(COLUMNS) - case.assigned.keys()
    return any(before[column] != theirs[column] for column in read)


def found_free(case: Case) -> bool:
    """Have they taken a unique value that I had found free? That is a read."""
    mine = None if case.after_mine is None else case.after_mine["u"]
    return mine is not None and mine in (case.bystander["u"], None if case.after_theirs is None else case.after_theirs["u"])


def greater(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one > other


# --- cases


def drawn(random: Random, key: int, policy: str, mine: str, theirs: str, variant: str) -> Case:
    """Both sides do something that is allowed by itself; theirs also gives the value of `u` that they free to somebody else, at times."""
    for _ in range(1_000):
        before = None if mine == "insert" else a_row(random, key)
        bystander = a_row(random, key + 1)
        assigned: dict[str, Any] = {}
        after_mine: Row | None = None
        match mine:
            case "insert":
                after_mine = a_row(random, key)
            case "update":
                assigned = changes(random)
                after_mine = changed(before, assigned)
        match theirs:
            case "insert" | "recreate":
                after_theirs: Row | None = a_row(random, key)
            case "update":
                after_theirs = changed(before, changes(random))
            case _:
                after_theirs = None
        moved = {**bystander, "u": before["u"]} if before is not None and random.random() < 0.5 else bystander
        rows = [row for row in (before, after_mine, after_theirs, bystander, moved) if row is not None]
        if all(allowed(row, variant) for row in rows) and not any(
            one is not None and one["u"] is not None and one["u"] == other["u"]
            for one, other in ((before, bystander), (after_mine, bystander), (after_theirs, moved))
        ):
            return Case(policy, mine, theirs, before, assigned, after_mine, after_theirs, moved)
    raise AssertionError("no such case")


def allowed(row: Row, variant: str) -> bool:
    if variant == "CHECK" and (greater(row["a"], row["b"]) or greater(row["n"], 9)):
        return False
    return variant != "NOT NULL" or None not in (row["a"], row["b"], row["n"], row["x"])


def a_row(random: Random, key: int) -> Row:
    return {"k": key, "u": a_unique(random, key), **{column: a_value(random) for column in COLUMNS if column not in "ku"}}


def a_value(random: Random) -> int | None:
    return None if random.random() < 0.1 else random.randrange(10)


def a_unique(random: Random, key: int) -> int | None:
    return None if random.random() < 0.2 else unique_of(key) + random.randrange(4)


def unique_of(key: int) -> int:
    return 100 * (key // 10)


def changes(random: Random) -> dict[str, Any]:
    columns = random.sample(COLUMNS[1:], random.randint(1, 3))
    return {column: ("+", random.randrange(1, 5)) if column == "n" and random.random() < 0.7 else a_value(random) for column in columns}


def changed(row: Row | None, assigned: Mapping[str, Any]) -> Row:
    assert row is not None
    made = dict(row)
    for column, value in assigned.items():
        old = row[column]
        made[column] = value if not isinstance(value, tuple) else None if old is None else old + value[1]
        if column == "u" and value is not None:
            made[column] = unique_of(row["k"] or 0) + value % 4
    return made


# --- playing


def insert(connection: Connection, row: Row) -> None:
    connection.execute(f"INSERT INTO t ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))


def update(connection: Connection, key: int, assigned: Mapping[str, Any], row: Row) -> None:
    items = [f"{column} = {column} + ?" if isinstance(value, tuple) else f"{column} = ?" for column, value in assigned.items()]
    values = [value[1] if isinstance(value, tuple) else row[column] for column, value in assigned.items()]
    connection.execute(f"UPDATE t SET {', '.join(items)} WHERE k = ?", (*values, key))


def they(connection: Connection, case: Case, key: int) -> None:
    connection.execute("BEGIN")
    after = case.after_theirs
    if case.theirs in ("delete", "recreate"):
        connection.execute("DELETE FROM t WHERE k = ?", (key,))
    if case.theirs == "come and go":
        insert(connection, {"k": key, "a": 0, "b": 0, "n": 0, "x": 0})
        connection.execute("COMMIT")
        connection.execute("BEGIN")
        connection.execute("DELETE FROM t WHERE k = ?", (key,))
    if after is not None:
        if case.theirs == "update":
            update(connection, key, {column: value for column, value in after.items() if column != "k"}, after)
        else:
            insert(connection, after)
    connection.execute("UPDATE t SET u = ? WHERE k = ?", (case.bystander["u"], key + 1))
    connection.execute("COMMIT")


def play(a: Connection, b: Connection, case: Case, key: int, begin: str, first: Row) -> tuple[str | None, list[str]]:
    """What COMMIT says: a SQLSTATE, and the actions that are reported."""
    insert(b, first)
    if case.before is not None:
        insert(b, case.before)
    a.execute(begin)
    if case.mine == "insert":
        assert case.after_mine is not None
        insert(a, case.after_mine)
    elif case.mine == "update":
        assert case.after_mine is not None
        update(a, key, case.assigned, case.after_mine)
    else:
        a.execute("DELETE FROM t WHERE k = ?", (key,))
    they(b, case, key)
    try:
        a.execute("COMMIT")
    except khonsu_sql.Error as error:
        return error.sqlstate, []
    assert a.last_commit is not None and a.last_commit == a.last_commit
    return None, [collision.action for collision in a.last_commit.conflicts if collision.key == key]


def stands(connection: Connection, key: int) -> Row | None:
    found = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM t WHERE k = ?", (key,)).fetchone()
    return None if found is None else dict(zip(COLUMNS, found, strict=True))


def agree(connection: Connection) -> None:
    """Unique entries and rows: a look-up by value finds what a scan finds, and nothing that is not there."""
    rows = dict(connection.execute("SELECT k, u FROM t WHERE k + 0 >= 0").fetchall())
    holders: dict[int, list[int]] = {}
    for key, value in rows.items():
        if value is not None:
            holders.setdefault(value, []).append(key)
    for value in {value + beside for value in holders for beside in (-1, 0, 1)}:
        found = [key for (key,) in connection.execute("SELECT k FROM t WHERE u = ?", (value,)).fetchall()]
        assert sorted(found) == sorted(holders.get(value, [])), f"u = {value}"


def made(connection: Connection, variant: str) -> None:
    connection.execute(f"CREATE TABLE t (k INTEGER PRIMARY KEY, {VARIANTS[variant]})")
    for column, rule in RULES.items():
        connection.execute(f"ALTER TABLE t ALTER COLUMN {column} SET (merge = {rule})")


def played(a: Connection, b: Connection, level: str, variant: str, times: int) -> Iterator[tuple[Case, int, Expected]]:
    random = Random(f"{level} {variant}")
    key = 0
    for policy, (mine, theirs) in product(POLICIES, MINE_AND_THEIRS):
        for _ in range(times):
            key += 10
            case = drawn(random, key, policy, mine, theirs, variant)
            first = {**case.bystander, "u": None}
            expected = judged(case, level, variant)
            error, actions = play(a, b, case, key, f"BEGIN ISOLATION LEVEL {LEVELS[level]} ON CONFLICT {policy}", first)
            if error == "40001" and level == "SERIALIZABLE" and variant == "UNIQUE" and found_free(case):
                expected = Expected("40001", case.after_theirs, None)
            told = f"{level}, {variant}: {case}"
            assert error == expected.error, told
            assert stands(b, key) == expected.row, told
            assert actions == ([] if expected.reported is None else [expected.reported]), told
            yield case, key, expected


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("level", LEVELS)
def test_every_policy_decides_as_it_is_written(connect: Connect, level: str, variant: str) -> None:
    a, b = connect(":memory:policies", autocommit=True), connect(":memory:policies", autocommit=True)
    made(a, variant)
    assert {expected.error for _, _, expected in played(a, b, level, variant, 1)} >= {None, "40001"}
    if variant == "UNIQUE":
        agree(b)


@pytest.mark.deep
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("level", LEVELS)
def test_many_cases(connect: Connect, level: str, variant: str) -> None:
    a, b = connect(":memory:policies", autocommit=True), connect(":memory:policies", autocommit=True)
    made(a, variant)
    seen = {expected.error for _, _, expected in played(a, b, level, variant, 20)}
    wanted = {"CHECK": "23514", "UNIQUE": "23505"}.get(variant)
    assert wanted is None or wanted in seen or level == "SERIALIZABLE", "no case violates the constraint"
    if variant == "UNIQUE":
        agree(b)


@pytest.mark.parametrize("variant", ["plain", "UNIQUE"])
def test_they_stand_after_a_reopening(connect: Connect, tmp_path: Path, variant: str) -> None:
    a, b = connect(str(tmp_path), autocommit=True), connect(str(tmp_path), autocommit=True)
    made(a, variant)
    expected = {key: expected.row for _, key, expected in played(a, b, "REPEATABLE READ", variant, 1)}
    for checkpoint in (False, True):
        if checkpoint:
            a.checkpoint()
        a.close()
        b.close()
        a, b = connect(str(tmp_path), autocommit=True), connect(str(tmp_path), autocommit=True)
        assert {key: stands(a, key) for key in expected} == expected
        if variant == "UNIQUE":
            agree(a)


# --- threads

INCREMENTS = 25


@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ"])
def test_increments_of_many_threads_need_no_retry(connect: Connect, level: str) -> None:
    """Eight threads, transactions of two counters each: every sum is exact, and nobody is refused."""
    first = connect(":memory:counters", autocommit=True)
    first.execute("CREATE TABLE counters (k INTEGER PRIMARY KEY, n BIGINT NOT NULL, d DECIMAL(38, 2) NOT NULL)")
    for column in "nd":
        first.execute(f"ALTER TABLE counters ALTER COLUMN {column} SET (merge = sum)")
    first.execute("INSERT INTO counters VALUES (1, 0, 0), (2, 0, 0)")

    def increments(number: int) -> int:
        merged = 0
        with khonsu_sql.connect(":memory:counters", autocommit=True) as connection:
            for turn in range(INCREMENTS):
                connection.execute(f"BEGIN ISOLATION LEVEL {level} ON CONFLICT MERGE")
                for key in (1, 2) if number % 2 else (2, 1):
                    connection.execute("UPDATE counters SET n = n + ?, d = d - ? WHERE k = ?", (number, Decimal("0.01"), key))
                connection.execute("COMMIT")
                assert connection.last_commit is not None
                merged += len(connection.last_commit.conflicts)
                connection.execute("UPDATE counters SET n = n - 1 WHERE k = ?", (1 + turn % 2,), on_conflict="merge")
        return merged

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(increments, range(8)))
    total, cents = sum(range(8)) * INCREMENTS, Decimal(8 * INCREMENTS) / 100
    ones = [8 * len(range(key, INCREMENTS, 2)) for key in (0, 1)]
    assert first.execute("SELECT n, d FROM counters ORDER BY k").fetchall() == [(total - one, -cents) for one in ones]


# --- random transactions at REPEATABLE READ

KEYS = st.integers(1, 4)
VALUES = st.integers(0, 9)
STATEMENTS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.sampled_from("anxz"), VALUES),
    st.tuples(st.just("add"), KEYS, st.just("n"), VALUES),
    st.tuples(st.just("insert"), KEYS, st.just(""), VALUES),
    st.tuples(st.just("delete"), KEYS, st.just(""), VALUES),
)
RUNS = st.lists(
    st.tuples(st.integers(0, 2), st.one_of(STATEMENTS, st.just("commit"), st.just("rollback")), st.sampled_from(POLICIES)), max_size=30
)


class Model:
    """One transaction: its snapshot, its rows over it, and per written key the policy (None: several) and the columns assigned."""

    def __init__(self, snapshot: dict[int, Row], versions: dict[int, int]) -> None:
        self.snapshot, self.versions = dict(snapshot), dict(versions)
        self.rows = dict(snapshot)
        self.policies: dict[int, str] = {}
        self.assigned: dict[int, dict[str, Any]] = {}

    def does(self, statement: tuple[str, int, str, int], policy: str) -> str | None:
        """A SQLSTATE, or None."""
        kind, key, column, value = statement
        row = self.rows.get(key)
        if kind == "insert":
            if row is not None:
                return "23505"
            again = key in self.policies and self.snapshot.get(key) is not None and self.policies[key] == "MERGE"
            self.rows[key] = {name: key if name == "k" else value for name in COLUMNS}
            self.note(key, "FAIL" if again else policy, dict.fromkeys(COLUMNS, 0))
        elif row is not None and kind == "delete":
            del self.rows[key]
            self.note(key, policy, dict.fromkeys(COLUMNS, 0))
        elif row is not None:
            self.rows[key] = {**row, column: value if kind == "set" else (row[column] or 0) + value}
            self.note(key, policy, {column: 0})
        return None

    def note(self, key: int, policy: str, assigned: dict[str, Any]) -> None:
        self.policies[key] = policy if self.policies.get(key, policy) == policy else "FAIL"
        self.assigned[key] = {**self.assigned.get(key, {}), **assigned}

    def commit(self, rows: dict[int, Row], versions: dict[int, int]) -> str | None:
        """Change what is committed. A SQLSTATE: nothing was."""
        made: dict[int, Row | None] = {}
        for key, policy in self.policies.items():
            before, mine = self.snapshot.get(key), self.rows.get(key)
            if versions.get(key) == self.versions.get(key):
                made[key] = mine
            elif before is None and mine is None:
                return "40001"
            else:
                case = Case(policy, "", "", before, self.assigned[key], mine, rows.get(key), {})
                expected = judged(case, "REPEATABLE READ", "plain")
                if expected.error is not None:
                    return expected.error
                if policy == "IGNORE" or (expected.row is None and rows.get(key) is None):
                    continue
                made[key] = expected.row
        for key, row in made.items():
            if row is None and self.snapshot.get(key) is None and versions.get(key) == self.versions.get(key):
                continue
            versions[key] = versions.get(key, 0) + 1
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
        return None


SQL = {
    "add": "UPDATE t SET n = n + ? WHERE k = ?",
    "insert": f"INSERT INTO t ({', '.join(COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    "delete": "DELETE FROM t WHERE k = ?",
}


def said(connection: Connection, statement: tuple[str, int, str, int], policy: str) -> str | None:
    kind, key, column, value = statement
    sql = SQL.get(kind, f"UPDATE t SET {column} = ? WHERE k = ?")
    parameters: dict[str, tuple[int, ...]] = {"insert": (key, *[value] * 7), "delete": (key,)}
    try:
        connection.execute(sql, parameters.get(kind, (value, key)), on_conflict=policy)
    except khonsu_sql.Error as error:
        return error.sqlstate
    return None


def ended(connection: Connection, how: str) -> str | None:
    try:
        connection.execute(how)
    except khonsu_sql.Error as error:
        return error.sqlstate
    return None


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(script=RUNS)
def test_random_transactions_do_as_the_model(script: list[tuple[int, Any, str]]) -> None:
    random_transactions(script)


@pytest.mark.deep
@settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(script=RUNS)
def test_many_random_transactions_do_as_the_model(script: list[tuple[int, Any, str]]) -> None:
    random_transactions(script)


def random_transactions(script: list[tuple[int, Any, str]]) -> None:
    with ExitStack() as stack:
        manager, *sessions = [
            stack.enter_context(khonsu_sql.connect(":memory:random", autocommit=True, locking="OPTIMISTIC")) for _ in range(4)
        ]
        made(manager, "plain")
        rows: dict[int, Row] = {key: {name: key if name == "k" else 5 for name in COLUMNS} for key in (1, 2)}
        versions = dict.fromkeys(rows, 0)
        for row in rows.values():
            insert(manager, {name: row[name] for name in COLUMNS})
        open_ones: dict[int, Model] = {}
        for number, what, policy in [*script, *((number, "commit", "FAIL") for number in range(3))]:
            session, model = sessions[number], open_ones.get(number)
            if isinstance(what, str):
                if model is not None:
                    expected = model.commit(rows, versions) if what == "commit" else None
                    assert ended(session, what) == expected, (script, number)
                    del open_ones[number]
                continue
            if model is None:
                session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                session.execute("SELECT count(*) FROM t WHERE k = 0")
                model = open_ones[number] = Model(rows, versions)
            if what[0] != "insert" and what[1] not in model.rows:
                continue
            if policy == "FAIL" and versions.get(what[1]) != model.versions.get(what[1]) and what[1] not in model.policies:
                continue  # refused at once
            error = model.does(what, policy)
            assert said(session, what, policy) == error, (script, number, what)
            if error is not None:
                session.execute("ROLLBACK")
                del open_ones[number]
        found = manager.execute(f"SELECT {', '.join(COLUMNS)} FROM t ORDER BY k").fetchall()
        assert found == [tuple(rows[key][name] for name in COLUMNS) for key in sorted(rows)], script
