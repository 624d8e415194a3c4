"""Waist 2: what every implementation of `Transaction` keeps, told as small stories on a key-value table.

Run over a database in memory and one on RocksDB. The names in brackets are Hermitage's and those of the acceptance stories.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from khonsu_engine.commands import EVERY_KEY, Isolation, KeyRange, Operation, Write
from khonsu_engine.database import Database
from khonsu_engine.errors import EngineClosed, EngineError, SerializationConflict, UniqueViolation
from khonsu_engine.mvcc.lock_table import LockMode
from khonsu_engine.mvcc.predicates import ALL, Compare, In
from khonsu_engine.schema.catalog import Column, Table
from khonsu_engine.schema.types import parse_type
from khonsu_engine.transaction import LocalTransaction

SERIALIZABLE, REPEATABLE_READ = Isolation.SERIALIZABLE, Isolation.REPEATABLE_READ
LEVELS = [SERIALIZABLE, REPEATABLE_READ]


@pytest.fixture(params=["memory", "rocks"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(None if request.param == "memory" else tmp_path / "db")
    yield opened
    opened.close()


def shape(name: str = "accounts") -> Table:
    """(id BIGINT PRIMARY KEY, balance BIGINT, note VARCHAR)."""
    bigint = parse_type("BIGINT")
    columns = (Column("id", bigint, nullable=False), Column("balance", bigint), Column("note", parse_type("VARCHAR")))
    return Table(0, "main", name, 0, columns, (0,), f"{name}_pkey")


def finish(transaction: LocalTransaction) -> Any:
    result = transaction.commit()
    if hasattr(result, "wait"):
        result.wait()
    return transaction.outcome


@pytest.fixture
def accounts(database: Database) -> Table:
    with_table = database.begin()
    table = with_table.create_table(shape())
    for key in range(1, 11):
        insert(with_table, table, key, key * 10)
    finish(with_table)
    return table


def insert(transaction: LocalTransaction, table: Table, key: int, balance: int, note: str | None = None) -> None:
    transaction.put(table.id, Write(Operation.INSERT, key, (key, balance, note), None, transaction.read_timestamp))


def update(transaction: LocalTransaction, table: Table, key: int, balance: int) -> None:
    before = transaction.get(table.id, key, columns=1 << 1)
    assert before is not None
    row = (before[0], balance, before[2])
    transaction.put(table.id, Write(Operation.UPDATE, key, row, before, transaction.read_timestamp))


def delete(transaction: LocalTransaction, table: Table, key: int) -> None:
    before = transaction.get(table.id, key)
    assert before is not None
    transaction.put(table.id, Write(Operation.DELETE, key, None, before, transaction.read_timestamp))


def balance(transaction: LocalTransaction, table: Table, key: int) -> int | None:
    row = transaction.get(table.id, key)
    return None if row is None else row[1]


def scanned(transaction: LocalTransaction, table: Table, predicate: Any = ALL, range: KeyRange = EVERY_KEY) -> dict[int, int]:
    """id -> balance of what a scan returns."""
    found = {}
    for batch in transaction.scan(table.id, (0, 1), range, predicate):
        live = batch.column(2).to_pylist() if batch.num_columns == 3 else [True] * batch.num_rows
        for key, amount, alive in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), live, strict=True):
            if alive:
                assert key not in found, f"key {key} twice in one scan"
                found[key] = amount
    return found


def ranged(transaction: LocalTransaction, table: Table, range: KeyRange, *, reverse: bool = False) -> list[int]:
    return [key for key, _ in transaction.rows(table.id, range, ALL, reverse=reverse)]


@pytest.mark.parametrize("isolation", LEVELS)
def test_a_snapshot_reads_one_moment(database: Database, accounts: Table, isolation: Isolation) -> None:
    """[PMP, story 7] Point reads, scans and ranges of one transaction agree, whatever others commit."""
    reader = database.begin(isolation, read_only=True)
    before = scanned(reader, accounts)
    writer = database.begin(isolation)
    update(writer, accounts, 1, 999)
    delete(writer, accounts, 2)
    insert(writer, accounts, 11, 110)
    finish(writer)
    assert scanned(reader, accounts) == before
    assert balance(reader, accounts, 1) == 10 and balance(reader, accounts, 2) == 20 and balance(reader, accounts, 11) is None
    assert ranged(reader, accounts, EVERY_KEY) == list(range(1, 11))
    finish(reader)
    later = database.begin(isolation, read_only=True)
    expected = {key: amount for key, amount in {**before, 1: 999, 11: 110}.items() if key != 2}
    assert scanned(later, accounts) == expected
    assert ranged(later, accounts, EVERY_KEY, reverse=True) == sorted(expected, reverse=True)
    finish(later)


@pytest.mark.parametrize("isolation", LEVELS)
def test_first_committer_wins(database: Database, accounts: Table, isolation: Isolation) -> None:
    """[P4, story 2]"""
    first, second = database.begin(isolation), database.begin(isolation)
    update(first, accounts, 1, 11)
    update(second, accounts, 1, 12)
    finish(first)
    with pytest.raises(SerializationConflict) as caught:
        second.commit()
    assert caught.value.evidence["table"] == "accounts" and caught.value.evidence["keys"] == (1,)
    assert caught.value.retryable
    assert balance(database.begin(), accounts, 1) == 11


def test_write_skew_is_refused_at_serializable_only(database: Database, accounts: Table) -> None:
    """[G2-item, story 3]"""
    for isolation, allowed in ((REPEATABLE_READ, True), (SERIALIZABLE, False)):
        first, second = database.begin(isolation), database.begin(isolation)
        update(first, accounts, 2, balance(first, accounts, 1) or 0)
        update(second, accounts, 1, balance(second, accounts, 2) or 0)
        finish(first)
        if allowed:
            finish(second)
        else:
            with pytest.raises(SerializationConflict):
                second.commit()


def test_a_read_only_past_never_aborts(database: Database, accounts: Table) -> None:
    """[story 1]"""
    reader = database.begin()
    assert balance(reader, accounts, 1) == 10
    writer = database.begin()
    update(writer, accounts, 1, 11)
    finish(writer)
    assert balance(reader, accounts, 1) == 10
    finish(reader)
    late = database.begin()
    assert balance(late, accounts, 1) == 11
    other = database.begin()
    update(other, accounts, 1, 12)
    finish(other)
    insert(late, accounts, 50, 0)
    with pytest.raises(SerializationConflict):
        late.commit()


def test_columns_that_were_not_read_do_not_conflict(database: Database, accounts: Table) -> None:
    reader = database.begin()
    row = reader.get(accounts.id, 3, columns=1 << 2)
    assert row is not None
    insert(reader, accounts, 60, 0)
    writer = database.begin()
    update(writer, accounts, 3, 31)
    finish(writer)
    finish(reader)


def test_phantoms(database: Database, accounts: Table) -> None:
    """[G2, story 8] An insert that enters the predicate conflicts, one outside does not."""
    for amount, conflict in ((5, False), (5_000, True)):
        counter = database.begin()
        list(counter.scan(accounts.id, (0,), EVERY_KEY, Compare(1, ">", 1_000), read_columns=1 << 1))
        insert(counter, accounts, 100 + amount, 0)
        writer = database.begin()
        insert(writer, accounts, 200 + amount, amount)
        finish(writer)
        if conflict:
            with pytest.raises(SerializationConflict):
                counter.commit()
        else:
            finish(counter)


def test_an_update_conflicts_when_it_enters_or_leaves_or_changes_what_was_read(database: Database, accounts: Table) -> None:
    cases = [(1, 2_000, True), (1, 2_001, True), (1, 7, True), (2, 8, False)]
    for key, amount, conflict in cases:
        reader = database.begin()
        list(reader.scan(accounts.id, (1,), EVERY_KEY, Compare(1, ">", 1_000), read_columns=1 << 1))
        insert(reader, accounts, 1_000 + amount, 0)
        writer = database.begin()
        update(writer, accounts, key, amount)
        finish(writer)
        if conflict:
            with pytest.raises(SerializationConflict):
                reader.commit()
        else:
            finish(reader)


def test_a_read_of_nothing_is_a_read(database: Database, accounts: Table) -> None:
    """[story 6] Absent keys and empty ranges are read."""
    point, ranges, members = database.begin(), database.begin(), database.begin()
    assert point.get(accounts.id, 77) is None
    assert ranged(ranges, accounts, KeyRange(70, 80)) == []
    assert 77 not in scanned(members, accounts, In(0, (77, 78)))
    for number, transaction in enumerate((point, ranges, members)):
        insert(transaction, accounts, 500 + number, 0)
    writer = database.begin()
    insert(writer, accounts, 77, 1)
    finish(writer)
    for transaction in (point, ranges, members):
        with pytest.raises(SerializationConflict):
            transaction.commit()


@pytest.mark.parametrize("isolation", LEVELS)
def test_two_inserts_of_one_key(database: Database, accounts: Table, isolation: Isolation) -> None:
    """[story 6] The second fails at every level, later ones as a violation."""
    first, second = database.begin(isolation), database.begin(isolation)
    insert(first, accounts, 20, 1)
    insert(second, accounts, 20, 2)
    finish(first)
    with pytest.raises(SerializationConflict):
        second.commit()
    third = database.begin(isolation)
    with pytest.raises(UniqueViolation, match="accounts_pkey"):
        insert(third, accounts, 20, 3)
    third.rollback()


@pytest.mark.parametrize("isolation", LEVELS)
def test_a_concurrently_deleted_row_is_not_resurrected(database: Database, accounts: Table, isolation: Isolation) -> None:
    """[story 6]"""
    writer, deleter = database.begin(isolation), database.begin(isolation)
    update(writer, accounts, 4, 44)
    delete(deleter, accounts, 4)
    finish(deleter)
    with pytest.raises(SerializationConflict):
        writer.commit()
    assert balance(database.begin(), accounts, 4) is None


def test_own_writes_are_seen_everywhere(database: Database, accounts: Table) -> None:
    transaction = database.begin()
    update(transaction, accounts, 1, 111)
    delete(transaction, accounts, 2)
    insert(transaction, accounts, 30, 300)
    expected = {1: 111, 30: 300} | {key: key * 10 for key in range(3, 11)}
    assert scanned(transaction, accounts) == expected
    assert {key: row[1] for key, row in transaction.rows(accounts.id, EVERY_KEY, ALL)} == expected
    assert balance(transaction, accounts, 2) is None
    insert(transaction, accounts, 2, 222)
    delete(transaction, accounts, 30)
    assert scanned(transaction, accounts) == {1: 111, 2: 222} | {key: key * 10 for key in range(3, 11)}
    finish(transaction)
    later = database.begin()
    assert scanned(later, accounts) == {1: 111, 2: 222} | {key: key * 10 for key in range(3, 11)}


def test_ddl_is_isolated_and_rolled_back(database: Database, accounts: Table) -> None:
    maker, other = database.begin(), database.begin()
    made = maker.create_table(shape("fresh"))
    insert(maker, made, 1, 1)
    assert maker.catalog.find("FRESH") == made and other.catalog.find("fresh") is None
    maker.rollback()
    assert database.catalog.find("fresh") is None
    first, second = database.begin(), database.begin()
    first.create_table(shape("fresh"))
    second.create_table(shape("Fresh"))
    finish(first)
    with pytest.raises(SerializationConflict):
        second.commit()


@pytest.mark.parametrize("isolation", LEVELS)
def test_drop_and_write_never_both(database: Database, accounts: Table, isolation: Isolation) -> None:
    for writer_first in (True, False):
        setup = database.begin()
        table = setup.create_table(shape(f"t{writer_first}"))
        finish(setup)
        writer, dropper = database.begin(isolation), database.begin(isolation)
        insert(writer, table, 1, 1)
        dropper.drop_table(table)
        order = (writer, dropper) if writer_first else (dropper, writer)
        finish(order[0])
        with pytest.raises(SerializationConflict):
            order[1].commit()


def test_a_finished_transaction_refuses(database: Database, accounts: Table) -> None:
    transaction = database.begin()
    finish(transaction)
    with pytest.raises(EngineClosed):
        transaction.commit()
    transaction.rollback()
    with pytest.raises(EngineClosed):
        transaction.rollback_to(0)
    with pytest.raises(EngineClosed):
        transaction.lock(accounts.id, 1, LockMode.EXCLUSIVE)


def test_snapshots_are_released_exactly_once(database: Database, accounts: Table) -> None:
    def failing() -> None:
        first, second = database.begin(), database.begin()
        update(first, accounts, 1, 0)
        update(second, accounts, 1, 0)
        finish(first)
        with pytest.raises(EngineError):
            second.commit()
        second.rollback()

    failing()
    abandoned = database.begin()
    del abandoned
    database.begin().rollback()
    assert database.metrics["snapshots"] == 0


def test_a_key_deleted_and_written_again_in_bulk_is_there(database: Database, accounts: Table) -> None:
    transaction = database.begin()
    delete(transaction, accounts, 5)
    columns = [pa.array([5, 50], pa.int64()), pa.array([555, 500], pa.int64()), pa.array(["again", None], pa.string())]
    batch = pa.RecordBatch.from_arrays(columns, names=["id", "balance", "note"])
    assert transaction.put_bulk(accounts, iter((batch,))) == 2
    expected = {key: key * 10 for key in range(1, 11)} | {5: 555, 50: 500}
    assert scanned(transaction, accounts) == expected and balance(transaction, accounts, 5) == 555
    finish(transaction)
    later = database.begin()
    assert scanned(later, accounts) == expected and ranged(later, accounts, EVERY_KEY) == sorted(expected)
    assert balance(later, accounts, 5) == 555
    with pytest.raises(UniqueViolation):
        later.put_bulk(accounts, iter((batch,)))


def test_outcomes_are_bounded(database: Database, accounts: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last outcome of each connection, of as many connections as there is room for, the latest."""
    monkeypatch.setattr("khonsu_engine.state_machine.OUTCOMES_MAX", 3)
    ids = []
    for number in range(5):
        transaction = database.begin(name=bytes([number]) * 8)
        update(transaction, accounts, 1, number)
        finish(transaction)
        ids.append(transaction.id)
    assert [database.outcome(known) is not None for known in ids] == [False, False, True, True, True]


def test_a_transaction_that_died_in_the_making_holds_nothing(database: Database, accounts: Table) -> None:
    """Interrupted before its snapshot was registered, its token is released all the same, and that of nobody else is lost."""
    kept = database.begin()

    class Interrupted(BaseException):
        pass

    def register(token: object, timestamp: int) -> None:
        raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(database.snapshots._snapshots), "register", lambda self, token, timestamp: register(token, timestamp))
        with pytest.raises(Interrupted):
            database.begin()
    gc.collect()
    database.begin().rollback()
    assert database.metrics["snapshots"] == 1
    kept.rollback()
    assert database.horizon() == database.state.durable and database.metrics["snapshots"] == 0
