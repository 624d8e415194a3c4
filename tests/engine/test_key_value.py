"""The key-value facade: transactions by id, snapshot isolation, values, expiry, what it refuses."""

from __future__ import annotations

import random
import threading
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import khonsu_engine
from khonsu_engine.database import Database
from khonsu_engine.errors import (
    EngineClosed,
    EngineError,
    InvalidArgument,
    InvalidTransactionState,
    LimitExceeded,
    NotSupported,
    SerializationConflict,
    StoreFailed,
    UnstorableText,
)
from khonsu_engine.keyed import key_value
from khonsu_engine.keyed.key_value import KeyValueStore
from khonsu_engine.limits import TINY
from tests.engine.batch_stores import Clock, entries_with, store_with, write
from tests.stores import FaultyStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kv(clock: Clock) -> Any:
    with entries_with(clock) as store:
        yield store


def put(kv: KeyValueStore, **values: Any) -> None:
    tx = kv.begin()
    for key, value in values.items():
        kv.put(tx, key, value)
    kv.commit(tx)


def content(kv: KeyValueStore) -> dict[str, Any]:
    tx = kv.begin(read_only=True)
    found = dict(kv.scan(tx))
    kv.commit(tx)
    return found


def test_basic_operations(kv: KeyValueStore) -> None:
    tx = kv.begin()
    assert isinstance(tx, bytes) and kv.status(tx).state == "active"
    assert kv.get(tx, "k") is None and not kv.delete(tx, "k")
    assert kv.put(tx, "k", b"\0bytes") == 1 and kv.put(tx, "t", "text \N{SNOWMAN}") == 1
    assert kv.get(tx, "k") == b"\0bytes" and kv.get(tx, "t") == "text \N{SNOWMAN}"
    assert content(kv) == {}
    outcome = kv.commit(tx)
    assert kv.status(tx).timestamp == outcome.timestamp > 0
    assert content(kv) == {"k": b"\0bytes", "t": "text \N{SNOWMAN}"}
    tx = kv.begin()
    assert kv.delete(tx, "k") and kv.get(tx, "k") is None and kv.revision(tx, "k") == 2
    kv.rollback(tx)
    kv.rollback(tx)
    assert kv.status(tx).state == "aborted" and "k" in content(kv)


@pytest.mark.parametrize("value", [b"", "", bytearray(b"x"), memoryview(b"y"), "\N{SNOWMAN}" * 1000])
def test_values_come_back_as_they_were(kv: KeyValueStore, value: Any) -> None:
    put(kv, k=value)
    found = content(kv)["k"]
    assert found == value and type(found) is (str if isinstance(value, str) else bytes)


@pytest.mark.parametrize(
    ("value", "error"), [(1, InvalidArgument), (None, InvalidArgument), ("a\0", UnstorableText), ("\ud800", UnstorableText)]
)
def test_values_that_are_refused(kv: KeyValueStore, value: Any, error: type[EngineError]) -> None:
    tx = kv.begin()
    with pytest.raises(error):
        kv.put(tx, "k", value)
    kv.put(tx, "k", b"fine")
    kv.commit(tx)
    assert content(kv) == {"k": b"fine"}


def test_limits(kv: KeyValueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_value, "VALUE_BYTES_MAX", 10)
    tx = kv.begin()
    kv.put(tx, "k" * 1024, b"x" * 10)
    with pytest.raises(LimitExceeded):
        kv.put(tx, "k", b"x" * 11)
    with pytest.raises(LimitExceeded):
        kv.put(tx, "k", "é" * 6)
    for key in ("k" * 1025, "", 5):
        with pytest.raises(EngineError):
            kv.get(tx, key)  # type: ignore[arg-type]


def test_isolation_is_that_of_snapshots(kv: KeyValueStore) -> None:
    put(kv, a=b"1", b=b"1")
    first, second = kv.begin(), kv.begin()
    assert kv.get(first, "a") == b"1"
    kv.put(second, "a", b"2")
    kv.commit(second)
    assert kv.get(first, "a") == b"1" and dict(kv.scan(first)) == {"a": b"1", "b": b"1"}
    kv.put(first, "b", b"2")
    kv.commit(first)
    assert content(kv) == {"a": b"2", "b": b"2"}, "write skew is not forbidden at this level"


def test_two_writers_of_one_key(kv: KeyValueStore) -> None:
    put(kv, k=b"0")
    for second_action in ("put", "delete"):
        first, second = kv.begin(), kv.begin()
        kv.put(first, "k", b"1")
        kv.put(second, "k", b"2") if second_action == "put" else kv.delete(second, "k")
        kv.put(second, "other", b"2")
        kv.commit(first)
        with pytest.raises(SerializationConflict) as told:
            kv.commit(second)
        assert told.value.evidence["table"] == "entries" and told.value.evidence["keys"] == ("k",)
        assert kv.status(second).state == "aborted" and content(kv) == {"k": b"1"}
        with pytest.raises(InvalidTransactionState, match="aborted"):
            kv.get(second, "k")


def test_prefixes(kv: KeyValueStore) -> None:
    put(kv, **{"a/1": b"1", "a/2": b"2", "b": b"3", "a": b"4"})
    tx = kv.begin()
    kv.put(tx, "a/0", b"0")
    rows = kv.scan(tx, "a/")
    kv.put(tx, "a/1", b"9")
    assert list(rows) == [("a/0", b"0"), ("a/1", b"1"), ("a/2", b"2")]


@pytest.mark.parametrize("expires", [10, timedelta(seconds=10)])
def test_expiry(kv: KeyValueStore, clock: Clock, expires: Any) -> None:
    tx = kv.begin()
    kv.put(tx, "k", b"1", expires=expires)
    kv.put(tx, "stays", b"2", None)
    kv.commit(tx)
    clock.now += 5
    before = kv.begin()
    clock.now += 5
    assert kv.get(before, "k") == b"1", "a repeated read says the same"
    assert content(kv) == {"stays": b"2"}
    tx = kv.begin()
    assert kv.get(tx, "k") is None and not kv.delete(tx, "k")
    assert kv.collect() == 1
    assert kv.revision(tx, "k") == 1
    kv.rollback(tx)
    put(kv, k=b"3")
    tx = kv.begin()
    assert kv.revision(tx, "k") == 2


def test_expiry_is_renewed_or_taken_away_by_the_next_put(kv: KeyValueStore, clock: Clock) -> None:
    for key, expires in (("renewed", 20), ("kept", None)):
        tx = kv.begin()
        kv.put(tx, key, b"1", expires=5)
        kv.put(tx, key, b"1", expires=6)
        kv.commit(tx)
        tx = kv.begin()
        kv.put(tx, key, b"2", expires=expires)
        kv.commit(tx)
    clock.now += 10
    assert kv.collect() == 0 and set(content(kv)) == {"renewed", "kept"}
    clock.now += 20
    assert kv.collect() == 1 and set(content(kv)) == {"kept"}


def test_a_transaction_nobody_uses_is_rolled_back(kv: KeyValueStore, clock: Clock) -> None:
    abandoned, used = kv.begin(), kv.begin()
    kv.put(abandoned, "k", b"1")
    clock.now += 299
    kv.get(used, "k")
    clock.now += 2
    put(kv, k=b"2")
    assert kv.status(abandoned).state == "aborted" and kv.status(used).state == "active"
    with pytest.raises(InvalidTransactionState, match="aborted"):
        kv.commit(abandoned)
    clock.now += 301
    with pytest.raises(InvalidTransactionState):
        kv.get(used, "k")
    assert len(kv.database.snapshots) == 0


def test_ids_that_are_none(kv: KeyValueStore) -> None:
    for wrong in (None, "x", b"short", 5):
        for call in (partial(kv.get, key="k"), kv.commit, kv.rollback, kv.status):
            with pytest.raises(InvalidArgument):
                call(wrong)  # type: ignore[operator]
    with pytest.raises(InvalidTransactionState, match=r"no such open transaction$"):
        kv.get(bytes(16), "k")
    kv.rollback(bytes(16))


def test_one_node_only() -> None:
    for nodes in (["a", "b"], ("b", "a", "c"), {"a", "b"}):
        with pytest.raises(NotSupported, match="'b'") as told:
            khonsu_engine.initialize("a", nodes)
        assert told.value.sqlstate == "0A000"
    with pytest.raises(InvalidArgument):
        khonsu_engine.initialize("a", ["b"])
    with pytest.raises(InvalidArgument):
        khonsu_engine.initialize("a", [])
    for seconds in (0, -1, True, "1"):
        with pytest.raises(InvalidArgument):
            khonsu_engine.initialize(1, [1], idle_timeout_seconds=seconds)  # type: ignore[arg-type]
    with khonsu_engine.initialize(1, [1, 1]) as store:
        assert store.node_id == 1


def test_a_directory_keeps_it(tmp_path: Path) -> None:
    with khonsu_engine.initialize("a", ["a"], tmp_path / "db", limits=TINY) as kv:
        for number in range(80):
            put(kv, **{"k": f"{number}", f"{number % 7}": b"x" * 300})
        tx = kv.begin()
        kv.put(tx, "lost", b"")
        before = content(kv)
    with khonsu_engine.initialize("a", ["a"], tmp_path / "db", limits=TINY) as kv:
        assert content(kv) == before and before["k"] == "79"
        last = kv.begin()
        assert kv.revision(last, "k") == 80
        kv.commit(last)


def test_after_the_store_is_closed(kv: KeyValueStore) -> None:
    tx = kv.begin()
    kv.close()
    for call in (kv.begin, lambda: kv.get(tx, "k"), lambda: kv.commit(tx), lambda: kv.status(tx)):
        with pytest.raises(EngineClosed):
            call()


def test_a_store_that_refuses(clock: Clock) -> None:
    faulty = FaultyStore()
    kv = entries_with(clock, Database(faulty))
    put(kv, k=b"1")
    faulty.fail("put")
    tx = kv.begin()
    kv.put(tx, "k", b"2")
    with pytest.raises(StoreFailed):
        kv.commit(tx)
    assert kv.status(tx).state == "aborted" and content(kv) == {"k": b"1"}
    kv.close()


def test_batches_and_entries_in_one_database(clock: Clock) -> None:
    database = Database.open(None)
    batches, kv = store_with(clock, database), entries_with(clock, database)
    write(batches, {"k": 1})
    put(kv, k=b"1")
    assert content(kv) == {"k": b"1"}
    batches.close()


def test_increments_of_threads(kv: KeyValueStore) -> None:
    put(kv, n="0")
    lost = []

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(30):
            while True:
                tx = kv.begin()
                try:
                    kv.put(tx, "n", str(int(kv.get(tx, "n") or "0") + 1))
                    kv.put(tx, f"other {dice.randrange(9)}", b"", expires=100)
                    kv.commit(tx)
                    break
                except SerializationConflict:
                    lost.append(tx)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(kv)["n"] == "120" and len(kv._open) == 0
    assert {kv.status(tx).state for tx in lost} <= {"aborted"}
