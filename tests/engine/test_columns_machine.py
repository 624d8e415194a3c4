"""A table version against a dict of histories: every order of commits, flushes, merges, bulk writes and pins, with tiny bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from khonsu_engine.columns import scan
from khonsu_engine.columns.scan import Scan
from khonsu_engine.commands import EVERY_KEY, KeyRange
from khonsu_engine.mvcc.predicates import ALL, And, Compare, In, IsNull, Not, Or, Predicate
from khonsu_engine.schema.catalog import Table
from khonsu_engine.schema.types import NAN
from tests.engine.columns_model import Bench, Pin, table_of

INTEGERS = st.integers(0, 60)
TEXTS = st.sampled_from([f"k{n:02}" for n in range(20)] + ["", "k", "kä", "ä", "k0", "k1" * 5])
FLOATS = st.sampled_from([NAN, float("-inf"), float("inf"), *(n / 2 for n in range(-8, 9))])
VALUES = st.one_of(st.none(), st.sampled_from([NAN, 0.0, 1.5, -2.5, 3.0, 100.0]))
WORDS = st.one_of(st.none(), st.sampled_from(["", "a", "b", "zz", "x" * 80]))

TABLES: dict[str, tuple[Table, st.SearchStrategy[Any]]] = {
    "integer": (table_of("BIGINT", "DOUBLE", "VARCHAR", key=(0,)), INTEGERS),
    "text": (table_of("DOUBLE", "VARCHAR", "VARCHAR", key=(1,)), TEXTS),
    "float": (table_of("DOUBLE", "DOUBLE", "VARCHAR", key=(0,)), FLOATS),
    "composite": (table_of("VARCHAR", "DOUBLE", "INTEGER", "VARCHAR", key=(2, 0)), st.tuples(st.integers(0, 5), TEXTS)),
}


class Machine(RuleBasedStateMachine):
    """Rules are what an engine does; after each of them, all pins are compared."""

    table: Table
    keys: st.SearchStrategy[Any]

    @initialize()
    def begin(self) -> None:
        self.bench = Bench(self.table)
        self.waiting: list[tuple[Scan, dict[Any, Any], dict[Any, Any]]] = []
        self.reading: list[tuple[Iterator[Any], list[Any]]] = []
        self.seen: set[Any] = set()

    # -- writing --------------------------------------------------------------------------------------------------

    def row(self, data: st.DataObject, key: Any) -> tuple[Any, ...]:
        parts = dict(zip(self.table.key_columns, key if len(self.table.key_columns) > 1 else (key,), strict=True))
        kinds = {"DOUBLE": VALUES, "VARCHAR": WORDS}
        return tuple(
            parts[number] if number in parts else data.draw(kinds[column.type.kind]) for number, column in enumerate(self.table.columns)
        )

    def changes(self, data: st.DataObject, size: int = 6, least: int = 0) -> dict[Any, Any]:
        hot = st.sampled_from(self.bench.in_order(self.seen)[:4] if self.seen else [None])
        keys = data.draw(st.lists(st.one_of(hot, self.keys) if self.seen else self.keys, min_size=least, max_size=size, unique=True))
        self.seen.update(keys)
        return {key: self.row(data, key) if data.draw(st.integers(0, 3)) else None for key in keys}

    @rule(data=st.data(), prune=st.sampled_from(["", "horizon", "active"]), durable=st.booleans(), count=st.integers(1, 4))
    def commit(self, data: st.DataObject, prune: str, durable: bool, count: int) -> None:
        for _ in range(count):
            self.bench.commit(self.changes(data, 12, 1))
            if durable:
                self.bench.durable = self.bench.now
            if prune:
                self.bench.prune(prune == "active")

    @rule(data=st.data(), first=st.integers(0, 3))
    def commit_and_pin(self, data: st.DataObject, first: int) -> None:
        """Many rows, then a pin, then the same rows again: what `__live` is for."""
        rows = self.changes(data, 20, 10)
        self.bench.commit(rows)
        if first:
            self.bench.durable = self.bench.now
            self.bench.flush(self.bench.now)
        if len(self.bench.pins) < 4:
            self.bench.pin(self.bench.now)
        self.bench.commit({key: self.row(data, key) for key in rows})

    @rule(whole=st.booleans(), data=st.data())
    def sync(self, whole: bool, data: st.DataObject) -> None:
        bench = self.bench
        bench.durable = bench.now if whole else data.draw(st.integers(bench.durable, bench.now))

    @rule(data=st.data())
    def flush(self, data: st.DataObject) -> None:
        upto = data.draw(st.one_of(st.just(self.bench.durable), st.integers(10, self.bench.durable)))
        meanwhile = [self.changes(data, 3) for _ in range(data.draw(st.integers(0, 2)))]
        self.bench.flush(upto, meanwhile)

    @rule(everything=st.booleans())
    def compact(self, everything: bool) -> None:
        self.bench.compact(everything)

    @rule(data=st.data(), truncate=st.sampled_from([False, False, False, True]), checked=st.booleans())
    def bulk(self, data: st.DataObject, truncate: bool, checked: bool) -> None:
        bench = self.bench
        taken = {} if truncate else bench.model.visible(bench.now)
        keys = [key for key in data.draw(st.lists(self.keys, max_size=40, unique=True)) if key not in taken]
        self.seen.update(keys)
        rows = [self.row(data, key) for key in keys]
        also = {key: row for key, row in self.changes(data, 3).items() if row is not None or key in keys}
        between = {key: row for key, row in self.changes(data, 3).items() if key not in keys and (not truncate)}
        bench.bulk(rows, truncate=truncate, also=also, between=between, checked=checked)

    @precondition(lambda self: not self.bench.pins and len(self.bench.version.segments) > 2)
    @rule()
    def recover(self) -> None:
        self.bench.recover()

    # -- reading --------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.bench.pins) < 4)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        self.bench.pin(data.draw(st.sampled_from([self.bench.durable, self.bench.now])))

    @precondition(lambda self: self.bench.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        self.finish_reading()
        self.bench.pins.pop(data.draw(st.integers(0, len(self.bench.pins) - 1)))

    @precondition(lambda self: self.bench.pins)
    @rule(data=st.data())
    def write_own(self, data: st.DataObject) -> None:
        pin = self.bench.pins[-1]
        for key, row in self.changes(data, 4).items():
            self.bench.own_write(pin, key, row)

    @precondition(lambda self: self.bench.pins and not self.bench.pins[-1].own_segments)
    @rule(data=st.data())
    def bulk_own(self, data: st.DataObject) -> None:
        pin = self.bench.pins[-1]
        taken = {*self.bench.model.visible(pin.timestamp), *pin.own}
        keys = [key for key in data.draw(st.lists(self.keys, max_size=20, unique=True)) if key not in taken]
        if keys:
            pin.own_segments.extend(self.bench.make_segments([self.row(data, key) for key in keys]))

    def a_range(self, data: st.DataObject) -> KeyRange:
        if data.draw(st.integers(0, 3)) == 0:
            return EVERY_KEY
        low, high = (data.draw(st.one_of(st.none(), self.keys)) for _ in range(2))
        if isinstance(low, tuple) and data.draw(st.booleans()):
            low = low[:1]
        if isinstance(high, tuple) and data.draw(st.booleans()):
            high = high[:1]
        return KeyRange(low, high, data.draw(st.booleans()), data.draw(st.booleans()))

    def a_predicate(self, data: st.DataObject, depth: int = 2) -> Predicate:
        kind = data.draw(st.sampled_from(["all", "compare", "compare", "in", "null", "and", "or", "not"][: 5 if depth == 0 else 8]))
        column = data.draw(st.integers(0, len(self.table.columns) - 1))
        values = {"DOUBLE": VALUES, "VARCHAR": st.one_of(WORDS, TEXTS)}.get(self.table.columns[column].type.kind, INTEGERS)
        match kind:
            case "compare":
                return Compare(column, data.draw(st.sampled_from(["=", "<>", "<", "<=", ">", ">="])), data.draw(values))
            case "in":
                return In(column, tuple(data.draw(st.lists(values, max_size=3))))
            case "null":
                return IsNull(column)
            case "and" | "or":
                parts = tuple(self.a_predicate(data, depth - 1) for _ in range(2))
                return And(parts) if kind == "and" else Or(parts)
            case "not":
                return Not(self.a_predicate(data, depth - 1))
        return ALL

    @precondition(lambda self: self.bench.pins)
    @rule(data=st.data())
    def scan(self, data: st.DataObject) -> None:
        """Two scans: one is read at once, the other one after whatever comes next."""
        pin = data.draw(st.sampled_from(self.bench.pins))
        self.bench.check_scan(*self.bench.scan(pin, self.a_range(data), self.a_predicate(data)))
        self.waiting.append(self.bench.scan(pin, self.a_range(data), self.a_predicate(data)))

    @precondition(lambda self: self.bench.pins)
    @rule(data=st.data(), reverse=st.booleans())
    def read_rows(self, data: st.DataObject, reverse: bool) -> None:
        pin = data.draw(st.sampled_from(self.bench.pins))
        found, expected = self.bench.rows(pin, self.a_range(data), reverse)
        assert list(found) == expected
        self.reading.append(self.bench.rows(pin, self.a_range(data), not reverse))

    @rule()
    def finish_reading(self) -> None:
        for waiting in self.waiting:
            self.bench.check_scan(*waiting)
        for found, expected in self.reading:
            assert list(found) == expected
        self.waiting.clear()
        self.reading.clear()

    # -- always ---------------------------------------------------------------------------------------------------

    @invariant()
    def everything_agrees(self) -> None:
        if not hasattr(self, "bench"):
            return
        bench = self.bench
        keys = bench.in_order(self.seen)
        pins = [*bench.pins, Pin(bench.durable, bench.version, {}, []), Pin(bench.now, bench.version, {}, [])]
        for pin in pins:
            bench.check_points(pin, keys)
            found, expected = bench.rows(pin, EVERY_KEY, False)
            assert list(found) == expected
            bench.check_scan(*bench.scan(pin))
        bench.check_newest(keys)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.deep] if name in ("float", "text") else []) for name in TABLES])
def test_a_table_version_is_its_history(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "HIDDEN_ROWS_SLICED", 2)
    machine = type(f"Machine_{name}", (Machine,), {"table": TABLES[name][0], "keys": TABLES[name][1]})
    run = machine.TestCase
    run.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
    run().runTest()
