"""Names to columns, tables to sources, conditions to predicates: what binding says of a statement, and the errors it finds."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from khonsu_engine.commands import ALL_COLUMNS, Operation
from khonsu_engine.mvcc.predicates import ALL, And, Compare, In, IsNull, Not, Or, Predicate
from khonsu_engine.schema.catalog import Catalog
from khonsu_sql import errors
from khonsu_sql.sql.bind import bind, instantiate
from khonsu_sql.sql.parse import parse
from khonsu_sql.sql.plan import DropTable, Explain, Query, Source, WriteFromQuery
from khonsu_sql.sql.shape import Call, ColumnRef, Constant, OrderItem, Output, Parameter, Shape
from khonsu_sql.sql.shape import Operation as Op
from tests.sql.bound import answer, bound, catalog_of, predicate_of_table, query_of, values_of

CATALOG = catalog_of(
    "CREATE TABLE accounts (id INTEGER PRIMARY KEY, owner VARCHAR NOT NULL, balance DECIMAL(9,2) DEFAULT 0, note VARCHAR)",
    "CREATE TABLE moves (account_id INTEGER, at TIMESTAMP, amount DECIMAL(9,2), PRIMARY KEY (account_id, at))",
    "CREATE TABLE loose (x INTEGER, y VARCHAR DEFAULT 'it''s', z DOUBLE)",
    'CREATE TABLE "Odd Name" ("select" INTEGER PRIMARY KEY, "a""b" VARCHAR, s STRUCT(f INTEGER, g VARCHAR))',
)


def reads(statement: Any) -> dict[str, str]:
    """Source -> table and columns read, in words."""
    plan = statement.plan.plan if isinstance(statement.plan, Explain) else statement.plan
    query = plan.query if isinstance(plan, WriteFromQuery) else plan
    return {source.name: f"{source.read.table.name}({shown(source)})" for source in query.sources}


def shown(source: Source) -> str:
    if source.read.columns == ALL_COLUMNS:
        return "*"
    columns = source.read.table.columns
    return ", ".join(column.name for number, column in enumerate(columns) if source.read.columns >> number & 1)


def failure(sql: str, catalog: Catalog = CATALOG) -> errors.Error:
    with pytest.raises(errors.Error) as caught:
        for parsed in parse(sql):
            bind(parsed, catalog)
    return caught.value


# --- what is read


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT owner FROM accounts", {"k1": "accounts(owner)"}),
        ("SELECT * FROM accounts", {"k1": "accounts(*)"}),
        ("SELECT a.* FROM accounts a", {"k1": "accounts(*)"}),
        ("SELECT a FROM accounts a", {"k1": "accounts(*)"}),
        ("SELECT count(*) FROM accounts", {"k1": "accounts()"}),
        ("SELECT count(*) FROM accounts WHERE owner = 'x'", {"k1": "accounts(owner)"}),
        ("SELECT 1 FROM main.accounts WHERE main.accounts.id = 1", {"k1": "accounts(id)"}),
        ("SELECT OWNER FROM ACCOUNTS ORDER BY Balance", {"k1": "accounts(owner, balance)"}),
        ("SELECT id AS note FROM accounts ORDER BY note", {"k1": "accounts(id, note)"}),
        ("SELECT id AS nothere FROM accounts ORDER BY nothere", {"k1": "accounts(id)"}),
        ('SELECT s.f FROM "Odd Name"', {"k1": "Odd Name(s)"}),
        ('SELECT o.s.f FROM "Odd Name" o', {"k1": "Odd Name(s)"}),
        ('SELECT "SELECT", "A""B" FROM "odd name"', {"k1": 'Odd Name(select, a"b)'}),
        ("SELECT x.owner FROM accounts x JOIN accounts y ON x.id = y.balance", {"k1": "accounts(id, owner)", "k2": "accounts(balance)"}),
        ("SELECT owner FROM accounts JOIN moves ON account_id = id", {"k1": "accounts(id, owner)", "k2": "moves(account_id)"}),
        (
            "SELECT 1 FROM accounts WHERE EXISTS (SELECT * FROM moves WHERE account_id = id)",
            {"k1": "accounts(id)", "k2": "moves(account_id)"},
        ),
        ("SELECT (SELECT note FROM moves LIMIT 1) FROM accounts", {"k1": "accounts(note)", "k2": "moves()"}),
        ("WITH accounts AS (SELECT 1 AS id) SELECT * FROM accounts", {}),
        ("WITH accounts AS (SELECT id FROM accounts) SELECT * FROM accounts", {"k1": "accounts(id)"}),
        ("WITH RECURSIVE accounts AS (SELECT 1 AS id UNION SELECT id + 1 FROM accounts WHERE id < 3) SELECT * FROM accounts", {}),
        ("WITH a AS (SELECT id FROM accounts), b AS (SELECT id FROM a) SELECT * FROM b, a", {"k1": "accounts(id)"}),
        ("WITH k1 AS (SELECT 1) SELECT * FROM k1, loose", {"k2": "loose(*)"}),
        ("SELECT q.n FROM (SELECT x AS n, y FROM loose) AS q", {"k1": "loose(x, y)"}),
        ("SELECT x FROM loose UNION SELECT id FROM accounts ORDER BY 1", {"k1": "loose(x)", "k2": "accounts(id)"}),
        ("SELECT * FROM loose NATURAL JOIN accounts", {"k1": "loose(*)", "k2": "accounts(*)"}),
        ("SELECT COLUMNS('x') FROM loose", {"k1": "loose(*)"}),
        ("SELECT * EXCLUDE (y) FROM loose", {"k1": "loose(*)"}),
        ("FROM loose SELECT x", {"k1": "loose(x)"}),
        ("PIVOT loose ON x USING sum(z)", {"k1": "loose(*)"}),
        ("SELECT i FROM range(3) r(i), loose WHERE x = i", {"k1": "loose(x)"}),
        ("SELECT u FROM accounts, unnest([id, id]) AS t(u)", {"k1": "accounts(id)"}),
        ("SELECT list_transform([1], lambda owner: owner + id) FROM accounts", {"k1": "accounts(id)"}),
        ("SELECT sum(balance) OVER w FROM accounts WINDOW w AS (PARTITION BY owner)", {"k1": "accounts(owner, balance)"}),
        ("INSERT INTO loose SELECT id, owner, 1 FROM accounts", {"k1": "accounts(id, owner)"}),
        ("INSERT INTO loose VALUES ((SELECT max(id) FROM accounts), 'x', 1)", {"k1": "accounts(id)"}),
        ("UPDATE accounts SET balance = balance + 1 WHERE owner = 'x'", {"k1": "accounts(id, owner, balance)"}),
        ("UPDATE accounts SET note = 'x'", {"k1": "accounts(id)"}),
        ("UPDATE loose SET x = 1 WHERE y = 'a'", {"k1": "loose(y, __rowid)"}),
        ("DELETE FROM accounts USING moves WHERE account_id = id", {"k1": "accounts(id)", "k2": "moves(account_id)"}),
        ("DELETE FROM moves", {"k1": "moves(account_id, at)"}),
        ("EXPLAIN SELECT id FROM accounts", {"k1": "accounts(id)"}),
    ],
)
def test_columns_read(sql: str, expected: dict[str, str]) -> None:
    assert reads(bound(sql, CATALOG)) == expected


def test_hidden_columns_are_served_to_nobody_who_did_not_need_them() -> None:
    (source,) = query_of("SELECT * FROM loose", CATALOG).sources
    assert source.projection == (0, 1, 2)
    (source,) = query_of("SELECT count(*) FROM loose", CATALOG).sources
    assert source.projection == (0,) and source.read.columns == 0
    assert failure("SELECT __rowid FROM loose").sqlstate == "42703"
    assert failure("SELECT rowid FROM loose").sqlstate == "42703"
    assert failure("UPDATE loose SET x = 1 WHERE loose IS NOT NULL").sqlstate == "0A000"
    assert failure("INSERT INTO loose (__rowid) VALUES (1)").sqlstate == "42703"
    assert failure("UPDATE loose SET __rowid = 1").sqlstate == "42703"


def test_what_a_statement_depends_on() -> None:
    names = [
        table.name for table in bound("UPDATE accounts SET note = (SELECT y FROM loose) WHERE id IN (SELECT x FROM loose)", CATALOG).tables
    ]
    assert names == ["accounts", "loose"]
    assert [table.name for table in bound("INSERT INTO loose DEFAULT VALUES", CATALOG).tables] == ["loose"]
    assert bound("SELECT 1", CATALOG).tables == ()


def test_a_parsed_statement_can_be_bound_again() -> None:
    (parsed,) = parse("SELECT owner FROM accounts WHERE id = ?")
    first = bind(parsed, CATALOG)
    other = catalog_of("CREATE TABLE accounts (owner INTEGER, id INTEGER)")
    assert bind(parsed, CATALOG) == first == bind(parsed, CATALOG)
    assert bind(parsed, other).tables == (other.tables["main", "accounts"],)


# --- predicates


def ref(sql: str, *parameters: Any) -> Predicate:
    return predicate_of_table(f"SELECT 1 FROM accounts WHERE {sql}", CATALOG, parameters)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("id = 5", Compare(0, "=", 5)),
        ("5 < id", Compare(0, ">", 5)),
        ("id = -5", Compare(0, "=", -5)),
        ("id IN (1, 2, NULL)", In(0, (1, 2, None))),
        ("id NOT IN (1, 2)", Not(In(0, (1, 2)))),
        ("id BETWEEN 1 AND 3 AND owner = 'x'", And((And((Compare(0, ">=", 1), Compare(0, "<=", 3))), Compare(1, "=", "x")))),
        ("NOT (id = 1 OR owner IS NULL)", And((Compare(0, "<>", 1), Not(IsNull(1))))),
        ("id = 1 OR owner = 'x'", Or((Compare(0, "=", 1), Compare(1, "=", "x")))),
        ("balance = 1.5", Compare(2, "=", Decimal("1.50"))),
        ("balance = 1", Compare(2, "=", Decimal("1.00"))),
        ("balance > 1.005", ALL),
        ("id = '7'", Compare(0, "=", 7)),
        ("id = 1.5", ALL),
        ("id = 3000000000", ALL),
        ("id::BIGINT = 7", Compare(0, "=", 7)),
        ("id::SMALLINT = 7", ALL),
        ("id::VARCHAR = '7'", ALL),
        ("owner = 7", ALL),
        ("id + 1 = 7", ALL),
        ("id = 1 AND owner LIKE 'a%'", Compare(0, "=", 1)),
        ("id = 1 OR owner LIKE 'a%'", ALL),
        ("NOT (id = 1 AND owner LIKE 'a%')", ALL),
        ("id = balance", ALL),
        ("id = NULL", Compare(0, "=", None)),
        ("(((id)) = (((5))))", Compare(0, "=", 5)),
        ("random() < 0.5 AND id = 1", Compare(0, "=", 1)),
        ("id IS DISTINCT FROM 5", Or((IsNull(0), Compare(0, "<>", 5)))),
        ("id IS NOT DISTINCT FROM NULL", IsNull(0)),
        ("owner COLLATE nocase = 'x'", ALL),
        ("id IN (SELECT 1)", ALL),
        ("TRUE", ALL),
    ],
)
def test_conditions_become_predicates(sql: str, expected: Predicate) -> None:
    assert ref(sql) == expected


@pytest.mark.parametrize(
    ("sql", "parameters", "expected"),
    [
        ("id = ?", (5,), Compare(0, "=", 5)),
        ("id = ?", ("5",), Compare(0, "=", 5)),
        ("id = ?", (None,), Compare(0, "=", None)),
        ("id = ?", (5.0,), ALL),
        ("id = ?", (True,), ALL),
        ("id = ?", (10**30,), ALL),
        ("balance = ?", (Decimal("2.500"),), Compare(2, "=", Decimal("2.50"))),
        ("balance = ?", (0.1,), ALL),
        ("id = ? AND owner = ?", (2.5, "x"), Compare(1, "=", "x")),
        ("id = ? OR owner = ?", (2.5, "x"), ALL),
        ("id IN (?, ?)", (1, 2), In(0, (1, 2))),
        ("id IN (?, ?)", (1, 2.5), ALL),
        ("NOT id IN (?)", (1,), Not(In(0, (1,)))),
        ("id = CAST(? AS INTEGER)", ("12",), Compare(0, "=", 12)),
        ("id = CAST(? AS DOUBLE)", (1,), ALL),
        ("owner >= ? AND owner < ?", ("a", "b"), And((Compare(1, ">=", "a"), Compare(1, "<", "b")))),
    ],
)
def test_parameters_are_filled_in_as_the_column_holds_them(sql: str, parameters: tuple[Any, ...], expected: Predicate) -> None:
    assert ref(sql, *parameters) == expected
    (source,) = query_of(f"SELECT 1 FROM accounts WHERE {sql}", CATALOG).sources
    assert instantiate(source.read.predicate, parameters) == expected
    if "?" not in sql:
        assert instantiate(source.read.predicate, ()) is source.read.predicate


def test_text_that_is_no_number_is_an_error_even_without_rows() -> None:
    with pytest.raises(errors.InvalidTextRepresentation, match="INTEGER"):
        ref("id = ?", "abc")


def by_table(sql: str) -> dict[str, Predicate]:
    return {source.read.table.name: instantiate(source.read.predicate, ()) for source in query_of(sql, CATALOG).sources}


FIVE = Compare(0, "=", 5)


@pytest.mark.parametrize(
    ("sql", "accounts", "moves"),
    [
        ("accounts JOIN moves ON account_id = id WHERE id = 5", FIVE, FIVE),
        ("accounts JOIN moves ON account_id = id AND id = 5", FIVE, FIVE),
        ("accounts, moves WHERE account_id = id AND account_id = 5", FIVE, FIVE),
        ("accounts LEFT JOIN moves ON account_id = id WHERE id = 5", FIVE, FIVE),
        ("accounts LEFT JOIN moves ON account_id = id AND id = 5", ALL, ALL),
        ("accounts LEFT JOIN moves ON account_id = id AND account_id = 5", ALL, FIVE),
        ("accounts LEFT JOIN moves ON account_id = id WHERE account_id = 5", ALL, FIVE),
        ("accounts LEFT JOIN moves ON account_id = id WHERE account_id IS NULL", ALL, ALL),
        ("accounts RIGHT JOIN moves ON account_id = id WHERE account_id = 5", FIVE, FIVE),
        ("accounts RIGHT JOIN moves ON account_id = id AND id = 5", FIVE, ALL),
        ("accounts FULL JOIN moves ON account_id = id AND id = 5", ALL, ALL),
        ("accounts FULL JOIN moves ON account_id = id WHERE id = 5", FIVE, ALL),
        ("accounts SEMI JOIN moves ON account_id = id WHERE id = 5", FIVE, FIVE),
        ("accounts ANTI JOIN moves ON account_id = id WHERE id = 5", FIVE, FIVE),
        ("accounts ANTI JOIN moves ON account_id = id AND id = 5", ALL, ALL),
        ("accounts POSITIONAL JOIN moves WHERE id = 5 AND account_id = 5", ALL, ALL),
        ("accounts ASOF JOIN moves ON account_id >= id WHERE id = 5 AND account_id = 5", ALL, ALL),
        ("accounts TABLESAMPLE 50 PERCENT, moves WHERE id = 5 AND account_id = 5", ALL, FIVE),
        ("accounts, moves WHERE id = 5 OR account_id = 5", ALL, ALL),
    ],
)
def test_conditions_reach_the_tables_they_speak_of(sql: str, accounts: Predicate, moves: Predicate) -> None:
    assert by_table(f"SELECT 1 FROM {sql}") == {"accounts": accounts, "moves": moves}


def test_conditions_of_other_scopes_stay_there() -> None:
    assert by_table("SELECT 1 FROM accounts WHERE EXISTS (SELECT 1 FROM moves WHERE account_id = 5 AND id = 5)") == {
        "accounts": ALL,
        "moves": FIVE,
    }
    assert by_table("SELECT * FROM (SELECT * FROM moves) AS m WHERE m.account_id = 5") == {"moves": ALL}
    assert by_table("SELECT id AS account_id FROM accounts GROUP BY id HAVING id = 5") == {"accounts": ALL}
    assert by_table("SELECT id FROM accounts QUALIFY id = 5") == {"accounts": ALL}


def test_an_alias_of_the_select_list_is_not_a_column_that_exists() -> None:
    """WHERE means the column, if there is one."""
    assert by_table("SELECT owner AS id FROM accounts WHERE id = 5") == {"accounts": FIVE}
    assert by_table("SELECT id AS five FROM accounts WHERE five = 5") == {"accounts": ALL}


# --- names and errors


@pytest.mark.parametrize(
    ("sql", "state", "offset", "hint"),
    [
        ("SELECT * FROM acounts", "42P01", 14, "accounts"),
        ("SELECT * FROM accounts, nowhere", "42P01", 24, None),
        ("SELECT ballance FROM accounts", "42703", 7, "balance"),
        ("SELECT a.ballance FROM accounts a", "42703", 9, "balance"),
        ("SELECT accounts.id FROM accounts a", "42P01", 7, None),
        ("SELECT id FROM accounts WHERE EXISTS (SELECT 1 FROM loose WHERE ownr = y)", "42703", 64, "owner"),
        ("SELECT id FROM accounts x, accounts y", "42702", 7, None),
        ("SELECT x.id FROM accounts x JOIN accounts y ON id = 1", "42702", 47, None),
        ("SELECT 1 FROM accounts a, moves a", "42712", None, None),
        ("SELECT 1 FROM accounts, accounts", "42712", None, None),
        ("SELECT * FROM other.accounts", "3F000", 14, None),
        ("SELECT * FROM information_schema.tables", "0A000", 14, None),
        ("INSERT INTO acounts VALUES (1)", "42P01", 12, "accounts"),
        ("INSERT INTO accounts (id, ownr) VALUES (1, 'x')", "42703", 26, "owner"),
        ("INSERT INTO accounts (id, id) VALUES (1, 2)", "42701", 26, None),
        ("INSERT INTO accounts VALUES (1)", "42601", 29, None),
        ("INSERT INTO accounts (id) VALUES (1), (2, 3)", "42601", 39, None),
        ("INSERT INTO accounts (id) SELECT 1, 2", "42601", 33, None),
        ("UPDATE accounts SET ballance = 1", "42703", 20, "balance"),
        ("UPDATE accounts SET id = 1, id = 2", "42601", 28, None),
        ("UPDATE accounts SET (id, note) = (1, 2, 3)", "42601", None, None),
        ("UPDATE accounts SET id = 1 RETURNING nothere", "42703", 37, None),
        ("DELETE FROM accounts WHERE nothere = 1", "42703", 27, None),
        ("DELETE FROM accounts RETURNING count(*)", "42803", None, None),
        ("INSERT INTO loose DEFAULT VALUES RETURNING sum(x) OVER ()", "42803", None, None),
        ("SELECT DEFAULT", "42601", None, None),
        ("DROP TABLE acounts", "42P01", None, "accounts"),
        ("SELECT 1 UNION SELECT 1, 2", "42601", 22, None),
        ("SELECT read_csv('/etc/passwd')", "42501", 7, "ingest"),
        ("SELECT * FROM read_parquet('x')", "42501", 14, "ingest"),
        ("SELECT * FROM '/etc/passwd'", "42P01", None, None),
        ("SELECT * FROM glob('*')", "42501", None, None),
        ("SELECT * FROM query('SELECT 1')", "42501", 14, None),
        ("SELECT getenv('HOME')", "42501", 7, None),
        ("SELECT nextval('s')", "0A000", 7, None),
        ("SELECT * FROM duckdb_settings()", "42501", 14, None),
        ("SELECT * FROM pragma_table_info('t')", "42501", 14, None),
        ("SELECT * FROM generate_serie(1, 2)", "42883", 14, "generate_series"),
    ],
)
def test_errors_say_what_and_where(sql: str, state: str, offset: int | None, hint: str | None) -> None:
    error = failure(sql)
    assert error.sqlstate == state and error.sql == sql, error
    assert offset is None or error.position == offset + 1, error
    assert hint is None or hint in (error.hint or ""), error


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id AS n FROM accounts GROUP BY n HAVING n > 1 ORDER BY n",
        "SELECT id AS n, n + 1 FROM accounts",
        "SELECT current_user, current_schema, current_date, localtime",
        "SELECT x.id FROM accounts x, accounts y ORDER BY id",
        'SELECT q."sum(x)" FROM (SELECT sum(x) FROM loose) AS q',
        'SELECT "sum(x)" FROM (SELECT sum(x) FROM loose)',
        "SELECT a FROM (PIVOT loose ON x USING sum(z))",
        "SELECT j.value FROM json_each('{}') AS j",
        "SELECT list_filter([1], lambda e: e > 0), [e for e in [1]]",
        "SELECT struct_pack(q := 1).q, {'w': 1}.w",
        "SELECT x FROM loose AS l(a, x, c)",
        "SELECT id FROM accounts JOIN moves ON TRUE JOIN (SELECT 1 AS one) AS o ON one = id",
        "SELECT (SELECT owner) FROM accounts",
        "SELECT * FROM accounts a, LATERAL (SELECT a.id AS i) AS l, LATERAL (SELECT l.i) AS m",
        "SELECT date_part('year', at), EXTRACT(month FROM at), INTERVAL 1 DAY FROM moves",
    ],
)
def test_what_is_no_error_of_ours(sql: str) -> None:
    assert isinstance(bound(sql, CATALOG).plan, Query)


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        (
            "SELECT ID, owner AS o, balance + 1, count( * ), 'x', $1 FROM accounts GROUP BY ALL",
            ("id", "o", "balance + 1", "count( * )", "'x'", "$1"),
        ),
        ("SELECT * FROM accounts", ("id", "owner", "balance", "note")),
        ("SELECT *, x AS n FROM loose, (SELECT 1 AS one) AS o", ("x", "y", "z", "one", "n")),
        ("SELECT x FROM loose UNION SELECT id + 1 FROM accounts", ("x",)),
        ("SELECT (x), x::VARCHAR, CASE WHEN x = 1 THEN 2 END FROM loose", ("x", "x::VARCHAR", "CASE WHEN x = 1 THEN 2 END")),
        ("WITH q AS (SELECT 1 + 1 AS two) SELECT two, two + 1 FROM q", ("two", "two + 1")),
        ("SELECT * FROM range(3)", None),
        ("VALUES (1, 2)", ("col0", "col1")),
        ("INSERT INTO loose VALUES (1, 'a', 2) RETURNING x, upper(y), z AS last", ("x", "upper(y)", "last")),
    ],
)
def test_names_of_columns(sql: str, names: tuple[str, ...] | None) -> None:
    plan = bound(sql, CATALOG).plan
    query = plan.returning if isinstance(plan, WriteFromQuery) else plan
    assert isinstance(query, Query) and query.columns == names


def test_parameters_of_a_query_have_no_gaps() -> None:
    plan = bound("UPDATE accounts SET note = $3 WHERE id = $1 RETURNING note || $2, $3", CATALOG).plan
    assert isinstance(plan, WriteFromQuery) and plan.returning is not None
    assert plan.query.parameters == (0, 2) and "$1" in plan.query.sql and "$2" in plan.query.sql
    assert plan.returning.parameters == (1, 2)


# --- writes

ROWS = {
    "accounts": [(1, "ann", Decimal("10.00"), None), (2, "bob", Decimal("20.00"), "n")],
    "moves": [],
    "loose": [(1, "a", 1.5, 100), (2, "b", None, 101)],
}


@pytest.mark.parametrize(
    ("sql", "parameters", "rows"),
    [
        ("INSERT INTO loose VALUES (1, 'x', 2)", (), [(1, "x", 2.0)]),
        ("INSERT INTO loose (z, x) VALUES (2.5, '7'), (DEFAULT, ?)", ("8",), [(7, "it's", 2.5), (8, "it's", None)]),
        ("INSERT INTO loose VALUES (1, DEFAULT, 1), (2.5, 3, '4')", (), [(1, "it's", 1.0), (3, "3", 4.0)]),
        ("INSERT INTO loose DEFAULT VALUES", (), [(None, "it's", None)]),
        ("INSERT INTO loose (x) SELECT id FROM accounts ORDER BY id DESC", (), [(2, "it's", None), (1, "it's", None)]),
        ("INSERT INTO loose (x, y) SELECT * FROM (VALUES (1, 2)) v", (), [(1, "2", None)]),
        ("INSERT INTO loose (x) SELECT * FROM range(2)", (), [(0, "it's", None), (1, "it's", None)]),
        ("WITH q AS (SELECT 5 AS five) INSERT INTO loose (x) VALUES ((SELECT five FROM q))", (), [(5, "it's", None)]),
        ("WITH q AS (SELECT 5 AS five) INSERT INTO loose (x) SELECT five FROM q", (), [(5, "it's", None)]),
        ("UPDATE accounts SET balance = balance * 2, note = DEFAULT WHERE id = 2", (), [(2, Decimal("40.00"), None)]),
        ("UPDATE accounts a SET (owner, note) = (note, owner) WHERE a.id = ?", (2,), [(2, "n", "bob")]),
        ("UPDATE accounts SET note = (SELECT max(y) FROM loose WHERE x = id)", (), [(1, "a"), (2, "b")]),
        ("UPDATE accounts SET note = l.y FROM loose AS l WHERE l.x = accounts.id AND l.x > 1", (), [(2, "b")]),
        ("UPDATE loose SET x = x + 1 WHERE y = 'b'", (), [(101, 3)]),
        ("DELETE FROM accounts WHERE owner LIKE 'a%'", (), [(1,)]),
        ("DELETE FROM loose AS l USING accounts WHERE l.x = accounts.id AND owner = 'bob'", (), [(101,)]),
        ("DELETE FROM loose", (), [(100,), (101,)]),
    ],
)
def test_what_a_write_writes(sql: str, parameters: tuple[Any, ...], rows: list[tuple[Any, ...]]) -> None:
    statement = bound(sql, CATALOG)
    assert isinstance(statement.plan, WriteFromQuery)
    values = values_of(statement, parameters)
    assert answer(statement.plan.query, ROWS, values) == rows


def test_an_insert_of_unknown_width_is_measured_by_duckdb() -> None:
    plan = bound("INSERT INTO loose SELECT * FROM range(3)", CATALOG).plan
    assert isinstance(plan, WriteFromQuery)
    with pytest.raises(Exception, match="same number of"):
        answer(plan.query, ROWS)


def test_returning_sees_the_affected_rows_and_other_tables() -> None:
    plan = bound(
        "UPDATE accounts a SET note = 'x' WHERE id = 1 RETURNING a.owner || '!' AS who, (SELECT max(x) FROM loose), *", CATALOG
    ).plan
    assert isinstance(plan, WriteFromQuery) and plan.returning is not None
    assert (plan.operation, plan.assigned, plan.returning.columns) == (
        Operation.UPDATE,
        (3,),
        ("who", "(SELECT max(x) FROM loose)", "id", "owner", "balance", "note"),
    )
    assert [source.read.table.name for source in plan.returning.sources] == ["accounts", "loose"]
    assert answer(plan.returning, ROWS)[0] == ("ann!", 2, 1, "ann", Decimal("10.00"), None)


# --- DDL


def test_create_table() -> None:
    catalog = catalog_of(
        """CREATE TABLE IF NOT EXISTS main.t (
            a INTEGER CONSTRAINT key_of_t PRIMARY KEY, b VARCHAR(3) NOT NULL UNIQUE DEFAULT 'x' || 'y', c DECIMAL(5, 1) NULL CHECK (c > 0 AND t.c < 9),
            "D d" TIMESTAMP(3) WITHOUT TIME ZONE DEFAULT now(), e STRUCT(x INTEGER, y VARCHAR[]), f DOUBLE PRECISION CHECK (f <> 0) CHECK (f <> 1),
            UNIQUE (b, c), CHECK (length(b) < c), CONSTRAINT named CHECK ("D d" IS NOT NULL), UNIQUE (c))"""
    )
    table = catalog.tables[("main", "t")]
    assert [(column.name, column.type.sql, column.nullable, column.default) for column in table.columns] == [
        ("a", "INTEGER", False, None),
        ("b", "VARCHAR(3)", False, "'x' || 'y'"),
        ("c", "DECIMAL(5,1)", True, None),
        ("D d", "TIMESTAMP_MS", True, "NOW()"),
        ("e", 'STRUCT("x" INTEGER, "y" VARCHAR[])', True, None),
        ("f", "DOUBLE", True, None),
    ]
    assert (table.key_columns, table.key_name) == ((0,), "key_of_t")
    assert [(index.name, index.columns) for index in table.indexes] == [("t_b_key", (1,)), ("t_b_c_key", (1, 2)), ("t_c_key", (2,))]
    assert [(check.name, check.expression, check.columns) for check in table.checks] == [
        ("t_c_check", '"c" > 0 AND "c" < 9', (2,)),
        ("t_f_check", '"f" <> 0', (5,)),
        ("t_f_check1", '"f" <> 1', (5,)),
        ("t_check", 'LENGTH("b") < "c"', (1, 2)),
        ("named", '"D d" IS NOT NULL', (3,)),
    ]


def test_keys_of_a_table() -> None:
    table = catalog_of("CREATE TABLE t (a INT, b INT, PRIMARY KEY (b, a), UNIQUE (b, a))").tables[("main", "t")]
    assert (table.key_columns, table.key_name, table.indexes, table.has_row_id) == ((1, 0), "t_pkey", (), False)
    assert not any(column.nullable for column in table.columns)
    table = catalog_of("CREATE TABLE t (a INT, b INT, UNIQUE (b))").tables[("main", "t")]
    assert (table.key_columns, table.key_name, table.visible, table.has_row_id) == ((2,), "", (0, 1), True)


@pytest.mark.parametrize(
    ("sql", "state", "offset"),
    [
        ("CREATE TABLE t (a INT, A INT)", "42701", 23),
        ("CREATE TABLE t (a INT PRIMARY KEY, b INT PRIMARY KEY)", "42P16", 41),
        ("CREATE TABLE t (a INT, PRIMARY KEY (nothere))", "42703", 36),
        ("CREATE TABLE t (a INT, UNIQUE (a, a))", "42701", 34),
        ("CREATE TABLE t (a INT CHECK (b > 0))", "42703", 29),
        ("CREATE TABLE t (a INT CHECK (sum(a) > 0))", "42803", None),
        ("CREATE TABLE t (a INT CHECK (a > ?))", "42P02", None),
        ("CREATE TABLE t (a INT CHECK (read_text('x') = 'y'))", "42501", None),
        ("CREATE TABLE t (a INT DEFAULT (SELECT 1))", "0A000", None),
        ("CREATE TABLE t (a INT DEFAULT b)", "0A000", None),
        ("CREATE TABLE t (a INT DEFAULT 'abc')", "22P02", 30),
        ("CREATE TABLE t (a NOSUCH)", "42704", 18),
        ("CREATE TABLE t (a DECIMAL(50))", "22P02", 18),
        ("CREATE TABLE t (a INT NULL PRIMARY KEY)", "42P16", None),
        ("CREATE TABLE t (__rowid INT)", "42P16", 16),
        ("CREATE TABLE t (a INT, CONSTRAINT c CHECK (a > 0), CONSTRAINT c CHECK (a > 1))", "42710", None),
        ("CREATE TABLE other.t (a INT)", "3F000", 13),
        ("CREATE TABLE t (a INT CHECK ())", "42601", None),
        ("CREATE TABLE t (a INT DEFAULT)", "42601", None),
    ],
)
def test_tables_that_are_not_made(sql: str, state: str, offset: int | None) -> None:
    error = failure(sql)
    assert error.sqlstate == state, error
    assert offset is None or error.position == offset + 1, error


def test_drop_table() -> None:
    assert bound("DROP TABLE IF EXISTS nothere, main.ACCOUNTS CASCADE", CATALOG).plan == DropTable(
        (("main", "nothere"), ("main", "ACCOUNTS")), True
    )


# --- shapes


def shape(sql: str) -> Shape | None:
    return bound(sql, CATALOG).shape


def test_shapes_of_simple_statements() -> None:
    found = shape("SELECT owner, id + 1 AS n FROM accounts WHERE id = ? AND note IS NULL ORDER BY n DESC, 1 LIMIT 5 OFFSET ?")
    assert found is not None
    plus = Op("+", (ColumnRef(0, 0), Constant(1, CATALOG.tables[("main", "accounts")].columns[0].type)))
    assert found.where == (Op("=", (ColumnRef(0, 0), Parameter(0))), Op("is null", (ColumnRef(0, 3),)))
    assert found.outputs == (Output(ColumnRef(0, 1), "owner"), Output(plus, "n"))
    assert found.order == (OrderItem(plus, True, True), OrderItem(ColumnRef(0, 1), False, False))
    assert isinstance(found.limit, Constant) and found.offset == Parameter(1)


def test_shapes_of_aggregates_joins_and_writes() -> None:
    found = shape("SELECT count(*), max(a.id) FROM accounts a LEFT JOIN moves m ON m.account_id = a.id AND m.amount > 1")
    assert found is not None
    assert [output.expression for output in found.outputs] == [Call("count", ()), Call("max", (ColumnRef(0, 0),))]
    assert [(source.table.name, source.join, len(source.on)) for source in found.sources] == [("accounts", "", 0), ("moves", "left", 2)]
    found = shape("INSERT INTO loose (x) VALUES (?), (-1) RETURNING *")
    assert found is not None and found.rows is not None
    assert found.rows[0] == (Parameter(0), Constant("it's"), Constant(None)) and len(found.outputs) == 3
    found = shape("UPDATE accounts SET balance = balance - ? WHERE id = 7")
    assert found is not None and found.assigned == ((2, Op("-", (ColumnRef(0, 2), Parameter(0)))),)
    found = shape("DELETE FROM accounts WHERE id IN (1, ?)")
    assert found is not None and found.kind == "delete" and len(found.where) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT DISTINCT id FROM accounts",
        "SELECT id FROM accounts GROUP BY id",
        "SELECT id FROM accounts WHERE id IN (SELECT x FROM loose)",
        "WITH a AS (SELECT 1) SELECT id FROM accounts",
        "SELECT id FROM accounts UNION SELECT 1",
        "SELECT * FROM accounts NATURAL JOIN loose",
        "SELECT * FROM accounts TABLESAMPLE 10 PERCENT",
        "SELECT id FROM accounts RIGHT JOIN moves ON TRUE",
        "INSERT INTO loose (x) VALUES ((SELECT 1 FROM accounts))",
        "UPDATE accounts SET note = y FROM loose WHERE x = id",
        "SELECT 1",
    ],
)
def test_statements_without_a_shape(sql: str) -> None:
    assert shape(sql) is None or shape(sql).sources == ()  # type: ignore[union-attr]


def test_many_rows_are_cast_as_each_of_them_would_be() -> None:
    """Beyond a few rows a column of plain literals is cast as a whole."""
    cells = ["(1, 'x', 1)", "(-2, NULL, 2.5)", "('3', 'y', NULL)", "(NULL, 'z', DEFAULT)", "(5, DEFAULT, '4')"]
    for kinds in (cells, ["(1, '2', TRUE)", "(NULL, NULL, FALSE)", "(-7, 'x', NULL)"]):
        few = bound(f"INSERT INTO loose VALUES {', '.join(kinds)}", CATALOG).plan
        many = bound(f"INSERT INTO loose VALUES {', '.join(kinds * 10)}", CATALOG).plan
        assert isinstance(few, WriteFromQuery) and isinstance(many, WriteFromQuery)
        assert answer(many.query, ROWS) == answer(few.query, ROWS) * 10
    assert many.query.sql.count("CAST") == 3
