"""The background thread: checkpoints, compaction, files nobody needs.

Woken by the committer when a memtable is full or enough was logged; `checkpoint` may be called by anybody. Heavy work happens
outside the commit latch and in slices; under it only finished table versions are exchanged.

Order of a checkpoint: everything up to the cut is durable → its rows stand in synced segment files → one small atomic
manifest names them, synced → the log below it and the files it made superfluous go. A kill anywhere leaves the old checkpoint and the
log, or the new one; files no one names are swept at the next open. A failure here refuses nothing: the log keeps growing,
and `failure` keeps the reason.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from khonsu_engine.columns import compaction, flush
from khonsu_engine.columns.segment import Segment
from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.commands import TableId, Timestamp
from khonsu_engine.protocols import DeleteRange
from khonsu_engine.schema.catalog import CATALOG_TABLE
from khonsu_engine.state_machine import State
from khonsu_engine.storage import keys, manifest
from khonsu_engine.storage.checkpoint import manifest_of
from khonsu_engine.storage.recovery import Recovered

if TYPE_CHECKING:
    from khonsu_engine.database import Database

__all__ = ["Maintenance"]

logger = logging.getLogger("khonsu_engine.maintenance")


class Maintenance:
    """One thread per database, started at the first wake."""

    def __init__(self, database: Database, recovered: Recovered) -> None:
        self.checkpoints = 0
        self.failure: Exception | None = None
        self.compactions = 0
        self._database = database
        self._named: set[str] = set() if recovered.checkpoint is None else manifest.named_files(recovered.checkpoint)
        self._oldest_record = 1  # also below the last checkpoint: a crash may have brought back what it removed
        self._segments: dict[str, Segment] = {}
        self._busy = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()  # its `put` is one step, interrupted before or after, never within
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Something may be due. Called from committing threads: cheap, never raises."""
        if self._thread is None or self._thread.ident is None:  # the latter: Ctrl-C came between its making and its start
            self._start()
        if self._wake.empty():
            self._wake.put(None)

    def _start(self) -> None:
        with self._starting:
            if not self._stopping.is_set() and (self._thread is None or self._thread.ident is None):
                self._thread = threading.Thread(target=self._run, name="khonsu-maintenance", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Stop the thread; what it is doing is finished first. Idempotent."""
        with self._starting:
            self._stopping.set()
        if self._thread is not None and self._thread.ident is not None:
            self._wake.put(None)
            self._thread.join()
        self._thread = None

    def _run(self) -> None:
        while True:
            self._wake.get()
            if self._stopping.is_set():
                self._wake.put(None)  # for a second thread, should an interrupted start have left one
                return
            try:
                if self._database.committer.due:
                    self.checkpoint()
                else:
                    with self._busy:
                        self._remove_files()
            except Exception as error:
                self.failure = error
                logger.exception("background maintenance failed")

    # -- checkpoint -----------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Move recent versions into segments, merge where it is due, write the manifest, shorten the log."""
        database = self._database
        committer, state = database.committer, database.state
        with self._busy:
            committer.due = False
            committer.checkpointed = committer.commits
            logged = committer.log_bytes
            database.wait_durable(state.published)
            mark = state.durable_mark
            self._retire()
            self._flush(mark[2])
            self._retire()
            self._compact(mark[2])
            self._forget_dropped(mark[2])
            self._retire()
            if database.store.durable:
                self._write_manifest(mark)
                committer.log_bytes -= logged
            self.checkpoints += 1
            self._remove_files()

    def _flush(self, timestamp: Timestamp) -> None:
        """Everything up to `timestamp` into segments, table by table."""
        database = self._database
        horizon = database.horizon()
        for number, version in list(database.state.tables.items()):
            if number == CATALOG_TABLE:
                continue
            plan = flush.cut(version, timestamp, horizon)
            if plan is None:
                continue
            plan.write(database.store, database.limits, database.new_file_name)
            plan.prepare(database.state.durable)
            if not self._exchange(number, partial(plan.finish, newest=database.state.durable)):
                for segment in plan.segments:
                    segment.retire(database.unused_files)

    def _exchange(self, number: TableId, finish: Callable[[TableVersion], TableVersion | None]) -> bool:
        """Replace one table version under the commit latch; False when `finish` says that it came too late."""
        done = False

        def change(tables: dict[TableId, TableVersion]) -> dict[TableId, TableVersion]:
            nonlocal done
            current = tables.get(number)
            made = None if current is None else finish(current)
            done = made is not None
            return {**tables, number: made} if made is not None else tables

        self._database.committer.swap(change)
        return done

    def _compact(self, timestamp: Timestamp) -> None:
        database = self._database
        for number in list(database.state.tables):
            while not self._stopping.is_set():
                version = database.state.tables.get(number)
                plan = None if version is None else compaction.choose(version, database.limits, database.horizon(), timestamp)
                if plan is None:
                    break
                plan.write(database.store, database.limits, database.new_file_name)
                if not self._exchange(number, plan.finish):
                    for segment in plan.segments:
                        segment.retire(database.unused_files)
                    break
                self.compactions += 1

    def _forget_dropped(self, timestamp: Timestamp) -> None:
        """Let go of dropped tables no snapshot can see."""
        database = self._database
        upto = min(timestamp, database.horizon())
        if upto >= database.state.catalog.timestamp and len(database.state.catalogs) > 1:
            database.committer.swap(lambda tables: _known_tables(database.state, tables, upto))

    def _retire(self) -> None:
        """Segments that no newest table version has any more (merged, truncated, dropped): their files go with their last pin."""
        database = self._database
        tables = database.state.tables
        current = {view.segment.meta.name: view.segment for version in tables.values() for view in version.segments}
        for name in self._segments.keys() - current.keys():
            self._segments[name].retire(database.unused_files)
        self._segments = current

    def _write_manifest(self, mark: tuple[int, bytes, Timestamp]) -> None:
        database = self._database
        store, state = database.store, database.state
        catalog = state.catalog_at(mark[2])
        written = manifest.write(store, manifest_of(state.tables, catalog, mark, dict(state.counters)))
        named = manifest.named_files(written)
        self._named |= named  # until the new one is durable the old one may be what the next open finds
        store.sync()
        before, self._named = self._named - named, named
        files = database.committer.log_files
        past = {name for name, index in list(files.items()) if index <= mark[0]}
        for name in past:
            files.pop(name, None)
        start, end = keys.log_range(self._oldest_record, mark[0] + 1)
        store.write([DeleteRange(start, end)])
        self._oldest_record = mark[0] + 1
        bodies = {name for name in past if name.startswith("body-")}
        dead_files = {name for name in before if "-dead-" in name}
        for name in bodies | dead_files:
            store.remove_file(name)

    def _remove_files(self) -> None:
        """Remove retired files that neither the manifest nor the log names; the others wait for the next checkpoint."""
        database = self._database
        waiting = []
        while database.unused_files:
            name = database.unused_files.popleft()
            if name in self._named or name in database.committer.log_files:
                waiting.append(name)
            else:
                database.store.remove_file(name)
        database.unused_files.extend(waiting)


def _known_tables(state: State, tables: dict[TableId, TableVersion], upto: Timestamp) -> dict[TableId, TableVersion]:
    """Only the tables of the newest catalog, unless it is newer than `upto`. Under the commit latch: no DDL comes between."""
    if state.catalog.timestamp > upto:
        return tables
    state.catalogs = (state.catalog,)
    known = state.catalog.by_id.keys() | {CATALOG_TABLE}
    return {number: version for number, version in tables.items() if number in known}
