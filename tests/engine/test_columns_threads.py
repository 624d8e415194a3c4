"""One writer, many readers, no latch between them: every read at S equals the history up to S, whatever happens meanwhile."""

from __future__ import annotations

import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from khonsu_engine.columns.version import PRUNED, SnapshotPruned, Version
from khonsu_engine.commands import EVERY_KEY, KeyRange
from tests.engine.columns_model import Bench, Pin, rows_of, table_of

COMMITS = 1_500
KEYS = 60


class Shared:
    """A bench behind a commit latch. Readers register what they read at; the writer prunes by that."""

    def __init__(self) -> None:
        self.bench = Bench(table_of("BIGINT", "DOUBLE", "VARCHAR", key=(0,)))
        self.bench.model.histories = {key: [] for key in range(KEYS)}
        self.latch = threading.Lock()
        self.finished = threading.Event()
        self.failures: list[BaseException] = []
        self.reads = 0
        self.past = deque([(self.bench.now, self.bench.version)], maxlen=20)

    def commit(self, rng: random.Random) -> None:
        bench = self.bench
        with self.latch:
            timestamp = bench.now + 2
            for key in rng.sample(range(KEYS), 3):
                row = (key, float(timestamp), f"at {timestamp}") if rng.random() < 0.8 else None
                bench.model.put(key, timestamp, row)
                bench.version.memtable.install(Version(key, timestamp, row, None, None, timestamp))
                bench.version.memtable.prune(key, bench.durable, sorted({pin.timestamp for pin in bench.pins}))
            bench.now = bench.durable = timestamp
            self.past.append((timestamp, bench.version))

    @contextmanager
    def pinned(self) -> Iterator[Pin]:
        with self.latch:
            pin = self.bench.pin(self.bench.now)
        try:
            yield pin
        finally:
            with self.latch:
                self.bench.pins.remove(pin)

    def run(self, body: Callable[[random.Random], None], seed: int) -> None:
        rng = random.Random(seed)
        try:
            while not self.finished.is_set():
                body(rng)
                self.reads += 1
        except BaseException as error:
            self.failures.append(error)
            self.finished.set()


def with_threads(shared: Shared, bodies: list[Callable[[random.Random], None]], write: Callable[[random.Random, int], None]) -> None:
    """Run `bodies` in threads while this one commits; switch threads as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=shared.run, args=(body, number)) for number, body in enumerate(bodies)]
    try:
        for thread in threads:
            thread.start()
        rng = random.Random(99)
        for number in range(COMMITS):
            write(rng, number)
            if shared.finished.is_set():
                break
    finally:
        shared.finished.set()
        for thread in threads:
            thread.join(60)
        sys.setswitchinterval(interval)
    if shared.failures:
        raise shared.failures[0]
    assert shared.reads > 20, "the readers never came to read"


def writer(shared: Shared, every: int = 60) -> Callable[[random.Random, int], None]:
    """Commits, with a flush and perhaps a merge after `every` of them, prepared outside the latch as maintenance does."""
    from khonsu_engine.columns import compaction, flush

    bench = shared.bench

    def exchange(plan: Any) -> None:
        plan.write(bench.store, bench.limits, bench.new_name)
        with shared.latch:
            finished = plan.finish(bench.version)
            assert finished is not None
            bench.version = finished

    def write(rng: random.Random, number: int) -> None:
        shared.commit(rng)
        if number % every == every - 1:
            with shared.latch:
                horizon = bench.horizon
            moved = flush.cut(bench.version, bench.durable, horizon)
            if moved is not None:
                exchange(moved)
            merge = compaction.choose(bench.version, bench.limits, horizon, bench.durable)
            if merge is not None:
                exchange(merge)

    return write


def test_every_scan_is_a_prefix_of_history() -> None:
    shared = Shared()

    def scan(rng: random.Random) -> None:
        with shared.pinned() as pin:
            expected = shared.bench.model.visible(pin.timestamp)
            scan = pin.version.scan(pin.timestamp, [0, 1, 2])
            rows = rows_of(shared.bench.table, scan)
            assert {row[0]: row for row in rows} == expected and len(rows) == len(expected)

    with_threads(shared, [scan] * 3, writer(shared))


def test_every_range_is_a_prefix_of_history() -> None:
    shared = Shared()

    def read(rng: random.Random) -> None:
        low, high = sorted(rng.sample(range(KEYS), 2))
        range_ = EVERY_KEY if rng.random() < 0.3 else KeyRange(low, high)
        with shared.pinned() as pin:
            found, expected = shared.bench.rows(pin, range_, rng.random() < 0.5)
            assert list(found) == expected

    with_threads(shared, [read] * 3, writer(shared))


def test_every_point_is_a_prefix_of_history_or_says_that_it_is_gone() -> None:
    shared = Shared()
    bench = shared.bench
    pruned = []

    def registered(rng: random.Random) -> None:
        with shared.pinned() as pin:
            bench.check_points(pin, range(KEYS))

    def unregistered(rng: random.Random) -> None:
        """A reader that took its timestamp twenty commits ago and told nobody."""
        timestamp, version = shared.past[0]
        for key in rng.choices(range(KEYS), k=30):
            row = version.get(key, timestamp)
            if row is PRUNED:
                pruned.append(key)
            else:
                assert row == bench.model.get(key, timestamp), key
        try:
            keys = [key for key, _ in version.rows(timestamp)]
            assert keys == sorted(bench.model.visible(timestamp))
        except SnapshotPruned:
            pruned.append(None)

    with_threads(shared, [registered, unregistered, unregistered], writer(shared, every=300))
    assert pruned, "nobody ever fell off a pruned chain"
