"""Text into statements: splitting, parameters, control, refusals by name, bounds, and errors that say where."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import duckdb
import pytest

from khonsu_engine.commands import Isolation
from khonsu_sql import errors
from khonsu_sql.sql.bind import normalise
from khonsu_sql.sql.dialect import GUARDED, READ, READ_DUCKDB, write
from khonsu_sql.sql.native import AGGREGATES, NATIVE
from khonsu_sql.sql.parse import parse
from khonsu_sql.sql.plan import ParameterSpec, Setting, TransactionControl
from khonsu_sql.sql.reading import read_tree
from khonsu_sql.sql.words import Words


def written(sql: str) -> str:
    """DuckDB's text of the only statement."""
    (parsed,) = parse(sql)
    return write(parsed.tree.copy())


def refusal(sql: str, limit: int = 1 << 20) -> errors.Error:
    with pytest.raises(errors.Error) as caught:
        parse(sql, limit)
    return caught.value


# --- statements


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("", 0),
        (" \n\t", 0),
        (";;", 0),
        ("-- only a comment", 0),
        ("/* a /* nested */ comment */", 0),
        ("SELECT 1", 1),
        ("SELECT 1;", 1),
        ("SELECT ';' ; SELECT \";\" FROM t; -- ;\nSELECT $$;$$; SELECT $q$ $$ ; $q$ /* ; */", 4),
        ("BEGIN; INSERT INTO t VALUES (1); COMMIT", 3),
        ("SELECT e'\\';'; SELECT 2", 2),
    ],
)
def test_statements_are_split_where_they_end(sql: str, count: int) -> None:
    assert len(parse(sql)) == count


@pytest.mark.parametrize(
    ("sql", "duckdb_text"),
    [
        ("SELECT $$it's; -- $$, $t$a$$b$t$, 'x''y'", "SELECT 'it''s; -- ', 'a$$b', 'x''y'"),
        ("SELECT e'a\\'b\\\\c\\n'", "SELECT 'a''b\\c\n'"),
        ("SELECT 1_000, 0x1F, 0b101", "SELECT 1000, 31, 5"),
        ("SELECT a FROM t ORDER BY a DESC, b", "SELECT a FROM t ORDER BY a DESC NULLS FIRST, b"),
        ("SELECT a FROM t ORDER BY a DESC NULLS LAST", "SELECT a FROM t ORDER BY a DESC"),
        ("SELECT a // 2 FROM t ORDER BY a DESC", "SELECT a // 2 FROM t ORDER BY a DESC NULLS FIRST"),
        ("SELECT a FROM t ORDER BY ALL", "SELECT a FROM t ORDER BY ALL"),
        ('SELECT a FROM t ORDER BY "all"', 'SELECT a FROM t ORDER BY "all"'),
        ("SELECT x ->> '$.a[0]', x ->> 'a', f(x -> 'a' -> 0)", "SELECT x ->> '$.a[0]', x ->> '$.a', F(x -> '$.\"a\"' -> '$[0]')"),
        ("SELECT MAP {'a': 1}, CAST(x AS FLOAT)", "SELECT MAP {'a': 1}, CAST(x AS DOUBLE)"),
        ("SELECT * FROM t POSITIONAL JOIN u", "SELECT * FROM t POSITIONAL JOIN u"),
        ("SELECT * FROM t USING SAMPLE 10", "SELECT * FROM t USING SAMPLE RESERVOIR (10 ROWS)"),
        ("SELECT lambda FROM t", 'SELECT "lambda" FROM t'),
        ('SELECT 1 AS "order", 2 AS summarize', 'SELECT 1 AS "order", 2 AS "summarize"'),
        ("SELECT /* gone */ 1 -- gone", "SELECT 1"),
        ("SELECT list_transform(xs, lambda x: x + 1)", "SELECT LIST_TRANSFORM(xs, LAMBDA x : x + 1)"),
        ("SELECT xor(1, 3), date_diff('day', a, b), log(2, 8)", "SELECT XOR(1, 3), DATE_DIFF('day', a, b), LOG(2, 8)"),
        ("SELECT * REPLACE (replace(a, 'x', 'y') AS a) FROM log", "SELECT * REPLACE (REPLACE(a, 'x', 'y') AS a) FROM log"),
        ("SELECT to_char(d, 'YYYY')", "SELECT STRFTIME(d, '%Y')"),
    ],
)
def test_what_duckdb_reads(sql: str, duckdb_text: str) -> None:
    assert written(sql) == duckdb_text


# --- parameters


@pytest.mark.parametrize(
    ("sql", "spec", "text"),
    [
        ("SELECT ?, ? || ?", ParameterSpec("qmark", (), 3), "SELECT $1, $2 || $3"),
        ("SELECT ?||?, ?::INT", ParameterSpec("qmark", (), 3), "SELECT $1 || $2, CAST($3 AS INT)"),
        ("SELECT a FROM t LIMIT ? OFFSET ?", ParameterSpec("qmark", (), 2), "SELECT a FROM t LIMIT $1 OFFSET $2"),
        ("SELECT $2,$1,$2", ParameterSpec("numeric", (), 2), "SELECT $2, $1, $2"),
        ("SELECT :b, :a, :b, :order", ParameterSpec("named", ("b", "a", "order"), 3), "SELECT $1, $2, $1, $3"),
        ("SELECT $b || $a", ParameterSpec("named", ("b", "a"), 2), "SELECT $1 || $2"),
        ("SELECT ':a ?', \"?\", $$?$$ /* ? */ -- :b", ParameterSpec(), None),
        ("SELECT x[:a], x[a:b], {'k': :v}, {'k':v}, 1::INT", ParameterSpec("named", ("a", "v"), 2), None),
        ("SELECT 7 // ?, [x for x in ? if x > ?]", ParameterSpec("qmark", (), 3), None),
    ],
)
def test_parameters_of_every_style(sql: str, spec: ParameterSpec, text: str | None) -> None:
    (parsed,) = parse(sql)
    assert parsed.parameters == spec
    assert text is None or write(parsed.tree.copy()) == text


@pytest.mark.parametrize("sql", ["SELECT ?, $1", "SELECT :a, ?", "SELECT $a, $1"])
def test_styles_do_not_mix(sql: str) -> None:
    assert refusal(sql).sqlstate == "07001"


@pytest.mark.parametrize("sql", ["SELECT $0", "SELECT $", "SELECT $ 1", "SELECT :1", "SELECT : a"])
def test_what_is_no_parameter(sql: str) -> None:
    assert refusal(sql).sqlstate == "42601"


def test_values_come_in_the_statements_order() -> None:
    assert normalise(ParameterSpec("qmark", (), 2), (1, "x")) == [1, "x"]
    assert normalise(ParameterSpec("numeric", (), 2), iter([1, 2])) == [1, 2]
    assert normalise(ParameterSpec("named", ("b", "a"), 2), {"a": 1, "b": 2}) == [2, 1]
    assert normalise(ParameterSpec(), None) == normalise(ParameterSpec(), ()) == normalise(ParameterSpec(), {}) == []


@pytest.mark.parametrize(
    ("spec", "given", "words"),
    [
        (ParameterSpec("qmark", (), 2), (1,), "2 parameters, 1 was"),
        (ParameterSpec("qmark", (), 1), (1, 2), "1 parameter, 2 were"),
        (ParameterSpec("qmark", (), 1), None, "1 parameter, 0 were"),
        (ParameterSpec(), (1,), "no parameters, 1 was"),
        (ParameterSpec("qmark", (), 1), {"a": 1}, "sequence"),
        (ParameterSpec("qmark", (), 1), "x", "sequence"),
        (ParameterSpec("qmark", (), 1), 5, "sequence"),
        (ParameterSpec("qmark", (), 1), {1}, "sequence"),
        (ParameterSpec("named", ("a",), 1), (1,), "mapping with a"),
        (ParameterSpec("named", ("a",), 1), None, "mapping with a"),
        (ParameterSpec("named", ("a", "b"), 2), {"a": 1}, "no value was given for b"),
        (ParameterSpec("named", ("a",), 1), {"a": 1, "c": 1}, "no parameter c"),
    ],
)
def test_values_that_do_not_fit(spec: ParameterSpec, given: object, words: str) -> None:
    with pytest.raises(errors.ParameterMismatch, match=words) as caught:
        normalise(spec, given)  # type: ignore[arg-type]
    assert caught.value.sqlstate == "07001"


# --- control


@pytest.mark.parametrize(
    ("sql", "plan"),
    [
        ("BEGIN", TransactionControl("begin")),
        ("begin transaction", TransactionControl("begin")),
        ("START TRANSACTION READ ONLY", TransactionControl("begin", None, True)),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE", TransactionControl("begin", Isolation.SERIALIZABLE, False)),
        ("BEGIN WORK ISOLATION LEVEL REPEATABLE READ READ ONLY DEFERRABLE", TransactionControl("begin", Isolation.REPEATABLE_READ, True)),
        ("COMMIT", TransactionControl("commit")),
        ("END TRANSACTION", TransactionControl("commit")),
        ("COMMIT AND NO CHAIN", TransactionControl("commit")),
        ("ROLLBACK WORK", TransactionControl("rollback")),
        ("ABORT", TransactionControl("rollback")),
        ("SET point_path = off", Setting("point_path", "off")),
        ("SET point_path TO 'on'", Setting("point_path", "on")),
        ("SET SESSION statement_bytes_max = 100", Setting("statement_bytes_max", "100")),
        ("SET default_transaction_isolation = repeatable read", Setting("default_transaction_isolation", "repeatable read")),
        ("SET a = -1.5", Setting("a", "-1.5")),
        ("RESET point_path", Setting("point_path", "default")),
        ("SHOW point_path", Setting("point_path")),
        ("SHOW ALL", Setting("ALL")),
    ],
)
def test_control(sql: str, plan: TransactionControl | Setting) -> None:
    (parsed,) = parse(sql)
    assert parsed.plan == plan and parsed.tree is None and not parsed.writes


def test_what_writes_is_known_before_it_is_bound() -> None:
    statements = "INSERT INTO t VALUES (1); UPDATE t SET a = 1; DELETE FROM t; CREATE TABLE t (a INT); DROP TABLE t"
    assert [parsed.writes for parsed in parse(statements)] == [True] * 5
    assert [parsed.writes for parsed in parse("SELECT * FROM t FOR SHARE; EXPLAIN SELECT * FROM t FOR UPDATE; LOCK TABLE t")] == [
        True,
        False,
        True,
    ]
    assert [parsed.writes for parsed in parse("SELECT 1; EXPLAIN DELETE FROM t; SHOW ALL; WITH x AS (SELECT 1) TABLE x")] == [False] * 4


# --- refusals


@pytest.mark.parametrize(
    "sql",
    """
    BEGIN AS OF 'x'; COMMIT AND CHAIN; COMMIT PREPARED; SET GLOBAL a = 1
    SET TRANSACTION READ ONLY; SET TIME ZONE 'x'; CREATE INDEX i ON t (a); CREATE UNIQUE INDEX i ON t (a); CREATE VIEW v AS SELECT 1
    CREATE SEQUENCE s; CREATE SCHEMA s; CREATE TYPE x AS ENUM ('a'); CREATE OR REPLACE TABLE t (a INT); CREATE TEMP TABLE t (a INT)
    CREATE TEMPORARY TABLE t (a INT); CREATE MATERIALIZED VIEW v AS SELECT 1; CREATE MACRO m(a) AS a; DROP VIEW v; DROP INDEX i
    ALTER TABLE t ADD COLUMN a INT; TRUNCATE t; MERGE INTO t USING u ON TRUE WHEN MATCHED THEN DELETE; COPY t TO 'x'; VACUUM
    ANALYZE t; ATTACH 'x'; DETACH x; PRAGMA x; INSTALL x; LOAD x; GRANT SELECT ON t TO x; CALL x(); LISTEN x; NOTIFY x; LOCK TABLE ONLY t
    PREPARE p AS SELECT 1; EXECUTE p; DEALLOCATE p; DECLARE c CURSOR FOR SELECT 1; CHECKPOINT; EXPORT DATABASE 'x'; USE x; DO $$x$$
    COMMENT ON TABLE t IS 'x'; DESCRIBE t; SUMMARIZE t; REPLACE INTO t VALUES (1); EXPLAIN ANALYZE SELECT 1
    EXPLAIN (FORMAT json) SELECT 1; SELECT 1 INTO x; SELECT * FROM t FOR UPDATE WAIT 5; INSERT INTO t SELECT * FROM u FOR UPDATE
    UPDATE t SET a = 1 WHERE EXISTS (SELECT 1 FROM u FOR SHARE); WITH c AS (SELECT * FROM t FOR UPDATE) SELECT * FROM c
    SELECT (SELECT a FROM t FOR KEY SHARE); (SELECT * FROM t FOR UPDATE); LOCK TABLE t IN SHARE ROW EXCLUSIVE MODE
    SELECT * FROM t AT (VERSION => 1); SELECT * FROM ONLY t; SELECT * FROM t FOR SYSTEM_TIME AS OF 'x'; SELECT b'10'
    SELECT * FROM t AS OF TIMESTAMP '2026-01-01'; SELECT 1 FROM t as of revision 3 WHERE a = 1
    WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x; SELECT a #> '{x}' FROM t; INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING
    SELECT 1 FETCH FIRST 1 ROWS WITH TIES; INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 1
    CREATE TABLE t (a INT REFERENCES u); CREATE TABLE t (a INT, FOREIGN KEY (a) REFERENCES u (b)); CREATE TABLE t (a SERIAL)
    CREATE TABLE t (a INT GENERATED ALWAYS AS IDENTITY); CREATE TABLE t (a INT GENERATED ALWAYS AS (1)); CREATE TABLE t AS SELECT 1
    CREATE TABLE t (a VARCHAR COLLATE x); CREATE TABLE t (a INT UNIQUE DEFERRABLE); CREATE TABLE t (a INT) WITH (x = 1)
    CREATE TABLE t (a INT) PARTITION BY HASH (a); CREATE TABLE t (LIKE u); CREATE TABLE t (a INT, UNIQUE NULLS NOT DISTINCT (a))
    CREATE TABLE t (a JSON PRIMARY KEY); CREATE TABLE t (a INT CHECK (a IN (SELECT 1))); CREATE TABLE t (a INT, b INT DEFAULT a)
    """.strip()
    .replace("\n", ";")
    .split(";"),
)
def test_refused_by_name(sql: str) -> None:
    error = refusal(sql.strip())
    assert (error.sqlstate == "0A000" and "support" in error.message) or "refer" in error.message, error


@pytest.mark.parametrize(
    ("sql", "offset"),
    [
        ("SELEC 1", 0),
        ("SELECT 1 +", 9),
        ("SELECT FROM WHERE", 12),
        ("SELECT * FROM t WHERE", 16),
        ("SELECT 1;\n SELECT (1", None),
        ("SELECT 'abc", 7),
        ('SELECT "abc', 7),
        ("SELECT /* abc", 7),
        ("SELECT $$abc", 7),
        ("SELECT 1 order", 9),
        ("SELECT a FROM t positionally JOIN u x y", None),
        ("SELECT 1x", 8),
        ("INSERT INTO t VALUES (1,)", 24),
        ("CREATE TABLE t (a INT", 21),
        ("CREATE TABLE t ()", 16),
        ("CREATE TABLE t (a INT b)", None),
        ("CREATE TABLE t (a)", 17),
        ("DROP TABLE", 10),
        ("BEGIN ISOLATION LEVEL", 21),
        ("COMMIT x", 7),
        ("SET", 3),
        ("SELECT a, FROM WHERE", None),
        ("hello", 0),
    ],
)
def test_syntax_errors_say_where(sql: str, offset: int | None) -> None:
    error = refusal(sql)
    assert isinstance(error, errors.SyntaxError_ | errors.UndefinedObject) and error.sql == sql, error
    assert error.position is not None
    assert offset is None or error.position == offset + 1, error
    assert "^" in str(error)


def test_messages_speak_neither_of_classes_nor_in_colours() -> None:
    for sql in ("SELECT 1 +", "SELECT a b c", "SELECT coalesce(", "SELECT CASE 1", "SELECT \x1b[31m 1", "SELECT substring()"):
        text = str(refusal(sql))
        assert "\x1b" not in text and "sqlglot" not in text and "class" not in text


def test_calls_nobody_could_mean() -> None:
    assert refusal("SELECT substring()").sqlstate == "42883"
    assert refusal("SELECT 1::INTEGR").sqlstate == "42704"
    assert refusal("SELECT 1::INTEGR").hint == "Did you mean INTEGER?"


# --- bounds


def test_bounds_of_text() -> None:
    assert refusal("SELECT 1", 7).sqlstate == "54000"
    assert refusal("SELECT 'ää'", 12).sqlstate == "54000"
    assert parse("SELECT 'ää'", 13)
    assert refusal("SELECT 1\0").position == 9
    assert refusal("SELECT '\udc80'").sqlstate == "22021"
    with pytest.raises(errors.InterfaceError):
        parse(b"SELECT 1")  # type: ignore[arg-type]


NESTS = ["(%s)", "[%s]", "NOT %s", "- %s", "CASE WHEN TRUE THEN %s END", "abs(%s)", "(SELECT %s)", "{'a': %s}", "%s[1]", "%s::INT", "~ %s"]


@pytest.mark.parametrize("nest", NESTS)
def test_depth_is_bounded_before_anybody_recurses(nest: str) -> None:
    def nested(depth: int) -> str:
        left, _, right = nest.partition("%s")
        return "SELECT " + left * depth + "1" + right * depth

    assert parse(nested(40))
    for depth in (1_000, 30_000):
        assert refusal(nested(depth)).sqlstate in ("54001", "54000")


def test_long_is_not_deep() -> None:
    for chain in (" + 1", " OR 1 = 1", " AND 1 = 1", " UNION SELECT 1", ", 1", " || 'a'"):
        assert len(parse("SELECT 1" + chain * 3_000)) == 1


HOSTILE = """
from khonsu_sql.errors import Error
from khonsu_sql.sql.parse import parse
for lead in ("", "SELECT ", "INSERT INTO t "):
    for word in ("FROM ", "WITH ", "SELECT 1 FROM ", "SELECT 1 FROM t JOIN ", "SELECT 1 INTO ", "LATERAL SELECT 1 FROM ", "INTERVAL "):
        try:
            parse(lead + word * 15_000)
        except Error as error:
            assert len(error.sqlstate) == 5
print("alive")
"""


def test_no_text_overflows_the_stack() -> None:
    """The compiled parser recurses without asking Python: text must be bounded before, or the process dies."""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", HOSTILE], capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.stdout == "alive\n", (done.returncode, done.stderr[-500:])


# --- the tables that come from DuckDB


def test_guarded_words_are_duckdbs() -> None:
    found = duckdb.sql("SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category IN ('reserved', 'type_function')").fetchall()
    assert {name for (name,) in found} == GUARDED


@pytest.mark.parametrize("word", ["positional", "summarize", "asof", "qualify", "pivot", "show", "lambda", "anti"])
def test_a_word_of_duckdbs_is_no_alias_without_as(word: str) -> None:
    assert refusal(f"SELECT 1 {word} FROM t u v w").sqlstate == "42601"
    assert refusal(f"SELECT a FROM t {word} , u").sqlstate == "42601"


def _functions(kind: str) -> set[str]:
    rows = duckdb.sql(f"SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE function_type {kind}").fetchall()
    return {name for (name,) in rows if name.isidentifier() and not name.startswith("__")}


def test_native_functions_are_duckdbs() -> None:
    assert _functions("= 'aggregate'") == AGGREGATES
    assert _functions("IN ('scalar', 'aggregate', 'macro')") >= NATIVE


# Those with a grammar or translation of their own.
TRANSLATED = {"generate_series", "to_timestamp", "if", "substring", "trim", "position", "overlay", "extract", "map", "filter", "apply"}
TRANSLATED |= {
    "current_catalog",
    "current_date",
    "current_localtimestamp",
    "current_role",
    "current_schema",
    "current_user",
    "session_user",
}


@pytest.mark.parametrize("dialect", [READ, READ_DUCKDB], ids=["postgres", "duckdb"])
def test_calls_of_duckdbs_functions_pass_unchanged(dialect: object) -> None:
    """Whatever sqlglot thinks a name means elsewhere: same name, same arguments, or an error."""
    changed = []
    pool = ("a", "'day'", "1")
    shapes = [(), *product(pool, repeat=1), *product(pool, repeat=2), ("a", "'x'", "1"), ("'day'", "a", "b")]
    for name in sorted(_functions("IN ('scalar', 'aggregate', 'macro')") - TRANSLATED):
        for arguments in shapes:
            sql = f"SELECT {name}({', '.join(arguments)})"
            try:
                text = write(read_tree(dialect.tokenize(sql), len(sql), sql).tree)  # type: ignore[attr-defined]
            except errors.Error:
                continue
            if text.lower() != sql.lower():
                changed.append((sql, text))
    assert changed == []


def test_words_are_whole_and_unquoted() -> None:
    sql = "PRIMARY KEY 'KEY' \"primary\" 5"
    words = Words(READ.tokenize(sql), sql)
    assert [words.ahead(number) for number in range(6)] == ["PRIMARY", "KEY", "", "", "", ""]
