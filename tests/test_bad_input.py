"""Bad input that stories cannot say: huge, deep, mutilated and foreign text. See tests/scripts/sql/bad_input.txt for the rest.

Whatever comes in, a `khonsu_sql.Error` with a SQLSTATE comes out, the connection stays usable and nothing is lost.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import khonsu_sql


@pytest.fixture(scope="module")
def connection() -> Iterator[khonsu_sql.Connection]:
    with khonsu_sql.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v VARCHAR)")
        connection.execute("INSERT INTO t VALUES (1, 'kept')")
        yield connection


def refusal(connection: khonsu_sql.Connection, sql: Any, parameters: Any = None) -> khonsu_sql.Error:
    """The error `sql` raises; the connection works after it and nothing is lost."""
    with pytest.raises(khonsu_sql.Error) as caught:
        connection.execute(sql, parameters)
    assert connection.execute("SELECT * FROM t").fetchall() == [(1, "kept")]
    return caught.value


def test_a_statement_over_the_limit(connection: khonsu_sql.Connection) -> None:
    text = "SELECT 1 /*" + "x" * (1 << 20) + "*/"
    error = refusal(connection, text)
    assert (error.sqlstate, type(error).__mro__[1]) == ("54000", khonsu_sql.OperationalError)
    assert "1048576" in str(error)


def test_the_limit_is_a_setting(connection: khonsu_sql.Connection) -> None:
    connection.execute("SET statement_bytes_max = 100")
    try:
        assert refusal(connection, "SELECT '" + "x" * 100 + "'").sqlstate == "54000"
    finally:
        connection.execute("SET statement_bytes_max = DEFAULT")
    assert connection.execute("SELECT '" + "x" * 100 + "'").fetchone() == ("x" * 100,)


@pytest.mark.parametrize("opening", ["(", "NOT (", "abs(", "[", "CASE WHEN TRUE THEN (", "- (", "(SELECT "])
@pytest.mark.parametrize("depth", [1_000, 20_000])
def test_deep_nesting(connection: khonsu_sql.Connection, opening: str, depth: int) -> None:
    closing = "]" if opening == "[" else ") END" if opening.startswith("CASE") else ")"
    error = refusal(connection, f"SELECT {opening * depth}1{closing * depth}")
    assert error.sqlstate in ("54000", "54001")


def test_a_chain_of_operators_has_an_end(connection: khonsu_sql.Connection) -> None:
    error = refusal(connection, "SELECT " + " + ".join(["1"] * 20_000))
    assert error.sqlstate == "54001" and "SET" not in str(error)


def test_hundreds_of_terms_are_not_deep(connection: khonsu_sql.Connection) -> None:
    assert connection.execute("SELECT " + " + ".join(["1"] * 900)).fetchone() == (900,)
    assert connection.execute("SELECT k FROM t WHERE " + " OR ".join(f"k = {n}" for n in range(1_000))).fetchall() == [(1,)]
    values = ", ".join("?" * 2_000)
    assert connection.execute(f"SELECT count(*) FROM t WHERE k IN ({values})", range(2_000)).fetchone() == (1,)


@pytest.mark.parametrize(
    ("sql", "states"),
    [
        ("SELECT 'a\0b'", {"22021", "42601"}),
        ("SELECT 1\0", {"22021", "42601"}),
        ("SELECT '\ud800'", {"22021"}),
        ("SELECT \ud800", {"22021", "42601"}),
        ("SELECT 'unfinished", {"42601"}),
        ('SELECT "unfinished', {"42601"}),
        ("SELECT /* unfinished", {"42601"}),
        ("SELECT $$unfinished", {"42601"}),
        ("SELECT 1 FROM", {"42601"}),
        ("SELECT 1 IN", {"42601"}),
        ("SELECT 1 NOT IN FROM t", {"42601"}),
        ("🜨", {"42601"}),
    ],
)
def test_mutilated_text(connection: khonsu_sql.Connection, sql: str, states: set[str]) -> None:
    assert refusal(connection, sql).sqlstate in states


@pytest.mark.parametrize("sql", [b"SELECT 1", None, 1, ["SELECT 1"]])
def test_statements_are_text(connection: khonsu_sql.Connection, sql: Any) -> None:
    assert isinstance(refusal(connection, sql), khonsu_sql.InterfaceError | khonsu_sql.ProgrammingError)


@pytest.mark.parametrize("parameters", ["x", b"x", 5, object(), {1, 2}, {1: 2}])
def test_parameters_are_sequences_or_mappings(connection: khonsu_sql.Connection, parameters: Any) -> None:
    assert isinstance(refusal(connection, "SELECT ?", parameters), khonsu_sql.InterfaceError | khonsu_sql.ProgrammingError)


@pytest.mark.parametrize("value", [object(), lambda: 1, type, 1j, ..., [object()], {"a": object()}])
def test_values_of_no_sql_type(connection: khonsu_sql.Connection, value: Any) -> None:
    error = refusal(connection, "SELECT ?", (value,))
    assert isinstance(error, khonsu_sql.DatabaseError | khonsu_sql.InterfaceError) and error.sqlstate[:2] in ("07", "22", "42", "HY")
    refusal(connection, "INSERT INTO t VALUES (?, 'x')", (value,))


GOOD = [
    "SELECT k, count(*) FROM t WHERE v LIKE 'k%' GROUP BY k HAVING count(*) > 0 ORDER BY 1 DESC LIMIT 5",
    "SELECT * FROM t a JOIN t b ON a.k = b.k WHERE a.v IN ('x', 'kept') AND b.k BETWEEN 1 AND 2",
    "WITH c AS (SELECT max(k) AS m FROM t) SELECT m + 1, CASE WHEN m > 1 THEN 'a' ELSE 'b' END FROM c",
    "SELECT k, row_number() OVER (PARTITION BY v ORDER BY k) FROM t UNION ALL SELECT 1, 2",
    "SELECT CAST(v AS VARCHAR) || 'x', -k, k::DOUBLE / 3, [k, 2], {'a': k} FROM t WHERE k IS NOT NULL",
]


def mutations(seed: int, count: int) -> Iterator[str]:
    """Good statements with tokens dropped, doubled, swapped and exchanged."""
    chance = random.Random(seed)
    tokens = [sql.split(" ") for sql in GOOD]
    pool = sorted({token for sql in tokens for token in sql} | {"(", ")", ",", "''", "NULL", "FROM", "1e999", "nothere", "::", ";"})
    for _ in range(count):
        words = list(chance.choice(tokens))
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(words))
            match chance.randrange(4):
                case 0:
                    del words[place : place + 1]
                case 1:
                    words.insert(place, words[place])
                case 2:
                    words[place] = chance.choice(pool)
                case _:
                    words.insert(place, chance.choice(pool))
            words = words or ["SELECT"]
        yield " ".join(words)


def check_answered(connection: khonsu_sql.Connection, sql: str) -> bool:
    """Run `sql`; an error must be one of ours, with a SQLSTATE that says something. True when it was an error."""
    try:
        connection.execute(sql).close()
    except khonsu_sql.Error as error:
        assert len(error.sqlstate) == 5 and not error.sqlstate.startswith("XX"), f"{sql!r}: {error.sqlstate} {error}"
        assert str(error).strip() and "\x1b" not in str(error)
        return True
    return False


def test_mutated_statements(connection: khonsu_sql.Connection) -> None:
    outcomes = [check_answered(connection, sql) for sql in mutations(seed=1, count=400)]
    assert 50 < sum(outcomes) < len(outcomes), "mutations must sometimes be errors, sometimes not"
    assert connection.execute("SELECT * FROM t").fetchall() == [(1, "kept")]


@given(st.text(max_size=60))
def test_any_text_at_all(connection: khonsu_sql.Connection, text: str) -> None:
    check_answered(connection, text)


@given(st.lists(st.sampled_from("SELECT FROM t k v * ( ) , ' \" ; -- /* */ $$ ? :a $1 1 1.5 'x' = < NOT IN NULL AS".split()), max_size=12))
def test_any_tokens_at_all(connection: khonsu_sql.Connection, tokens: list[str]) -> None:
    check_answered(connection, " ".join(tokens))
