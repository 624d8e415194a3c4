"""The composition root of an embedded database: one store, one log, one committer, one maintenance thread, one reaper.

Called by the front (`khonsu_sql`) and by whoever uses the engine without SQL. `Database.open` recovers; `begin` gives
transactions; `close` makes everything durable and lets the directory go.

Invariant: rooms below know each other only through what is given to them here.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from khonsu_engine.bulk import BulkWriter
from khonsu_engine.commands import Isolation, Outcome, TableId, Timestamp, TransactionId
from khonsu_engine.committer import Committer
from khonsu_engine.conflict_ring import ConflictRing
from khonsu_engine.errors import CannotConnect, EngineClosed, EngineError, StoreFailed
from khonsu_engine.evidence import place_of
from khonsu_engine.latches import stand_back
from khonsu_engine.limits import DEFAULT, Limits
from khonsu_engine.locks import Locking, Locks
from khonsu_engine.maintenance import Maintenance
from khonsu_engine.metrics import measure
from khonsu_engine.mvcc.clock import LOGICAL_BITS
from khonsu_engine.protocols import Store
from khonsu_engine.reaper import Reaper
from khonsu_engine.schema.catalog import FIRST_USER_TABLE, Catalog
from khonsu_engine.snapshots import SnapshotRegistry, Tables
from khonsu_engine.starving import StarvingTransaction
from khonsu_engine.state_machine import State
from khonsu_engine.storage import recovery
from khonsu_engine.syncer import Synchronous
from khonsu_engine.tally import Tally
from khonsu_engine.tickets import outcome_unknown
from khonsu_engine.transaction import LocalTransaction

__all__ = ["Database"]


SYNCHRONOUS = ("full", "normal", "off")
ROW_ID_BLOCK = 1_024


class Database:
    """One open database. Thread-safe; transactions are not."""

    def __init__(self, store: Store, *, limits: Limits = DEFAULT, synchronous: Synchronous = "full") -> None:
        """Recover from `store` (any implementation of the Store protocol) and start."""
        if synchronous not in SYNCHRONOUS:
            raise CannotConnect(f"synchronous must be one of {', '.join(SYNCHRONOUS)}, not {synchronous!r}")
        self.store = store
        self.limits = limits
        self.synchronous = synchronous
        self.unused_files: deque[str] = deque()
        self.closed = False
        self._process = os.getpid()
        self._counter_latch = threading.Lock()
        self._row_ids: dict[TableId, tuple[int, int]] = {}
        self._last_id = 0
        self._last_file = 0
        recovered = recovery.recover(store)
        self.state: State = recovered.state
        self.snapshots = SnapshotRegistry(self.state)
        self.locks = Locks(self.place_of)
        self.conflicts = ConflictRing()
        self.reservations, self.rollbacks, self.read_only_commits = Tally(), Tally(), Tally()
        self.savepoints, self.retries = Tally(), Tally()
        """Counted by the front: SAVEPOINT, and attempts of `run_transaction` after the first one."""
        self.committer = Committer(self.state, store, limits, synchronous, self.snapshots.readers, self.new_transaction_id, self.locks)
        self.watches = self.committer.watches
        self.committer.syncer.on_failure = self.watches.wake_all
        self.committer.log_bytes = recovered.log_bytes
        self.committer.log_files = recovered.log_files
        self.bulk = BulkWriter(self)
        self.maintenance = Maintenance(self, recovered)
        self.reaper = Reaper()
        self.committer.on_due = self.maintenance.wake
        self.committer.start()
        _open.add(self)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | None, *, limits: Limits = DEFAULT, synchronous: Synchronous = "full", create: bool = True
    ) -> Database:
        """Open (or make) the database in directory `path`; None: in memory.

        Raises CannotConnect, DatabaseInUse, CorruptDatabase."""
        store: Store
        if path is None:
            from khonsu_engine.storage.memory import MemoryStore

            store = MemoryStore()
        else:
            from khonsu_engine.storage.rocks import RocksStore

            store = RocksStore(Path(path), create=create)
        try:
            return cls(store, limits=limits, synchronous=synchronous)
        except BaseException:
            store.close()
            raise

    # -- snapshots ------------------------------------------------------------------------------------------------

    @property
    def catalog(self) -> Catalog:
        """The newest published catalog."""
        return self.state.catalog

    def begin(
        self,
        isolation: Isolation = Isolation.SERIALIZABLE,
        *,
        read_only: bool = False,
        writes_first: bool = False,
        name: bytes | None = None,
        restarts: bool = False,
        locking: Locking = Locking.OPTIMISTIC,
        lock_timeout_seconds: float | None = None,
        holds_reads: bool = False,
    ) -> LocalTransaction:
        """Begin a transaction. It reads at the last durable commit, or with `writes_first` at the last published one.

        `name`: the 8 random bytes of the connection it belongs to (drawn here when None). `restarts`: the caller runs statements
        again that meet a newer row (`restarts.Superseded`); else such a write is found at the commit. `locking`: whether its writes
        take locks, for which they may have to wait (`restarts.LockWait`), a hard one at most `lock_timeout_seconds`. `holds_reads`: it
        locks what it reads, too (`starving`)."""
        if self.closed:
            raise EngineClosed("the database is closed")
        kind = StarvingTransaction if holds_reads else LocalTransaction
        name = name or os.urandom(8)  # (which gives up the interpreter: not under the latch)

        def make(timestamp: Timestamp, tables: Tables) -> LocalTransaction:
            return kind(self, name, isolation, read_only, timestamp, tables, restarts, locking, lock_timeout_seconds)

        transaction, token = self.snapshots.take(writes_first, make)
        transaction.token = token
        return transaction

    def horizon(self) -> Timestamp:
        """The oldest timestamp anybody reads at, or will."""
        return self.snapshots.horizon()

    # -- names and numbers ----------------------------------------------------------------------------------------

    def new_transaction_id(self, name: bytes) -> TransactionId:
        """8 bytes of time, rising within the process, and the 8 bytes of the connection."""
        now = time.time_ns() // 1_000_000 << LOGICAL_BITS
        self._last_id = now = max(now, self._last_id + 1)
        return now.to_bytes(8, "big") + name

    def new_table_id(self) -> TableId:
        """A table id, never used before and never again."""
        return FIRST_USER_TABLE + self._reserve("table", 1)

    def new_file_name(self) -> str:
        """A name no file of this directory has ever had."""
        if self._counter_latch.locked():
            stand_back(self._counter_latch)
        with self._counter_latch:
            self._last_file = now = max(time.time_ns(), self._last_file + 1)
        return f"segment-{now:016x}"

    def reserve_row_ids(self, table: TableId, count: int) -> int:
        """The first of `count` consecutive hidden row ids of `table`, never handed out before."""
        if self._counter_latch.locked():
            stand_back(self._counter_latch)
        with self._counter_latch:
            following, end = self._row_ids.get(table, (0, 0))
            if following + count > end:
                block = max(ROW_ID_BLOCK, count)
                following = self._reserve(f"row/{table}", block)
                end = following + block
            self._row_ids[table] = (following + count, end)
            return following

    def _reserve(self, counter: str, count: int) -> int:
        """The first of `count` numbers of a counter. Its record in the log is no commit of a transaction."""
        first = self.committer.reserve(counter, count)
        self.reservations.add()
        return first

    def place_of(self, table: TableId, target: Any) -> tuple[str, str | None, str | None]:
        """What a lock is on, for messages and views: base table, index, key or range as text."""
        return place_of(self.state.catalog, table, target)

    # -- durability -----------------------------------------------------------------------------------------------

    def wait_durable(self, timestamp: Timestamp) -> None:
        """Block until everything up to `timestamp` is durable. Raises StoreFailed when its sync failed."""
        ticket = self.committer.durable_ticket(timestamp)
        if ticket is not None:
            ticket.wait()

    def outcome(self, transaction_id: TransactionId) -> Outcome | None:
        """How a transaction ended: its outcome when it committed and is the last of its connection, else None.

        Waits until that is durable. Raises CommitOutcomeUnknown when it cannot be made so."""
        return self._durably(self.committer.outcome(transaction_id))

    def last_outcome(self, name: bytes) -> Outcome | None:
        """How the last transaction that wrote on the connection of that name ended, as `outcome` tells it."""
        return self._durably(self.committer.last_outcome(name))

    def _durably(self, found: Outcome | None) -> Outcome | None:
        if found is not None:
            try:
                self.wait_durable(found.timestamp)
            except StoreFailed as error:
                raise outcome_unknown(found.transaction_id, error) from error
        return found

    def checkpoint(self) -> None:
        """Turn recent versions into segments, write the manifest, shorten the log. Returns when it is durable."""
        self.maintenance.checkpoint()

    @property
    def metrics(self) -> dict[str, int | float]:
        """What `metrics.measure` tells, by name: counts since the open, and sizes of what is kept in memory."""
        return {metric.name: metric.value for metric in measure(self)}

    def close(self) -> None:
        """Make everything durable, stop the threads, let the directory go. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self.watches.wake_all()
        try:
            self.reaper.stop()
            self.maintenance.stop()
            self.committer.close()
        finally:
            self.store.close()


_open: weakref.WeakSet[Database] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """At exit: a thread inside the store would abort the process. A forked child leaves its parent's databases alone."""
    for database in list(_open):
        if database._process == os.getpid():
            with suppress(EngineError):
                database.close()
