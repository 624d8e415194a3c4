"""Damage and loss, record by record and file by file: the database says what is wrong with what, and never opens without it.

Every bit of a single record is in `test_log`, the manifest's in `test_manifest`; here the whole database is opened. What cannot be
seen is a log that lost its last records: they look like records that were never synced (the watermark of issue D tells them apart).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from khonsu_engine.database import Database
from khonsu_engine.errors import CorruptDatabase
from khonsu_engine.protocols import Delete, Put
from khonsu_engine.storage.keys import log_index, log_key, log_range
from tests.engine.accounts import NEVER_BY_ITSELF, contents, create, delete, finish, got, insert, put_bulk, scanned, update
from tests.stores import CrashingStore, _Around

LARGE = "x" * 70_000


def played(*, checkpoint: bool) -> tuple[CrashingStore, dict[str, dict[int, int]]]:
    """A database with every kind of record after a checkpoint (or without one), and its content."""
    disk = CrashingStore()
    database = Database(disk, limits=NEVER_BY_ITSELF)
    table = create(database, balances={key: key for key in range(40)})
    for key in range(20):
        writer = database.begin(writes_first=True)
        delete(writer, table, key)
        finish(writer)
    if checkpoint:
        database.checkpoint()
    for key in range(100, 104):
        writer = database.begin(writes_first=True)
        insert(writer, table, key, key)
        finish(writer)
    writer = database.begin(writes_first=True)
    insert(writer, table, 200, 200, LARGE)
    finish(writer)
    writer = database.begin(writes_first=True)
    put_bulk(writer, table, {key: key for key in range(300, 320)})
    finish(writer)
    create(database, "second", {1: 1})
    writer = database.begin(writes_first=True)
    update(writer, table, 100, 0)
    finish(writer)
    found = contents(database)
    database.close()
    return disk.crash(None), found


def copy(disk: CrashingStore) -> CrashingStore:
    """Another disk with the same content."""
    return CrashingStore(dict(disk.scan(b"", b"\xff")), {name: bytes(disk.map_file(name)) for name in disk.files()})


def records(disk: CrashingStore) -> list[int]:
    return [log_index(key) for key, _ in disk.scan(*log_range(1))]


def opens(disk: CrashingStore) -> dict[str, dict[int, int]]:
    """The content, every row of it read."""
    database = Database(disk, limits=NEVER_BY_ITSELF)
    try:
        return contents(database)
    finally:
        database.close()


@pytest.fixture(params=[False, True], ids=["log only", "after a checkpoint"])
def whole(request: pytest.FixtureRequest) -> tuple[CrashingStore, dict[str, dict[int, int]]]:
    return played(checkpoint=request.param)


def test_it_opens_when_nothing_is_wrong(whole: tuple[CrashingStore, dict[str, dict[int, int]]]) -> None:
    disk, expected = whole
    assert opens(copy(disk)) == expected


def test_a_lost_record_is_a_hole(whole: tuple[CrashingStore, dict[str, dict[int, int]]]) -> None:
    disk, _ = whole
    for index in records(disk)[:-1]:
        damaged = copy(disk)
        damaged.write([Delete(log_key(index))])
        with pytest.raises(CorruptDatabase, match=f"record {index} is missing"):
            opens(damaged)


class ShortStore(_Around):
    """A store whose scans end early, without an error, as a damaged index lets them: `short` entries are never shown."""

    short = 1

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        found = list(self.inner.scan(start, end, reverse=reverse))
        return iter(found[: -self.short] if end == log_range(1)[1] else found)

    def _call(self, call: str, action: Callable[[], Any], keys: tuple[bytes, ...] = (), name: str = "") -> Any:
        return action()


@pytest.mark.parametrize("short", [1, 3])
def test_a_log_that_is_not_read_to_its_end_is_told(whole: tuple[CrashingStore, dict[str, dict[int, int]]], short: int) -> None:
    disk, _ = whole
    store = ShortStore(copy(disk))
    store.short = short
    with pytest.raises(CorruptDatabase, match="beyond record"):
        Database(store, limits=NEVER_BY_ITSELF)


def test_a_damaged_record_is_named(whole: tuple[CrashingStore, dict[str, dict[int, int]]]) -> None:
    disk, _ = whole
    for index in records(disk):
        raw = disk.get(log_key(index))
        assert raw is not None
        for damage in (raw[:-1], raw[:40], b"", raw[:60] + bytes([raw[60] ^ 1]) + raw[61:], raw[:-1] + bytes([raw[-1] ^ 128])):
            damaged = copy(disk)
            damaged.write([Put(log_key(index), damage)])
            with pytest.raises(CorruptDatabase, match=f"record {index} "):
                opens(damaged)


def test_a_record_of_another_history_is_refused(whole: tuple[CrashingStore, dict[str, dict[int, int]]]) -> None:
    """Each record is whole by itself, but does not continue the one before it."""
    disk, _ = whole
    other, _ = played(checkpoint=len(records(disk)) < 20)
    index = records(disk)[2]
    foreign = other.get(log_key(index))
    assert foreign is not None
    damaged = copy(disk)
    damaged.write([Put(log_key(index), foreign)])
    with pytest.raises(CorruptDatabase, match=f"record {index}"):
        opens(damaged)


def test_a_lost_file_is_named(whole: tuple[CrashingStore, dict[str, dict[int, int]]]) -> None:
    disk, _ = whole
    names = disk.files()
    assert any(name.startswith("body-") for name in names) and any(name.startswith("segment-") for name in names)
    for name in names:
        damaged = copy(disk)
        damaged.remove_file(name)
        with pytest.raises(CorruptDatabase, match=name):
            Database(damaged, limits=NEVER_BY_ITSELF)  # at once, not when somebody reads it


def test_a_damaged_file_is_named_at_the_latest_when_it_is_read(whole: tuple[CrashingStore, dict[str, dict[int, int]]]) -> None:
    disk, expected = whole
    for name in disk.files():
        content = bytes(disk.map_file(name))
        seen = 0
        for place in {0, len(content) // 2, len(content) - 1}:
            changed = bytes([content[place] ^ 4])
            damaged = copy(disk)
            damaged.remove_file(name)
            damaged.add_file(name, (content[:place], changed, content[place + 1 :]))
            try:
                assert opens(damaged) == expected, f"{name}: other rows, and no error"
            except CorruptDatabase as error:
                assert name in str(error)
                seen += 1
        assert seen, f"{name} may be damaged anywhere and nobody notices"
        for length in (0, len(content) // 2):
            damaged = copy(disk)
            damaged.remove_file(name)
            damaged.add_file(name, (content[:length],))
            with pytest.raises(CorruptDatabase, match=name):
                opens(damaged)


def test_a_lost_or_damaged_piece_of_the_manifest_is_told() -> None:
    disk, _ = played(checkpoint=True)
    pieces = [key for key, _ in disk.scan(b"M", b"N")]
    assert len(pieces) >= 4
    for key in pieces:
        for value in (None, b"", bytes(disk.get(key) or b"")[:-1]):
            damaged = copy(disk)
            damaged.write([Delete(key) if value is None else Put(key, value)])
            with pytest.raises(CorruptDatabase, match=r"manifest"):
                opens(damaged)


def test_a_lost_manifest_is_told_by_the_log() -> None:
    disk, _ = played(checkpoint=True)
    disk.write([Delete(key) for kind in (b"M", b"C") for key, _ in disk.scan(kind, bytes([kind[0] + 1]))])
    with pytest.raises(CorruptDatabase, match="record 1 is missing"):
        opens(disk)


def test_damage_that_is_met_late_hurts_one_table_only() -> None:
    """A chunk that cannot be read is an error of the statement that needs it; the rest of the database goes on."""
    disk, expected = played(checkpoint=True)
    database = Database(disk, limits=NEVER_BY_ITSELF)
    table, second = database.catalog.find("accounts"), database.catalog.find("second")
    assert table is not None and second is not None
    name = database.state.tables[table.id].segments[0].segment.meta.name
    content = bytes(disk.map_file(name))
    disk.remove_file(name)
    disk.add_file(name, (content[: len(content) // 2],))
    reader = database.begin()
    with pytest.raises(CorruptDatabase, match=name):
        scanned(reader, table)
    with pytest.raises(CorruptDatabase, match=name):
        got(reader, table, range(40))
    reader.rollback()
    writer = database.begin()
    assert got(writer, second, [1]) == expected["second"]
    insert(writer, second, 2, 2)
    finish(writer)
    writer = database.begin()
    update(writer, table, 200, 201)
    finish(writer)
    with pytest.raises(CorruptDatabase, match=name):
        database.checkpoint()
    database.close()
    again = Database(disk.killed(), limits=NEVER_BY_ITSELF)
    assert got(again.begin(), second, [1, 2]) == {1: 1, 2: 2}
    assert got(again.begin(), table, [200]) == {200: 201}
    again.close()
