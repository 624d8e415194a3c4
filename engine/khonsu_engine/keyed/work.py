"""One transaction of keyed values: its calls, its levels, its end.

Made by `keyspace`; `heads` and the transactions of users read and write in its calls. Each call is a statement: at READ COMMITTED it reads
what is committed when it begins. Calls take no locks; conflicts are found at the commit.

Invariants:
  * one call at a time: a second thread is refused, not queued;
  * a refused argument leaves the transaction as it was; any other error ends it, rolled back;
  * nothing is handed out that depends on a commit which is not durable;
  * a key that was read is written as of when it was read, at READ COMMITTED too: nobody's change in between is overwritten;
  * dropped, it is rolled back, for it alone keeps the engine's transaction.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from khonsu_engine.commands import Collision, Isolation, Key, Outcome, TableId, Timestamp
from khonsu_engine.errors import (
    CommitOutcomeUnknown,
    EngineError,
    InvalidArgument,
    InvalidTransactionState,
    InvalidValue,
    LimitExceeded,
    NotSupported,
    RevisionGone,
    SchemaMismatch,
    UniqueViolation,
)
from khonsu_engine.keyed.statuses import ABORTED, UNKNOWN, TransactionStatus
from khonsu_engine.restarts import LockWait
from khonsu_engine.snapshots import Pin

if TYPE_CHECKING:
    from khonsu_engine.keyed.keyspace import Keyspace
    from khonsu_engine.mvcc.lock_table import LockMode
    from khonsu_engine.tickets import CommitTicket
    from khonsu_engine.transaction import LocalTransaction

__all__ = ["Work"]

_REFUSALS = (InvalidArgument, InvalidValue, LimitExceeded, NotSupported, RevisionGone, SchemaMismatch, UniqueViolation)
"""What a call may raise without ending the transaction: nothing was buffered yet."""


class Work:
    """`transaction`: of the engine. `moment`: when it began, on the wall clock. `ended`: why it takes no more calls, or ""."""

    __slots__ = ("__weakref__", "_based", "_busy", "_keyspace", "_read_at", "ended", "id", "moment", "name", "read_only", "transaction")

    def __init__(self, keyspace: Keyspace, transaction: LocalTransaction, name: bytes, moment: datetime) -> None:
        self.transaction = transaction
        self.id = transaction.id
        self.name = name
        self.moment = moment
        self.read_only = transaction.read_only
        self.ended = ""
        self._keyspace = keyspace
        self._busy = threading.Lock()
        self._read_at: dict[tuple[TableId, Key], Timestamp] | None = {} if transaction.isolation is Isolation.READ_COMMITTED else None
        self._based: Pin | None = None

    # -- calls ----------------------------------------------------------------------------------------------------

    @contextmanager
    def call(self, *, writes: bool = False) -> Iterator[LocalTransaction]:
        """One call. Raises InvalidTransactionState (it has ended, is read only, or another thread is in a call of it), EngineClosed."""
        transaction = self.transaction
        with self._alone():
            self._require_open()
            if writes and self.read_only:
                raise InvalidTransactionState("cannot write in a read-only transaction")
            try:
                transaction.begin_statement(writes=False)
                yield transaction
                if transaction.seen:
                    self._keyspace.database.wait_durable(transaction.seen)
                    transaction.seen = 0
            except _REFUSALS:
                raise
            except BaseException as error:
                self._fail(error)
                raise
            finally:
                transaction.fresh = False

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise InvalidTransactionState(
                "the transaction is in use by another thread", hint="A transaction belongs to one thread at a time; begin one for each."
            )
        try:
            yield
        finally:
            self._busy.release()

    def _require_open(self) -> None:
        if self.ended:
            raise InvalidTransactionState(f"the transaction has ended: {self.ended}", hint="Begin another one.")
        self._keyspace.check()

    def note_read(self, table: TableId, key: Key) -> None:
        """That key has been read now. What comes after that must be known to the end, for a write of it."""
        if self._read_at is not None:
            if self._based is None and not self.read_only:
                self._based = self._keyspace.database.snapshots.keep(self.transaction.read_timestamp)
            self._read_at[table, key] = self.transaction.read_timestamp

    def base(self, table: TableId, key: Key) -> Timestamp:
        """As of when the state of that key is known, for a write that must not overwrite a later one."""
        now = self.transaction.read_timestamp
        return now if self._read_at is None else self._read_at.get((table, key), now)

    def note_base(self, table: TableId, key: Key, base: Timestamp) -> None:
        """A write of that key is as of `base`, from here on."""
        if self._read_at is not None:
            self._read_at[table, key] = base

    def lock(self, table: TableId, key: Key, mode: LockMode) -> None:
        """Have a hard lock until the end; waits for it. Raises DeadlockDetected, LockNotAvailable."""
        while True:
            try:
                self.transaction.lock(table, key, mode)
                return
            except LockWait as wait:
                wait.ticket.wait()

    # -- the end --------------------------------------------------------------------------------------------------

    def commit(self, prepare: Callable[[LocalTransaction], tuple[Collision, ...]] | None = None) -> Outcome:
        """End it; returns when that is durable. Timestamp and index of the outcome are 0 when nothing was written.

        `prepare`: what is buffered only now; returns the collisions that were decided. What it raises ends the transaction, too.
        Raises SerializationConflict (nothing is applied), CommitOutcomeUnknown, StoreFailed."""
        with self._alone():
            self._require_open()
            transaction = self.transaction
            conflicts: tuple[Collision, ...] = ()
            try:
                if prepare is not None:
                    conflicts = prepare(transaction)
                wrote = transaction.wrote
                answer = self._sequenced()
                if not isinstance(answer, Outcome):
                    answer.wait()
            except BaseException as error:
                self._fail(error)
                raise
            outcome = transaction.outcome if wrote else None
            outcome = outcome or Outcome(self.id, 0, 0)
            self._end("it was committed", TransactionStatus("committed", outcome.timestamp, outcome.index))
            return replace(outcome, conflicts=conflicts) if conflicts else outcome

    def _sequenced(self) -> Outcome | CommitTicket:
        while True:
            try:
                return self.transaction.commit()
            except LockWait as wait:  # somebody else has locked what is written here
                wait.ticket.wait()

    def rollback(self, reason: str = "it was rolled back") -> None:
        """Forget everything. Idempotent. Raises InvalidTransactionState while another thread is in a call."""
        with self._alone():
            if not self.ended:
                self.transaction.rollback()
                self._end(reason, ABORTED)

    def _fail(self, error: BaseException) -> None:
        """`error` ends it. After an interrupt of a commit the engine knows how it ended."""
        transaction = self.transaction
        status = ABORTED
        try:
            if not transaction.open:
                known = transaction.outcome
                if known is not None:
                    status = TransactionStatus("committed", known.timestamp, known.index)
        except CommitOutcomeUnknown:
            status = UNKNOWN
        transaction.rollback()
        told = error.message if isinstance(error, EngineError) else type(error).__name__
        self._end(f"it is {status.state} after an error ({told})", status)
        cause = error.evidence.get("commit_timestamp", 0) if isinstance(error, EngineError) else 0
        if cause:  # told only when it is durable
            self._keyspace.wait_durable(cause)

    def _end(self, reason: str, status: TransactionStatus) -> None:
        self.ended = reason
        self._based = None
        self._keyspace.note_end(self, status)
