"""executemany: the one query over all sets means what the many statements mean."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from khonsu_sql import errors
from khonsu_sql.local import LocalSession

DAY = datetime.date(2024, 2, 29)
NOON = datetime.datetime(2024, 2, 29, 12, 0, 0, 5)

COLUMNS = {
    "INTEGER": [1, None, -5],
    "BIGINT": [2**40, 7, "12", None],
    "HUGEINT": [10**30, -1, None],
    "DECIMAL(8,2)": [Decimal("1.005"), Decimal("-3"), Decimal("12.5"), None],
    "DOUBLE": [1.5, float("inf"), float("nan"), None],
    "REAL": [0.1, 3, None],
    "BOOLEAN": [True, False, None],
    "VARCHAR": ["it's", "$1", '"', "", "é", None],
    "VARCHAR(3)": ["abc", None],
    "BLOB": [b"\x00\xff", b"", None],
    "DATE": [DAY, "2024-03-01", None],
    "TIME": [NOON.time(), None],
    "TIMESTAMP": [NOON, DAY, None],
    "TIMESTAMPTZ": [NOON.replace(tzinfo=datetime.UTC), None],
    "INTERVAL": [datetime.timedelta(days=3, microseconds=1), None],
    "UUID": [UUID(int=1), None],
    "JSON": ['{"a": 1}', None],
    "ENUM('x', 'y')": ["x", "y", None],
    "INTEGER[]": [[1, None], [], None],
    "STRUCT(a INTEGER)": [{"a": 1}, None],
}


def shown(session: LocalSession) -> list[str]:
    return [repr(row) for row in session.execute("SELECT * FROM m ORDER BY id").rows or ()]


def fresh(connect: Callable[..., LocalSession], column: str, *, point_path: bool = True) -> LocalSession:
    session = connect()
    session.execute(f"SET point_path = {'on' if point_path else 'off'}")
    session.execute("DROP TABLE IF EXISTS m")
    session.execute(f"CREATE TABLE m (id INTEGER PRIMARY KEY, v {column})")
    return session


@pytest.mark.parametrize("sql_type", COLUMNS)
def test_every_type_as_one_by_one(connect: Callable[..., LocalSession], sql_type: str) -> None:
    values = COLUMNS[sql_type]
    kinds: list[list[Any]] = [values, [value for value in values if type(value) is type(values[0]) or value is None]]
    for chosen in kinds:
        sets = [(number, value) for number, value in enumerate(chosen * 3)]
        single = fresh(connect, sql_type)
        for values_of_one in sets:
            single.execute("INSERT INTO m VALUES (?, ?)", values_of_one)
        expected = shown(single)
        for point_path in (True, False):
            together = fresh(connect, sql_type, point_path=point_path)
            assert together.execute("INSERT INTO m VALUES (?, ?)", sets, many=True).rowcount == len(sets)
            assert shown(together) == expected


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO m VALUES (?, ? || '$1' || '''$2''' || \"upper\"('x'))",
        "INSERT INTO m (v, id) VALUES ($2 || $2, $1)",
        "INSERT INTO m SELECT ?, CASE WHEN ? = 'b' THEN 'B' END",
        "INSERT INTO m VALUES (? + 10, ?), (-1 - $1, 'second')".replace("?", "$1", 1).replace("?", "$2", 1),
        "INSERT INTO m SELECT $1 * 10 + i, $2 FROM range(2) r(i)",
    ],
)
def test_expressions_over_the_parameters(connect: Callable[..., LocalSession], sql: str) -> None:
    sets = [(number, "ab"[number % 2]) for number in range(8)]
    single, together = fresh(connect, "VARCHAR", point_path=False), connect()
    together.execute("SET point_path = off")
    for values in sets:
        single.execute(sql, values)
    expected = shown(single)
    single.execute("DELETE FROM m")
    assert together.execute(sql, sets, many=True).rowcount == len(expected)
    assert shown(together) == expected


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("a\0b", errors.CharacterNotInRepertoire),
        ("\ud800", errors.CharacterNotInRepertoire),
        ("x" * 6, errors.DataError),
        (range(3), errors.InterfaceError),
    ],
)
def test_one_bad_value_among_many(connect: Callable[..., LocalSession], bad: Any, error: type[errors.Error]) -> None:
    for point_path in (True, False):
        session = fresh(connect, "VARCHAR(5)", point_path=point_path)
        sets = [*((number, "good") for number in range(10)), (99, bad)]
        with pytest.raises(error):
            session.execute("INSERT INTO m VALUES (?, ?)", sets, many=True)
        assert shown(session) == []


def test_a_wrong_number_of_parameters(connect: Callable[..., LocalSession]) -> None:
    session = fresh(connect, "VARCHAR")
    with pytest.raises(errors.ParameterMismatch):
        session.execute("INSERT INTO m VALUES (?, ?)", [(1, "a"), (2,)], many=True)
    assert shown(session) == []


@pytest.mark.parametrize("count", [200, 9_000])
def test_rows_without_a_key_keep_their_order(session: LocalSession, count: int) -> None:
    session.execute("CREATE TABLE log (n INTEGER, s VARCHAR DEFAULT 'x')")
    result = session.execute("INSERT INTO log (n) VALUES (?) RETURNING n, s", [(count - number,) for number in range(count)], many=True)
    assert result.rows == [(count - number, "x") for number in range(count)]
    assert session.execute("SELECT n FROM log LIMIT 3").rows == [(count,), (count - 1,), (count - 2,)]
