"""INSERT, UPDATE, DELETE through a session: constraints, RETURNING, many parameter sets, many rows."""

from __future__ import annotations

from decimal import Decimal

import pytest

from khonsu_engine.database import Database
from khonsu_sql import errors
from khonsu_sql.local import LocalSession


def rows(session: LocalSession, sql: str) -> list[tuple[object, ...]] | None:
    return session.execute(sql).rows


@pytest.fixture
def people(session: LocalSession) -> LocalSession:
    session.execute(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name VARCHAR NOT NULL, email VARCHAR UNIQUE,"
        " age INTEGER DEFAULT 18 CHECK (age >= 0), CHECK (name <> email))"
    )
    session.execute("INSERT INTO people VALUES (1, 'ann', 'a@x', 30), (2, 'bob', 'b@x', 40), (3, 'cid', NULL, NULL)")
    return session


def test_row_counts(people: LocalSession) -> None:
    assert people.execute("INSERT INTO people (id, name) VALUES (4, 'dan'), (5, 'eve')").rowcount == 2
    assert people.execute("UPDATE people SET age = age + 1 WHERE age < 40").rowcount == 3
    assert people.execute("UPDATE people SET age = 1 WHERE id = 77").rowcount == 0
    assert people.execute("DELETE FROM people WHERE email IS NULL").rowcount == 3
    assert rows(people, "SELECT * FROM people ORDER BY id") == [(1, "ann", "a@x", 31), (2, "bob", "b@x", 40)]


def test_returning(people: LocalSession) -> None:
    inserted = people.execute("INSERT INTO people (id, name) VALUES (4, 'dan') RETURNING id, age, upper(name) AS big")
    assert (inserted.rows, inserted.rowcount, inserted.status) == ([(4, 18, "DAN")], 1, "INSERT")
    assert [column.name for column in inserted.columns or ()] == ["id", "age", "big"]
    assert people.execute("UPDATE people SET age = 50 WHERE id = 1 RETURNING *").rows == [(1, "ann", "a@x", 50)]
    assert people.execute("DELETE FROM people WHERE id = 1 RETURNING age").rows == [(50,)]
    assert people.execute("DELETE FROM people WHERE id = 1 RETURNING age").rows == []


@pytest.mark.parametrize(
    ("sql", "error", "message", "detail"),
    [
        (
            "INSERT INTO people VALUES (1, 'x', 'x@x', 1)",
            errors.UniqueViolation,
            '"people_pkey"',
            "Key (id)=(1) already exists",
        ),
        (
            "INSERT INTO people VALUES (7, 'x', 'b@x', 1)",
            errors.UniqueViolation,
            "email",
            "Key (email)=(b@x) already exists",
        ),
        ("INSERT INTO people VALUES (7, 'x', 'x@x', 1), (7, 'y', 'y@x', 1)", errors.UniqueViolation, '"people_pkey"', "Key (id)=(7)"),
        ("INSERT INTO people VALUES (7, 'x', 'q@x', 1), (8, 'y', 'q@x', 1)", errors.UniqueViolation, "email", "Key (email)=(q@x)"),
        ("INSERT INTO people VALUES (7, NULL, 'x@x', 1)", errors.NotNullViolation, '"name"', "Failing row contains (7, null, x@x, 1)."),
        ("INSERT INTO people VALUES (NULL, 'x', 'x@x', 1)", errors.NotNullViolation, '"id"', "Failing row contains (null, x, x@x, 1)."),
        ("UPDATE people SET name = NULL WHERE id = 1", errors.NotNullViolation, '"name"', "(1, null, a@x, 30)"),
        ("INSERT INTO people VALUES (7, 'x', 'x@x', -1)", errors.CheckViolation, "age", "(7, x, x@x, -1)"),
        ("UPDATE people SET age = -1 WHERE id = 2", errors.CheckViolation, "age", "(2, bob, b@x, -1)"),
        ("UPDATE people SET email = name WHERE id = 2", errors.CheckViolation, "people", "(2, bob, bob, 40)"),
        ("UPDATE people SET id = 2 WHERE id = 1", errors.UniqueViolation, '"people_pkey"', "Key (id)=(2)"),
        ("UPDATE people SET email = 'b@x' WHERE id = 1", errors.UniqueViolation, "email", "Key (email)=(b@x)"),
        ("UPDATE people SET email = 'same'", errors.UniqueViolation, "email", "Key (email)=(same)"),
    ],
)
def test_violations(people: LocalSession, sql: str, error: type[errors.Error], message: str, detail: str) -> None:
    before = rows(people, "SELECT * FROM people ORDER BY id")
    with pytest.raises(error) as caught:
        people.execute(sql)
    assert message in caught.value.message
    assert "people" in caught.value.message + (caught.value.detail or "")
    assert detail in (caught.value.detail or "")
    assert rows(people, "SELECT * FROM people ORDER BY id") == before


def test_a_check_that_is_null_passes(people: LocalSession) -> None:
    people.execute("UPDATE people SET age = NULL, email = NULL")
    assert rows(people, "SELECT count(*) AS c FROM people WHERE age IS NULL") == [(3,)]


def test_unique_is_judged_at_the_end_of_the_statement(people: LocalSession) -> None:
    people.execute("UPDATE people SET id = id + 1")
    assert rows(people, "SELECT id, name FROM people ORDER BY id") == [(2, "ann"), (3, "bob"), (4, "cid")]
    people.execute("UPDATE people SET email = CASE email WHEN 'a@x' THEN 'b@x' ELSE 'a@x' END WHERE email IS NOT NULL")
    assert rows(people, "SELECT email FROM people ORDER BY id") == [("b@x",), ("a@x",), (None,)]
    with pytest.raises(errors.UniqueViolation):
        people.execute("INSERT INTO people VALUES (9, 'new', 'a@x', 1)")
    people.execute("DELETE FROM people WHERE email = 'a@x'")
    people.execute("INSERT INTO people VALUES (9, 'new', 'a@x', 1)")


def test_unique_within_a_transaction(people: LocalSession) -> None:
    people.execute("BEGIN")
    people.execute("DELETE FROM people WHERE id = 1")
    people.execute("INSERT INTO people VALUES (5, 'ann', 'a@x', 30)")
    people.execute("UPDATE people SET id = 1 WHERE id = 5")
    people.execute("COMMIT")
    assert rows(people, "SELECT * FROM people WHERE email = 'a@x'") == [(1, "ann", "a@x", 30)]
    with pytest.raises(errors.UniqueViolation):
        people.execute("INSERT INTO people VALUES (6, 'x', 'a@x', 30)")


def test_a_target_named_twice_is_updated_once(people: LocalSession) -> None:
    result = people.execute("UPDATE people SET age = v.n FROM (VALUES (1, 77), (1, 77)) v(id, n) WHERE people.id = v.id")
    assert result.rowcount == 1
    assert rows(people, "SELECT age FROM people WHERE id = 1") == [(77,)]


def test_insert_select_of_the_table_itself_ends(people: LocalSession) -> None:
    assert people.execute("INSERT INTO people SELECT id + 10, name, NULL, age FROM people").rowcount == 3
    assert rows(people, "SELECT count(*) AS c FROM people") == [(6,)]


def test_a_table_without_a_key(session: LocalSession) -> None:
    session.execute("CREATE TABLE log (what VARCHAR, n INTEGER)")
    session.execute("INSERT INTO log VALUES ('a', 1), ('a', 1), ('b', 2)")
    assert rows(session, "SELECT * FROM log ORDER BY what") == [("a", 1), ("a", 1), ("b", 2)]
    assert session.execute("UPDATE log SET n = n + 1 WHERE what = 'a' RETURNING *").rows == [("a", 2), ("a", 2)]
    assert session.execute("DELETE FROM log WHERE n = 2").rowcount == 3


def test_a_composite_key(session: LocalSession) -> None:
    session.execute("CREATE TABLE seats (flight INTEGER, seat VARCHAR, taken BOOLEAN DEFAULT false, PRIMARY KEY (flight, seat))")
    session.execute("INSERT INTO seats (flight, seat) VALUES (1, 'A'), (1, 'B'), (2, 'A')")
    assert session.execute("UPDATE seats SET taken = true WHERE flight = 1 AND seat = 'B'").rowcount == 1
    with pytest.raises(errors.UniqueViolation) as caught:
        session.execute("UPDATE seats SET flight = 1 WHERE flight = 2")
    assert "Key (flight, seat)=(1, A)" in (caught.value.detail or "")
    assert rows(session, "SELECT seat FROM seats WHERE taken") == [("B",)]


# --- many parameter sets


def test_executemany_inserts(people: LocalSession) -> None:
    sets = [(number, f"n{number}", None, Decimal(number)) for number in range(100, 400)]
    assert people.execute("INSERT INTO people VALUES (?, ?, ?, ?)", sets, many=True).rowcount == 300
    assert rows(people, "SELECT count(*) AS c, sum(age) AS s FROM people WHERE id >= 100") == [(300, sum(range(100, 400)))]


def test_executemany_of_mixed_types(session: LocalSession) -> None:
    session.execute("CREATE TABLE m (id BIGINT PRIMARY KEY, v DOUBLE)")
    session.execute("INSERT INTO m VALUES (:id, :v)", [{"id": 1, "v": 1}, {"id": 2**53 + 1, "v": 0.5}, {"id": "3", "v": None}], many=True)
    assert rows(session, "SELECT * FROM m ORDER BY id") == [(1, 1.0), (3, None), (2**53 + 1, 0.5)]


def test_executemany_updates_in_order(people: LocalSession) -> None:
    result = people.execute("UPDATE people SET age = ? WHERE id = ?", [(1, 1), (2, 1), (3, 2)], many=True)
    assert result.rowcount == 3
    assert rows(people, "SELECT age FROM people WHERE id <= 2 ORDER BY id") == [(2,), (3,)]


def test_executemany_is_atomic_in_autocommit(people: LocalSession) -> None:
    with pytest.raises(errors.UniqueViolation):
        people.execute("INSERT INTO people (id, name) VALUES (?, ?)", [(8, "x"), (9, "y"), (8, "z")], many=True)
    assert rows(people, "SELECT count(*) AS c FROM people") == [(3,)]


def test_executemany_of_nothing(people: LocalSession) -> None:
    assert people.execute("INSERT INTO people (id, name) VALUES (?, ?)", [], many=True).rowcount == 0


def test_executemany_refuses_queries(people: LocalSession) -> None:
    with pytest.raises(errors.ProgrammingError):
        people.execute("SELECT ?", [(1,)], many=True)


def test_executemany_returning(people: LocalSession) -> None:
    result = people.execute("INSERT INTO people (id, name) VALUES (?, ?) RETURNING id, age", [(8, "x"), (9, "y")], many=True)
    assert result.rows == [(8, 18), (9, 18)]


# --- many rows


@pytest.mark.parametrize("count", [50, 5_000])
def test_insert_select_of_many_rows(session: LocalSession, database: Database, count: int) -> None:
    session.execute("CREATE TABLE big (id BIGINT PRIMARY KEY, code VARCHAR UNIQUE, n INTEGER NOT NULL CHECK (n < 1000000))")
    result = session.execute(f"INSERT INTO big SELECT i, 'c' || i, i % 7 FROM range({count}) r(i)")
    assert result.rowcount == count
    assert rows(session, "SELECT count(*) AS c, sum(id) AS s FROM big") == [(count, count * (count - 1) // 2)]
    assert rows(session, "SELECT id FROM big WHERE code = 'c17'") == [(17,)]
    for bad, error in (
        ("i, 'd' || i, i", errors.UniqueViolation),
        ("i + 100000, 'c' || i, i", errors.UniqueViolation),
        ("i + 100000, NULL, 1000000", errors.CheckViolation),
        ("i + 100000, NULL, NULL", errors.NotNullViolation),
    ):
        with pytest.raises(error):
            session.execute(f"INSERT INTO big SELECT {bad} FROM range({count}) r(i)")
    assert rows(session, "SELECT count(*) AS c FROM big") == [(count,)]
    with pytest.raises(errors.UniqueViolation):
        session.execute("INSERT INTO big VALUES (-1, 'c17', 1)")


def test_many_rows_are_seen_by_their_transaction(session: LocalSession) -> None:
    session.execute("CREATE TABLE big (id BIGINT PRIMARY KEY, n BIGINT)")
    session.execute("BEGIN")
    session.execute("INSERT INTO big SELECT i, i FROM range(6000) r(i)")
    assert session.execute("UPDATE big SET n = 0 WHERE id < 10").rowcount == 10
    assert session.execute("DELETE FROM big WHERE id >= 5990").rowcount == 10
    assert rows(session, "SELECT count(*) AS c, min(n) AS m FROM big") == [(5990, 0)]
    with pytest.raises(errors.UniqueViolation):
        session.execute("INSERT INTO big VALUES (5, 5)")
    session.execute("ROLLBACK")
    assert rows(session, "SELECT count(*) AS c FROM big") == [(0,)]
