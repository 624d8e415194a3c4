"""The memtable: installation that may be interrupted anywhere, chains that say where they were pruned, ordered keys."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from khonsu_engine.columns import memtable as memtable_module
from khonsu_engine.columns.key_order import contains
from khonsu_engine.columns.memtable import Memtable
from khonsu_engine.columns.ordered_keys import FRESH_KEYS_MAX
from khonsu_engine.columns.recent import recent_of
from khonsu_engine.columns.segment_view import SegmentView
from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.columns.version import PRUNED, Version
from khonsu_engine.commands import KeyRange
from tests.engine.columns_model import Bench, rows_of, table_of

TABLE = table_of("BIGINT", "VARCHAR", key=(0,))


def version(key: int, timestamp: int, text: str | None = "x") -> Version:
    return Version(key, timestamp, None if text is None else (key, text), None, None, timestamp)


class Interrupt(BaseException):
    """Ctrl-C."""


def interrupted(action: Callable[[], Any], at: int, *files: str) -> bool:
    """Run `action` and raise Interrupt before its `at`-th bytecode within `files`; False when it ended before that."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.endswith(files):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == at:
                raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_installation_interrupted_anywhere_is_finished_by_repeating_it() -> None:
    at = 0
    going = True
    while going:
        at += 1
        memtable = Memtable(TABLE)
        memtable.install(version(1, 10))
        both = [version(2, 20), version(1, 20)]

        def install(memtable: Memtable = memtable, both: list[Version] = both) -> None:
            for part in both:
                memtable.install(part)

        going = interrupted(install, at, "memtable.py")
        install()
        install()
        assert [(part.key, part.timestamp) for part in memtable.log] == [(1, 10), (2, 20), (1, 20)]
        assert memtable.chains[1] is both[1] and both[1].older is memtable.log[0] and both[0].older is None
    assert at > 20, "there were not that many bytecodes to interrupt"


def test_a_scan_interrupted_anywhere_leaves_the_next_one_right() -> None:
    below = Bench(TABLE).make_segments([(key, "below") for key in range(6)])
    at = 1
    while True:
        table = TableVersion(TABLE, map(SegmentView, below), Memtable(TABLE, 3))
        for timestamp in range(10, 20):
            for key in range(timestamp % 3, 5, 2):
                table.memtable.install(version(key, timestamp, None if (key + timestamp) % 5 == 0 else f"{timestamp}"))
        recent_of(table.memtable)
        if not interrupted(lambda table=table: table.scan(30, [0, 1]), at, "recent.py"):  # type: ignore[misc]
            break
        for timestamp in (30, 14, 9):
            visible = {key: row for key in range(6) if (row := table.get(key, timestamp)) is not None}
            assert {row[0]: row for row in rows_of(TABLE, table.scan(timestamp, [0, 1]))} == visible
        at += 3
    assert at > 500


def states(memtable: Memtable, key: int, timestamps: range) -> list[Any]:
    def seen(timestamp: int) -> Any:
        found = memtable.get(key, timestamp)
        return found.row[1] if isinstance(found, Version) and found.row else found if found is PRUNED else None

    return [seen(timestamp) for timestamp in timestamps]


def test_a_pruned_chain_says_so() -> None:
    memtable = Memtable(TABLE)
    for timestamp in (10, 20, 30, 40):
        memtable.install(version(1, timestamp, f"{timestamp}"))
    every = range(5, 46, 5)
    assert states(memtable, 1, every) == [None, "10", "10", "20", "20", "30", "30", "40", "40"]
    memtable.prune(1, 35, [22])
    assert states(memtable, 1, every) == [None, PRUNED, PRUNED, "20", "20", "30", "30", "40", "40"]
    memtable.prune(1, 35, [22])
    memtable.prune(1, 40, [12])
    assert states(memtable, 1, every) == [None, PRUNED, PRUNED, PRUNED, PRUNED, PRUNED, PRUNED, "40", "40"]
    assert memtable.get(1, 5) is None, "below the chain the segments know"


def test_a_table_says_so_too() -> None:
    """By the function that compiled statements call, which has the search in its own cells."""
    memtable = Memtable(TABLE)
    table = TableVersion(TABLE, (), memtable)
    for timestamp in (10, 20, 30, 40):
        memtable.install(version(1, timestamp, f"{timestamp}"))
    memtable.prune(1, 35, [22])
    found = [table.get(1, timestamp) for timestamp in range(5, 46, 5)]
    assert found == [None, PRUNED, PRUNED, (1, "20"), (1, "20"), (1, "30"), (1, "30"), (1, "40"), (1, "40")]


def test_pruning_keeps_what_a_later_snapshot_may_need() -> None:
    memtable = Memtable(TABLE)
    for timestamp in (10, 20, 30):
        memtable.install(version(1, timestamp, f"{timestamp}"))
    memtable.prune(1, 25)
    assert states(memtable, 1, range(15, 36, 5)) == [PRUNED, "20", "20", "30", "30"]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.data())
def test_pruning_never_touches_a_snapshot_in_use(steps: list[int], data: st.DataObject) -> None:
    memtable = Memtable(TABLE)
    now, active = 10, []
    truth: dict[int, str] = {}
    for step in steps:
        if data.draw(st.booleans()):
            active = sorted({*active, now + 1})
        now += 2 * step
        memtable.install(version(1, now, f"{now}"))
        truth[now] = f"{now}"
        memtable.prune(1, data.draw(st.integers(max([*active[:0], 10]), now)), active)
        for timestamp in [*active, now]:
            expected = [truth[stamp] for stamp in sorted(truth) if stamp <= timestamp]
            assert states(memtable, 1, range(timestamp, timestamp + 1)) == [expected[-1] if expected else None]


@pytest.mark.parametrize("readers", [0, 3, 30])
@pytest.mark.parametrize("every", [1, 5, 40])
def test_a_long_chain_is_pruned_as_if_all_of_it_were_looked_at(readers: int, every: int) -> None:
    """Asked with the very same snapshots again and again, as between two looks of the committer; compared with a chain that forgets
    each time that it was asked."""
    lazy, eager = Memtable(TABLE), Memtable(TABLE)
    dice, active, horizon = Random(readers * every), (), 0
    for now in range(10, 3_000, 10):
        lazy.install(version(1, now, f"{now}"))
        eager.install(version(1, now, f"{now}"))
        if now // 10 % every == 0:
            active = (*(stamp for stamp in active if dice.random() > 0.03), now + 1)[-readers:] if readers else ()
            horizon = now
        lazy.prune(1, horizon, active)
        eager._pruned.clear()
        eager.prune(1, horizon, active)
        assert chain(lazy, 1) == chain(eager, 1)
    lazy.prune(1, now, ())
    assert len(chain(lazy, 1)) == 1, "nobody reads: one version is left"


def chain(memtable: Memtable, key: int) -> list[int]:
    found, link = [], memtable.chains.get(key)
    while link is not None:
        found.append(link.timestamp)
        link = link.older
    return found


def test_a_write_of_a_hot_row_looks_at_few_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many snapshots keep versions of it: once through the chain whenever the snapshots are others, and else at its head."""
    looked = [0]
    between = memtable_module._any_between

    def counted(*what: Any) -> bool:
        looked[0] += 1
        return between(*what)

    memtable, snapshots, count = Memtable(TABLE), [], 1_000
    for number in range(count):
        memtable.install(version(1, 10 * number, "old"))
        snapshots.append(10 * number + 5)
    active = tuple(snapshots)
    monkeypatch.setattr(memtable_module, "_any_between", counted)
    for number in range(count, count + 100):
        memtable.install(version(1, 10 * number, "new"))
        memtable.prune(1, 10 * count, active)
    assert len(chain(memtable, 1)) == count + 100
    assert looked[0] < count + 100 * (memtable_module.PRUNED_STEPS + 1)
    memtable.prune(1, 10 * (count + 100), ())
    assert len(chain(memtable, 1)) == 1


def test_an_interrupted_pruning_is_finished_by_repeating_it() -> None:
    at = 0
    going = True
    while going:
        at += 1
        memtable = Memtable(TABLE)
        for timestamp in (10, 20, 30, 40):
            memtable.install(version(1, timestamp, f"{timestamp}"))
        going = interrupted(lambda memtable=memtable: memtable.prune(1, 40, [22]), at, "memtable.py")  # type: ignore[misc]
        between = states(memtable, 1, range(5, 46, 5))
        whole = [None, "10", "10", "20", "20", "30", "30", "40", "40"]
        assert all(found in (expected, PRUNED) for found, expected in zip(between, whole, strict=True)), between
        assert (between[3], between[4], between[-1]) == ("20", "20", "40")
        memtable.prune(1, 40, [22])
        assert states(memtable, 1, range(5, 46, 5)) == [None, PRUNED, PRUNED, "20", "20", PRUNED, PRUNED, "40", "40"]


def keys_in_steps() -> Iterator[int]:
    number = 1
    while True:
        number = number * 48271 % 2147483647
        yield number % 5_000


def test_ordered_keys_are_complete_and_in_order() -> None:
    memtable = Memtable(TABLE)
    numbers = keys_in_steps()
    known: set[int] = set()
    for batch in (1, 3, FRESH_KEYS_MAX - 5, 2, 300, 700, 1, 1):
        for _ in range(batch):
            key = next(numbers)
            known.add(key)
            memtable.install(version(key, len(memtable.log) + 10))
        for range_ in (KeyRange(), KeyRange(1_000, 2_000), KeyRange(1_000, 2_000, False, False), KeyRange(None, 50), KeyRange(4_000)):
            expected = sorted(key for key in known if contains(range_, key))
            keys = memtable.ordered_keys()
            assert keys.between(range_) == list(keys.iterate(range_, False)) == expected
            assert list(keys.iterate(range_, True)) == expected[::-1]
            assert all(key in keys for key in expected) and -1 not in keys and 5_001 not in keys


def test_prefixes_of_composite_keys() -> None:
    memtable = Memtable(table_of("INTEGER", "VARCHAR", key=(0, 1)))
    keys = [(number, letter) for number in range(4) for letter in "abc"]
    for key in keys:
        memtable.install(Version(key, 10, key, None, None, 10))
    assert memtable.ordered_keys().between(KeyRange((2,), (2,))) == [(2, "a"), (2, "b"), (2, "c")]
    assert memtable.ordered_keys().between(KeyRange((2,), None, False)) == [(3, "a"), (3, "b"), (3, "c")]
    assert memtable.ordered_keys().between(KeyRange((1, "b"), (2,), False, False)) == [(1, "c")]


def test_size_counts_each_version_once() -> None:
    memtable = Memtable(TABLE)
    memtable.install(version(1, 10, "x" * 1_000))
    size = memtable.size_bytes
    assert 1_000 < size < 2_000 and memtable.size_bytes == size
    memtable.install(version(2, 11, "x" * 1_000))
    assert memtable.size_bytes == 2 * size
