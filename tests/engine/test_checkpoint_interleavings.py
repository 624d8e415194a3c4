"""Something happens at every line of a checkpoint: commits, bulk writes, TRUNCATE, DDL, snapshots. Nothing is lost or seen twice.

A trace function runs the action before the n-th line that the checkpoint executes, for every n, so no race depends on luck. Lines
under the commit latch or the snapshot latch are passed over: there nothing else can happen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import khonsu_engine
from khonsu_engine.database import Database
from khonsu_engine.schema.catalog import Table
from khonsu_engine.transaction import LocalTransaction
from tests.engine.accounts import (
    NEVER_BY_ITSELF,
    content,
    contents,
    create,
    delete,
    finish,
    got,
    insert,
    listed,
    put,
    put_bulk,
    scanned,
    shape,
)
from tests.stores import CrashingStore

ENGINE = Path(khonsu_engine.__file__).parent
ROOMS = {
    str(ENGINE / name)
    for name in ("maintenance.py", "columns/flush.py", "columns/compaction.py", "storage/checkpoint.py", "storage/manifest.py")
}


class At:
    """Runs `action` before the `line`-th line of a checkpoint in this thread."""

    def __init__(self, database: Database, line: int, action: Callable[[], object]) -> None:
        self._database = database
        self._left = line
        self._action = action
        self.where = ""

    def __enter__(self) -> At:
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename in ROOMS and not self.where else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event != "line" or self.where or self._database.committer.latch.locked() or self._database.snapshots.latch.locked():
            return self._line
        self._left -= 1
        if self._left == 0:
            self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            self._action()
        return self._line


# -- what happens -----------------------------------------------------------------------------------------------------


class Scene:
    """A database that has something to flush, to merge and to forget, and its model."""

    def __init__(self) -> None:
        self.disk = CrashingStore()
        self.database = database = Database(self.disk, limits=NEVER_BY_ITSELF)
        self.table = create(database, balances={key: key for key in range(30)})
        gone = create(database, "gone", {1: 1})
        create(database, "other", {1: 1, 2: 2})
        database.checkpoint()
        for start in (30, 40):
            self.commit(lambda writer, start=start: put_bulk(writer, self.table, {key: key for key in range(start, start + 10)}))
        self.commit(lambda writer: [delete(writer, self.table, key) for key in range(0, 20, 2)])
        database.checkpoint()
        self.commit(lambda writer: [put(writer, self.table, key, key + 100) for key in range(1, 50, 4)])
        self.commit(lambda writer: [delete(writer, self.table, key) for key in range(3, 50, 8)])
        self.commit(lambda writer: writer.drop_table(gone))
        self.model = contents(database)
        self.held: list[tuple[LocalTransaction, Table, dict[int, int]]] = []

    def commit(self, action: Callable[[LocalTransaction], object]) -> None:
        writer = self.database.begin(writes_first=True)
        action(writer)
        finish(writer)

    def hold(self) -> None:
        """A snapshot to be read at the end."""
        self.held.append((self.database.begin(), self.table, dict(self.model.get("accounts", {}))))

    def check(self, where: str) -> None:
        assert contents(self.database) == self.model, where
        for reader, table, expected in self.held:
            assert got(reader, table, range(120)) == expected, f"{where}: a snapshot has changed"
            assert listed(reader, table) == expected and scanned(reader, table) == expected, f"{where}: a snapshot has changed"


def rows(scene: Scene) -> None:
    def change(writer: LocalTransaction) -> None:
        for key in (1, 2, 3, 31, 100):
            put(writer, scene.table, key, 1_000 + key)
        for key in (5, 45):
            delete(writer, scene.table, key)

    scene.commit(change)
    accounts = scene.model["accounts"]
    accounts.update({key: 1_000 + key for key in (1, 2, 3, 31, 100)})
    del accounts[5], accounts[45]


def undurable_rows(scene: Scene) -> None:
    """Published, and its sync is on the way."""
    writer = scene.database.begin(writes_first=True)
    put(writer, scene.table, 1, 7_777)
    writer.commit()
    scene.model["accounts"][1] = 7_777


def bulk_rows(scene: Scene) -> None:
    scene.commit(lambda writer: put_bulk(writer, scene.table, {key: -key for key in (0, 3, 60, 61, 62)}))
    scene.model["accounts"].update({key: -key for key in (0, 3, 60, 61, 62)})


def truncation(scene: Scene) -> None:
    scene.commit(lambda writer: put_bulk(writer, scene.table, {1: -1, 70: -70}, truncate=True))
    scene.model["accounts"] = {1: -1, 70: -70}


def truncation_and_bulk(scene: Scene) -> None:
    """A bulk write is published and gone again before the checkpoint is through."""
    scene.commit(lambda writer: put_bulk(writer, scene.table, {80: 80, 81: 81}))
    scene.commit(lambda writer: put_bulk(writer, scene.table, {}, truncate=True))
    scene.commit(lambda writer: put(writer, scene.table, 80, 8))
    scene.model["accounts"] = {80: 8}


def creation(scene: Scene) -> None:
    def change(writer: LocalTransaction) -> None:
        made = writer.create_table(shape("made"))
        insert(writer, made, 1, 1)
        put_bulk(writer, made, {10: 10, 11: 11})

    scene.commit(change)
    made = scene.database.catalog.find("made")
    assert made is not None
    scene.commit(lambda writer: insert(writer, made, 2, 2))
    scene.model["made"] = {1: 1, 2: 2, 10: 10, 11: 11}


def removal(scene: Scene) -> None:
    other = scene.database.catalog.find("other")
    assert other is not None
    scene.commit(lambda writer: put(writer, other, 1, 5))
    scene.commit(lambda writer: writer.drop_table(other))
    del scene.model["other"]


def replacement(scene: Scene) -> None:
    other = scene.database.catalog.find("other")
    assert other is not None

    def change(writer: LocalTransaction) -> None:
        writer.drop_table(other)
        insert(writer, writer.create_table(shape("other")), 9, 9)

    scene.commit(change)
    scene.model["other"] = {9: 9}


def snapshot(scene: Scene) -> None:
    """A snapshot taken in the middle, and rows that change under it."""
    scene.hold()
    rows(scene)


ACTIONS: list[Callable[[Scene], None]] = [
    rows,
    undurable_rows,
    bulk_rows,
    truncation,
    truncation_and_bulk,
    creation,
    removal,
    replacement,
    snapshot,
]


def interleaved(action: Callable[[Scene], None], first: int, step: int) -> int:
    """The action at lines `first`, `first + step`, …; returns at how many."""
    line, through, tried = first, False, 0
    while not through:
        scene = Scene()
        database = scene.database
        if line % 2:
            scene.hold()
        compactions = database.metrics["compactions"]
        with At(database, line, lambda scene=scene: action(scene)) as at:
            database.checkpoint()
        through = not at.where
        if through:
            assert database.metrics["compactions"] > compactions, "this checkpoint merges nothing"
            action(scene)
        tried += 1
        database.wait_durable(database.state.published)
        scene.check(at.where)
        found = Database(copy(scene.disk).crash(None), limits=NEVER_BY_ITSELF)
        assert contents(found) == scene.model, f"{at.where}: after a crash"
        found.close()
        rows_of_the_end(scene)
        database.checkpoint()
        scene.check(at.where)
        database.close()
        found = Database(scene.disk.killed(), limits=NEVER_BY_ITSELF)
        assert contents(found) == scene.model, f"{at.where}: after one more checkpoint"
        found.close()
        line += step
    return tried


def rows_of_the_end(scene: Scene) -> None:
    """The table goes on living."""
    scene.commit(lambda writer: [put(writer, scene.table, key, 5_000) for key in (1, 7, 80)])
    scene.model["accounts"].update(dict.fromkeys((1, 7, 80), 5_000))
    assert content(scene.database, scene.table) == scene.model["accounts"]


def copy(disk: CrashingStore) -> CrashingStore:
    return CrashingStore(dict(disk.scan(b"", b"\xff")), dict(disk._files))


@pytest.mark.parametrize("action", ACTIONS)
def test_at_some_lines(action: Callable[[Scene], None]) -> None:
    assert interleaved(action, 1 + 3 * ACTIONS.index(action), 29) > 10


@pytest.mark.deep
@pytest.mark.parametrize("action", ACTIONS)
def test_at_every_fourth_line(action: Callable[[Scene], None]) -> None:
    assert interleaved(action, 1 + ACTIONS.index(action) % 4, 4) > 75
