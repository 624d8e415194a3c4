"""Every line of the table of DuckDB's errors, provoked in a real DuckDB: what class, what message, and nothing generated in it."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

import khonsu_sql
from khonsu_sql.errors import class_of
from khonsu_sql.sql.query import Evaluator
from khonsu_sql.sql.query.relations import serve_sources
from khonsu_sql.sql.query.translation import RULES, translate_duckdb
from tests.query.relations import query_of, source_of, table_of

TABLE = table_of("accounts", a="BIGINT", s="VARCHAR", ts="TIMESTAMP")
ROWS = pa.table({"a": [1, 2], "s": ["x", "k1"], "ts": pa.array([0, 1], pa.timestamp("us"))})

PROVOKED = [
    ("SELECT a / 0 FROM k1", "22012", "division by zero"),
    ("SELECT 1 % (a - a) FROM k1", "22012", "division by zero"),
    ("SELECT (SELECT a FROM k1)", "21000", "more than one row returned by a subquery used as an expression"),
    ("SELECT 300::TINYINT", "22003", "out of range"),
    ("SELECT a::BIGINT * 9223372036854775807 FROM k1", "22003", "Overflow in multiplication"),
    ("SELECT 99999::DECIMAL(4, 2)", "22003", "DECIMAL(4,2)"),
    ("SELECT 1000.0::DECIMAL(5, 2)", "22003", "DECIMAL(5,2)"),
    ("SELECT " + " + ".join(["1"] * 2000), "54001", "nested too deeply"),
    ("SELECT factorial(100)", "22003", "out of range"),
    ("SELECT 'abc'::INTEGER", "22P02", "'abc'"),
    ("SELECT s::INTEGER FROM k1 WHERE a = 2", "22P02", "'k1'"),
    ("SELECT 'x'::UUID", "22P02", "UUID"),
    ("SELECT '{a'::JSON", "22P02", "JSON"),
    ("SELECT json_extract('{a', '$.x')", "22P02", "JSON"),
    ("SELECT 'q'::ENUM('a', 'b')", "22P02", "ENUM"),
    ("SELECT '2020-13-01'::DATE", "22008", "2020-13-01"),
    ("SELECT make_date(2020, 13, 1)", "22008", "2020-13-1"),
    ("SELECT to_timestamp(1e30)", "22008", "out of range"),
    ("SELECT 'abc'::TIMESTAMP", "22007", "abc"),
    ("SELECT strptime('x', '%Y')", "22007", "%Y"),
    ("SELECT date_trunc('foo', ts) FROM k1", "22023", "foo"),
    ("SELECT ts AT TIME ZONE 'Foo' FROM k1", "22023", "time zone 'Foo' is not known"),
    ("SELECT map([1, 1], [2, 3])", "22023", "unique"),
    ("SELECT error('boom')", "22023", "boom"),
    ("SELECT quantile_cont(a, 2) FROM k1", "22023", "range"),
    ("SELECT 1::DECIMAL(50, 2)", "22023", "DECIMAL"),
    ("SELECT DATE '2020-01-01' = 5", "42846", "cannot cast type INTEGER to DATE"),
    ("SELECT array_value(1, 2)::INTEGER[3]", "42846", "array"),
    ("SELECT upper(a, s) FROM k1", "42883", "function upper(BIGINT, VARCHAR) does not exist"),
    ("SELECT s + 1 FROM k1", "42883", "does not exist"),
    ("SELECT sum(s) FROM k1", "42883", "function sum(VARCHAR) does not exist"),
    ("SELECT round('x')", "42725", "is not unique"),
    ("SELECT lenght(s) FROM k1", "42883", "function lenght does not exist"),
    ("SELECT a::nope FROM k1", "42704", 'type "nope" does not exist'),
    ("SELECT 'x' COLLATE foo", "42704", 'collation "foo" does not exist'),
    ("SELECT current_setting('nope')", "42704", "nope"),
    ("SELECT * FROM nope", "42P01", 'table "nope" does not exist'),
    ("SELECT nextval('q')", "42P01", 'sequence "q" does not exist'),
    ("SELECT * FROM nope.t", "42P01", 'table "nope.t" does not exist'),
    ("SELECT st_area('x')", "42883", "function st_area does not exist"),
    ("SELECT zz FROM k1", "42703", 'column "zz" does not exist'),
    ("SELECT k1.zz FROM k1", "42703", 'column "zz" does not exist'),
    ("SELECT * EXCLUDE (nope) FROM k1", "42703", 'column "nope" does not exist'),
    ("SELECT struct_pack(a := 1).b", "42703", 'field "b" does not exist'),
    ("SELECT bar.a FROM k1", "42P01", 'missing FROM-clause entry for table "bar"'),
    ("SELECT a FROM k1 AS x JOIN k1 AS y ON x.a = y.a", "42702", 'column reference "a" is ambiguous'),
    ("SELECT a FROM k1 GROUP BY s", "42803", 'column "a"'),
    ("SELECT sum(sum(a)) FROM k1", "42803", "nested"),
    ("SELECT a FROM k1 WHERE sum(a) > 1", "42803", "aggregates"),
    ("SELECT row_number() FROM k1", "42P20", "indow"),
    ("SELECT (SELECT a, s FROM k1)", "42601", "2 columns"),
    ("SELECT a FROM k1 UNION SELECT a, s FROM k1", "42601", "number of result columns"),
    ("VALUES (1), (1, 2)", "42601", "length"),
    ("SELECT a FROM k1 LIMIT -1", "2201W", "negative"),
    ("SELECT a FROM k1 ORDER BY 5", "42P10", "out of range"),
    ("SELECT s.x FROM k1", "42809", "'x'"),
    ("SELECT [1, 'a'::DATE]", "42804", "Cannot"),
    ("SELECT s > ts FROM k1", "42804", "Cannot compare"),
    ("SELECT unnest(1)", "42804", "UNNEST"),
    ("SELECT 1 WHERE (1, 2) = (1, 2, 3)", "42804", "does not match"),
    ("SELECT a FROM k1 QUALIFY a", "42P20", "window"),
    ("SELECT * FROM read_text('/etc/passwd')", "42501", "disabled"),
    ("SELECT $1", "XX000", "parameters"),
    ("SELEC 1", "42601", "syntax error"),
]


@pytest.mark.parametrize(("sql", "sqlstate", "text"), PROVOKED, ids=[sql for sql, _, _ in PROVOKED])
def test_what_duckdb_says_becomes_what_we_say(sql: str, sqlstate: str, text: str) -> None:
    evaluator = Evaluator()
    with pytest.raises(khonsu_sql.Error) as raised:
        evaluator.run(query_of(sql, source_of(TABLE)), [], {"k1": ROWS})
    error = raised.value
    assert error.sqlstate == sqlstate
    assert type(error) is class_of(error.sqlstate)
    assert text in error.message
    assert isinstance(error.__cause__, duckdb.Error)
    shown = str(error).replace("'k1'", "")
    assert "k1" not in shown, "a generated name"
    assert not any(word in shown for word in ("LINE 1", "Candidate", " SET ", "TRY(", " Error:", "pg_", "duckdb_"))
    assert evaluator.run(query_of("SELECT 1"), [], {}).rows == [(1,)]


@pytest.mark.parametrize(
    ("expression", "sqlstate"),
    [
        ("1 / (range - 200000)", "22012"),
        ("CASE WHEN range < 200000 THEN 1 ELSE (range || 'x')::INTEGER END", "22P02"),
        ("CASE WHEN range < 200000 THEN 1 ELSE range * 9223372036854775807 END", "22003"),
        ("CASE WHEN range < 200000 THEN 'a' ELSE error('boom') END", "22023"),
    ],
)
def test_a_stream_that_breaks_off_raises_the_same(expression: str, sqlstate: str) -> None:
    """Arrow hands on DuckDB's text and forgets its class."""
    stream = Evaluator().batches(query_of(f"SELECT {expression} AS x FROM range(300000)"), [], {})
    assert stream.read_next_batch().num_rows > 0
    with pytest.raises(khonsu_sql.DataError) as raised:
        stream.read_all()
    assert raised.value.sqlstate == sqlstate
    assert " Error:" not in str(raised.value)
    assert stream.read_all().num_rows == 0, "it has ended"


def test_expressions_raise_the_same() -> None:
    with pytest.raises(khonsu_sql.errors.UndefinedFunction, match="lenght"):
        Evaluator().evaluate(["lenght(s)"], ROWS)


def test_a_suggestion_is_a_hint() -> None:
    with pytest.raises(khonsu_sql.errors.UndefinedFunction) as raised:
        Evaluator().run(query_of("SELECT lenght('x')"), [], {})
    assert raised.value.hint == "Did you mean length?"


@pytest.mark.parametrize(
    ("error", "sqlstate"),
    [
        (duckdb.InterruptException("INTERRUPT Error: Interrupted!"), "57014"),
        (duckdb.OutOfMemoryException("Out of Memory Error: failed to allocate data of size 9 GiB"), "53200"),
        (duckdb.ConstraintException("Constraint Error: no"), "23000"),
        (duckdb.IOException("IO Error: No space left on device"), "58030"),
        (duckdb.InternalException("INTERNAL Error: assertion"), "XX000"),
        (duckdb.FatalException("FATAL Error: invalidated"), "XX000"),
        (duckdb.NotImplementedException("Not implemented Error: that"), "0A000"),
        (duckdb.InvalidTypeException("Invalid type Error: this"), "42804"),
        (duckdb.TransactionException("TransactionContext Error: aborted"), "XX000"),
        (duckdb.BinderException("Binder Error: something new"), "42000"),
        (duckdb.Error("no prefix at all"), "XX000"),
        (duckdb.Error(""), "XX000"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_provoked(error: duckdb.Error, sqlstate: str) -> None:
    translated = translate_duckdb(error)
    assert (translated.sqlstate, type(translated)) == (sqlstate, class_of(sqlstate))
    assert translated.message


def test_generated_names_are_shown_as_tables() -> None:
    relations = serve_sources([source_of(TABLE)], {"k1": ROWS})
    error = translate_duckdb(duckdb.BinderException('Binder Error: "k1" and k1."a" and temp.main."k1"."s" of \'k1\''), relations)
    assert error.message == '"accounts" and "a" and "s" of \'k1\''


def test_no_rule_is_dead() -> None:
    """Each is the first for some message: those above, or the ones that only a broken machine provokes."""
    used = set()
    for sql, _, _ in PROVOKED:
        with pytest.raises(khonsu_sql.Error) as raised:
            Evaluator().run(query_of(sql, source_of(TABLE)), [], {"k1": ROWS})
        cause = raised.value.__cause__
        used.add(next(rule for rule in RULES if isinstance(cause, rule.kind) and _contains(rule.pattern, str(cause))))
    kinds = {
        duckdb.InterruptException,
        duckdb.OutOfMemoryException,
        duckdb.ConstraintException,
        duckdb.IOException,
        duckdb.InvalidTypeException,
    }
    rare = [rule for rule in RULES if rule not in used and rule.kind not in kinds and rule.pattern and "registered as" not in rule.pattern]
    assert [rule.pattern for rule in rare] == []


def _contains(pattern: str, text: str) -> bool:
    import re

    return re.search(pattern, re.sub(r"^[A-Za-z ]{1,30} Error: ", "", text)) is not None
