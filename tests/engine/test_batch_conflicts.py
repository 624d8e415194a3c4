"""Keyed batches of several transactions at once: who wins, at every level. The stories of the systems this API comes from."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest

from khonsu_engine.errors import SerializationConflict
from khonsu_engine.keyed.batches import BatchStore, BatchTransaction
from tests.engine.batch_stores import LEVELS, Clock, batch, content, store_with, value, write

SNAPSHOT_LEVELS = LEVELS[:2]


@pytest.fixture
def store() -> BatchStore:
    made = store_with(Clock())
    write(made, {"k": 100, "a": 1, "b": 1})
    return made


def committed(*transactions: BatchTransaction) -> list[bool]:
    """Commit them in that order: who won."""
    won = []
    for transaction in transactions:
        try:
            transaction.commit()
            won.append(True)
        except SerializationConflict as error:
            assert error.sqlstate == "40001" and error.retryable and error.evidence["table"] == "batches"
            won.append(False)
    return won


@pytest.mark.parametrize("level", LEVELS)
def test_wrw(store: BatchStore, level: str) -> None:
    """T2, which has only read, commits on its snapshot; had it written, it would conflict at SERIALIZABLE."""
    for writes, wins in ((False, True), (True, level != "serializable")):
        first, second = store.start_transaction(level), store.start_transaction(level)
        before = value(second, "k")
        first.write("k", batch(200))
        assert value(second, "k") == before and value(first, "k") == 200
        if writes:
            second.write("a", batch(2))
        assert committed(first, second) == [True, wins]
        write(store, {"k": 100})


@pytest.mark.parametrize("level", LEVELS)
def test_rw(store: BatchStore, level: str) -> None:
    """The reader commits first, or second: both win."""
    for order in (1, -1):
        reader, writer = store.start_transaction(level), store.start_transaction(level)
        value(reader, "k")
        writer.write("k", batch(300))
        assert committed(*(reader, writer)[::order]) == [True, True]
        assert content(store)["k"] == [300]


@pytest.mark.parametrize("level", LEVELS)
def test_wr(store: BatchStore, level: str) -> None:
    """A read of what is written but not committed is the old value."""
    writer = store.start_transaction(level)
    writer.write("k", batch(200))
    reader = store.start_transaction(level)
    assert value(reader, "k") == 100
    assert committed(writer, reader) == [True, True]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("reads", [False, True])
def test_ww(store: BatchStore, level: str, reads: bool) -> None:
    """The second to commit conflicts, whoever began first, whether it has read the key or not."""
    for order in (1, -1):
        transactions = [store.start_transaction(level) for _ in range(2)]
        for number, transaction in enumerate(transactions):
            if reads:
                value(transaction, "k")
            transaction.write("k", batch(number))
        winner, loser = transactions[::order]
        number = transactions.index(winner)
        assert committed(winner, loser) == [True, False]
        assert content(store)["k"] == [number]


@pytest.mark.parametrize("level", LEVELS)
def test_two_inserts_of_one_key(store: BatchStore, level: str) -> None:
    transactions = [store.start_transaction(level) for _ in range(2)]
    for transaction in transactions:
        assert transaction.read("new") is None
        transaction.write("new", batch(1))
    assert committed(*transactions) == [True, False]


@pytest.mark.parametrize("level", LEVELS)
def test_a_blind_write_over_a_deletion(store: BatchStore, level: str) -> None:
    """A conflict, not a resurrection; and a deletion over a write."""
    for first, second in (("delete", "write"), ("write", "delete"), ("delete", "delete")):
        write(store, {"k": 1})
        transactions = [store.start_transaction(level) for _ in range(2)]
        for transaction, action in zip(transactions, (first, second), strict=True):
            transaction.delete("k") if action == "delete" else transaction.write("k", batch(2))
        assert committed(*transactions) == [True, False]
        assert content(store).get("k") == (None if first == "delete" else [2])


def test_a_read_key_that_is_deleted(store: BatchStore) -> None:
    first = store.start_transaction()
    value(first, "k")
    with store.start_transaction() as second:
        second.delete("k")
    first.write("a", batch(2))
    assert committed(first) == [False]


def test_reading_that_nothing_is_there_is_a_read(store: BatchStore) -> None:
    transactions = []
    for read in (lambda t: t.read("new"), lambda t: t.revision("new"), lambda t: list(t.scan("ne")), lambda t: t.delete("new")):
        transaction = store.start_transaction()
        read(transaction)
        transaction.write(f"own {len(transactions)}", batch(1))
        transactions.append(transaction)
    write(store, {"new": 1})
    assert committed(*transactions) == [False] * 4


@pytest.mark.parametrize("level", LEVELS)
def test_write_skew(store: BatchStore, level: str) -> None:
    """R(a)W(b) and R(b)W(a): never both at SERIALIZABLE."""
    first, second = store.start_transaction(level), store.start_transaction(level)
    value(first, "a"), value(second, "b")
    first.write("b", batch(0))
    second.write("a", batch(0))
    assert committed(first, second) == [True, level != "serializable"]


def test_pivot(store: BatchStore) -> None:
    """T1 reads x; T2 writes x, commits; T1 writes y; T3 reads y, commits; T1 conflicts."""
    first = store.start_transaction()
    value(first, "a")
    write(store, {"a": 2})
    first.write("b", batch(2))
    third = store.start_transaction()
    assert value(third, "b") == 1
    assert committed(third, first) == [True, False]
    assert content(store)["a"] == [2] and content(store)["b"] == [1]


@pytest.mark.parametrize("level", LEVELS)
def test_phantoms(store: BatchStore, level: str) -> None:
    """Who counted a prefix conflicts at SERIALIZABLE with a key that appears in it; not with one beside it, nor below SERIALIZABLE."""
    write(store, {"p/1": 1, "q": 1})
    counts = [store.start_transaction(level) for _ in range(3)]
    for number, transaction in enumerate(counts):
        assert len(list(transaction.scan("p/"))) == 1
        transaction.write(f"count {number}", batch(1))
    write(store, {"p": 1, "p0": 1, "q": 2})
    assert committed(counts[0]) == [True]
    write(store, {"p/2": 2})
    assert committed(counts[1]) == [level != "serializable"]
    assert len(list(store.start_transaction().scan("p/"))) == 2


@pytest.mark.parametrize("change", ["write", "delete"])
def test_a_scan_is_a_read_of_what_it_returned(store: BatchStore, change: str) -> None:
    transaction = store.start_transaction()
    next(transaction.scan("a"))
    transaction.write("own", batch(1))
    with store.start_transaction() as other:
        other.delete("a") if change == "delete" else other.write("a", batch(5))
    assert committed(transaction) == [False]


@pytest.mark.parametrize("level", LEVELS)
def test_a_second_read(store: BatchStore, level: str) -> None:
    """The first value at REPEATABLE READ and SERIALIZABLE, the new one at READ COMMITTED; scans likewise."""
    reader = store.start_transaction(level)
    assert value(reader, "k") == 100
    write(store, {"k": 200, "z": 1})
    new = level == "read committed"
    assert value(reader, "k") == (200 if new else 100)
    assert len(list(reader.scan("z"))) == int(new)
    assert reader.revision("k") == (2 if new else 1)
    reader.commit()


@pytest.mark.parametrize("level", LEVELS)
def test_an_old_read_is_not_written_over(store: BatchStore, level: str) -> None:
    """At READ COMMITTED too: what was read is the state the write is about."""
    transaction = store.start_transaction(level)
    read = value(transaction, "k")
    write(store, {"k": 150})
    with pytest.raises(SerializationConflict):  # at READ COMMITTED found at the next call already
        transaction.write("k", batch(read or 0))
        transaction.commit()
    assert content(store)["k"] == [150]
    fresh = store.start_transaction("read committed")
    value(fresh, "k")
    write(store, {"k": 160})
    assert value(fresh, "k") == 160
    fresh.write("k", batch(170))
    fresh.commit()


def test_all_keys_or_none(store: BatchStore) -> None:
    transaction = store.start_transaction()
    transaction.write("k", batch(1))
    transaction.write("new", batch(1))
    transaction.delete("a")
    write(store, {"k": 2})
    assert committed(transaction) == [False]
    assert content(store) == {"k": [2], "a": [1], "b": [1]}
    assert store.start_transaction().revision("new") == 0


def test_the_conflict_says_what_and_who(store: BatchStore) -> None:
    transaction = store.start_transaction()
    transaction.write("k", batch(1))
    write(store, {"k": 2})
    with pytest.raises(SerializationConflict) as told:
        transaction.commit()
    evidence = told.value.evidence
    assert evidence["rule"] == "write-write" and evidence["keys"] == ("k",)
    assert evidence["commit_timestamp"] > evidence["read_timestamp"]


def test_nothing_is_left_of_transactions_that_ended(store: BatchStore) -> None:
    """T1 reads and commits, T2 writes and is rolled back: T3 writes undisturbed."""
    first, second = store.start_transaction(), store.start_transaction()
    value(first, "k")
    second.write("k", batch(5))
    first.commit()
    second.rollback()
    with store.start_transaction() as third:
        third.write("k", batch(6))
    del first, second, third
    assert store._keyspace.active() == 0 and len(store.database.snapshots) == 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("by", ["write", "append"])
def test_increments_of_threads(level: str, by: str) -> None:
    """The final value is the number of successful commits, and so is the revision."""
    store = store_with(Clock())
    write(store, {"n": 0})
    won: Counter[str] = Counter()

    def work() -> None:
        dice = random.Random(threading.get_ident())
        done = 0
        while done < 25:
            try:
                with store.start_transaction(level) as transaction:
                    number = value(transaction, "n") or 0
                    if by == "append":
                        transaction.append("n", batch(number + 1), column="note")
                        transaction.write("n", transaction.read("n").slice(transaction.read("n").num_rows - 1))
                    else:
                        transaction.write("n", batch(number + 1))
                    transaction.write(f"other {dice.randrange(50)}", batch(1))
                done += 1
                won["n"] += 1
            except SerializationConflict:
                won["lost"] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(store, "n") == {"n": [100]}
    with store.start_transaction() as transaction:
        assert transaction.revision("n") == 101
    store.close()


@pytest.mark.parametrize("level", SNAPSHOT_LEVELS)
def test_transfers_keep_the_total(level: str) -> None:
    """Threads move money between batches; every scan of every snapshot finds the same total."""
    store = store_with(Clock())
    write(store, {f"account/{number}": 100 for number in range(5)})
    stop = threading.Event()
    wrong: list[int] = []

    def transfer(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(60):
            left, right = dice.sample(range(5), 2)
            try:
                with store.start_transaction(level) as transaction:
                    amount = dice.randrange(10)
                    values = {f"account/{one}": value(transaction, f"account/{one}") or 0 for one in (left, right)}
                    transaction.write(f"account/{left}", batch(values[f"account/{left}"] - amount))
                    transaction.write(f"account/{right}", batch(values[f"account/{right}"] + amount))
            except SerializationConflict:
                continue

    def audit() -> None:
        while not stop.is_set():
            total = sum((numbers or [0])[0] for numbers in content(store, "account/").values())
            if total != 500:
                wrong.append(total)

    auditor = threading.Thread(target=audit)
    movers = [threading.Thread(target=transfer, args=(seed,)) for seed in range(3)]
    for thread in (auditor, *movers):
        thread.start()
    for thread in movers:
        thread.join()
    stop.set()
    auditor.join()
    assert wrong == [] and sum((numbers or [0])[0] for numbers in content(store).values()) == 500
    store.close()


def test_a_key_read_at_read_committed_does_not_conflict_after_a_checkpoint_when_nobody_wrote_it(store: BatchStore) -> None:
    """The snapshot has moved on since, and of rows older than every snapshot a checkpoint does not keep which one is how old."""
    transaction = store.start_transaction("read committed")
    assert value(transaction, "k") == 100
    write(store, {"a": 2, "b": 2})
    assert value(transaction, "a") == 2
    assert len(store.database.snapshots) == 2
    store.database.checkpoint()
    transaction.write("k", batch(200))
    assert committed(transaction) == [True]
    assert len(store.database.snapshots) == 0
