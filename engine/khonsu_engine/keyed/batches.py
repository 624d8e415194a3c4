"""Keyed batches: Arrow record batches under keys, in transactions.

Made by `khonsu_engine.open`, and by a connection for its own database. A `BatchStore` is thread-safe; a `BatchTransaction` belongs to one
thread at a time. The unit of versions and of conflicts is the key. Docs: docs/engine_api.md.

A batch is kept in two tables (`shapes`, `contents`): its head, which conflicts are about, and its content, a row for each revision kept.
Contents never change, so reading one needs no note: the head was read. What is kept beyond its turn is deleted at the commit, so within a
transaction every content stays readable. Appends, and writes with another policy than FAIL, are kept back until the commit (`blind`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType

import pyarrow as pa

from khonsu_engine.commands import Collision, ConflictPolicy, Isolation, Outcome, Row, TransactionId
from khonsu_engine.database import Database
from khonsu_engine.errors import InvalidArgument, RevisionGone
from khonsu_engine.keyed.batch_codec import checked_batch, decode_batch, encode_batch
from khonsu_engine.keyed.blind import BlindWrites
from khonsu_engine.keyed.contents import Contents, revision_of
from khonsu_engine.keyed.expiry import Expires, moment_of
from khonsu_engine.keyed.heads import is_live
from khonsu_engine.keyed.keys import checked_key, checked_prefix, shown
from khonsu_engine.keyed.keyspace import Keyspace, level_of
from khonsu_engine.keyed.merge import merged
from khonsu_engine.keyed.policies import Value, applied, policy_of, with_appended
from khonsu_engine.keyed.shapes import LIVE, OLDEST, REVISION
from khonsu_engine.keyed.statuses import TransactionStatus
from khonsu_engine.keyed.work import Work
from khonsu_engine.transaction import LocalTransaction

__all__ = ["REVISIONS_KEPT", "BatchStore", "BatchTransaction"]

REVISIONS_KEPT = 8
"""Older revisions of a batch that stay readable, where nothing else is said."""


class BatchStore:
    """A database of keyed batches. Thread-safe. `with` closes it."""

    def __init__(
        self,
        database: Database,
        *,
        isolation: Isolation | str = Isolation.SERIALIZABLE,
        on_conflict: str | ConflictPolicy | None = None,
        revisions_kept: int = REVISIONS_KEPT,
        release: Callable[[], None] | None = None,
        abandoned: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """The batches of `database`. `release`: called when the store is closed; `abandoned`: by a finaliser, when it is dropped instead.

        `isolation`, `on_conflict`: of transactions that do not say. `revisions_kept`: older revisions that stay readable.
        `clock`: seconds since 1970, for expiry. Raises InvalidArgument, NotSupported."""
        self._isolation = level_of(isolation)
        self._on_conflict = policy_of(on_conflict)
        if isinstance(revisions_kept, bool) or not isinstance(revisions_kept, int) or revisions_kept < 0:
            raise InvalidArgument(f"revisions_kept must be a number of revisions, 0 or more, not {revisions_kept!r}")
        self._revisions_kept = revisions_kept
        self._keyspace = Keyspace(database, release=release, abandoned=abandoned, clock=clock)

    @property
    def database(self) -> Database:
        """The database these batches are in."""
        return self._keyspace.database

    def start_transaction(
        self, isolation: Isolation | str | None = None, on_conflict: str | ConflictPolicy | None = None, *, read_only: bool = False
    ) -> BatchTransaction:
        """Begin a transaction; the tables are made at the first. A read-only one is never refused.

        Raises InvalidArgument, NotSupported, EngineClosed, StoreFailed."""
        level = self._isolation if isolation is None else level_of(isolation)
        policy = self._on_conflict if on_conflict is None else policy_of(on_conflict)
        return BatchTransaction(self._keyspace, self._keyspace.begin(level, read_only=read_only), self._revisions_kept, policy)

    def status(self, transaction_id: TransactionId) -> TransactionStatus:
        """What became of that transaction: active, committed, aborted or unknown. It may be one of before the database was opened."""
        return self._keyspace.status(transaction_id)

    def collect(self, limit: int | None = None) -> int:
        """Remove values that have expired, at most `limit`, and keys forgotten; returns how many. Commits do so, too, bit by bit."""
        return self._keyspace.collect(limit)

    def close(self) -> None:
        """Close the store: its open transactions can only be rolled back. A database it opened is closed, durably. Idempotent."""
        self._keyspace.close()

    def __enter__(self) -> BatchStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class BatchTransaction:
    """One transaction. `with` commits it, or rolls it back on an exception; dropped, it is rolled back.

    Every call raises InvalidTransactionState when the transaction has ended or is in use by another thread. A refused argument changes
    nothing; a conflict, a failed store and an interrupt end the transaction."""

    __slots__ = ("__weakref__", "_blind", "_contents", "_heads", "_keyspace", "_work")

    def __init__(self, keyspace: Keyspace, work: Work, revisions_kept: int, policy: ConflictPolicy) -> None:
        self._keyspace = keyspace
        self._work = work
        self._contents = Contents(work, keyspace.tables, revisions_kept)
        self._heads = self._contents.heads
        self._blind = BlindWrites(work, self._contents, policy)

    @property
    def id(self) -> TransactionId:
        """16 bytes that name it, for `status`."""
        return self._work.id

    @property
    def isolation(self) -> Isolation:
        """Its level."""
        return self._work.transaction.isolation

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self, key: str, revision: int | None = None) -> pa.RecordBatch | None:
        """The batch under `key`, own writes included; None: there is none, or it has expired.

        `revision`: as it was at that revision of the key. Raises RevisionGone when that is no longer kept, InvalidArgument when
        there has been no such revision yet."""
        checked_key(key)
        if revision is not None and (isinstance(revision, bool) or not isinstance(revision, int) or revision < 1):
            raise InvalidArgument(f"a revision is a number from 1 on, not {revision!r}")
        with self._work.call() as transaction, self._blind.shown(transaction, (key,)):
            head = self._heads.find(transaction, key)
            wanted = revision_of(head) if revision is None else self._available(key, head, revision)
            data = None
            if head is not None and (wanted != head[REVISION] or is_live(head, self._work.moment)):
                data = self._contents.data(transaction, key, wanted)
        return None if data is None else decode_batch(data, key)

    def revision(self, key: str) -> int:
        """The revision of `key`: 1 for its first write, one more for each commit that wrote or deleted it since; 0: never written.

        A transaction that has written the key reads the revision its commit will make."""
        checked_key(key)
        with self._work.call() as transaction, self._blind.shown(transaction, (key,)):
            return revision_of(self._heads.find(transaction, key))

    def scan(self, prefix: str = "") -> Iterator[tuple[str, pa.RecordBatch]]:
        """All (key, batch) whose key begins with `prefix`, in the order of keys, as they are when this is called.

        At SERIALIZABLE the whole range is read: a key that appears, changes or goes there is a conflict. The batches are loaded
        one by one (at READ COMMITTED all at once)."""
        checked_prefix(prefix)
        with self._work.call() as transaction, self._blind.shown(transaction, self._blind.with_prefix(prefix)):
            heads = self._heads.listed(transaction, prefix)
            at_once = transaction.isolation is Isolation.READ_COMMITTED
            loaded = {
                head[0]: self._contents.data(transaction, head[0], head[REVISION])
                for head in heads
                if at_once or head[0] in self._heads.before
            }
        return self._each(heads, loaded)

    def _each(self, heads: list[Row], loaded: dict[str, bytes | None]) -> Iterator[tuple[str, pa.RecordBatch]]:
        for head in heads:
            key = head[0]
            data = loaded.get(key)
            if data is None:
                with self._work.call() as transaction:
                    data = self._contents.data(transaction, key, head[REVISION])
            assert data is not None, "a live head has its content"
            yield key, decode_batch(data, key)

    def _available(self, key: str, head: Row | None, revision: int) -> int:
        newest = revision_of(head)
        if head is None or revision > newest:
            what = f"its newest is {newest}" if newest else "it has never been written"
            raise InvalidArgument(f"there is no revision {revision} of key {shown(key)} yet: {what}")
        expired = head[LIVE] is not None and not is_live(head, self._work.moment)
        oldest = newest if expired else head[OLDEST]
        if revision < oldest:
            raise RevisionGone(
                f"revision {revision} of key {shown(key)} is gone; the oldest readable is {oldest}",
                hint="open(…, revisions_kept=n) says how many are kept.",
                evidence={"key": key, "revision": revision, "oldest": oldest},
            )
        return revision

    # -- writing --------------------------------------------------------------------------------------------------

    def write(self, key: str, batch: pa.RecordBatch, expires: Expires | None = None, *, column: str | None = None) -> int:
        """Put `batch` under `key` in place of what is there; returns the revision the commit makes of it, unless a policy decides.

        `expires`: seconds from the beginning of the transaction, or a moment, from when on the key reads as absent. `column`: with the
        policy 'append', the key column instead of `id`.
        Raises InvalidArgument, InvalidValue (not valid Arrow data), LimitExceeded; with that policy UniqueViolation, as `append`."""
        checked_key(key)
        data = encode_batch(checked_batch(batch, key), key)
        if self._blind.policy is ConflictPolicy.APPEND:
            merged(None, batch, column)
        elif column is not None:
            raise InvalidArgument("column says how a batch is appended, and on_conflict is not 'append'")
        with self._work.call(writes=True) as transaction:
            value = Value(data, batch.num_rows, moment_of(expires, self._work.moment))
            if self._blind.policy is not ConflictPolicy.FAIL:
                return self._blind.write(transaction, key, value, column)
            self._blind.forget(key)
            return self._contents.put(transaction, key, value)

    def append(self, key: str, batch: pa.RecordBatch, column: str | None = None) -> int:
        """Append the rows of `batch` to those under `key` when this commits, whoever has changed them by then; returns the revision,
        which is provisional: one more than now.

        Rows there whose `column` equals that of an appended one are replaced: by default the column `id`, if there is one. NULL equals
        nothing. Without a batch under `key` this is a write. An expiry stays as it is. Raises as `write`, SchemaMismatch,
        UniqueViolation (two rows of `batch` have one key); so does the commit, if only then there is what it cannot be appended to."""
        checked_key(key)
        checked_batch(batch, key)
        with self._work.call(writes=True) as transaction:
            if key not in self._heads.before:
                return self._blind.append(transaction, key, batch, column)
            whole = applied(with_appended(None, key, batch, column), key, self._contents.value(transaction, key))
            assert whole is not None, "something was appended"
            return self._contents.put(transaction, key, whole)

    def delete(self, key: str) -> bool:
        """Delete the batch under `key`; False when there is none. The revision of the key goes on."""
        checked_key(key)
        with self._work.call(writes=True) as transaction:
            if self._blind.policy is not ConflictPolicy.FAIL:
                return self._blind.delete(transaction, key)
            appended = self._blind.forget(key)
            if appended is not None:  # so that it is a write of this key, even if there was nothing before
                self._contents.put(transaction, key, appended)
            return self._contents.delete(transaction, key)

    # -- the end --------------------------------------------------------------------------------------------------

    def commit(self) -> Outcome:
        """Make it all durable and visible; returns when it is. The outcome has the commit's `timestamp` and `index` (0: nothing written),
        and `conflicts`: a `commands.Collision` for each key that a policy has decided, or that was appended to what somebody else left.

        Raises SerializationConflict (40001, run it again), StoreFailed, CommitOutcomeUnknown; after somebody else's change SchemaMismatch,
        UniqueViolation, LimitExceeded (rows cannot be appended to it), DeadlockDetected. After each of them nothing is applied."""
        return self._work.commit(self._prepare if self._blind or self._heads.before else None)

    def _prepare(self, transaction: LocalTransaction) -> tuple[Collision, ...]:
        decided = self._blind.settle(transaction) if self._blind else ()
        self._contents.drop_old(transaction)
        return decided

    def rollback(self) -> None:
        """Forget everything. Idempotent; after a commit it does nothing."""
        self._work.rollback()

    def __enter__(self) -> BatchTransaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.rollback()
        elif not self._work.ended:
            self.commit()
