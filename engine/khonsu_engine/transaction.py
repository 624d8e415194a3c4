"""LocalTransaction: waist 2 of an embedded database.

Made by `Database.begin`, used by one thread at a time. How it reads stands in `reading`, how it writes in `writing`, how it locks rows in
`row_locks`; here are its statements and its end, for which it calls the committer. Invariant: after commit or rollback, by error too, the
transaction is over, its snapshot is released exactly once, and it holds no locks.

A statement that meets a row newer than the snapshot may start again (`restarts`), unseen: `renew` moves the snapshot to what is published,
after everything read, guarded and buffered before was validated up to there; so whatever is recorded holds as of `read_timestamp`.
READ COMMITTED does so for each statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic_ns
from typing import TYPE_CHECKING
from weakref import ref

from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.commands import (
    Blocked,
    Commit,
    Isolation,
    Key,
    Outcome,
    Refusal,
    TableId,
    Timestamp,
)
from khonsu_engine.errors import EngineClosed, SerializationConflict, StoreFailed
from khonsu_engine.evidence import conflict
from khonsu_engine.locks import Locking
from khonsu_engine.mvcc.lock_table import LockMode
from khonsu_engine.open_transactions import OpenTransaction
from khonsu_engine.read_set import ReadMark
from khonsu_engine.resolution import without_policies
from khonsu_engine.restarts import LockWait, Superseded
from khonsu_engine.row_locks import RowLocker
from khonsu_engine.snapshots import Pin
from khonsu_engine.state_machine import effects_of, validate
from khonsu_engine.tickets import CommitTicket
from khonsu_engine.watches import Watch

if TYPE_CHECKING:
    from khonsu_engine.database import Database

__all__ = ["LocalTransaction", "StatementMark"]

StatementMark = tuple[int, ReadMark]


class LocalTransaction(RowLocker):
    """One transaction of an embedded database (`protocols.Transaction`)."""

    __slots__ = ("_based", "_outcome", "_unsure", "keeps_snapshot", "read_only", "token")

    def __init__(
        self,
        database: Database,
        name: bytes,
        isolation: Isolation,
        read_only: bool,
        read_timestamp: Timestamp,
        tables: Mapping[TableId, TableVersion],
        restarts: bool = False,
        locking: Locking = Locking.OPTIMISTIC,
        lock_timeout_seconds: float | None = None,
    ) -> None:
        self.token: ref[LocalTransaction] | None = None
        """What the snapshot is registered by, as long as it is read."""
        super().__init__(database, name, isolation, read_only, read_timestamp, tables, restarts, locking, lock_timeout_seconds)
        self.read_only = read_only
        self.keeps_snapshot = isolation is not Isolation.READ_COMMITTED
        self.fresh = True
        self._based: Pin | None = None
        self._outcome: Outcome | None = None
        self._unsure = False

    # -- statements that start again ------------------------------------------------------------------

    def begin_statement(self, *, writes: bool) -> StatementMark:
        """Where a statement begins that may start again. At READ COMMITTED it gets a snapshot of its own, from the second one on."""
        if not self.keeps_snapshot and not self.fresh:
            self._move(writes or self.wrote)
        reads = self._reads
        sizes = tuple(map(len, reads.guard_keys.values())) if reads.guard_keys else ()
        return len(self._undo), (len(reads.predicates), len(reads.guards), tuple(map(len, reads.keys.values())), sizes)

    def undo_statement(self, mark: StatementMark) -> None:
        """Take the statement back that began there, what it read included."""
        self.rollback_to(mark[0])
        self._reads.restore(mark[1])

    def renew(self, cause: Superseded, *, last: bool = False) -> None:
        """Move the snapshot to what is published, for a statement that was taken back because of `cause`.

        Raises SerializationConflict when what was read or written before does not stand there, at REPEATABLE READ once
        something was handed out, and when that was the `last` attempt."""
        noticed = self._conflict(Refusal("write-write", cause.table, (cause.key,), cause.timestamp))
        if last or (self.isolation is Isolation.REPEATABLE_READ and not self.fresh):
            raise noticed
        self._move(True)
        self._database.conflicts.add(noticed, told=False)

    def renew_after_wait(self) -> None:
        """As `renew`, after a lock was waited for; a snapshot that must stay stays."""
        if self._locks is not None:
            self._locks.settle()
        if self.isolation is not Isolation.REPEATABLE_READ or self.fresh:
            self._move(True)

    def changed_since(self, table: TableId, key: Key, base: Timestamp) -> Timestamp:
        """When that key was last changed after `base`, as far as is published; 0: it was not. No read is recorded."""
        version = self._database.state.tables.get(table)
        timestamp = 0 if version is None else version.newest(key, base)
        return timestamp if timestamp > base else 0

    def catch_up(self) -> None:
        """Move the snapshot to what is published, at every level: for somebody who from here on only writes, and commits.

        Raises SerializationConflict when what was read or written before does not stand there."""
        self._require_open()
        self._move(True)

    def _move(self, newest: bool) -> None:
        """Another snapshot, not older, at which everything recorded and buffered holds. Raises SerializationConflict."""
        database, before = self._database, self._freeze() if self.wrote or not self._reads.empty else None
        assert self.token is not None, "the transaction has ended"
        with database.snapshots.pinned(newest, self.read_timestamp) as (timestamp, tables):
            refusal = None if before is None else validate(database.state, without_policies(before))
            if refusal is not None:
                raise self._conflict(refusal)
            if (
                self.wrote and self._based is None
            ):  # what is written is judged from its base on: what comes after that must be known to the end
                self._based = database.snapshots.keep(self.read_timestamp)
            database.snapshots.move(self.token, timestamp)
            created = self._write_set.created
            self._tables = {**tables, **created} if created else tables
            self._catalog = None
            self.read_timestamp = timestamp
            self._ahead = timestamp > database.state.durable

    # -- sleeping -------------------------------------------------------------------------------------

    @property
    def records_reads(self) -> bool:
        """Is it known at the end what was read? At SERIALIZABLE, unless it was declared read only."""
        return self._recording

    def watch(self) -> Watch | None:
        """What was read, to sleep on until it changes; None: nothing was read. Every write is taken back; the caller rolls back then."""
        tables = {*self._reads.keys, *(read.table for read in self._reads.predicates)} - self._write_set.created.keys()
        self.rollback_to(0)  # what that adds, that a key was free, is no reason to sleep, but one to wake up
        return Watch(self._database, self._freeze()) if tables else None

    # -- the end --------------------------------------------------------------------------------------------------

    def commit(self) -> Outcome | CommitTicket:
        """End the transaction. Raises SerializationConflict (nothing applied); after an interrupt `outcome` tells how it ended. Raises
        LockWait, and is still open, when somebody else has locked what it writes."""
        self._require_open()
        if not self.wrote:
            return self._finish_without_writes()
        assert not self.read_only, "reads were not recorded: writes cannot be validated"
        command = self._freeze()
        effects = effects_of(command)
        try:
            self._unsure, self.open = True, False  # from here on it has ended, whatever interrupts
            result = self._database.committer.commit(command, effects, None if self._locks is None else self._locks.owner)
            if isinstance(result, Blocked):
                return self._wait_for(result)
        except LockWait:
            raise
        except BaseException as error:
            self._unsure, self.open = not isinstance(error, (StoreFailed, EngineClosed)), False
            self._discard()
            raise
        finally:
            if not self.open:
                self._release()
        if isinstance(result, Refusal):
            self._unsure = False
            self._discard()
            raise self._conflict(result)
        self._outcome = result if isinstance(result, Outcome) else result.outcome
        self._unsure = False
        return result

    def _wait_for(self, blocked: Blocked) -> Outcome | CommitTicket:
        """Nothing has happened yet: have the lock that is in the way, then commit."""
        self._unsure, self.open = False, True
        self.lock(blocked.table, blocked.target, LockMode.EXCLUSIVE)
        return self.commit()

    @property
    def outcome(self) -> Outcome | None:
        """How it ended: None while it is open, and when nothing was applied.

        What is not durable yet is waited for, and after an interrupt in `commit` the committer is asked. Raises CommitOutcomeUnknown."""
        known = self._outcome
        if self._unsure or (known is not None and known.timestamp > self._database.state.durable):
            self._outcome = self._database.outcome(self.id)
            self._unsure = False
        return self._outcome

    def _finish_without_writes(self) -> Outcome | CommitTicket:
        self.open = False
        self._release()
        self._outcome = Outcome(b"", 0, 0)
        self._database.read_only_commits.add()
        return self._database.committer.durable_ticket(self.read_timestamp) or self._outcome

    def _freeze(self) -> Commit:
        reads, writes = self._reads, self._write_set
        rows = self._unsettled() if self._policied else writes.rows
        touched = {*writes.rows, *writes.bulk, *reads.keys, *(read.table for read in reads.predicates)} - writes.dropped
        schemas = {table: self._tables[table].table for table in touched}
        return Commit(
            self.id,
            self.isolation,
            self.read_timestamp,
            reads.keys,
            tuple(reads.predicates),
            tuple(reads.guards),
            reads.guard_keys,
            rows,
            schemas,
            frozenset(writes.created),
            writes.parts,
            policied=self._policied,
            dropped=frozenset(writes.dropped),
        )

    def _conflict(self, refusal: Refusal) -> SerializationConflict:
        other = refusal.other or self._database.state.recent.transaction_at(refusal.timestamp)
        return conflict(refusal, other, self.names_of(refusal.table), self.id, self.read_timestamp)

    def described(self) -> OpenTransaction:
        """What others may know of it while it is open. From any thread; makes no id."""
        locks, reads = self._locks, self._reads
        keys = [*list(reads.keys.values()), *list(reads.guard_keys.values())]
        parts = [part for parts in list(self._bulk.values()) for part in list(parts)]
        return OpenTransaction(
            self._id,
            self._name,
            self.isolation,
            self._locking,
            self.read_only,
            (monotonic_ns() - self._began) / 1e9,
            self.read_timestamp,
            locks is not None and locks.waiting,
            sum(map(len, list(self._writes.values()))) + sum(segment.meta.rows for part in parts for segment in part.segments),
            sum(map(len, keys)) + len(reads.predicates) + len(reads.guards),
        )

    def rollback(self) -> None:
        """Forget everything. Idempotent."""
        self._release()
        if self.open:
            self.open = False
            self._discard()
            self._database.rollbacks.add()

    def _discard(self) -> None:
        """The files of own bulk writes go as soon as nobody reads or names them."""
        self._database.bulk.discard(self._write_set.parts)

    def _release(self) -> None:
        """Read no more, hold no locks. Repeatable."""
        if self._locks is not None:
            self._locks.release()
        if self.token is not None:
            self._database.snapshots.release(self.token)
            self.token = None
        self._based = None
