"""Keyed batches: Arrow record batches under keys, in transactions.

Made by `khonsu_engine.open`, and by a connection for its own database. A `BatchStore` is thread-safe; a `BatchTransaction` belongs to one
thread at a time. The unit of versions and of conflicts is the key. Docs: docs/engine_api.md.

A batch is kept in two tables (`shapes`): its head, which conflicts are about, and its content, a row for each revision kept. Contents
never change, so reading one needs no note: the head was read. What is kept beyond its turn is deleted at the commit, so within a
transaction every content stays readable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from types import TracebackType

import pyarrow as pa

from khonsu_engine.commands import Isolation, Outcome, Row, TransactionId
from khonsu_engine.database import Database
from khonsu_engine.errors import InvalidArgument, RevisionGone
from khonsu_engine.keyed.batch_codec import checked_batch, decode_batch, encode_batch
from khonsu_engine.keyed.expiry import Expires, moment_of
from khonsu_engine.keyed.heads import Heads, is_live, put_row
from khonsu_engine.keyed.keys import checked_key, checked_prefix, shown
from khonsu_engine.keyed.keyspace import Keyspace, level_of
from khonsu_engine.keyed.merge import merged
from khonsu_engine.keyed.policies import policy_of
from khonsu_engine.keyed.shapes import EXPIRES_AT, LIVE, OLDEST, REVISION
from khonsu_engine.keyed.statuses import TransactionStatus
from khonsu_engine.keyed.sweep import drop_contents
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
        on_conflict: str | None = None,
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
        self, isolation: Isolation | str | None = None, on_conflict: str | None = None, *, read_only: bool = False
    ) -> BatchTransaction:
        """Begin a transaction; the tables are made at the first. A read-only one is never refused.

        Raises InvalidArgument, NotSupported, EngineClosed, StoreFailed."""
        level = self._isolation if isolation is None else level_of(isolation)
        policy_of(on_conflict if on_conflict is not None else self._on_conflict)
        return BatchTransaction(self._keyspace, self._keyspace.begin(level, read_only=read_only), self._revisions_kept)

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

    __slots__ = ("__weakref__", "_contents", "_heads", "_keyspace", "_revisions_kept", "_work")

    def __init__(self, keyspace: Keyspace, work: Work, revisions_kept: int) -> None:
        tables = keyspace.tables
        self._keyspace = keyspace
        self._work = work
        self._revisions_kept = revisions_kept
        self._contents = tables.contents
        self._heads = Heads(work, tables.batches)

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
        with self._work.call() as transaction:
            head = self._heads.find(transaction, key)
            wanted = _current(head) if revision is None else self._available(key, head, revision)
            data = None
            if head is not None and (wanted != head[REVISION] or is_live(head, self._work.moment)):
                data = self._content(transaction, key, wanted)
        return None if data is None else decode_batch(data, key)

    def revision(self, key: str) -> int:
        """The revision of `key`: 1 for its first write, one more for each commit that wrote or deleted it since; 0: never written.

        A transaction that has written the key reads the revision its commit will make."""
        checked_key(key)
        with self._work.call() as transaction:
            return _current(self._heads.find(transaction, key))

    def scan(self, prefix: str = "") -> Iterator[tuple[str, pa.RecordBatch]]:
        """All (key, batch) whose key begins with `prefix`, in the order of keys, as they are when this is called.

        At SERIALIZABLE the whole range is read: a key that appears, changes or goes there is a conflict. The batches are loaded
        one by one (at READ COMMITTED all at once)."""
        checked_prefix(prefix)
        with self._work.call() as transaction:
            heads = self._heads.listed(transaction, prefix)
            at_once = transaction.isolation is Isolation.READ_COMMITTED
            loaded = {
                head[0]: self._content(transaction, head[0], head[REVISION]) for head in heads if at_once or head[0] in self._heads.before
            }
        return self._each(heads, loaded)

    def _each(self, heads: list[Row], loaded: dict[str, bytes | None]) -> Iterator[tuple[str, pa.RecordBatch]]:
        for head in heads:
            key = head[0]
            data = loaded.get(key)
            if data is None:
                with self._work.call() as transaction:
                    data = self._content(transaction, key, head[REVISION])
            assert data is not None, "a live head has its content"
            yield key, decode_batch(data, key)

    def _content(self, transaction: LocalTransaction, key: str, revision: int) -> bytes | None:
        row = transaction.peek(self._contents.id, (key, revision))
        if row is None or (row[2] is not None and row[2] <= self._work.moment):
            return None
        data: bytes = row[3]
        return data

    def _available(self, key: str, head: Row | None, revision: int) -> int:
        newest = _current(head)
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

    def write(self, key: str, batch: pa.RecordBatch, expires: Expires | None = None) -> int:
        """Put `batch` under `key` in place of what is there; returns the revision the commit makes of it.

        `expires`: seconds from the beginning of the transaction, or a moment, from when on the key reads as absent.
        Raises InvalidArgument, InvalidValue (not valid Arrow data), LimitExceeded."""
        checked_key(key)
        data = encode_batch(checked_batch(batch, key), key)
        with self._work.call(writes=True) as transaction:
            return self._put(transaction, key, data, batch.num_rows, moment_of(expires, self._work.moment))

    def append(self, key: str, batch: pa.RecordBatch, column: str | None = None) -> int:
        """Append the rows of `batch` to those under `key`; returns the revision the commit makes of it.

        Rows there whose `column` equals that of an appended one are replaced: by default the column `id`, if there is one. NULL equals
        nothing. Without a batch under `key` this is a write. An expiry stays as it is. Raises as `write`, SchemaMismatch,
        UniqueViolation (two rows of `batch` have one key)."""
        checked_key(key)
        checked_batch(batch, key)
        with self._work.call(writes=True) as transaction:
            head = self._heads.current(transaction, key)
            stored = None if head is None else self._content(transaction, key, head[REVISION])
            whole = merged(None if stored is None else decode_batch(stored, key), batch, column)
            return self._put(transaction, key, encode_batch(whole, key), whole.num_rows, None if head is None else head[EXPIRES_AT])

    def delete(self, key: str) -> bool:
        """Delete the batch under `key`; False when there is none. The revision of the key goes on."""
        checked_key(key)
        with self._work.call(writes=True) as transaction:
            before = self._own(key)
            deleted = self._heads.delete(transaction, key, lambda revision: (None, None, self._oldest(key, revision)))
            if deleted and before is not None:
                self._put_content(transaction, key, before, None)
            return deleted

    def _put(self, transaction: LocalTransaction, key: str, data: bytes, rows: int, expires_at: datetime | None) -> int:
        head = self._heads.write(transaction, key, expires_at, lambda revision: (rows, len(data), self._oldest(key, revision)))
        revision: int = head[REVISION]
        self._put_content(transaction, key, revision, (key, revision, expires_at, data))
        return revision

    def _put_content(self, transaction: LocalTransaction, key: str, revision: int, row: Row | None) -> None:
        before = transaction.peek(self._contents.id, (key, revision))
        put_row(transaction, self._contents.id, before, row, lambda row: (row[0], row[1]), self._work.base(self._contents.id, key))

    def _own(self, key: str) -> int | None:
        """The revision this transaction makes of `key`; None when it has not written it."""
        if key not in self._heads.before:
            return None
        return _current(self._heads.before[key]) + 1

    def _oldest(self, key: str, revision: int) -> int:
        before = self._heads.before[key]
        return revision if before is None else max(before[OLDEST], revision - self._revisions_kept)

    # -- the end --------------------------------------------------------------------------------------------------

    def commit(self) -> Outcome:
        """Make it all durable and visible; returns when it is. The outcome has the commit's `timestamp` and `index` (0: nothing written).

        Raises SerializationConflict (40001, run it again), StoreFailed, CommitOutcomeUnknown."""
        if self._heads.before:
            with self._work.call(writes=True) as transaction:
                self._drop_old(transaction)
        return self._work.commit()

    def _drop_old(self, transaction: LocalTransaction) -> None:
        for key, before in self._heads.before.items():
            if before is not None:
                revision = before[REVISION] + 1
                base = self._work.base(self._contents.id, key)
                drop_contents(transaction, self._contents, before, self._oldest(key, revision), base)

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


def _current(head: Row | None) -> int:
    return 0 if head is None else head[REVISION]
