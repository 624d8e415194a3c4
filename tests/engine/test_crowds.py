"""Ten thousand open transactions: the others go on as if they were not there, and nothing of them is left when they are gone.

What it costs is counted in steps, never in time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from khonsu_engine.commands import Isolation, KeyRange
from khonsu_engine.database import Database
from khonsu_engine.errors import SerializationConflict
from khonsu_engine.mvcc import horizon, validation
from khonsu_engine.mvcc.predicates import ALL
from khonsu_engine.schema.catalog import Table
from khonsu_engine.state_machine import CHANGES_TRIM
from khonsu_engine.transaction import LocalTransaction
from tests.engine.accounts import NEVER_BY_ITSELF, content, create, finish, got, listed, put_bulk, update

OPEN = 10_000
HOT = 0


@pytest.fixture
def database() -> Iterator[Database]:
    opened = Database.open(None, limits=NEVER_BY_ITSELF)
    yield opened
    opened.close()


def bump(database: Database, table: Table, key: int) -> None:
    writer = database.begin(writes_first=True)
    ((_, balance),) = got(writer, table, (key,)).items()
    update(writer, table, key, balance + 1)
    finish(writer)


def crowd(database: Database, table: Table) -> list[LocalTransaction]:
    """Open transactions: the first has seen 0 in the hot row, the next 1, and so on."""
    transactions = []
    for seen in range(OPEN):
        transactions.append(database.begin())
        assert got(transactions[-1], table, (HOT,)) == {HOT: seen}
        bump(database, table, HOT)
    return transactions


def chain_length(database: Database, table: Table, key: int) -> int:
    length, version = 0, database.state.tables[table.id].memtable.chains.get(key)
    while version is not None:
        length, version = length + 1, version.older
    return length


def test_ten_thousand_open_transactions(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = [0]
    readers = horizon.Snapshots.readers

    def counted(self: horizon.Snapshots, newest: int) -> horizon.Readers:
        looked[0] += len(self)
        return readers(self, newest)

    table = create(database, balances=dict.fromkeys(range(10), 0))
    open_ones = crowd(database, table)
    assert database.metrics["snapshots"] == OPEN
    assert OPEN <= chain_length(database, table, HOT) <= OPEN + 1, "one version for each snapshot"

    monkeypatch.setattr(horizon.Snapshots, "readers", counted)
    commits = 3_000
    for number in range(commits):
        bump(database, table, 1 + number % 9)
    assert looked[0] <= 8 * commits, "commits look at the snapshots of others all the time"
    assert chain_length(database, table, 1) < commits // 9, "versions that nobody sees are kept for the sake of old snapshots"

    for seen in range(0, OPEN, 500):
        assert got(open_ones[seen], table, (HOT, 1)) == {HOT: seen, 1: 0}, "it keeps its snapshot"
    update(open_ones[0], table, 5, 1)
    with pytest.raises(SerializationConflict):
        finish(open_ones[0])
    assert got(open_ones[-1], table, (HOT,)) == {HOT: OPEN - 1}

    for transaction in open_ones[: OPEN // 2]:
        transaction.rollback()
    del transaction
    open_ones.clear()  # the others are garbage
    gc.collect()
    assert database.metrics["snapshots"] == 0
    for number in range(200):
        bump(database, table, number % 10)
    assert chain_length(database, table, HOT) < 64
    assert len(database.state.changes[table.id]) <= 2 * CHANGES_TRIM
    database.checkpoint()
    assert len(database.state.tables[table.id].memtable.log) == 0
    assert content(database, table)[HOT] == OPEN + 20


def test_the_hot_row_may_be_written_beside_them(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chain has a version for each of them, which a write does not look through."""
    from khonsu_engine.columns import memtable

    table = create(database, balances={HOT: 0})
    open_ones = crowd(database, table)
    looked = [0]
    between = memtable._any_between

    def counted(*what: Any) -> bool:
        looked[0] += 1
        return between(*what)

    monkeypatch.setattr(memtable, "_any_between", counted)
    commits = 3_000
    for _ in range(commits):
        bump(database, table, HOT)
    assert looked[0] <= 32 * commits, "each write looks at the versions of all snapshots"
    assert got(open_ones[7], table, (HOT,)) == {HOT: 7}
    assert content(database, table) == {HOT: OPEN + commits}


# -- what validation looks at -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [50, 1_000])
@pytest.mark.parametrize("others", [0, 10, 300])
def test_validation_looks_at_what_was_written_meanwhile(
    database: Database, monkeypatch: pytest.MonkeyPatch, rows: int, others: int
) -> None:
    """Not at the size of the table, not at what was committed before, not at other tables; a row that was read by its key costs the same
    whatever happened."""
    table, elsewhere = create(database), create(database, "elsewhere", {1: 0})
    filler = database.begin(writes_first=True)
    put_bulk(filler, table, dict.fromkeys(range(rows), 0))
    finish(filler)
    for _ in range(100):
        bump(database, table, 40)

    transaction = database.begin(Isolation.SERIALIZABLE)
    assert len(listed(transaction, table, KeyRange(0, 9), ALL)) == 10
    assert got(transaction, table, (12,)) == {12: 0}
    update(transaction, table, 11, 1)
    for number in range(others):
        bump(database, table, 20 + number % 20)
        bump(database, elsewhere, 1)
    seen = {"_change_matches": 0, "_touched": 0}
    for name in seen:
        monkeypatch.setattr(validation, name, counting(getattr(validation, name), name, seen))
    finish(transaction)
    assert seen == {"_change_matches": others, "_touched": 0}


def counting(function: Any, name: str, seen: dict[str, int]) -> Any:
    def counted(*what: Any) -> Any:
        seen[name] += 1
        return function(*what)

    return counted
