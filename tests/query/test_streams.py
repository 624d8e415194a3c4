"""Results that stream: when they do, in how much memory, who owns the cursor, and how they and other queries are stopped."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import khonsu_sql
from khonsu_engine.schema.types import parse_type
from khonsu_sql.errors import QueryCanceled
from khonsu_sql.sql.query import ROWS_MAX, Evaluator, execution, instance
from khonsu_sql.sql.query.streams import BATCH_ROWS
from tests.query.relations import masked, query_of, source_of, table_of

NUMBERS = query_of("SELECT range AS n FROM range($1)", parameters=1)
ENDLESS = "SELECT sum(a.range * b.range % 7) AS s FROM range(1000000) AS a, range(100000) AS b"


@pytest.fixture(autouse=True)
def fresh_instances() -> Iterator[None]:
    """So that a test may count cursors."""
    instance.close_instances()
    yield


@pytest.fixture(params=["narrow", "wide"])
def evaluator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    """On both instances: in the wide one the main thread does not run its queries itself."""
    if request.param == "wide":
        monkeypatch.setattr(execution, "narrow", instance.wide)
        if instance.wide().single:
            pytest.skip("one processor: there is no wide instance")
    return Evaluator()


def idle() -> int:
    return sum(len(each._idle) for each in instance._instances.values())


# --- when, and what


@pytest.mark.parametrize("count", [0, 1, ROWS_MAX - 1, ROWS_MAX])
def test_rows_up_to_the_limit(evaluator: Evaluator, count: int) -> None:
    evaluated = evaluator.run(NUMBERS, [count], {})
    assert (evaluated.rows, evaluated.batches) == ([(number,) for number in range(count)], None)


@pytest.mark.parametrize("count", [ROWS_MAX + 1, BATCH_ROWS, BATCH_ROWS + 1, 5 * BATCH_ROWS])
def test_a_stream_beyond_it(evaluator: Evaluator, count: int) -> None:
    evaluated = evaluator.run(NUMBERS, [count], {})
    assert evaluated.rows is None
    assert evaluated.batches is not None
    assert evaluated.batches.types == [parse_type("BIGINT")]
    batches = list(evaluated.batches)
    assert [value for batch in batches for value in batch["n"].to_pylist()] == list(range(count))
    assert all(batch.num_rows for batch in batches)
    assert idle() == 1


def test_the_limit_is_the_callers(evaluator: Evaluator) -> None:
    assert evaluator.run(NUMBERS, [6], {}, rows_max=5).rows is None
    assert evaluator.run(NUMBERS, [5], {}, rows_max=5).rows is not None
    assert len(evaluator.run(NUMBERS, [3 * ROWS_MAX], {}, rows_max=None).rows or []) == 3 * ROWS_MAX


def test_batches_whatever_the_size(evaluator: Evaluator) -> None:
    with evaluator.batches(NUMBERS, [0], {}) as stream:
        assert list(stream) == []
        assert stream.schema == pa.schema([("n", pa.int64())])
    assert evaluator.batches(NUMBERS, [3], {}).read_all().to_pylist() == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert idle() == 1


def test_order_is_kept_across_batches(evaluator: Evaluator) -> None:
    query = query_of("SELECT range AS n FROM range(100000) ORDER BY (range * 7919) % 100003, range")
    found = evaluator.batches(query, [], {}).read_all()["n"].to_pylist()
    assert found == sorted(range(100_000), key=lambda number: (number * 7919 % 100_003, number))


def test_a_million_rows_in_bounded_memory(evaluator: Evaluator) -> None:
    """A relation of 60 MB is streamed; no more than a few batches of it exist in Arrow at a time beside the relation."""
    data = pa.table({"id": pa.array(range(1_000_000), pa.int64()), "text": pa.array(["x" * 50] * 1_000_000)})
    query = query_of("SELECT id, text || 'y' AS text FROM k1 WHERE id % 10 <> 3", source_of(table_of(id="BIGINT", text="VARCHAR")))
    before = pa.total_allocated_bytes()
    count, total, most = 0, 0, 0
    for batch in evaluator.run(query, [], {"k1": data}).batches or []:
        count, total = count + batch.num_rows, total + batch.nbytes
        most = max(most, pa.total_allocated_bytes() - before)
    assert (count, total > 50_000_000) == (900_000, True)
    assert most < 10_000_000


def test_types_are_exact_in_every_batch(evaluator: Evaluator) -> None:
    sql = "SELECT sum(range) OVER (ORDER BY range) AS s, (['a','b'][1 + range % 2])::ENUM('a','b') AS e, [range] AS l FROM range(40000)"
    stream = evaluator.run(query_of(sql), [], {}).batches
    assert stream is not None
    assert stream.schema == pa.schema([("s", pa.decimal128(38, 0)), ("e", pa.string()), ("l", pa.list_(pa.int64()))])
    assert {batch.schema for batch in stream} == {stream.schema}


def test_arrow_consumers_read_it(evaluator: Evaluator) -> None:
    stream = evaluator.run(NUMBERS, [50_000], {}).batches
    frame: Any = pl.DataFrame(stream)
    assert frame["n"].sum() == sum(range(50_000))
    assert pa.table(evaluator.batches(NUMBERS, [7], {}))["n"].to_pylist() == list(range(7))


# --- who owns the cursor


def test_a_stream_keeps_its_relations(evaluator: Evaluator) -> None:
    query = query_of("SELECT id FROM k1", source_of(table_of(id="BIGINT")))
    first = evaluator.run(query, [], {"k1": masked(pa.table({"id": range(50_000)}), [True] * 50_000, 10_000)}).batches
    second = evaluator.run(query, [], {"k1": pa.table({"id": range(100_000, 120_000)})}).batches
    assert first is not None
    assert second is not None
    gc.collect()
    beginning = first.read_next_batch()["id"].to_pylist()
    assert second.read_all()["id"].to_pylist() == list(range(100_000, 120_000))
    assert beginning + first.read_all()["id"].to_pylist() == list(range(50_000))
    assert idle() == 2


def test_many_streams_at_once(evaluator: Evaluator) -> None:
    streams = [evaluator.run(NUMBERS, [20_000 + number], {}).batches for number in range(40)]
    assert idle() == 0
    totals = [sum(batch.num_rows for batch in stream or []) for stream in streams]
    assert totals == [20_000 + number for number in range(40)]
    assert idle() == instance.IDLE_CURSORS_MAX


def test_closing_frees_the_cursor_and_the_snapshot(evaluator: Evaluator) -> None:
    before = pa.total_allocated_bytes()
    data = pa.table({"id": pa.array(range(1_000_000), pa.int64())})
    query = query_of("SELECT id FROM k1", source_of(table_of(id="BIGINT")))
    stream = evaluator.run(query, [], {"k1": data}).batches
    assert stream is not None
    stream.read_next_batch()
    del data
    assert pa.total_allocated_bytes() - before > 8_000_000
    stream.close()
    stream.close()
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert idle() == 1
    with pytest.raises(StopIteration):
        stream.read_next_batch()


SELECTIVE = "SELECT range AS n FROM range(1000000000000) WHERE range % 1000000000 < 30000"
"""Its first 30,000 rows come at once, the next ones after a second, the last ones after many minutes."""


@pytest.mark.timeout(60)
def test_closing_does_not_wait_for_rows_nobody_will_read(evaluator: Evaluator) -> None:
    """Neither the stream, nor what decides between rows and a stream: DuckDB's other threads are told to stop."""
    for _ in range(20):
        stream = evaluator.run(query_of(SELECTIVE), [], {}).batches
        assert stream is not None
        stream.close()
        assert evaluator.run(NUMBERS, [1], {}).rows == [(0,)]
    stream = evaluator.run(query_of(SELECTIVE), [], {}).batches
    instance.close_instances()


def test_a_forgotten_stream_frees_its_cursor_at_the_next_query(evaluator: Evaluator) -> None:
    stream = evaluator.run(NUMBERS, [10**9], {}).batches
    assert stream is not None
    stream.read_next_batch()
    (home,) = instance._instances.values()
    assert (len(home._cursors), idle()) == (1, 0)
    del stream
    gc.collect()
    assert len(home.abandoned) == 1
    assert evaluator.run(NUMBERS, [1], {}).rows == [(0,)]
    assert (len(home._cursors), idle(), len(home.abandoned)) == (1, 1, 0)


def test_closing_the_evaluator_closes_its_streams() -> None:
    evaluator, other = Evaluator(), Evaluator()
    mine, theirs = evaluator.run(NUMBERS, [10**9], {}).batches, other.run(NUMBERS, [20_000], {}).batches
    evaluator.close()
    assert mine is not None
    assert list(mine) == []
    assert sum(batch.num_rows for batch in theirs or []) == 20_000


def test_one_thread_opens_and_another_reads(evaluator: Evaluator) -> None:
    stream = evaluator.run(NUMBERS, [200_000], {}).batches
    assert stream is not None
    counts: list[int] = []

    def read() -> None:
        counts.extend(batch.num_rows for batch in stream)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 200_000


# --- how they are stopped


@contextmanager
def once_running(act: Callable[[], None], evaluator: Evaluator) -> Iterator[None]:
    """`act` in another thread as soon as a call of `evaluator` is inside DuckDB."""

    def wait_and_act() -> None:
        while not evaluator._calls._running and not ended.is_set():
            ended.wait(0.001)
        ended.wait(0.05)
        act()

    ended = threading.Event()
    thread = threading.Thread(target=wait_and_act)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("by", ["run", "batches"])
def test_interrupt_from_another_thread(evaluator: Evaluator, by: str) -> None:
    started = time.monotonic()
    with once_running(evaluator.interrupt, evaluator), pytest.raises(QueryCanceled) as raised:
        getattr(evaluator, by)(query_of(ENDLESS), [], {})
    assert raised.value.sqlstate == "57014"
    assert time.monotonic() - started < 20
    assert evaluator.run(NUMBERS, [2], {}).rows == [(0,), (1,)]


def test_interrupt_of_a_query_in_another_thread_than_the_main_one(evaluator: Evaluator) -> None:
    raised: list[BaseException] = []

    def work() -> None:
        try:
            evaluator.run(query_of(ENDLESS), [], {})
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    with once_running(evaluator.interrupt, evaluator):
        thread.start()
        thread.join()
    assert [type(error) for error in raised] == [QueryCanceled]


def test_an_interrupt_hits_its_own_session_only(evaluator: Evaluator) -> None:
    other, stop = Evaluator(), threading.Event()
    wrong: list[BaseException] = []

    def count() -> None:
        try:
            while not stop.is_set():
                assert other.run(NUMBERS, [3], {}).rows == [(0,), (1,), (2,)]
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=count)
    thread.start()
    for _ in range(5):
        with once_running(evaluator.interrupt, evaluator), pytest.raises(QueryCanceled):
            evaluator.run(query_of(ENDLESS), [], {})
    stop.set()
    thread.join()
    assert wrong == []


def test_interrupt_while_a_stream_is_read(evaluator: Evaluator) -> None:
    query = query_of(SELECTIVE)
    stream = evaluator.run(query, [], {}).batches
    assert stream is not None
    with once_running(evaluator.interrupt, evaluator), pytest.raises(QueryCanceled):
        for _ in stream:
            pass
    assert list(stream) == []
    assert evaluator.run(NUMBERS, [1], {}).rows == [(0,)]


def test_interrupt_without_anything_to_interrupt(evaluator: Evaluator) -> None:
    evaluator.interrupt()
    assert evaluator.run(NUMBERS, [1], {}).rows == [(0,)]


def test_a_cancellation_that_came_before_shows() -> None:
    """The check runs when an interrupt would already reach the call, so none falls between."""
    seen: list[int] = []

    def check() -> None:
        seen.append(len(evaluator._calls._running))
        if len(seen) == 2:
            raise QueryCanceled("the statement was cancelled")

    evaluator = Evaluator(check)
    assert evaluator.run(NUMBERS, [1], {}).rows == [(0,)]
    with pytest.raises(QueryCanceled):
        evaluator.run(NUMBERS, [1], {})
    assert seen == [1, 1]


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("by", ["run", "batches"])
def test_ctrl_c(evaluator: Evaluator, by: str) -> None:
    for _ in range(4):
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt), once_running(press_ctrl_c, evaluator):
            getattr(evaluator, by)(query_of(ENDLESS), [], {})
        assert time.monotonic() - started < 20
        assert evaluator.run(NUMBERS, [2], {}).rows == [(0,), (1,)]


def test_ctrl_c_at_random_moments_of_small_queries(evaluator: Evaluator) -> None:
    """Also while DuckDB asks a slot something in Python, where the exception of the handler becomes text of another error."""
    query = query_of("SELECT id FROM k1 WHERE id > $1 ORDER BY id", source_of(table_of(id="BIGINT")), parameters=1)
    relation = {"k1": pa.table({"id": range(5)})}
    chance = random.Random(5)
    armed, over, fired, told = threading.Event(), False, False, 0

    def handler(number: int, frame: object) -> None:
        nonlocal fired
        fired = True
        raise KeyboardInterrupt

    def press() -> None:
        while True:
            armed.wait()
            armed.clear()
            if over:
                return
            threading.Event().wait(chance.random() * 0.002)
            press_ctrl_c()

    before = signal.signal(signal.SIGINT, handler)
    thread = threading.Thread(target=press)
    thread.start()
    for _ in range(100):
        fired = False
        try:
            armed.set()
            while not fired:
                assert evaluator.run(query, [2], relation).rows == [(3,), (4,)]
                evaluator.batches(query, [2], relation).close()
        except KeyboardInterrupt:
            told += 1
    signal.signal(signal.SIGINT, before)
    over = True
    armed.set()
    thread.join()
    assert told > 75, "a few strike in finalisers, whose exceptions go no further"
    assert evaluator.run(query, [2], relation).rows == [(3,), (4,)]


def test_ctrl_c_while_a_stream_is_read(evaluator: Evaluator) -> None:
    query = query_of(SELECTIVE)
    stream = evaluator.run(query, [], {}).batches
    with pytest.raises(KeyboardInterrupt), once_running(press_ctrl_c, evaluator):
        for _ in stream or []:
            pass
    assert evaluator.run(NUMBERS, [1], {}).rows == [(0,)]


def test_a_signal_handler_of_the_users_may_raise_what_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    class TimeIsUp(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        raise TimeIsUp

    if instance.wide().single:
        pytest.skip("one processor: there is no wide instance")
    monkeypatch.setattr(execution, "narrow", instance.wide)
    evaluator = Evaluator()
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(TimeIsUp), once_running(lambda: os.kill(os.getpid(), signal.SIGALRM), evaluator):
            evaluator.run(query_of(ENDLESS), [], {})
    finally:
        signal.signal(signal.SIGALRM, before)
    assert evaluator.run(NUMBERS, [1], {}).rows == [(0,)]


def test_a_signal_handler_may_cancel(evaluator: Evaluator) -> None:
    """It runs in the very thread whose call it interrupts."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: evaluator.interrupt())
    try:
        with pytest.raises(QueryCanceled), once_running(lambda: os.kill(os.getpid(), signal.SIGALRM), evaluator):
            evaluator.run(query_of(ENDLESS), [], {})
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_instance_that_broke_is_replaced() -> None:
    evaluator = Evaluator()
    assert evaluator.run(NUMBERS, [1], {}).rows == [(0,)]
    broken = instance.narrow()
    broken.broken = True
    assert evaluator.run(NUMBERS, [1], {}).rows == [(0,)]
    assert instance.narrow() is not broken


def test_instances_are_closed_under_a_stream(evaluator: Evaluator) -> None:
    stream = evaluator.run(NUMBERS, [10**9], {}).batches
    assert stream is not None
    instance.close_instances()
    with pytest.raises(khonsu_sql.Error):
        for _ in stream:
            pass
    stream.close()
    assert evaluator.run(NUMBERS, [1], {}).rows == [(0,)]
