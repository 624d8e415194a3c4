"""Segments: what goes in comes out, by position and by key, for every type; damage is named; files end with their last reader."""

from __future__ import annotations

import gc
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from khonsu_engine.columns.build import write_segments
from khonsu_engine.columns.key_order import contains, order_of
from khonsu_engine.columns.key_search import common_key, common_positions, find_many
from khonsu_engine.columns.segment import Segment, decode_meta, encode_meta, segment_schema
from khonsu_engine.columns.segment_view import SegmentView, decode_dead, encode_dead
from khonsu_engine.columns.sorting import find_duplicate, is_sorted, sort_batches
from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.commands import KeyRange
from khonsu_engine.errors import CorruptDatabase, StoreFailed
from khonsu_engine.limits import Limits
from khonsu_engine.mvcc.predicates import And, Compare, In, IsNull, Not, Or, Predicate, matcher
from khonsu_engine.schema.catalog import Column, Table
from khonsu_engine.schema.types import NAN, SqlType, arrow_from_rows, parse_type
from khonsu_engine.storage.memory import MemoryStore
from tests.engine.columns_model import same_meta, table_of
from tests.engine.type_samples import ALL_TYPES, KEY_TYPES, canonical_values, nullable, same
from tests.stores import FaultyStore

LIMITS = Limits(chunk_rows_max=4, segment_rows_max=8)


def segments_of(table: Table, rows: list[Any], store: Any = None, limits: Limits = LIMITS) -> list[Segment]:
    types, names = [column.type for column in table.columns], [column.name for column in table.columns]
    made = sort_batches(table, [arrow_from_rows(types, rows, names)], segment_schema(table))
    numbers = iter(range(1_000))
    return write_segments(store or MemoryStore(), table, [made], limits=limits, new_name=lambda: f"segment-{next(numbers)}")


def a_table(types: list[SqlType], key: tuple[int, ...]) -> Table:
    columns = tuple(Column(f"c{n}", sql_type, nullable=n not in key) for n, sql_type in enumerate(types))
    return Table(64, "main", "t", 1, columns, key)


@st.composite
def tables_with_rows(draw: st.DrawFn) -> tuple[Table, list[Any]]:
    keys = draw(st.lists(st.sampled_from(KEY_TYPES), min_size=1, max_size=2))
    values = draw(st.lists(st.sampled_from(ALL_TYPES), max_size=2))
    order = draw(st.permutations(range(len(keys))))
    rows = st.tuples(*map(canonical_values, keys), *map(nullable, values))
    unique = draw(st.lists(rows, min_size=1, max_size=20, unique_by=lambda row: row[: len(keys)]))
    return a_table([*keys, *values], tuple(order)), unique


@given(tables_with_rows(), st.data())
def test_what_goes_in_comes_out(case: tuple[Table, list[Any]], data: st.DataObject) -> None:
    table, rows = case
    segments = segments_of(table, rows)
    order = order_of(table)
    ordered = sorted((table.key_of(row) for row in rows), key=order)
    by_key = {table.key_of(row): row for row in rows}
    found = [segment.row(position) for segment in segments for position in range(segment.meta.rows)]
    assert [table.key_of(row) for row in found] == ordered
    assert all(same(row, by_key[table.key_of(row)]) for row in found)
    for segment in segments:
        assert same_meta(decode_meta(encode_meta(segment.meta, table), table), segment.meta)
        keys = [segment.key_at(position) for position in range(segment.meta.rows)]
        assert [segment.find(key) for key in keys] == list(range(len(keys)))
        assert find_many(segment, ordered).tolist() == [segment.find(key) for key in ordered]
        assert all((segment.get(key) is None) == (key not in keys) for key in ordered)
        low, high = data.draw(st.sampled_from(ordered)), data.draw(st.sampled_from(ordered))
        range_ = KeyRange(low, high, data.draw(st.booleans()), data.draw(st.booleans()))
        start, stop = segment.bounds(range_)
        assert keys[start:stop] == [key for key in keys if contains(range_, key, order)]


def predicates(table: Table, rows: list[Any]) -> st.SearchStrategy[Predicate]:
    """Predicates over values that occur, and others of the same types."""
    columns = [number for number, column in enumerate(table.columns) if column.type.can_be_key]

    def leaf(column: int) -> st.SearchStrategy[Predicate]:
        values = st.sampled_from([row[column] for row in rows]) | nullable(table.columns[column].type)
        return (
            st.builds(Compare, st.just(column), st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), values)
            | st.builds(In, st.just(column), st.lists(values, max_size=3).map(tuple))
            | st.just(IsNull(column))
        )

    leaves = st.sampled_from(columns).flatmap(leaf)
    pairs = st.lists
    return st.recursive(
        leaves,
        lambda inner: (
            st.builds(Not, inner)
            | pairs(inner, min_size=1, max_size=3).map(lambda parts: And(tuple(parts)))
            | pairs(inner, min_size=1, max_size=3).map(lambda parts: Or(tuple(parts)))
        ),
        max_leaves=5,
    )


@given(tables_with_rows(), st.data())
def test_pruning_never_loses_a_row(case: tuple[Table, list[Any]], data: st.DataObject) -> None:
    table, rows = case
    predicate = data.draw(predicates(table, rows))
    matches = matcher(predicate)
    expected = sorted((table.key_of(row) for row in rows if matches(row)), key=order_of(table))
    version = TableVersion(table, [SegmentView(segment) for segment in segments_of(table, rows)])
    scan = version.scan(10, list(range(len(table.columns))), predicate=predicate)
    assert scan.chunks_total == sum(len(view.segment.meta.chunks) for view in version.segments)
    numbers = [segment for view in version.segments for segment in [view.segment] if segment.may_match(KeyRange(), predicate)]
    kept = {segment.key_at(position) for segment in numbers for position in range(segment.meta.rows)}
    assert set(expected) <= kept
    assert scan.segments_pruned == len(version.segments) - len(numbers)
    assert len(expected) <= scan.rows <= len(rows)


def test_pruning_prunes() -> None:
    table = table_of("BIGINT", "DOUBLE", "VARCHAR", key=(0,))
    rows = [(n, NAN if n == 9 else float(n), None if n < 4 else f"name {n:02}") for n in range(16)]
    version = TableVersion(table, [SegmentView(segment) for segment in segments_of(table, rows)])

    def chunks(predicate: Predicate, range_: KeyRange | None = None) -> int:
        scan = version.scan(1, [0], range_ or KeyRange(), predicate)
        return scan.chunks_total - scan.chunks_pruned

    assert version.scan(1, [0]).chunks_total == 4
    assert chunks(Compare(0, "=", 5)) == 1
    assert chunks(Compare(1, ">", 100.0)) == 1, "only the chunk with NaN, which exceeds every number"
    assert chunks(Compare(1, "<", 0.0)) == 0
    assert chunks(IsNull(2)) == 1
    assert chunks(Not(IsNull(2))) == 3
    assert chunks(Compare(2, "=", "name 05")) == 1, "a chunk of NULLs matches no comparison"
    assert chunks(In(0, (1, 15))) == 2
    assert chunks(Compare(0, ">=", 0), KeyRange(4, 7)) == 1
    assert version.scan(1, [0], KeyRange(9, None)).segments_pruned == 1


@pytest.mark.parametrize("kind", ["VARCHAR", "BLOB"])
def test_long_texts_are_bounded_by_a_prefix(kind: str) -> None:
    long: Any = "m" * 1_000 if kind == "VARCHAR" else b"m" * 1_000
    small, large = long[:3], long[:-1] + (long[:1] * 5)
    table = table_of("BIGINT", kind, key=(0,))
    (segment,) = segments_of(table, [(n, long) for n in range(3)])
    assert len(encode_meta(segment.meta, table)) < 400
    for predicate, possible in [
        (Compare(1, "=", long), True),
        (Compare(1, ">", long[:80]), True),
        (Compare(1, "=", large), True),
        (Compare(1, "<", small), False),
        (Compare(1, "=", small), False),
    ]:
        assert segment.may_match(KeyRange(), predicate) == possible, predicate


def test_a_scan_gives_the_columns_asked_for_within_the_range() -> None:
    table = table_of("BIGINT", "DOUBLE", "VARCHAR", key=(0,))
    version = TableVersion(table, [SegmentView(segment) for segment in segments_of(table, [(n, n / 2, f"n{n}") for n in range(16)])])
    scan = version.scan(1, [2, 0], KeyRange(3, 10, False, True))
    assert scan.schema.names == ["c2", "c0"] and not scan.masked and scan.rows == 7
    assert scan.to_table().to_pydict() == {"c2": [f"n{n}" for n in range(4, 11)], "c0": list(range(4, 11))}
    assert scan.to_table().equals(scan.to_table()), "a scan may be read twice"


DAMAGE_TABLE = table_of("BIGINT", "VARCHAR", key=(0,))


def test_every_damaged_byte_of_a_chunk_is_noticed() -> None:
    store = MemoryStore()
    (segment,) = segments_of(DAMAGE_TABLE, [(n, f"value {n}") for n in range(8)], store)
    raw = bytes(store.map_file(segment.meta.name))
    first, second = segment.meta.chunks
    for at in range(first.offset, second.offset + second.length, 7):
        damaged = MemoryStore()
        damaged.add_file(segment.meta.name, [raw[:at], bytes([raw[at] ^ 0x40]), raw[at + 1 :]])
        opened = Segment(segment.meta, DAMAGE_TABLE, damaged)
        hit, other = (0, 4) if at < second.offset else (4, 0)
        assert opened.row(other) == (other, f"value {other}")
        with pytest.raises(CorruptDatabase, match=f"{segment.meta.name}.*chunk {hit // 4}.*checksum"):
            opened.get(hit)


def test_a_file_cut_off_is_noticed() -> None:
    store = MemoryStore()
    (segment,) = segments_of(DAMAGE_TABLE, [(n, "x") for n in range(8)], store)
    cut = MemoryStore()
    cut.add_file(segment.meta.name, [bytes(store.map_file(segment.meta.name))[: segment.meta.chunks[1].offset + 8]])
    with pytest.raises(CorruptDatabase, match="chunk 1 is cut off"):
        Segment(segment.meta, DAMAGE_TABLE, cut).row(5)
    with pytest.raises(CorruptDatabase, match=segment.meta.name):
        Segment(segment.meta, DAMAGE_TABLE, MemoryStore()).row(0)


def test_a_damaged_description_is_refused() -> None:
    (segment,) = segments_of(DAMAGE_TABLE, [(1, "x")])
    raw = encode_meta(segment.meta, DAMAGE_TABLE)
    for cut in (raw[:-1], b"", raw[:5] + b"\xc1" + raw[6:]):
        with pytest.raises(CorruptDatabase, match="table t"):
            decode_meta(cut, DAMAGE_TABLE)


@pytest.mark.parametrize("damage", [b"no zlib", b"x\x9c\x03\x00\x00"])
def test_a_damaged_deletion_vector_is_refused(damage: bytes) -> None:
    (segment,) = segments_of(DAMAGE_TABLE, [(1, "x")])
    with pytest.raises(CorruptDatabase, match=segment.meta.name):
        decode_dead(segment, damage, 5)


@given(st.sets(st.integers(0, 19)))
def test_deletion_vectors_survive(dead: set[int]) -> None:
    import numpy as np

    (segment,) = segments_of(DAMAGE_TABLE, [(n, "x") for n in range(20)], limits=Limits(chunk_rows_max=4, segment_rows_max=20))
    positions = np.array(sorted(dead), np.int64)
    view = SegmentView(segment).with_dead(positions, positions + 100)
    assert [view.get(n) is None for n in range(20)] == [n in dead for n in range(20)]
    assert [view.newest(n) for n in range(20)] == [n + 100 if n in dead else 0 for n in range(20)]
    again = decode_dead(segment, encode_dead(view), 7)
    assert again.dead.tolist() == sorted(dead) and set(again.dead_timestamps.tolist()) <= {7}


def test_a_full_disk_leaves_nothing_behind() -> None:
    rows = [(n, "x") for n in range(40)]
    files = len(segments_of(DAMAGE_TABLE, rows))
    assert files == 5
    for number in range(1, files + 1):
        store = FaultyStore()
        store.fail("add_file", number)
        with pytest.raises(StoreFailed):
            segments_of(DAMAGE_TABLE, rows, store)
        assert store.files() == []


def test_a_retired_file_is_named_when_its_last_reader_goes() -> None:
    removable: deque[str] = deque()
    segments = segments_of(DAMAGE_TABLE, [(n, "x") for n in range(8)])
    pin = TableVersion(DAMAGE_TABLE, [SegmentView(segments[0])])
    get = pin.get
    assert get(3, 1) == (3, "x")
    name = segments[0].meta.name
    segments[0].retire(removable)
    del segments, pin
    assert not removable, "a function of the pin still reads it"
    del get
    assert list(removable) == [name], "known at once, without the garbage collector"
    gc.collect()
    assert list(removable) == [name]


@given(
    st.lists(st.integers(0, 30), unique=True, min_size=1),
    st.lists(st.integers(0, 30), unique=True, min_size=1),
    st.sampled_from(["int", "text", "pair", "float"]),
)
def test_common_keys_are_found(left: list[int], right: list[int], kind: str) -> None:
    limits = Limits(chunk_rows_max=4, segment_rows_max=64)
    table = {
        "int": a_table([parse_type("INTEGER")], (0,)),
        "text": a_table([parse_type("VARCHAR")], (0,)),
        "pair": a_table([parse_type("INTEGER"), parse_type("VARCHAR")], (1, 0)),
        "float": a_table([parse_type("DOUBLE")], (0,)),
    }[kind]

    def row(n: int) -> tuple[Any, ...]:
        return {"int": (n,), "text": (f"{n:02}",), "pair": (n % 3, f"{n // 3:02}"), "float": (NAN if n == 30 else n / 2,)}[kind]

    (mine,), (theirs,) = (segments_of(table, [row(n) for n in numbers], limits=limits) for numbers in (left, right))
    common = sorted({table.key_of(row(n)) for n in left} & {table.key_of(row(n)) for n in right}, key=order_of(table))
    assert [theirs.key_at(position) for position in common_positions(mine, theirs).tolist()] == common
    assert (common_key(mine, theirs) is None) == (not common)
    assert mine.overlaps(theirs) or not common


@given(st.lists(st.sampled_from([NAN, 0.0, -0.0, 1.0, -1.5, float("inf")]), min_size=1, max_size=8))
def test_duplicates_are_found_among_floats_too(values: list[float]) -> None:
    table = a_table([parse_type("DOUBLE")], (0,))
    made = sort_batches(table, [arrow_from_rows([parse_type("DOUBLE")], [(value,) for value in values], ["c0"])], segment_schema(table))
    distinct = {value + 0.0 if value == value else "NaN" for value in values}
    assert (find_duplicate(table, made) is None) == (len(distinct) == len(values)) == is_sorted(table, made)
