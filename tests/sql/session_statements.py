"""The statements `test_session_machine` plays: their SQL, what they mean in one state, and what they read. See `session_model`."""

from __future__ import annotations

import hypothesis.strategies as st

from tests.sql.session_model import (
    DUPLICATE,
    EVERY,
    INTEGER_MAX,
    OUT_OF_RANGE,
    Effect,
    K,
    M,
    Matches,
    N,
    Read,
    Row,
    Statement,
    Table,
    U,
    changed,
    key_read,
    twice,
    unique_read,
)

KEYS = range(1, 6)
VALUES = range(1, 5)
"""Of the unique column."""

SCHEMA = (
    "CREATE TABLE t (k INTEGER PRIMARY KEY, n INTEGER NOT NULL, m INTEGER, u INTEGER UNIQUE)",
    "ALTER TABLE t ALTER COLUMN n SET (merge = sum)",
)
FIRST: Table = {1: (1, 10, 0, 1), 2: (2, 20, 0, 2), 3: (3, 30, None, None)}

Keyed = tuple[int, int]


def rows_where(table: Table, matches: Matches) -> list[Row]:
    return [row for _, row in sorted(table.items()) if matches(row)]


def within(span: Keyed) -> Matches:
    return lambda row: span[0] <= row[0] <= span[1]


def span_read(span: Keyed, columns: int) -> Read:
    return Read(within(span), columns, lambda key: span[0] <= key <= span[1])


def select_key(key: int) -> Statement:
    sql = "SELECT * FROM t WHERE k = ?"
    return Statement(
        "select key", sql, (key,), "read", lambda table: Effect(rows_where(table, within((key, key)))), (key_read(key, EVERY),)
    )


def select_span(span: Keyed) -> Statement:
    sql = "SELECT * FROM t WHERE k BETWEEN ? AND ? ORDER BY k"
    return Statement("select span", sql, span, "read", lambda table: Effect(rows_where(table, within(span))), (span_read(span, EVERY),))


def count(bound: int) -> Statement:
    def matches(row: Row) -> bool:
        return row[1] >= bound

    read = Read(matches, N, lambda _: True)
    sql = "SELECT count(*) FROM t WHERE n >= ?"
    return Statement("count", sql, (bound,), "read", lambda table: Effect([(len(rows_where(table, matches)),)]), (read,))


def select_unique(value: int) -> Statement:
    def effect(table: Table) -> Effect:
        return Effect(rows_where(table, lambda row: row[3] == value))

    return Statement("select unique", "SELECT * FROM t WHERE u = ?", (value,), "read", effect, (unique_read(value, EVERY),))


def lock(span: Keyed, mode: str, patience: str) -> Statement:
    def effect(table: Table) -> Effect:
        rows = rows_where(table, within(span))
        return Effect(rows, locks=tuple(row[0] for row in rows))

    one = span[0] == span[1]
    where, parameters = ("k = ?", span[:1]) if one else ("k BETWEEN ? AND ?", span)
    sql = f"SELECT * FROM t WHERE {where} ORDER BY k FOR {mode} {patience}".rstrip()
    return Statement("lock", sql, parameters, "lock", effect, (span_read(span, EVERY),), mode=mode, patience=patience, span=span)


def written(table: Table, rows: dict[int, Row | None]) -> Effect:
    return Effect(len(rows), rows, DUPLICATE if twice(changed(table, rows)) else None, tuple(rows))


def insert(row: Row) -> Statement:
    def effect(table: Table) -> Effect:
        if row[0] in table:
            return Effect(None, {row[0]: row}, DUPLICATE, (row[0],))
        return written(table, {row[0]: row})

    reads = [key_read(row[0], 0, sure=False)]
    if row[3] is not None:
        reads.append(unique_read(row[3], EVERY, sure=False))
    return Statement("insert", "INSERT INTO t VALUES (?, ?, ?, ?)", row, "write", effect, tuple(reads))


def set_m(key: int, value: int | None) -> Statement:
    def effect(table: Table) -> Effect:
        return written(table, {row[0]: (row[0], row[1], value, row[3]) for row in rows_where(table, within((key, key)))})

    return Statement("set m", "UPDATE t SET m = ? WHERE k = ?", (value, key), "write", effect, (key_read(key, K),), M)


def add_n(span: Keyed, delta: int) -> Statement:
    def effect(table: Table) -> Effect:
        found = {row[0]: (row[0], row[1] + delta, row[2], row[3]) for row in rows_where(table, within(span))}
        if any(row[1] > INTEGER_MAX for row in found.values()):
            return Effect(None, {}, OUT_OF_RANGE)
        return written(table, dict(found))

    where, keys = ("k = ?", span[:1]) if span[0] == span[1] else ("k BETWEEN ? AND ?", span)
    sql = f"UPDATE t SET n = n + ? WHERE {where}"
    return Statement("add n", sql, (delta, *keys), "write", effect, (span_read(span, K | N),), N, delta=True)


def set_u(key: int, value: int | None) -> Statement:
    def effect(table: Table) -> Effect:
        return written(table, {row[0]: (row[0], row[1], row[2], value) for row in rows_where(table, within((key, key)))})

    reads = (key_read(key, K), key_read(key, EVERY, sure=False))
    return Statement("set u", "UPDATE t SET u = ? WHERE k = ?", (value, key), "write", effect, reads, U)


def delete(key: int) -> Statement:
    def effect(table: Table) -> Effect:
        return written(table, {row[0]: None for row in rows_where(table, within((key, key)))})

    return Statement("delete", "DELETE FROM t WHERE k = ?", (key,), "write", effect, (key_read(key, K),))


keys = st.sampled_from(list(KEYS))
spans = st.tuples(keys, keys).map(lambda span: (min(span), max(span)))
uniques = st.sampled_from([None, *VALUES])
small = st.integers(0, 3)
READS = st.one_of(
    st.builds(select_key, keys),
    st.builds(select_span, spans),
    st.builds(count, st.sampled_from([1, 11, 21, 31])),
    st.builds(select_unique, st.sampled_from(list(VALUES))),
)
LOCKS = st.builds(
    lock,
    keys.map(lambda key: (key, key)) | spans,
    st.sampled_from(["UPDATE", "SHARE"]),
    st.sampled_from(["", "NOWAIT", "SKIP LOCKED"]),
)
WRITES = st.one_of(
    st.builds(insert, st.tuples(keys, small, st.none() | small, uniques)),
    st.builds(set_m, keys, st.none() | small),
    st.builds(add_n, keys.map(lambda key: (key, key)), st.sampled_from([1, 2, -1, INTEGER_MAX])),
    st.builds(add_n, spans, st.sampled_from([1, -1])),
    st.builds(set_u, keys, uniques),
    st.builds(delete, keys),
)
