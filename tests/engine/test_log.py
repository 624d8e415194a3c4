"""The log's record codec: every bit is either what was written or an error that names the record."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from khonsu_engine.commands import BulkFile, Committed, Effect, Operation, Record, Reserved
from khonsu_engine.errors import CannotConnect, CorruptDatabase
from khonsu_engine.limits import INLINE_BODY_BYTES_MAX
from khonsu_engine.protocols import Buffer
from khonsu_engine.schema.catalog import CATALOG_TABLE, Column, Index, Table
from khonsu_engine.schema.types import NAN, Interval, parse_type
from khonsu_engine.storage import keys, log
from khonsu_engine.storage.memory import MemoryStore

TRANSACTION = bytes(range(16))


def table(number: int, key: tuple[int, ...], *types: str, version: int = 1, indexes: tuple[Index, ...] = ()) -> Table:
    columns = tuple(Column(f"c{position}", parse_type(name)) for position, name in enumerate(types))
    return Table(number, "main", f"t{number}", version, columns, key, indexes=indexes)


PLAIN = table(64, (0,), "BIGINT", "VARCHAR", "DOUBLE", "BOOLEAN", "BLOB")
RICH = table(65, (2, 0), "DECIMAL(10,2)", "TIMESTAMPTZ", "DATE", "UUID", "INTEGER[]", "HUGEINT", "INTERVAL", "DOUBLE")
TABLES = {PLAIN.id: PLAIN, RICH.id: RICH}

PLAIN_ROW = (7, "seven", 0.5, True, b"\0\xff")
RICH_ROW = (
    Decimal("12.30"),
    datetime(2026, 11, 21, 6, 11, 0, 123456, tzinfo=UTC),
    date(1969, 12, 31),
    UUID(int=2**127 + 5),
    (1, None, 3),
    10**37,
    Interval(1, -2, 3),
    NAN,
)


def no_file(name: str) -> Buffer:
    raise AssertionError(f"nobody should ask for {name}")


def sealed(body: log.Body, *, index: int = 5, kind: int = log.COMMITTED, flags: int = 0) -> bytes:
    return log.seal(kind, body, index, 3, 0, b"p" * 16, 1 << 60, TRANSACTION, flags)[0]


def round_trip(effects: tuple[Effect, ...], tables: dict[int, Table] | None = None) -> tuple[Effect, ...]:
    known = TABLES if tables is None else tables
    _, record = log.decode(sealed(log.encode_body(effects, (), known)), known, no_file, 5)
    assert isinstance(record, Committed)
    return record.effects


# -- there and back -----------------------------------------------------------------------------------------------------


def test_a_commit_comes_back_as_it_was() -> None:
    effects = (
        Effect(
            64, 1, ((Operation.UPDATE, 7, PLAIN_ROW, (7, "VII", None, False, b"")), (Operation.DELETE, 8, None, (8, None, 1.0, None, None)))
        ),
        Effect(65, 1, ((Operation.INSERT, (RICH_ROW[2], RICH_ROW[0]), RICH_ROW, None),)),
    )
    bulk = ((64, True, (BulkFile("segment-1", b"meta"), BulkFile("segment-2", b""))), (65, False, ()))
    body = log.encode_body(effects, bulk, TABLES)
    raw, own_hash = log.seal(log.COMMITTED, body, 5, 3, 9, b"p" * 16, -1, TRANSACTION, 0)
    header, record = log.decode(raw, TABLES, no_file, 5)
    assert record == Committed(5, -1, TRANSACTION, effects, bulk)
    assert header == log.Header(1, log.COMMITTED, 0, 5, 3, 9, b"p" * 16, -1, TRANSACTION, own_hash, "")
    assert log.read_header(raw, 5) == header
    assert log.files_of(header, record) == {"segment-1", "segment-2"}


def test_values_come_back_canonical() -> None:
    """Of the right class, hashable, with the one NaN, keys as the dictionaries of the engine have them."""
    key = (RICH_ROW[2], RICH_ROW[0])
    (effect,) = round_trip((Effect(65, 1, ((Operation.INSERT, key, RICH_ROW, None),)),))
    ((_, found_key, row, before),) = effect.rows
    assert {key: 1}[found_key] == 1
    assert row is not None and before is None
    assert [type(value) for value in row] == [type(value) for value in RICH_ROW]
    assert row[7] is NAN
    assert row[1].tzinfo is not None
    assert hash(row) == hash(RICH_ROW)


def test_a_nan_of_a_plain_column_is_the_one_nan() -> None:
    (effect,) = round_trip((Effect(64, 1, ((Operation.INSERT, 1, (1, "", NAN, None, None), None),)),))
    row = effect.rows[0][2]
    assert row is not None and row[2] is NAN


def test_a_key_of_one_column_is_a_scalar_and_of_several_a_tuple() -> None:
    decimal_key = table(66, (0,), "DECIMAL(4,1)", "INTEGER")
    pair_key = table(67, (1, 0), "VARCHAR", "INTEGER")
    effects = (
        Effect(66, 1, ((Operation.INSERT, Decimal("1.5"), (Decimal("1.5"), 1), None),)),
        Effect(67, 1, ((Operation.INSERT, (1, "a"), ("a", 1), None),)),
    )
    assert round_trip(effects, {66: decimal_key, 67: pair_key}) == effects


plain_rows = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    st.none() | st.floats(allow_nan=False),
    st.none() | st.booleans(),
    st.none() | st.binary(),
)


@given(st.lists(st.tuples(plain_rows, st.none() | plain_rows)))
def test_any_plain_rows_come_back(pairs: list[tuple[Any, Any]]) -> None:
    effects = (Effect(64, 1, tuple((Operation.UPDATE, row[0], row, before) for row, before in pairs)),)
    again = round_trip(effects)
    assert again == effects
    signs = [math.copysign(1, row[2]) for effect in again for _, _, row, _ in effect.rows if row is not None and row[2] is not None]
    assert signs == [math.copysign(1, row[2]) for row, _ in pairs if row[2] is not None]


def test_a_reservation_comes_back() -> None:
    raw = sealed(log.encode_reserved("row/64", 1 << 40), kind=log.RESERVED)
    header, record = log.decode(raw, {}, no_file, 5)
    assert record == Reserved(5, 1 << 60, "row/64", 1 << 40)
    assert log.files_of(header, record) == set()


# -- tables made on the way ---------------------------------------------------------------------------------------------


def catalog_effect(operation: Operation, made: Table | None, before: Table | None = None) -> Effect:
    def image(definition: Table | None) -> tuple[Any, ...] | None:
        return None if definition is None else ("main", definition.name, msgspec.msgpack.encode(definition))

    name = (made or before or PLAIN).name
    return Effect(CATALOG_TABLE, 1, ((operation, ("main", name), image(made), image(before)),))


def test_rows_of_a_table_the_record_itself_makes_are_decoded_by_its_definition() -> None:
    made = table(70, (0,), "DECIMAL(4,1)", "VARCHAR", indexes=(Index(71, "u", (1,)),))
    index = made.index_table(made.indexes[0])
    rows = (
        Effect(71, 1, ((Operation.INSERT, "x", ("x", Decimal("1.5")), None),)),
        Effect(70, 1, ((Operation.INSERT, Decimal("1.5"), (Decimal("1.5"), "x"), None),)),
    )
    for effects in ((catalog_effect(Operation.INSERT, made), *rows), (*rows, catalog_effect(Operation.INSERT, made))):
        raw = sealed(log.encode_body(effects, (), {70: made, 71: index}))
        _, record = log.decode(raw, {}, no_file, 5)
        assert isinstance(record, Committed)
        assert record.effects == effects


def test_rows_of_a_table_the_record_drops_are_decoded_too() -> None:
    effects = (
        catalog_effect(Operation.DELETE, None, RICH),
        Effect(65, 1, ((Operation.DELETE, (RICH_ROW[2], RICH_ROW[0]), None, RICH_ROW),)),
    )
    assert round_trip(effects) == effects


@pytest.mark.parametrize("known", [{}, {64: table(64, (0,), "BIGINT", "VARCHAR", "DOUBLE", "BOOLEAN", "BLOB", version=2)}])
def test_rows_are_never_decoded_by_another_definition(known: dict[int, Table]) -> None:
    raw = sealed(log.encode_body((Effect(64, 1, ((Operation.INSERT, 7, PLAIN_ROW, None),)),), (), TABLES))
    with pytest.raises(CorruptDatabase, match=r"record 5 .* table 64 at schema version 1"):
        log.decode(raw, known, no_file, 5)


# -- bodies in files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ahead() -> tuple[MemoryStore, bytes, tuple[Effect, ...]]:
    """A store, a record of a body too large for it, and what the record says."""
    store = MemoryStore(durable=True)
    effects = (Effect(64, 1, tuple((Operation.INSERT, number, (number, "x" * 50, None, None, None), None) for number in range(1_500))),)
    body = log.encode_body(effects, (), TABLES)
    assert len(body) > INLINE_BODY_BYTES_MAX
    return store, sealed(log.write_ahead(store, TRANSACTION, body), flags=log.BODY_IN_FILE), effects


def test_a_large_body_is_a_file_that_the_record_names(ahead: tuple[MemoryStore, bytes, tuple[Effect, ...]]) -> None:
    store, raw, effects = ahead
    assert len(raw) < 300
    header, record = log.decode(raw, TABLES, store.map_file, 5)
    assert isinstance(record, Committed) and record.effects == effects
    assert [header.body_file] == store.files() == [log.body_name(TRANSACTION)]
    assert log.files_of(header, record) == {header.body_file}
    assert log.read_header(raw, 5).body_file == header.body_file


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data + b"\0"])
def test_a_damaged_body_file_is_noticed(ahead: tuple[MemoryStore, bytes, tuple[Effect, ...]], damage: Callable[[bytes], bytes]) -> None:
    store, raw, _ = ahead
    content = damage(bytes(store.map_file(log.body_name(TRANSACTION))))
    with pytest.raises(CorruptDatabase, match=f"record 5 .*{log.body_name(TRANSACTION)}"):
        log.decode(raw, TABLES, lambda name: content, 5)


# -- the header is final --------------------------------------------------------------------------------------------------


def test_the_header_never_changes() -> None:
    """Field by field, from the table in the module's text and nothing else: files written today are read for ever."""
    body = log.encode_reserved("c", 1)
    raw, own_hash = log.seal(log.COMMITTED, body, 5, 3, 9, b"p" * 16, -(1 << 57), TRANSACTION, 0)
    data = raw[80:]
    fixed = (
        b"KREC"
        + b"\x01\x01\x00\x00"
        + (5).to_bytes(8, "little")
        + (3).to_bytes(8, "little")
        + (9).to_bytes(8, "little")
        + b"p" * 16
        + (-(1 << 57)).to_bytes(8, "little", signed=True)
        + TRANSACTION
        + len(data).to_bytes(4, "little")
    )
    assert raw == fixed + zlib.crc32(data + fixed).to_bytes(4, "little") + b"\x92\xa1c\x01"
    assert own_hash == blake2b(raw[:80] + blake2b(data, digest_size=16).digest(), digest_size=16).digest()


def test_records_are_a_chain() -> None:
    """The hash covers everything: header, body, and through it all before."""
    hashes, previous = [], log.GENESIS
    for index in range(1, 4):
        body = log.encode_reserved("c", index)
        raw, previous = log.seal(log.RESERVED, body, index, 0, 0, previous, index, TRANSACTION)
        hashes.append((log.read_header(raw, index).previous_hash, previous))
    assert [before for before, _ in hashes] == [log.GENESIS, hashes[0][1], hashes[1][1]]
    other = log.seal(log.RESERVED, log.encode_reserved("d", 1), 1, 0, 0, log.GENESIS, 1, TRANSACTION)[1]
    assert len({own for _, own in hashes} | {other}) == 4


# -- damage ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record() -> bytes:
    return sealed(log.encode_body((Effect(64, 1, ((Operation.INSERT, 7, PLAIN_ROW, None),)),), (), TABLES))


def test_every_flipped_bit_is_noticed(record: bytes) -> None:
    for place in range(len(record) * 8):
        damaged = bytearray(record)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(CorruptDatabase, match="record 5 is damaged") as noticed:
            log.decode(bytes(damaged), TABLES, no_file, 5)
        assert noticed.value.evidence == {"index": 5}


def test_every_cut_is_noticed(record: bytes) -> None:
    for size in range(len(record)):
        with pytest.raises(CorruptDatabase, match="record 5 is damaged"):
            log.read_header(record[:size], 5)
    with pytest.raises(CorruptDatabase, match="body has"):
        log.read_header(record + b"\0", 5)


def test_a_record_in_another_place_is_noticed(record: bytes) -> None:
    with pytest.raises(CorruptDatabase, match="record 6 is damaged: it says that it is record 5"):
        log.read_header(record, 6)


def test_a_body_of_another_shape_is_noticed() -> None:
    """The checksum fits, the content does not."""
    for body in (log.encode_reserved("c", 1), log.NO_BODY):
        with pytest.raises(CorruptDatabase, match="record 5 is damaged: its body cannot be read"):
            log.decode(sealed(body), TABLES, no_file, 5)
    with pytest.raises(CorruptDatabase, match="the name of its body"):
        log.read_header(sealed(log.encode_reserved("c", 1), flags=log.BODY_IN_FILE), 5)


def with_valid_checksum(record: bytes, place: int, value: int) -> bytes:
    fields = bytearray(record[:76])
    fields[place] = value
    return bytes(fields) + zlib.crc32(record[80:] + fields).to_bytes(4, "little") + record[80:]


@pytest.mark.parametrize(("place", "value"), [(4, 2), (5, 3), (6, 2)], ids=["version", "kind", "flags"])
def test_a_newer_record_is_not_called_damaged(record: bytes, place: int, value: int) -> None:
    assert with_valid_checksum(record, 4, 1) == record
    with pytest.raises(CannotConnect, match=r"record 5 .* newer"):
        log.read_header(with_valid_checksum(record, place, value), 5)


# -- keys -----------------------------------------------------------------------------------------------------------------


def test_records_lie_in_the_order_of_their_index() -> None:
    numbers = [0, 1, 255, 256, 2**32, 2**63, 2**64 - 1]
    found = [keys.log_key(number) for number in numbers]
    assert found == sorted(found)
    assert [keys.log_index(key) for key in found] == numbers
    start, end = keys.log_range(1, 256)
    assert [number for number, key in zip(numbers, found, strict=True) if start <= key < end] == [1, 255]
    start, end = keys.log_range(256)
    assert [number for number, key in zip(numbers, found, strict=True) if start <= key < end] == numbers[3:]


def test_kinds_do_not_overlap() -> None:
    examples = [
        keys.counter_key("\U0010ffff"),
        keys.FORMAT,
        keys.log_key(2**64 - 1),
        keys.manifest_key(b"t", 2**64 - 1),
        keys.PRIMER,
        keys.WATERMARK,
    ]
    for kind in (keys.COUNTER, keys.FORMAT, keys.LOG, keys.MANIFEST, keys.PRIMER, keys.WATERMARK):
        start, end = keys.kind_range(kind)
        assert sum(start <= example < end for example in examples) == 1


@pytest.mark.parametrize("key", [b"", b"L", b"M" + bytes(8), b"L" + bytes(9)])
def test_only_log_keys_have_an_index(key: bytes) -> None:
    with pytest.raises(ValueError, match="not the key of a log record"):
        keys.log_index(key)


def test_every_kind_of_record_is_tested_here() -> None:
    assert {Committed, Reserved} == set(Record.__args__)
