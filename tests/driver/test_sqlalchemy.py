"""SQLAlchemy on Khonsu SQL: the dialect with Core and ORM, and `run_transaction` with its engines and sessions."""

from __future__ import annotations

import configparser
import datetime
import decimal
import os
import subprocess
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc, orm

import khonsu_sql
from khonsu_sql import RetryReport, run_transaction
from khonsu_sql.sqlalchemy import KhonsuDialect
from khonsu_sql.sqlalchemy.types import SizedInteger

ROOT = Path(__file__).resolve().parents[2]


class Base(orm.DeclarativeBase):
    pass


class Counter(Base):
    __tablename__ = "counters"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    n: orm.Mapped[int]
    note: orm.Mapped[str | None]


counters: Any = Counter.__table__


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    made = sa.create_engine("khonsu://")
    Base.metadata.create_all(made)
    with made.begin() as connection:
        connection.execute(counters.insert(), [{"id": n, "n": 0} for n in range(1, 4)])
    yield made
    made.dispose()


def value(engine: sa.Engine, key: int = 1) -> Any:
    with engine.connect() as connection:
        return connection.scalar(sa.select(counters.c.n).where(counters.c.id == key))


# --- where it is found


def test_the_entry_points_name_it() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["options.entry_points"]["sqlalchemy.dialects"].split("\n")
    found = dict(line.split(" = ") for line in lines if line)
    assert found == dict.fromkeys(("khonsu", "khonsu.khonsu_sql"), "khonsu_sql.sqlalchemy:KhonsuDialect")
    for url in ("khonsu://", "khonsu+khonsu_sql://"):
        assert isinstance(sa.create_engine(url).dialect, KhonsuDialect)


def test_the_driver_does_not_load_it() -> None:
    code = """
import sys, khonsu_sql
connection = khonsu_sql.connect(":memory:")
khonsu_sql.run_transaction(connection, lambda c: c.execute("SELECT 1").fetchone())
try:
    khonsu_sql.run_transaction("engine", print)
except khonsu_sql.InterfaceError:
    pass
assert "sqlalchemy" not in sys.modules and "khonsu_sql.sqlalchemy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


# --- connecting


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("khonsu:///relative.khonsu", f"khonsu:///{tmp_path}/relative.khonsu"):
        engine = sa.create_engine(url)
        Base.metadata.create_all(engine)
        assert sa.inspect(engine).has_table("counters")
        engine.dispose()
    assert (tmp_path / "relative.khonsu").is_dir()
    engine = sa.create_engine("khonsu:///:memory:shared by name")
    with engine.connect(), khonsu_sql.connect(":memory:shared by name", autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a INTEGER)")
        assert sa.inspect(engine).get_table_names() == ["t"]
    engine.dispose()


def test_a_database_in_memory_is_the_engines_own() -> None:
    first, second = sa.create_engine("khonsu://"), sa.create_engine("khonsu:///:memory:")
    with first.connect() as one, first.connect() as two:
        one.execute(sa.text("CREATE TABLE t (a INTEGER)"))
        one.commit()
        assert two.scalar(sa.text("SELECT count(*) FROM t")) == 0
    assert sa.inspect(first).has_table("t") and not sa.inspect(second).has_table("t")
    first.dispose()
    second.dispose()


def test_options_go_to_connect_and_others_are_refused() -> None:
    engine = sa.create_engine("khonsu:///:memory:?isolation_level=read committed&timeout=0.5&read_only=true")
    with engine.connect() as connection:
        assert connection.get_isolation_level() == "READ COMMITTED"
        with pytest.raises(exc.InternalError, match="read-only") as caught:
            connection.execute(sa.text("CREATE TABLE t (a INTEGER)"))
    assert isinstance(caught.value.orig, khonsu_sql.ReadOnlySqlTransaction)
    with pytest.raises(exc.InterfaceError, match="Did you mean 'locking'"):
        sa.create_engine("khonsu:///:memory:?lokking=optimistic").connect()
    for url in ("khonsu://host/path", "khonsu://user@/path", "khonsu://:1234/path"):
        with pytest.raises(exc.ArgumentError, match="names a server"):
            sa.create_engine(url)


@pytest.mark.parametrize("pre_ping", [False, True])
def test_a_closed_connection_is_replaced(pre_ping: bool) -> None:
    engine = sa.create_engine("khonsu:///:memory:closed", pool_pre_ping=pre_ping)
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
    driver.close()
    if not pre_ping:
        with engine.connect() as connection, pytest.raises(exc.OperationalError) as caught:
            connection.execute(sa.text("SELECT 1"))
        assert isinstance(caught.value.orig, khonsu_sql.ConnectionDoesNotExist)
        assert caught.value.connection_invalidated
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1
        assert not connection.connection.driver_connection.closed  # type: ignore[union-attr]
    engine.dispose()


# --- types and statements


KINDS: list[tuple[Any, Any]] = [
    (sa.Integer, 7),
    (sa.BigInteger, 1 << 60),
    (sa.SmallInteger, -3),
    (sa.Boolean, True),
    (sa.Float, 1.5),
    (sa.Double, 0.1),
    (sa.Numeric(10, 2), decimal.Decimal("12.50")),
    (sa.String(10), "ten"),
    (sa.Text, "tèxt\n'quoted' %s :a ?"),
    (sa.LargeBinary, b"\0\1"),
    (sa.Date, datetime.date(2024, 2, 29)),
    (sa.Time, datetime.time(12, 30, 1, 5)),
    (sa.DateTime, datetime.datetime(2024, 2, 29, 1, 2, 3, 4)),
    (sa.DateTime(timezone=True), datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)),
    (sa.Uuid, uuid.UUID(int=5)),
    (sa.JSON, {"a": [1, None, "x"]}),
    (sa.Interval, datetime.timedelta(days=1, seconds=5)),
    (sa.Enum("red", "green", name="colour"), "green"),
    (SizedInteger("UBIGINT"), (1 << 64) - 1),
]


def test_values_come_back_as_they_went(engine: sa.Engine) -> None:
    columns = [sa.Column(f"c{number}", kind) for number, (kind, _) in enumerate(KINDS)]
    table = sa.Table("kinds", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), *columns)
    table.create(engine)
    row = {f"c{number}": given for number, (_, given) in enumerate(KINDS)}
    with engine.begin() as connection:
        connection.execute(table.insert(), [{"id": 1} | row, {"id": 2} | dict.fromkeys(row)])
        got, empty = connection.execute(table.select().order_by(table.c.id)).all()
        assert list(got[1:]) == list(row.values())
        assert [type(each) for each in got[1:]] == [type(each) for each in row.values()]
        assert all(each is None for each in empty[1:])
        for number, (kind, given) in enumerate(KINDS):
            if kind is not sa.JSON:
                assert connection.scalar(sa.select(table.c.id).where(table.c[f"c{number}"] == given)) == 1, kind


def test_core_statements(engine: sa.Engine) -> None:
    c = counters.c
    with engine.begin() as connection:
        assert connection.execute(counters.update().where(c.id.in_([1, 3])).values(n=c.n + 5)).rowcount == 2
        assert connection.execute(counters.update().where(c.id == 3).values(note="x").returning(c.id, c.n)).all() == [(3, 5)]
        assert connection.execute(counters.delete().where(c.id == 2)).rowcount == 1
        assert connection.execute(counters.insert().values(id=4, n=sa.func.abs(-4)).returning(c.n)).scalar_one() == 4
        connection.execute(counters.insert().values([{"id": 5, "n": 1}, {"id": 6, "n": 2}]))
        ordered = sa.select(c.id).order_by(c.id)
        assert connection.scalars(ordered).all() == [1, 3, 4, 5, 6]
        assert connection.scalars(ordered.limit(2)).all() == [1, 3]
        assert connection.scalars(ordered.offset(3)).all() == [5, 6]
        assert connection.scalars(ordered.limit(2).offset(1)).all() == [3, 4]
        assert connection.execute(sa.select(sa.func.count(), sa.func.sum(c.n)).where(c.note.is_(None))).one() == (4, 12)
        assert connection.scalars(sa.select(c.id).where(c.note.like("%x%"))).all() == [3]


def test_savepoints(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(counters.update().values(n=1))
        with pytest.raises(exc.IntegrityError) as caught, connection.begin_nested():
            connection.execute(counters.insert().values(id=1, n=9))
        assert isinstance(caught.value.orig, khonsu_sql.UniqueViolation)
        with connection.begin_nested():
            connection.execute(counters.update().where(counters.c.id == 2).values(n=2))
    assert (value(engine, 1), value(engine, 2)) == (1, 2)


def test_names_that_must_be_quoted(engine: sa.Engine) -> None:
    names = ["order", "User", "qualify", "pivot", "lateral", "show", "struct", "a b", 'q"q', "select"]
    table = sa.Table("group", sa.MetaData(), *(sa.Column(name, sa.Integer) for name in names))
    table.create(engine)
    with engine.begin() as connection:
        connection.execute(table.insert(), dict.fromkeys(names, 1))
        assert connection.execute(table.select().where(table.c["qualify"] == 1)).one() == (1,) * len(names)
    assert [column["name"] for column in sa.inspect(engine).get_columns("group")] == names


@pytest.mark.parametrize(
    ("clause", "text"),
    [
        ({}, "FOR UPDATE"),
        ({"read": True, "nowait": True}, "FOR SHARE NOWAIT"),
        ({"skip_locked": True}, "FOR UPDATE SKIP LOCKED"),
        ({"of": Counter}, "FOR UPDATE OF counters"),
        ({"key_share": True}, "FOR NO KEY UPDATE"),
        ({"key_share": True, "read": True}, "FOR KEY SHARE"),
    ],
)
def test_locking_clauses_are_written_out(clause: Any, text: str) -> None:
    assert str(sa.select(Counter.id).with_for_update(**clause).compile(dialect=KhonsuDialect())).endswith(text)


# --- isolation


def test_isolation_levels(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert connection.get_isolation_level() == connection.default_isolation_level == "SERIALIZABLE"
        for level in ("REPEATABLE READ", "READ COMMITTED", "SERIALIZABLE", "AUTOCOMMIT"):
            connection.execution_options(isolation_level=level)
            assert connection.get_isolation_level() == level
        connection.execute(counters.update().values(n=8))
        connection.rollback()
        with pytest.raises(exc.ArgumentError, match="CHAOS"):
            connection.execution_options(isolation_level="CHAOS")
    assert value(engine) == 8, "AUTOCOMMIT did not"
    with engine.connect() as connection:
        assert connection.get_isolation_level() == "SERIALIZABLE", "the pool did not reset it"
        connection.execute(counters.update().values(n=9))
    assert value(engine) == 8
    other = sa.create_engine("khonsu://", isolation_level="READ COMMITTED")
    with other.connect() as connection:
        assert connection.get_isolation_level() == "READ COMMITTED"
    other.dispose()


# --- what tables there are


def test_reflection(engine: sa.Engine) -> None:
    metadata = sa.MetaData()
    sa.Table(
        "goods",
        metadata,
        sa.Column("shop", sa.String(8), primary_key=True),
        sa.Column("number", SizedInteger("UINTEGER"), primary_key=True),
        sa.Column("price", sa.Numeric(8, 3), sa.CheckConstraint("price > 0", name="positive")),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("code", sa.Text, unique=True, server_default="none"),
    )
    metadata.create_all(engine)
    metadata.create_all(engine)  # it is there: nothing happens
    inspector = sa.inspect(engine)
    assert inspector.get_schema_names() == ["main"] and inspector.default_schema_name == "main"
    assert inspector.get_table_names() == ["counters", "goods"] and inspector.get_view_names() == []
    assert inspector.has_table("GOODS") and not inspector.has_table("bads") and not inspector.has_table("goods", schema="other")
    assert inspector.get_pk_constraint("goods") == {"constrained_columns": ["shop", "number"], "name": "goods_pkey"}
    assert inspector.get_unique_constraints("goods") == [{"name": "goods_code_key", "column_names": ["code"]}]
    assert inspector.get_check_constraints("goods") == [{"name": "positive", "sqltext": '"price" > 0'}]
    assert inspector.get_foreign_keys("goods") == inspector.get_indexes("goods") == []
    columns = {column["name"]: column for column in inspector.get_columns("goods")}
    types = ["VARCHAR(8)", "UINTEGER", "DECIMAL(8, 3)", "TIMESTAMP WITH TIME ZONE", "VARCHAR"]
    assert [column["type"].compile(dialect=KhonsuDialect()) for column in columns.values()] == types
    assert [column["nullable"] for column in columns.values()] == [False, False, True, False, True]
    assert columns["code"]["default"] == "'none'" and columns["price"]["default"] is None
    with pytest.raises(exc.NoSuchTableError):
        inspector.get_columns("bads")
    copy = sa.Table("goods", sa.MetaData(), autoload_with=engine)
    copy.drop(engine)
    copy.create(engine)
    assert sa.inspect(engine).get_columns("goods")[1]["type"].name == "UINTEGER"


def test_a_type_without_a_class_is_told(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE odd (a INTEGER[], b INTERVAL)"))
    with pytest.warns(exc.SAWarning, match="Did not recognize type"):
        columns = sa.inspect(engine).get_columns("odd")
    assert [type(column["type"]) for column in columns] == [sa.types.NullType] * 2


# --- what it does not do yet is told


@pytest.mark.parametrize(
    ("column", "options", "error", "words"),
    [
        (
            lambda: sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
            {},
            exc.CompileError,
            "IDENTITY columns are not supported yet",
        ),
        (lambda: sa.Column("id", sa.Integer, sa.Sequence("s"), primary_key=True), {}, exc.CompileError, "sequences are not supported yet"),
        (lambda: sa.Column("id", sa.Integer, sa.Computed("1 + 1")), {}, exc.NotSupportedError, "GENERATED"),
        (lambda: sa.Column("id", sa.Integer, sa.ForeignKey(counters.c.id)), {}, exc.NotSupportedError, "FOREIGN KEY"),
        (lambda: sa.Column("id", sa.Integer, index=True), {}, exc.NotSupportedError, "CREATE INDEX"),
        (lambda: sa.Column("id", sa.Integer), {"schema": "other"}, exc.ProgrammingError, 'schema "other" does not exist'),
    ],
)
def test_definitions_it_cannot_make(engine: sa.Engine, column: Any, options: Any, error: Any, words: str) -> None:
    table = sa.Table("t", sa.MetaData(), column(), **options)
    with pytest.raises(error, match=words):
        table.create(engine)


def test_a_key_must_be_given(engine: sa.Engine) -> None:
    table = sa.Table("numbered", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))
    table.create(engine)
    with engine.connect() as connection, pytest.raises(exc.IntegrityError, match='null value in column "id"'):
        connection.execute(table.insert().values(n=1))
    with engine.connect() as connection, pytest.raises(NotImplementedError):
        connection.begin_twophase()


# --- the ORM


def test_a_session_flushes(engine: sa.Engine) -> None:
    with orm.Session(engine) as session:
        session.add_all([Counter(id=10, n=1, note="a"), Counter(id=11, n=2)])
        session.commit()
        first = session.get_one(Counter, 10)
        first.n += 5
        session.delete(session.get_one(Counter, 11))
        session.commit()
        assert first.n == 6
        found = session.scalars(sa.select(Counter).where(Counter.id >= 10)).all()
        assert [each.id for each in found] == [10]
        session.execute(sa.update(Counter).where(Counter.id == 10).values(n=Counter.n * 2))
        assert first.n == 12
        session.rollback()
        assert first.n == 6


# --- run_transaction


Work = Callable[[Any], Any]


def connectables(engine: sa.Engine) -> dict[str, tuple[Any, Work]]:
    """Everything it takes, with a way to read and to add one."""

    def by_connection(connection: Any) -> int:
        n = connection.scalar(sa.select(counters.c.n).where(counters.c.id == 1))
        connection.execute(counters.update().where(counters.c.id == 1).values(n=n + 1))
        return int(n) + 1

    def by_session(session: Any) -> int:
        counter = session.get_one(Counter, 1)
        counter.n += 1
        return int(counter.n)

    return {
        "Engine": (engine, by_connection),
        "Connection": (engine.connect(), by_connection),
        "sessionmaker": (orm.sessionmaker(engine), by_session),
        "scoped_session": (orm.scoped_session(orm.sessionmaker(engine)), by_session),
        "Session": (orm.Session(engine), by_session),
    }


@pytest.mark.parametrize("kind", ["Engine", "Connection", "sessionmaker", "scoped_session", "Session"])
def test_it_runs_again_after_a_conflict(engine: sa.Engine, kind: str) -> None:
    connectable, work = connectables(engine)[kind]
    calls = 0

    def disturbed(argument: Any) -> Any:
        nonlocal calls
        calls += 1
        result = work(argument)
        if calls < 3:
            with engine.begin() as other:
                other.execute(counters.update().where(counters.c.id == 1).values(n=counters.c.n + 10))
        return result

    report, told = RetryReport(), []
    assert run_transaction(connectable, disturbed, report=report, on_retry=lambda r: told.append(r.attempts)) == 21
    assert value(engine) == 21
    assert (calls, report.attempts, told) == (3, 3, [1, 2])
    assert [type(reason) for reason in report.reasons] == [khonsu_sql.SerializationFailure] * 2
    assert run_transaction(connectable, work) == 22
    if kind == "Engine":
        assert connectable.pool.checkedout() == 0


@pytest.mark.parametrize("kind", ["Engine", "sessionmaker"])
def test_no_increment_is_lost_between_threads(engine: sa.Engine, kind: str) -> None:
    connectable, work = connectables(engine)[kind]
    errors: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(20):
                run_transaction(connectable, work, deadline_seconds=60)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert value(engine) == 80


def test_what_a_session_had_is_expired_and_what_was_added_is_gone(engine: sa.Engine) -> None:
    session = orm.Session(engine)
    held = session.get_one(Counter, 1)
    session.rollback()
    seen: list[tuple[int, int]] = []

    def work(session: orm.Session) -> None:
        session.add(Counter(id=50 + len(seen), n=0))
        session.flush()
        seen.append((held.n, session.scalar(sa.select(sa.func.count()).select_from(Counter)) or 0))
        held.note = "mine"
        if len(seen) == 1:
            with engine.begin() as other:
                other.execute(counters.update().where(counters.c.id == 1).values(n=7))

    run_transaction(session, work)
    assert seen == [(0, 4), (7, 4)]
    assert session.scalars(sa.select(Counter.id).where(Counter.id >= 50)).all() == [51]
    session.close()


@pytest.mark.parametrize("kind", ["Engine", "Connection", "sessionmaker", "Session"])
def test_other_errors_are_not_retried(engine: sa.Engine, kind: str) -> None:
    connectable, work = connectables(engine)[kind]
    calls = 0

    def twice(argument: Any) -> None:
        nonlocal calls
        calls += 1
        work(argument)
        argument.execute(counters.insert().values(id=2, n=0))

    with pytest.raises(exc.IntegrityError) as caught:
        run_transaction(connectable, twice)
    assert isinstance(caught.value.orig, khonsu_sql.UniqueViolation)
    with pytest.raises(ZeroDivisionError):
        run_transaction(connectable, lambda argument: work(argument) and 1 / 0)
    assert calls == 1 and value(engine) == 0


def test_giving_up_is_told(engine: sa.Engine) -> None:
    def hopeless(connection: sa.Connection) -> None:
        n = connection.scalar(sa.select(counters.c.n).where(counters.c.id == 1))
        with engine.begin() as other:
            other.execute(counters.update().where(counters.c.id == 1).values(n=counters.c.n + 1))
        connection.execute(counters.update().where(counters.c.id == 1).values(n=n))

    with pytest.raises(exc.OperationalError) as caught:
        run_transaction(engine, hopeless, attempts_max=2)
    cause: Any = caught.value.orig
    assert isinstance(cause, khonsu_sql.SerializationFailure) and cause.attempts == 2
    assert any("2 attempt" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("kind", ["Engine", "Connection", "sessionmaker", "Session"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_the_function_must_not_end_the_transaction(engine: sa.Engine, kind: str, end: str) -> None:
    connectable, work = connectables(engine)[kind]

    def meddle(argument: Any) -> None:
        work(argument)
        getattr(argument, end)()

    with pytest.raises(khonsu_sql.InvalidTransactionTermination):
        run_transaction(connectable, meddle)
    assert run_transaction(connectable, work) == (2 if end == "commit" else 1)


@pytest.mark.parametrize("kind", ["Connection", "Session", "scoped_session"])
def test_an_open_transaction_is_refused(engine: sa.Engine, kind: str) -> None:
    connectable, work = connectables(engine)[kind]
    work(connectable)
    with pytest.raises(khonsu_sql.ActiveSqlTransaction):
        run_transaction(connectable, work)
    connectable.rollback()
    assert run_transaction(connectable, work) == 1


def test_options(engine: sa.Engine) -> None:
    level: Work = lambda argument: (argument if kind == "Engine" else argument.connection()).get_isolation_level()  # noqa: E731
    for kind in ("Engine", "sessionmaker", "Session"):
        connectable, _ = connectables(engine)[kind]
        assert run_transaction(connectable, level, isolation_level="read committed") == "READ COMMITTED"
        assert run_transaction(connectable, level, isolation_level=khonsu_sql.Isolation.REPEATABLE_READ) == "REPEATABLE READ"
        assert run_transaction(connectable, level) == "SERIALIZABLE"
    connection, work = connectables(engine)["Connection"]
    with pytest.raises(khonsu_sql.FeatureNotSupported, match="isolation_level"):
        run_transaction(connection, work, isolation_level="READ COMMITTED")
    for options in ({"read_only": True}, {"locking": "PESSIMISTIC"}, {"on_conflict": "IGNORE"}):
        with pytest.raises(khonsu_sql.FeatureNotSupported, match="through SQLAlchemy"):
            run_transaction(engine, work, **options)
    for other in (sa.MetaData(), "engine", None):
        with pytest.raises(khonsu_sql.InterfaceError, match=type(other).__name__):
            run_transaction(other, work)


def test_retry_is_for_the_drivers_own_connections(engine: sa.Engine) -> None:
    def work(connection: Any) -> None:
        connection.connection.driver_connection.retry()

    with pytest.raises(khonsu_sql.NoActiveSqlTransaction, match="inside run_transaction"):
        run_transaction(engine, work)


def test_no_warnings_of_ours() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = sa.create_engine("khonsu://")
        Base.metadata.create_all(engine)
        run_transaction(engine, lambda connection: connection.execute(counters.select()).all())
        engine.dispose()
