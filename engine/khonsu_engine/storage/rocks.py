"""The store of a durable database: RocksDB for the keyspace, plain files beside it. The only file that imports the binding.

Called by the composition root (`Database.open`), which imports it only for a directory. `directory` says whose it is, `files`
keeps the immutable files, `scan` reads ranges. What was measured about the binding is held by `tests/engine/test_rocks.py`:

* `put`, `get`, `write` and iterators hold the GIL; `flush_wal`, `flush` and `close` release it. A commit is one unsynced `put`,
  and one thread in `sync` makes all of them durable.
* A recycled log file spares the sync a change of the file's length (125 instead of 190 µs). A fresh one has nothing to
  recycle, so after `PRIME_AFTER_SYNCS` syncs two log files are filled and given back (20 ms, once per open).
* An inverted range is half applied and ends all writing; open iterators keep the directory locked after `close`; a forked
  child that frees its copy destroys the parent's database.

Invariants: no exception of the binding leaves this file. A failed sync is final: nothing is written afterwards.
Left out: the durable watermark and the ballast for a full disk (issue D).
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import assert_never
from weakref import WeakSet

from rocksdict import Checkpoint, DBCompressionType, DBRecoveryMode, Options, Rdict, ReadOptions, WriteBatch, WriteOptions

from khonsu_engine.errors import CannotConnect, CorruptDatabase, EngineClosed, EngineError, StoreFailed
from khonsu_engine.protocols import Buffer, Delete, DeleteRange, Put, StoreOperation
from khonsu_engine.storage.directory import FORMAT_NAME, FORMAT_VERSION, Claim, mark_ready
from khonsu_engine.storage.files import FileSet, sync_directory
from khonsu_engine.storage.forks import USED_AFTER_FORK, never_free, register
from khonsu_engine.storage.keys import FORMAT, PRIMER, VALUE_BYTES_LIMIT
from khonsu_engine.storage.scan import Scan

__all__ = ["RocksStore"]

WRITE_BUFFER_BYTES = 4 << 20
"""RocksDB's memtable and so its log files: small ones are primed and replayed quickly, and their flushes disturb a sync least."""

PRIME_AFTER_SYNCS = 64
"""Syncs after which a database is worth priming; a short visit never pays for it."""

PRIMER_BYTES = 32 << 10
_STALL = "Result incomplete"  # begins what RocksDB says when `no_slowdown` keeps it from waiting
_FORMAT_VALUE = f"{FORMAT_NAME} {FORMAT_VERSION}".encode()


class RocksStore:
    """A `Store` in a directory. Thread-safe; one process at a time."""

    durable = True

    def __init__(self, directory: Path, create: bool = True, *, write_buffer_bytes: int = WRITE_BUFFER_BYTES) -> None:
        """Open the database in `directory`; with `create`, make it where there is none.

        Raises CannotConnect, DatabaseInUse, CorruptDatabase."""
        self._ended = self._broken = ""
        self._refusing, self._syncs = False, 0
        self._write_buffer_bytes = write_buffer_bytes
        self._latch = threading.Lock()  # around what releases the GIL inside the binding: sync, flush, checkpoint, close
        self._reading = threading.Lock()  # around a step of a scan, so that close finds no iterator in use
        self._scans: WeakSet[Scan] = WeakSet()
        self._at_once = WriteOptions()
        self._at_once.no_slowdown = True
        self.directory = directory = Path(os.path.abspath(directory))
        self._files = FileSet(directory / "files")
        self._claim = Claim(directory, create)
        try:
            self._db = _open(directory / "rocks", self._claim.fresh, write_buffer_bytes)
            self._settle_in()
        except BaseException as error:
            self._claim.release()
            if isinstance(error, OSError):
                raise CannotConnect(f"cannot open {directory}: {error.strerror or error}") from error
            raise
        register(self)

    def _settle_in(self) -> None:
        """Finish a fresh database, look at an old one."""
        try:
            if self._claim.fresh:
                self._files.create()
                self.put(FORMAT, _FORMAT_VALUE)
                self.sync()
                sync_directory(self.directory)
                self._claim.ready()
            elif (found := self.get(FORMAT)) != _FORMAT_VALUE:
                raise CorruptDatabase(f"{self.directory}: the keyspace does not belong to the marker: it says {found!r}")
            else:
                self._files.sweep()
        except BaseException:
            self._db.close()
            raise

    def get(self, key: bytes) -> bytes | None:
        if self._ended:
            raise EngineClosed(self._ended)
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:
            raise self._translated(error) from error
        return value

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """The pairs as of this call. EngineClosed when the store is closed before they are read out."""
        self._check_open()
        if start >= end:
            return iter(())
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(end)  # (its set_iterate_lower_bound sets the upper one too)
        try:
            cursor = self._db.iter(bounds)
            cursor.seek_to_last() if reverse else cursor.seek(start)
        except Exception as error:
            raise self._translated(error) from error
        scan = Scan(cursor, bounds, start, reverse, self._reading, self._check_open, self._translated)
        self._scans.add(scan)
        return scan

    def put(self, key: bytes, value: bytes) -> None:
        if self._refusing:
            raise self._refusal()
        assert len(value) < VALUE_BYTES_LIMIT
        try:
            self._db.put(key, value, self._at_once)
        except Exception as error:
            if not str(error).startswith(_STALL):
                raise self._translated(error) from error
            self._flush()  # memtables fill faster than they are flushed: wait for that, with the GIL free
            self.write((Put(key, value),))

    def write(self, operations: Sequence[StoreOperation]) -> None:
        self._check_writable()
        batch = _batch(operations)
        try:
            self._db.write(batch, self._at_once)
        except Exception as error:
            if not str(error).startswith(_STALL):
                raise self._translated(error) from error
            self._flush()
            self.write(operations)

    def sync(self) -> None:
        """A failure is final: StoreFailed now and at every later write; whether the last writes survive shows at the next open."""
        self._outside_gil(lambda: self._db.flush_wal(True), final=True)
        self._syncs += 1
        if self._syncs == PRIME_AFTER_SYNCS:
            with suppress(EngineError, OSError):  # it only saves time: what is wrong is said by the next put or sync
                self._prime()

    def _prime(self) -> None:
        """Fill two log files to their full length and give them back: the log is written over them from now on."""
        if shutil.disk_usage(self.directory).free < 64 * self._write_buffer_bytes:
            return
        value = bytes(PRIMER_BYTES)
        for _ in range(2):
            for _ in range(self._write_buffer_bytes * 7 // 8 // PRIMER_BYTES):
                self.put(PRIMER, value)
            self._flush()
        self.write([Delete(PRIMER)])

    def _flush(self) -> None:
        self._outside_gil(self._db.flush)

    def _outside_gil(self, action: Callable[[], None], *, final: bool = False) -> None:
        """Run something that releases the GIL within the binding. With `final`, an error forbids every later write."""
        self._check_writable()
        with self._latch:
            self._check_writable()
            try:
                action()
            except Exception as error:
                if final:
                    self._broken, self._refusing = str(error), True
                raise self._translated(error) from error

    def add_file(self, name: str, chunks: Iterable[Buffer]) -> int:
        self._check_writable()
        return self._files.add(name, chunks)

    def map_file(self, name: str) -> Buffer:
        self._check_open()
        return self._files.map(name)

    def remove_file(self, name: str) -> None:
        self._check_writable()
        self._files.remove(name)

    def files(self) -> list[str]:
        self._check_open()
        return self._files.names()

    def checkpoint(self, directory: Path) -> None:
        """A database of its own in the new `directory` (same file system): hard links, and the marker last.

        Holds what was written before the call. Raises StoreFailed; what is there then is no database."""
        self._flush()  # so that the checkpoint itself, which holds the GIL, has nothing left to write
        with self._latch:
            self._check_writable()
            try:
                directory.mkdir()
                Checkpoint(self._db).create_checkpoint(str(directory / "rocks"))
                self._files.link_into(directory / "files")
                mark_ready(directory)
                sync_directory(directory.parent)
            except Exception as error:
                raise StoreFailed(f"the checkpoint {directory} could not be made: {error}") from error

    def close(self) -> None:
        """Let the directory go. What was not synced may be lost. Open scans raise from now on; mappings stay valid. Idempotent."""
        if self._ended:
            return
        self._ended = f"the database {self.directory} is closed"
        self._refusing = True
        with self._latch, self._reading:
            for scan in tuple(self._scans):
                scan.cursor = None
            try:
                self._db.close()
            except Exception as error:
                if not self._broken:  # after a failed sync it says the same once more
                    raise StoreFailed(f"{self.directory} did not close cleanly: {error}") from error
            finally:
                self._claim.release()

    def poison(self) -> None:
        """In a forked child: refuse everything, and never free what the parent is using."""
        self._ended = USED_AFTER_FORK
        self._refusing = True
        never_free(self._db, *(scan.cursor for scan in tuple(self._scans)))
        self._claim.release()

    def _check_open(self) -> None:
        if self._ended:
            raise EngineClosed(self._ended)

    def _check_writable(self) -> None:
        if self._refusing:
            raise self._refusal()

    def _refusal(self) -> EngineError:
        if self._ended:
            return EngineClosed(self._ended)
        return StoreFailed(f"{self.directory} accepts no more writes until it is reopened: a sync has failed", detail=self._broken)

    def _translated(self, error: Exception) -> EngineError:
        if self._ended:
            return EngineClosed(self._ended)
        text = str(error)
        if text.startswith("Corruption"):
            return CorruptDatabase(f"{self.directory} is damaged: {text}")
        return StoreFailed(f"the store in {self.directory} failed: {text}")


def _batch(operations: Sequence[StoreOperation]) -> WriteBatch:
    batch = WriteBatch(raw_mode=True)
    for operation in operations:
        match operation:
            case Put(key, value):
                assert len(value) < VALUE_BYTES_LIMIT
                batch.put(key, value)
            case Delete(key):
                batch.delete(key)
            case DeleteRange(start, end):
                if start < end:
                    batch.delete_range(start, end)
            case _:
                assert_never(operation)
    return batch


def _open(path: Path, create: bool, write_buffer_bytes: int) -> Rdict:
    """Raises CannotConnect, CorruptDatabase."""
    try:
        return Rdict(str(path), _options(create, write_buffer_bytes))
    except Exception as error:
        text = str(error)
        if text.startswith(("Corruption", "Invalid argument", "NotFound")):
            raise CorruptDatabase(f"{path} is damaged: {text}") from error
        raise CannotConnect(f"cannot open {path}: {text}") from error


def _options(create: bool, write_buffer_bytes: int) -> Options:
    options = Options(raw_mode=True)  # the other mode unpickles what it finds
    options.create_if_missing(create)
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    options.set_recycle_log_file_num(4)
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_max_write_buffer_number(4)
    options.set_level_zero_file_num_compaction_trigger(8)  # records go by ranges: to merge them early is work for nothing
    options.set_level_zero_slowdown_writes_trigger(64)
    options.set_level_zero_stop_writes_trigger(128)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 << 20)
    options.set_stats_dump_period_sec(0)
    return options
