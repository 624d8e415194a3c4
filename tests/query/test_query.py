"""Queries over relations: what is served, what comes back, and that nothing of one statement is left for the next."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import khonsu_sql
from khonsu_engine.schema.types import Interval, SqlType, arrow_from_rows, arrow_schema, parse_type, python_rows_from_arrow
from khonsu_sql.errors import DivisionByZero, FeatureNotSupported, NumericValueOutOfRange
from khonsu_sql.sql.query import Evaluator, bindings, execution, instance
from tests.engine.type_samples import ALL_TYPES, nullable
from tests.query.relations import Batches, masked, query_of, source_of, table_of, types_of

ACCOUNTS = table_of(id="BIGINT", owner="VARCHAR", balance="DECIMAL(12,2)")
ROWS = pa.table(
    {"id": [1, 2, 3], "owner": ["ann", "bob", None], "balance": pa.array([Decimal("1.50"), None, Decimal("-7.25")], pa.decimal128(12, 2))}
)


@pytest.fixture(params=["private", "public"])
def evaluator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Evaluator]:
    """By DuckDB's private interface, and by the public one that takes its place where that is missing."""
    if request.param == "public":
        instance.close_instances()
        monkeypatch.setattr(bindings, "PRIVATE", False)
    yield Evaluator()
    if request.param == "public":
        instance.close_instances()


def rows(evaluator: Evaluator, sql: str, *values: Any, **relations: Any) -> Any:
    """The rows of `sql` over accounts relations, k1=…"""
    sources = [source_of(ACCOUNTS, name) for name in relations]
    return evaluator.run(query_of(sql, *sources, parameters=len(values)), values, relations).rows


# --- what is served


def test_rows_of_a_query_with_parameters(evaluator: Evaluator) -> None:
    found = rows(evaluator, "SELECT id, owner FROM k1 WHERE balance < $1 OR owner = $2 ORDER BY id", 0, "bob", k1=ROWS)
    assert found == [(2, "bob"), (3, None)]


def test_hidden_rows_are_not_seen(evaluator: Evaluator) -> None:
    relation = masked(ROWS, [True, False, True])
    assert rows(evaluator, "SELECT id FROM k1 ORDER BY id DESC", k1=relation) == [(3,), (1,)]
    assert rows(evaluator, "SELECT count(*), sum(balance) FROM k1", k1=relation) == [(2, Decimal("-5.75"))]


def test_a_mask_goes_through_joins_subqueries_and_a_query_with_its_own_ctes(evaluator: Evaluator) -> None:
    sql = """WITH RECURSIVE r AS (SELECT id FROM k1 UNION ALL SELECT id + 10 FROM r WHERE id < 5)
             SELECT r.id, x.owner FROM r LEFT JOIN k2 AS x ON x.id = r.id WHERE r.id NOT IN (SELECT id FROM k3) ORDER BY 1"""
    relations = {"k1": masked(ROWS, [True, False, True]), "k2": masked(ROWS, [False, True, True]), "k3": masked(ROWS, [True, False, False])}
    assert rows(evaluator, sql, **relations) == [(3, None), (11, None), (13, None)]


def test_one_table_twice_with_different_pins(evaluator: Evaluator) -> None:
    """An UPDATE sees the rows of its snapshot on one side and others on the other."""
    newer = ROWS.set_column(2, "balance", pa.array([Decimal("9.00")] * 3, pa.decimal128(12, 2)))
    sql = "SELECT a.id, b.balance - a.balance FROM k1 AS a JOIN k2 AS b ON a.id = b.id ORDER BY 1"
    assert rows(evaluator, sql, k1=ROWS, k2=masked(newer, [True, True, False])) == [(1, Decimal("7.50")), (2, None)]


@pytest.mark.parametrize("live", [None, []])
def test_an_empty_table(evaluator: Evaluator, live: list[bool] | None) -> None:
    schema = ROWS.schema if live is None else ROWS.schema.append(pa.field("__live", pa.bool_()))
    relation = Batches([], schema, masked=live is not None)
    assert rows(evaluator, "SELECT * FROM k1", k1=relation) == []
    assert rows(evaluator, "SELECT count(*), max(owner) FROM k1", k1=relation) == [(0, None)]


def test_no_columns_at_all(evaluator: Evaluator) -> None:
    source = source_of(ACCOUNTS, projection=())
    count = query_of("SELECT count(*) FROM k1", source)
    nothing = pa.RecordBatch.from_struct_array(pa.array([{}] * 5, pa.struct([])))
    assert evaluator.run(count, [], {"k1": Batches([nothing, nothing])}).rows == [(10,)]
    assert evaluator.run(count, [], {"k1": masked(ROWS.select([]), [True, False, True])}).rows == [(2,)]
    assert evaluator.run(query_of("SELECT 7 FROM k1", source), [], {"k1": Batches([nothing])}).rows == [(7,)] * 5
    assert evaluator.run(count, [], {"k1": Batches([], pa.schema([]))}).rows == [(0,)]


def test_columns_are_served_in_the_order_of_the_projection_under_the_names_of_the_catalog(evaluator: Evaluator) -> None:
    query = query_of("SELECT owner, id FROM k1 WHERE id > 1", source_of(ACCOUNTS, projection=(1, 0)))
    served = ROWS.select([1, 0]).rename_columns(["c0", "c1"])
    assert evaluator.run(query, [], {"k1": served}).rows == [("bob", 2), (None, 3)]


def test_a_column_may_have_the_name_of_the_mask(evaluator: Evaluator) -> None:
    table = table_of(id="BIGINT", __LIVE="VARCHAR")
    relation = masked(pa.table({"id": [1, 2], "__LIVE": ["yes", "no"]}), [True, False])
    query = query_of('SELECT * FROM k1 WHERE "__LIVE" IS NOT NULL', source_of(table))
    assert evaluator.run(query, [], {"k1": relation}).rows == [(1, "yes")]


def test_names_that_need_quotes_and_names_that_are_keywords(evaluator: Evaluator) -> None:
    table = table_of(**{'a "b"': "UUID", "select": "INTEGER", "Ünï": "JSON"})
    data = pa.table({"x": [str(UUID(int=5))], "y": pa.array([1], pa.int32()), "z": ["[1]"]})
    query = query_of('SELECT "a ""b""", "SELECT", "Ünï"[0] FROM k1', source_of(table))
    assert evaluator.run(query, [], {"k1": data}).rows == [(UUID(int=5), 1, "1")]


def test_types_that_arrow_forgets_are_what_they_were(evaluator: Evaluator) -> None:
    table = table_of(u="UUID", j="JSON", e="ENUM('low','high')", h="HUGEINT", l="UUID[]")
    schema = arrow_schema([column.type for column in table.columns], [column.name for column in table.columns])
    uuid = "0a0b0c0d-0000-0000-0000-000000000001"
    data = pa.Table.from_pylist([{"u": uuid, "j": '{"a": [1]}', "e": "high", "h": Decimal(10**37), "l": [uuid]}], schema)
    sql = "SELECT typeof(u), typeof(j), typeof(e), typeof(h), typeof(l), e > 'low'::ENUM('low', 'high'), j->'$.a[0]', h * 9 FROM k1"
    for relation in (data, masked(data, [True])):
        (found,) = evaluator.run(query_of(sql, source_of(table)), [], {"k1": relation}).rows or []
        assert found[:5] == ("UUID", "JSON", "ENUM('low', 'high')", "HUGEINT", "UUID[]")
        assert found[5:] == (True, "1", 9 * 10**37), "an ENUM is ordered by its members; as text 'high' is less than 'low'"


def test_a_slot_is_read_with_the_shape_it_has_now(evaluator: Evaluator) -> None:
    """One text, one parsed statement, one cursor; another table under the name."""
    sql = "SELECT x FROM k1"
    for text, values in (("INTEGER", [1]), ("VARCHAR", ["a"]), ("UUID", [UUID(int=1)]), ("INTEGER[]", [[1]]), ("INTEGER", [None])):
        table = table_of(x=text)
        data = pa.Table.from_batches(
            [arrow_from_rows([table.columns[0].type], [(v if not isinstance(v, list) else tuple(v),) for v in values], ["x"])]
        )
        evaluated = evaluator.run(query_of(sql, source_of(table)), [], {"k1": data})
        assert (types_of(evaluated), evaluated.rows) == ([table.columns[0].type], [(value,) for value in values])


def test_a_relation_is_let_go_with_its_statement() -> None:
    evaluator = Evaluator()
    before = pa.total_allocated_bytes()
    data = pa.table({"id": pa.array(range(1_000_000), pa.int64())})
    query = query_of("SELECT max(id) FROM k1", source_of(table_of(id="BIGINT")))
    assert evaluator.run(query, [], {"k1": data}).rows == [(999_999,)]
    del data
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_what_a_scan_raises_is_raised(evaluator: Evaluator) -> None:
    class Damaged(Batches):
        def __iter__(self) -> Iterator[pa.RecordBatch]:
            yield from self.batches
            raise OSError("segment 7 is gone")

    with pytest.raises(OSError, match="segment 7"):
        rows(evaluator, "SELECT 1 FROM k1", k1=Damaged(ROWS.to_batches()))
    assert rows(evaluator, "SELECT count(*) FROM k1", k1=ROWS) == [(3,)]


def test_what_is_raised_on_threads_of_duckdb_surfaces_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    class OutOfOrder:
        schema, num_rows = ROWS.schema, ROWS.num_rows

        def select(self, columns: object) -> None:
            raise ValueError("out of order")

    bind = bindings._Source.bind
    monkeypatch.setattr(bindings._Source, "bind", lambda self, table: bind(self, OutOfOrder() if table.num_rows else table))
    instance.close_instances()
    assert rows(Evaluator(), "SELECT count(*) FROM k1", k1=ROWS.slice(0, 0)) == [(0,)], "the pooled cursor has its slot now"
    with pytest.raises(khonsu_sql.DatabaseError) as raised:
        rows(Evaluator(), "SELECT 1 FROM k1", k1=ROWS)
    assert repr(raised.value.__cause__) == "ValueError('out of order')"
    assert "k1" not in str(raised.value)


# --- what comes back


@pytest.mark.parametrize("sql_type", ALL_TYPES, ids=str)
@settings(max_examples=12)
@given(data=st.data())
def test_every_type_comes_back_through_a_query(sql_type: SqlType, data: st.DataObject) -> None:
    """As rows (which DuckDB or the shared converter made) and as Arrow, from a relation with and without hidden rows."""
    evaluator = Evaluator()
    values = data.draw(st.lists(nullable(sql_type), max_size=5))
    batch = arrow_from_rows([sql_type], [(value,) for value in values], ["x"])
    expected = python_rows_from_arrow([sql_type], batch)
    known = SqlType("VARCHAR") if sql_type.length else sql_type
    query = query_of("SELECT x FROM k1", source_of(table_of(x=sql_type.sql)))
    for relation in (pa.Table.from_batches([batch]), masked(pa.Table.from_batches([batch]), [True] * len(values))):
        evaluated = evaluator.run(query, [], {"k1": relation})
        assert types_of(evaluated) == [known]
        assert [repr(row) for row in evaluated.rows or []] == [repr(row) for row in expected]
        with evaluator.batches(query, [], {"k1": relation}) as stream:
            assert stream.schema == arrow_schema([known], ["x"])
            assert [batch.schema for batch in stream] == [stream.schema] * (1 if values else 0)


def test_columns_with_one_name(evaluator: Evaluator) -> None:
    evaluated = evaluator.run(query_of('SELECT 1 AS a, 2 AS a, 3 AS "A"', columns=("a", "a", "A")), [], {})
    assert ([column.name for column in evaluated.columns], evaluated.rows) == (["a", "a", "A"], [(1, 2, 3)])
    table = evaluator.batches(query_of('SELECT 1 AS a, 2 AS a, 3 AS "A"'), [], {}).read_all()
    assert (table.column_names, [column.to_pylist() for column in table.columns]) == (["a", "a", "A"], [[1], [2], [3]])


def test_names_are_those_of_the_plan_or_else_duckdbs(evaluator: Evaluator) -> None:
    assert evaluator.run(query_of("SELECT 1, 2", columns=("x", "?column?")), [], {}).columns[1].name == "?column?"
    assert evaluator.run(query_of("SELECT 1 AS y"), [], {}).columns[0].name == "y"


def test_sums_are_integers(evaluator: Evaluator) -> None:
    evaluated = evaluator.run(query_of("SELECT sum(id) AS s FROM k1", source_of(ACCOUNTS)), [], {"k1": ROWS})
    assert (types_of(evaluated), evaluated.rows) == ([SqlType("HUGEINT")], [(6,)])
    assert type(evaluated.rows[0][0]) is int  # type: ignore[index]
    table = evaluator.batches(query_of("SELECT sum(id) AS s FROM k1", source_of(ACCOUNTS)), [], {"k1": ROWS}).read_all()
    assert (table.schema, table["s"].to_pylist()) == (pa.schema([("s", pa.decimal128(38, 0))]), [Decimal(6)])


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("shape", ["{}", "[1, {}]", "{{'a': {}}}", "MAP {{1: [{}]}}"])
def test_a_hugeint_of_39_digits_is_out_of_range(evaluator: Evaluator, sign: str, shape: str) -> None:
    """Arrow would carry it as a decimal that is none."""
    fits = query_of(f"SELECT {shape.format(f'{sign}99999999999999999999999999999999999999::HUGEINT')} AS x")
    beyond = query_of(f"SELECT {shape.format(f'{sign}100000000000000000000000000000000000000::HUGEINT')} AS x")
    assert str(10**38 - 1) in str(evaluator.run(fits, [], {}).rows)
    assert evaluator.batches(fits, [], {}).read_all().num_rows == 1
    with pytest.raises(NumericValueOutOfRange, match="'x'"):
        evaluator.run(beyond, [], {})
    with pytest.raises(NumericValueOutOfRange, match="'x'"):
        evaluator.batches(beyond, [], {}).read_all()


@pytest.mark.parametrize(
    "text",
    [
        "DATE 'infinity'",
        "DATE '-infinity'",
        "DATE '10000-01-01'",
        "DATE '0001-01-01 (BC)'",
        "TIMESTAMP 'infinity'",
        "TIMESTAMP '290000-01-01'",
        "TIMESTAMPTZ 'infinity'",
        "TIME '24:00:00'",
        "[TIMESTAMP '-infinity']",
    ],
)
def test_moments_that_python_does_not_have(evaluator: Evaluator, text: str) -> None:
    with pytest.raises(khonsu_sql.DataError) as raised:
        evaluator.run(query_of(f"SELECT {text}"), [], {})
    assert raised.value.sqlstate == "22008"


def test_the_last_moments_that_python_has(evaluator: Evaluator) -> None:
    """DuckDB's rows have the same objects for infinity: those are told apart as Arrow."""
    sql = "SELECT DATE '9999-12-31', DATE '0001-01-01', TIMESTAMP '9999-12-31 23:59:59.999999', TIME '23:59:59.999999'"
    assert evaluator.run(query_of(sql), [], {}).rows == [(date.max, date.min, datetime.max, time.max)]


def test_values_that_only_arrow_carries(evaluator: Evaluator) -> None:
    sql = """SELECT TIMESTAMPTZ '2020-01-01 01:00:00+01' AS t, INTERVAL '1 month 2 days' AS i,
                    {'a': [UUID '00000000-0000-0000-0000-000000000005']} AS s"""
    for _ in range(2):
        found = evaluator.run(query_of(sql), [], {}).rows
        assert found == [(datetime(2020, 1, 1, tzinfo=UTC), Interval(1, 2, 0), {"a": [UUID(int=5)]})]


@pytest.mark.parametrize("expression", ["'0101'::BIT", "1::UHUGEINT", "TIMETZ '10:00:00+02'", "union_value(k := 1)"])
def test_types_that_are_not_supported_are_refused_by_name(evaluator: Evaluator, expression: str) -> None:
    with pytest.raises(FeatureNotSupported, match=r"column 'x'.*not supported"):
        evaluator.run(query_of(f"SELECT {expression} AS x"), [], {})


@pytest.mark.parametrize(
    "name",
    [
        "STRUCT(s STRUCT(a INTEGER))",
        "STRUCT(a INTEGER)[]",
        "STRUCT(m MAP(INTEGER, INTEGER), l INTEGER[])",
        "MAP(INTEGER, STRUCT(s STRUCT(a UUID)))",
    ],
)
def test_slices_of_nested_columns(evaluator: Evaluator, name: str) -> None:
    """A range of keys is a slice of a batch: its columns begin at an offset, which DuckDB does not take for every shape."""
    sql_type = parse_type(name)
    inner = {
        "STRUCT(s STRUCT(a INTEGER))": lambda n: ((n,),),
        "STRUCT(a INTEGER)[]": lambda n: ((n,), None, (None,)),
        "STRUCT(m MAP(INTEGER, INTEGER), l INTEGER[])": lambda n: (((n, n), (n + 1, None)), (n, n)),
        "MAP(INTEGER, STRUCT(s STRUCT(a UUID)))": lambda n: ((n, ((UUID(int=n),),)),),
    }[name]
    batch = arrow_from_rows([sql_type], [(inner(number),) for number in range(6)], ["x"])
    query = query_of("SELECT x FROM k1", source_of(table_of(x=name)))
    expected = python_rows_from_arrow([sql_type], batch)
    found = evaluator.run(query, [], {"k1": Batches([batch.slice(1, 2), batch.slice(4, 2)])}).rows
    assert found == [*expected[1:3], *expected[4:6]]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM k1 ORDER BY id",
        "WITH r AS (SELECT id FROM k1) SELECT id FROM r ORDER BY id",
        'WITH"r" AS (SELECT id FROM k1) SELECT id FROM r ORDER BY id',
        "(SELECT id FROM k1) UNION (SELECT id FROM k1 WHERE FALSE) ORDER BY id",
        "(WITH r AS (SELECT id FROM k1) SELECT id FROM r ORDER BY id)",
        "((WITH r AS (SELECT id FROM k1) SELECT id FROM r)) UNION SELECT 1 ORDER BY id",
        "FROM k1 SELECT id ORDER BY id",
        "SELECT id FROM (WITH RECURSIVE r AS (SELECT id FROM k1 UNION SELECT id FROM r) SELECT id FROM r) ORDER BY id",
        "SELECT unnest([x FOR x IN list(id)]) AS id FROM k1 ORDER BY 1",
    ],
)
def test_queries_of_every_shape_over_a_mask(evaluator: Evaluator, sql: str) -> None:
    query = query_of(sql, source_of(ACCOUNTS))
    assert evaluator.run(query, [], {"k1": masked(ROWS, [True, False, True])}).rows == [(1,), (3,)]


# --- settings


def test_every_cursor_divides_as_we_say() -> None:
    """What is SET on a connection is not seen by its cursors: a fresh one is asked."""
    for of in (instance.narrow(), instance.wide()):
        with of._connection.cursor() as fresh:
            assert fresh.execute("SELECT 5 / 2, -5 / 2, current_setting('TimeZone')").fetchall() == [(2, -2, "UTC")]
    with pytest.raises(DivisionByZero):
        Evaluator().run(query_of("SELECT 1 / 0"), [], {})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_text('/etc/passwd')",
        "COPY (SELECT 1) TO '/tmp/khonsu.csv'",
        "ATTACH '/tmp/khonsu.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "SET integer_division = false",
        "RESET lock_configuration",
        "SET enable_external_access = true",
        "SELECT * FROM ROWS",
    ],
)
def test_nothing_outside_is_reachable(sql: str) -> None:
    with pytest.raises(khonsu_sql.Error):
        Evaluator().run(query_of(sql), [], {})


# --- many at once


def test_sixteen_threads_at_once() -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(16)

    def work(number: int) -> None:
        evaluator = Evaluator()
        data = pa.table({"id": list(range(number, number + 100))})
        query = query_of(
            "SELECT sum(a.id) FROM k1 AS a JOIN k2 AS b ON a.id = b.id WHERE a.id >= $1",
            source_of(table_of(id="BIGINT"), "k1"),
            source_of(table_of(id="BIGINT"), "k2"),
            parameters=1,
        )
        try:
            start.wait()
            for step in range(30):
                relations = {"k1": data, "k2": masked(data, [True] * (100 - step) + [False] * step)}
                expected = sum(range(number + 10, number + 100 - step))
                assert evaluator.run(query, [number + 10], relations).rows == [(expected,)]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_cursors_come_back() -> None:
    instance.close_instances()
    evaluator = Evaluator()
    for _ in range(20):
        assert rows(evaluator, "SELECT count(*) FROM k1", k1=ROWS) == [(3,)]
        with pytest.raises(DivisionByZero):
            rows(evaluator, "SELECT 1 / (id - id) FROM k1", k1=ROWS)
    assert len(instance.narrow()._idle) == 0, "the last one failed, and what failed is closed"
    assert rows(evaluator, "SELECT count(*) FROM k1", k1=ROWS) == [(3,)]
    assert len(instance.narrow()._idle) == len(instance.narrow()._cursors) == 1


# --- expressions


def test_expressions_over_rows(evaluator: Evaluator) -> None:
    table = evaluator.evaluate(["balance > 0", "upper(owner)", "id + 1"], ROWS)
    assert [column.to_pylist() for column in table.columns] == [[True, None, False], ["ANN", "BOB", None], [2, 3, 4]]


def test_expressions_over_rows_of_types_that_arrow_forgets(evaluator: Evaluator) -> None:
    types = [parse_type("UUID"), parse_type("ENUM('low','high')")]
    data = pa.table({"u": [str(UUID(int=1))], "e": ["high"]})
    assert evaluator.evaluate(["typeof(u)", "e > 'low'::ENUM('low', 'high')"], data, types).to_pylist() == [{"c0": "UUID", "c1": True}]


def test_expressions_without_rows(evaluator: Evaluator) -> None:
    assert evaluator.evaluate(["40 + 2", "CAST('2020-02-29' AS DATE)"]).to_pylist() == [{"c0": 42, "c1": date(2020, 2, 29)}]
    assert evaluator.evaluate(["id * 2"], ROWS.slice(0, 0)).num_rows == 0


def test_a_volatile_expression_is_evaluated_for_each_row(evaluator: Evaluator) -> None:
    values = evaluator.evaluate(["uuid()"], pa.table({"n": pa.nulls(50)}))["c0"].to_pylist()
    assert len(set(values)) == 50


# --- starting and ending


def in_a_fresh_process(code: str) -> subprocess.CompletedProcess[str]:
    root = Path(khonsu_sql.__file__).parent.parent
    path = [str(root), str(root / "engine")]
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"], capture_output=True, text=True, timeout=60
    )


def test_duckdb_and_arrow_are_loaded_by_the_first_query() -> None:
    code = """
from khonsu_sql.sql.query import Evaluator
evaluator = Evaluator(); evaluator.interrupt()
print(sorted({"duckdb", "pyarrow"} & set(sys.modules)))
from khonsu_sql.sql.plan import Query
print(evaluator.run(Query("SELECT 6 * 7", ()), [], {}).rows, "pandas" in sys.modules)
"""
    done = in_a_fresh_process(code)
    assert (done.stdout, done.stderr) == ("[]\n[(42,)] False\n", "")


def test_a_process_ends_quietly_with_a_stream_open() -> None:
    code = """
from khonsu_sql.sql.query import Evaluator
from khonsu_sql.sql.plan import Query
open_until_the_end = Evaluator().run(Query("SELECT range AS n FROM range(10_000_000)", ()), [], {})
print(open_until_the_end.batches.read_next_batch().num_rows)
"""
    done = in_a_fresh_process(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "16384\n", "")


def test_a_forked_child_starts_its_own() -> None:
    code = """
import os, warnings
warnings.simplefilter("ignore")
from khonsu_sql.sql.query import Evaluator
Evaluator().evaluate(["1"])
child = os.fork()
if child == 0:
    print(Evaluator().evaluate(["6 * 7"]).to_pylist(), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""
    done = in_a_fresh_process(code)
    assert (done.stdout, done.stderr) == ("[{'c0': 42}]\n0\n", "")


def test_the_narrow_instance_is_for_small_input_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether one thread or all of them: the answer is the same."""
    monkeypatch.setattr(execution, "NARROW_ROWS_MAX", 2)
    monkeypatch.setattr(instance, "narrow", lambda: pytest.fail("three rows are too many"))
    assert rows(Evaluator(), "SELECT id FROM k1 ORDER BY id", k1=ROWS) == [(1,), (2,), (3,)]
