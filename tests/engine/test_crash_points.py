"""A crash at every single call of the store: what was acknowledged is there, what was not is there whole or not at all.

One script of commits, bulk writes, DDL, checkpoints and merges runs on a disk that loses what was not synced. The calls come in the
same order every time, so the plug can be pulled at the first, the second, … the last of them, before and after it took effect. What
the next start finds must be a state the script passed through, no older than the last acknowledgement, and the script must be able
to go on from there.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import msgspec
import pytest

from khonsu_engine.commands import Isolation
from khonsu_engine.database import Database
from khonsu_engine.errors import EngineClosed, EngineError, SerializationConflict
from khonsu_engine.limits import TINY, Limits
from khonsu_engine.protocols import Store
from khonsu_engine.schema.catalog import Table
from khonsu_engine.transaction import LocalTransaction
from tests.engine.accounts import NEVER_BY_ITSELF, contents, create, delete, finish, got, insert, put, put_bulk, scanned
from tests.stores import WRITES, CrashingStore, RecordingStore

Answer = TypeVar("Answer")
Contents = dict[str, dict[int, int]]
LARGE = "x" * 70_000


class PluggedStore(RecordingStore):
    """A `CrashingStore` whose plug is pulled at the `at`-th call that changes it; `after`: when the call has taken effect."""

    def __init__(self, disk: CrashingStore, at: int | None, *, after: bool = False, kill: bool = False) -> None:
        super().__init__(disk)
        self.disk = disk
        self.calls = 0
        self.found: CrashingStore | None = None
        self._at = at
        self._after = after
        self._kill = kill
        self._counting = threading.Lock()

    def _call(self, call: str, action: Callable[[], Answer], keys: tuple[bytes, ...] = (), name: str = "") -> Answer:
        if call not in WRITES:
            return action()
        with self._counting:
            self.calls += 1
            pulled = self.calls == self._at
            if pulled and not self._after:
                self._pull()
        answer = super()._call(call, action, keys, name)
        if pulled and self._after:
            self._pull()
            raise EngineClosed("the plug was pulled")
        return answer

    def _pull(self) -> None:
        self.found = self.disk.killed() if self._kill else self.disk.crash(self._at)


# -- the script -------------------------------------------------------------------------------------------------------


class Step(msgspec.Struct):
    """`run` does something with the database and returns when it is acknowledged; `change` does the same to a plain dict."""

    run: Callable[[Database], object]
    change: Callable[[Contents], object]


def steps() -> Iterator[Step]:
    """The script. Tables: `a` lives from the beginning to the end, `b` and `c` come and go."""
    yield created("a")
    for start in (0, 10, 20):
        yield writing("a", {key: key for key in range(start, start + 10)})
    yield checkpoint()
    yield writing("a", {3: 33, 4: None, 15: None, 40: 40})
    yield bulk("a", {key: key for key in range(50, 75)})
    yield created("b")
    yield both("a", "b", {1: 11, 2: 22})
    yield checkpoint()
    yield writing("a", {51: None, 52: 520, 4: 44}, note=LARGE)
    yield bulk("b", {key: -key for key in range(100, 112)})
    yield writing("a", {60: None, 61: 610})
    yield checkpoint()
    yield bulk("b", {5: 5, 6: 6}, truncate=True)
    yield writing("b", {5: None, 7: 7})
    yield created("c", {1: 1})
    yield dropped("b")
    yield writing("a", {key: key + 1_000 for key in range(0, 30, 2)})
    yield checkpoint()
    yield bulk("a", {}, truncate=True)
    yield writing("a", {1: 1, 2: 2})
    yield checkpoint()
    yield dropped("c")
    yield created("b", {9: 9})
    yield bulk("a", {key: key for key in range(200, 230)}, note=True)
    yield checkpoint()
    yield writing("a", {200: None})


def named(database: Database, name: str) -> Table:
    table = database.catalog.find(name)
    assert table is not None, name
    return table


def commit(database: Database, action: Callable[[LocalTransaction], object]) -> None:
    transaction = database.begin(writes_first=True)
    try:
        action(transaction)
        finish(transaction)
    finally:
        transaction.rollback()


def writing(name: str, rows: dict[int, int | None], note: str | None = None) -> Step:
    def write(database: Database) -> None:
        table = named(database, name)

        def action(transaction: LocalTransaction) -> None:
            for key, balance in rows.items():
                if balance is None:
                    delete(transaction, table, key)
                else:
                    put(transaction, table, key, balance)
            if note is not None:
                insert(transaction, table, 999, 999, note)

        commit(database, action)

    def change(model: Contents) -> None:
        for key, balance in rows.items():
            if balance is None:
                del model[name][key]
            else:
                model[name][key] = balance
        if note is not None:
            model[name][999] = 999

    return Step(write, change)


def both(first: str, second: str, rows: dict[int, int]) -> Step:
    def write(database: Database) -> None:
        tables = [named(database, name) for name in (first, second)]

        def action(transaction: LocalTransaction) -> None:
            for table in tables:
                for key, balance in rows.items():
                    put(transaction, table, key, balance)

        commit(database, action)

    return Step(write, lambda model: (model[first].update(rows), model[second].update(rows)))


def bulk(name: str, rows: dict[int, int], *, truncate: bool = False, note: bool = False) -> Step:
    """`note`: in two parts, with an ordinary write and a deletion of a bulk row beside them."""

    def write(database: Database) -> None:
        table = named(database, name)

        def action(transaction: LocalTransaction) -> None:
            put_bulk(transaction, table, rows, truncate=truncate)
            if note:
                put_bulk(transaction, table, {key + 1_000: balance for key, balance in rows.items()})
                delete(transaction, table, min(rows))
                put(transaction, table, 1, 1)
                insert(transaction, table, min(rows), -1)

        commit(database, action)

    def change(model: Contents) -> None:
        if truncate:
            model[name].clear()
        model[name].update(rows)
        if note:
            model[name].update({key + 1_000: balance for key, balance in rows.items()})
            model[name].update({1: 1, min(rows): -1})

    return Step(write, change)


def created(name: str, rows: dict[int, int] | None = None) -> Step:
    return Step(lambda database: create(database, name, rows), lambda model: model.update({name: dict(rows or {})}))


def dropped(name: str) -> Step:
    def drop(database: Database) -> None:
        table = named(database, name)
        commit(database, lambda transaction: transaction.drop_table(table))

    return Step(drop, lambda model: model.pop(name))


def checkpoint() -> Step:
    return Step(lambda database: database.checkpoint(), lambda model: None)


SCRIPT = list(steps())


def states() -> list[Contents]:
    """The content after 0, 1, 2, … steps."""
    model: Contents = {}
    found: list[Contents] = [{}]
    for step in SCRIPT:
        step.change(model)
        found.append({name: dict(rows) for name, rows in model.items()})
    return found


STATES = states()


def played(store: Store, start: int = 0) -> int:
    """Run the script from step `start` until it is through or the plug is pulled; returns how many steps were acknowledged."""
    done = start
    try:
        database = Database(store, limits=NEVER_BY_ITSELF)
    except EngineError:
        return done
    try:
        for step in SCRIPT[start:]:
            step.run(database)
            done += 1
    except EngineError:
        assert isinstance(store, PluggedStore) and store.found is not None, "an error without a crash"
    finally:
        with suppress(EngineError):
            database.close()
    return done


def test_the_script_walks_through_everything() -> None:
    store = PluggedStore(CrashingStore(), None)
    database = Database(store, limits=NEVER_BY_ITSELF)
    for number, step in enumerate(SCRIPT):
        step.run(database)
        assert contents(database) == STATES[number + 1], f"step {number}"
    assert database.metrics["compactions"] >= 1 and database.metrics["checkpoints"] == 6
    assert database.metrics["snapshots"] == 0
    database.close()
    assert {call for call in WRITES if store.count(call)} == set(WRITES)
    assert any(event.name.startswith("body-") for event in store.events)


def calls_of_the_script() -> int:
    store = PluggedStore(CrashingStore(), None)
    assert played(store) == len(SCRIPT)
    return store.calls


CALLS = calls_of_the_script()


def check(found: CrashingStore, acknowledged: int, what: str) -> int:
    """Open what was found, and once more: a state of the script, not older than acknowledged. Returns how many steps it is."""
    database = Database(found, limits=NEVER_BY_ITSELF)
    content = contents(database)
    reached = [number for number in (acknowledged, acknowledged + 1) if number < len(STATES) and STATES[number] == content]
    assert reached, f"{what}: {acknowledged} steps were acknowledged; found {content}"
    survivor = found.killed()
    with suppress(EngineError):
        database.close()
    again = Database(survivor, limits=NEVER_BY_ITSELF)
    assert contents(again) == content, f"{what}: a second recovery finds something else"
    wanted = again.maintenance._named | set(again.committer.log_files)
    assert set(survivor.files()) == wanted, f"{what}: files that nobody names"
    again.close()
    return reached[-1]


@pytest.mark.parametrize("kill", [False, True], ids=["power", "kill"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_every_call(kill: bool, after: bool) -> None:
    for at in range(1, CALLS + 1):
        store = PluggedStore(CrashingStore(), at, after=after, kill=kill)
        acknowledged = played(store)
        what = f"call {at} of {CALLS}"
        if store.found is None:
            assert acknowledged == len(SCRIPT)
            continue
        reached = check(store.found, acknowledged, what)
        if at % 3 == 0:
            goes_on(store.found.killed(), reached, what)


def goes_on(found: CrashingStore, reached: int, what: str) -> None:
    """The script, from there to its end."""
    store = PluggedStore(found, None)
    assert played(store, reached) == len(SCRIPT), what
    database = Database(found.killed(), limits=NEVER_BY_ITSELF)
    assert contents(database) == STATES[-1], what
    database.close()


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(4))
def test_crash_after_crash(seed: int) -> None:
    """The script, interrupted by a crash every few calls, each start going on where the one before was found."""
    dice = random.Random(seed)
    total = 0
    for _ in range(40):
        disk, done, crashes = CrashingStore(), 0, 0
        while done < len(SCRIPT):
            store = PluggedStore(disk, dice.randint(1, 40), after=dice.random() < 0.5, kill=dice.random() < 0.5)
            done = played(store, done)
            if store.found is None:
                break
            crashes += 1
            probe = store.found.killed()
            database = Database(probe, limits=NEVER_BY_ITSELF)
            content = contents(database)
            reached = [number for number in (done, done + 1) if number < len(STATES) and STATES[number] == content]
            assert reached, f"seed {seed}, crash {crashes}: {done} steps were acknowledged; found {content}"
            done = reached[-1]
            disk = probe.killed()
            with suppress(EngineError):
                database.close()
        total += crashes
    assert total >= 100, f"vacuous: {total} crashes in 40 runs"


# -- threads ----------------------------------------------------------------------------------------------------------

SMALL = msgspec.structs.replace(TINY, checkpoint_commits=20, memtable_versions_max=24, segment_rows_max=32, chunk_rows_max=8, overlap_max=2)


def moved(database: Database, thread: int, number: int) -> None:
    """One transaction: the same number into two tables, money from one account to another."""
    a, b, accounts = (named(database, name) for name in ("a", "b", "accounts"))
    while True:
        transaction = database.begin(Isolation.SERIALIZABLE, writes_first=number % 2 == 0)
        try:
            key = thread * 10_000 + number
            insert(transaction, a, key, number)
            if number % 7 == 3:
                put_bulk(transaction, b, {key: number})
            else:
                insert(transaction, b, key, number)
            source, target = number % 5, (number + thread + 1) % 5
            balances = got(transaction, accounts, {source, target})
            put(transaction, accounts, source, balances[source] - 1)
            put(transaction, accounts, target, (balances[target] if source != target else balances[source] - 1) + 1)
            finish(transaction)
            return
        except SerializationConflict:
            continue
        finally:
            transaction.rollback()


def crowded(store: PluggedStore, limits: Limits, commits: int) -> dict[int, int]:
    """Three threads commit until the plug is pulled; per thread how many were acknowledged."""
    acknowledged = {0: 0, 1: 0, 2: 0}
    try:
        database = Database(store, limits=limits)
        create(database, "a")
        create(database, "b")
        create(database, "accounts", dict.fromkeys(range(5), 100))
    except EngineError:
        return acknowledged

    def work(thread: int) -> None:
        with suppress(EngineError):
            for number in range(commits):
                moved(database, thread, number)
                acknowledged[thread] += 1

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in acknowledged]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive(), "a thread hangs after the crash"
    with suppress(EngineError):
        database.close()
    return acknowledged


def check_crowd(found: CrashingStore, acknowledged: dict[int, int], what: str) -> None:
    database = Database(found, limits=SMALL)
    if database.catalog.find("accounts") is None:
        assert not any(acknowledged.values()), what
        database.close()
        return
    content = contents(database)
    assert content["a"] == content["b"], f"{what}: a transaction is half there"
    for thread, count in acknowledged.items():
        numbers = [number for key, number in content["a"].items() if key // 10_000 == thread]
        assert numbers == list(range(len(numbers))), f"{what}: thread {thread} has holes: {numbers}"
        assert count <= len(numbers) <= count + 1, f"{what}: thread {thread}: {count} acknowledged, {len(numbers)} found"
    assert sum(content["accounts"].values()) == 500, what
    reader = database.begin(read_only=True)
    assert scanned(reader, named(database, "accounts")) == content["accounts"]
    reader.rollback()
    database.close()


def crowd(points: list[int], commits: int) -> int:
    checkpoints = 0
    for at in points:
        store = PluggedStore(CrashingStore(), at, after=at % 2 == 0, kill=at % 3 == 0)
        acknowledged = crowded(store, SMALL, commits)
        found = store.found or store.disk.killed()
        check_crowd(found, acknowledged, f"call {at}")
        checkpoints += sum(event.call == "write" and any(key[:1] == b"M" for key in event.keys) for event in store.events)
    return checkpoints


def test_crashes_among_threads() -> None:
    dice = random.Random(20261121)
    assert crowd(sorted(dice.sample(range(10, 600), 40)), commits=60) >= 20, "too few checkpoints for a test of them"


@pytest.mark.deep
def test_crashes_among_threads_at_length() -> None:
    dice = random.Random()
    assert crowd(sorted(dice.sample(range(10, 3_000), 200)), commits=300) >= 200
