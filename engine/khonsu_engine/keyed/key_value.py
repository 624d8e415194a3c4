"""The key-value facade: small values under keys, transactions by id, snapshot isolation.

Made by `khonsu_engine.initialize`. Thread-safe; one transaction takes one call at a time. Values are bytes or text and come back as what
they were. Docs: docs/engine_api.md.

Unlike a transaction object, an id cannot be dropped: a transaction without a call for `idle_timeout_seconds` is rolled back, when the next
one begins or it is used again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

from khonsu_engine.commands import Isolation, Outcome, Row, TransactionId
from khonsu_engine.database import Database
from khonsu_engine.errors import InvalidArgument, InvalidTransactionState, LimitExceeded, NotSupported
from khonsu_engine.keyed.expiry import Expires, moment_of
from khonsu_engine.keyed.heads import Heads, is_live
from khonsu_engine.keyed.keys import checked_key, checked_prefix, shown
from khonsu_engine.keyed.keyspace import Keyspace
from khonsu_engine.keyed.shapes import LIVE, REVISION
from khonsu_engine.keyed.statuses import TransactionStatus
from khonsu_engine.keyed.work import Work
from khonsu_engine.schema.texts import storable

__all__ = ["IDLE_TIMEOUT_SECONDS", "VALUE_BYTES_MAX", "KeyValueStore", "only_node"]

VALUE_BYTES_MAX = 16 << 20
"""Of one value, text as UTF-8."""

IDLE_TIMEOUT_SECONDS = 300.0

_IS_TEXT = LIVE + 1


def only_node(node_id: object, all_node_ids: Iterable[object]) -> None:
    """Raises NotSupported for a cluster of several nodes, InvalidArgument when `node_id` is not of the cluster."""
    known = [all_node_ids] if isinstance(all_node_ids, str | bytes) else list(all_node_ids)
    if node_id not in known:
        raise InvalidArgument(f"node {node_id!r} is not among all_node_ids: {known!r}")
    others = [node for node in known if node != node_id]
    if others:
        names = ", ".join(map(repr, others))
        raise NotSupported(f"a cluster of several nodes is not supported yet: {names}", hint="all_node_ids must be [node_id].")


class _Entry:
    """One open transaction. `used`: when it took its last call (monotonic seconds)."""

    __slots__ = ("heads", "used", "work")

    def __init__(self, work: Work, heads: Heads, used: float) -> None:
        self.work = work
        self.heads = heads
        self.used = used


class KeyValueStore:
    """A node's store of entries. `with` closes it."""

    def __init__(
        self,
        node_id: object,
        database: Database,
        *,
        release: Callable[[], None] | None = None,
        idle_timeout_seconds: float = IDLE_TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """The entries of `database`. `release`: called when the store is closed. `clock`: seconds since 1970, for expiry."""
        timeout: Any = idle_timeout_seconds
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise InvalidArgument(f"idle_timeout_seconds must be a positive number, not {timeout!r}")
        self.node_id = node_id
        self._idle_timeout_seconds = timeout
        self._keyspace = Keyspace(database, release=release, clock=clock)
        self._monotonic = monotonic
        self._latch = threading.Lock()
        self._open: dict[TransactionId, _Entry] = {}

    @property
    def database(self) -> Database:
        """The database the entries are in."""
        return self._keyspace.database

    # -- transactions ---------------------------------------------------------------------------------------------

    def begin(self, *, read_only: bool = False) -> TransactionId:
        """Begin a transaction: its id, 16 bytes. It reads one snapshot (REPEATABLE READ)."""
        self._end_idle()
        work = self._keyspace.begin(Isolation.REPEATABLE_READ, read_only=read_only)
        entry = _Entry(work, Heads(work, self._keyspace.tables.entries), self._monotonic())
        with self._latch:
            self._open[work.id] = entry
        return work.id

    def commit(self, tx_id: TransactionId) -> Outcome:
        """Commit it; returns when that is durable. Raises SerializationConflict (40001): somebody else has written one of its keys and
        nothing is applied; StoreFailed, CommitOutcomeUnknown."""
        entry = self._entry(tx_id)
        try:
            return entry.work.commit()
        finally:
            self._forget_ended(tx_id, entry)

    def rollback(self, tx_id: TransactionId) -> None:
        """Forget what it wrote. Of a transaction that has ended already: nothing."""
        with self._latch:
            entry = self._open.get(tx_id)
        if entry is None:
            self._keyspace.status(tx_id)  # refuses what is no id
            return
        entry.work.rollback()
        self._forget_ended(tx_id, entry)

    def status(self, tx_id: TransactionId) -> TransactionStatus:
        """What became of it: active, committed, aborted or unknown."""
        return self._keyspace.status(tx_id)

    # -- entries --------------------------------------------------------------------------------------------------

    def get(self, tx_id: TransactionId, key: str) -> bytes | str | None:
        """The value of `key`, own writes included; None: there is none, or it has expired."""
        entry = self._entry(tx_id, key)
        with entry.work.call() as transaction:
            head = entry.heads.find(transaction, key)
        return _value(head) if head is not None and is_live(head, entry.work.moment) else None

    def put(self, tx_id: TransactionId, key: str, value: bytes | str, expires: Expires | None = None) -> int:
        """Put `value` under `key`; returns the revision the commit makes of it.

        `expires`: seconds from the beginning of the transaction, or a moment, from when on the key reads as absent; None: it stays.
        Raises InvalidArgument, LimitExceeded."""
        entry = self._entry(tx_id, key)
        stored, is_text = _stored(key, value)
        with entry.work.call(writes=True) as transaction:
            expires_at = moment_of(expires, entry.work.moment)
            revision: int = entry.heads.write(transaction, key, expires_at, lambda revision: (stored, is_text))[REVISION]
            return revision

    def delete(self, tx_id: TransactionId, key: str) -> bool:
        """Delete `key`; False when there is no value. The revision of the key goes on."""
        entry = self._entry(tx_id, key)
        with entry.work.call(writes=True) as transaction:
            return entry.heads.delete(transaction, key, lambda revision: (None, None))

    def scan(self, tx_id: TransactionId, prefix: str = "") -> Iterator[tuple[str, bytes | str]]:
        """All (key, value) whose key begins with `prefix`, in the order of keys, as they are when this is called."""
        checked_prefix(prefix)
        entry = self._entry(tx_id)
        with entry.work.call() as transaction:
            heads = entry.heads.listed(transaction, prefix)
        return ((head[0], _value(head)) for head in heads)

    def revision(self, tx_id: TransactionId, key: str) -> int:
        """The revision of `key`: 1 for its first write, one more for each commit that wrote or deleted it since; 0: never written."""
        entry = self._entry(tx_id, key)
        with entry.work.call() as transaction:
            head = entry.heads.find(transaction, key)
        return 0 if head is None else head[REVISION]

    def collect(self, limit: int | None = None) -> int:
        """Remove values that have expired, at most `limit`, and keys forgotten; returns how many. Commits do so, too, bit by bit."""
        return self._keyspace.collect(limit)

    # -- inside, and the end --------------------------------------------------------------------------------------

    def _entry(self, tx_id: TransactionId, key: str | None = None) -> _Entry:
        if key is not None:
            checked_key(key)
        now = self._monotonic()
        with self._latch:
            entry = self._open.get(tx_id) if isinstance(tx_id, bytes) else None
        if entry is not None and self._is_idle(entry, now):
            self._end(tx_id, entry)
            entry = None
        if entry is None:
            state = self._keyspace.status(tx_id).state
            raise InvalidTransactionState(
                "there is no such open transaction" + ("" if state == "unknown" else f": it is {state}"),
                hint=f"begin() another one. One without a call for {self._idle_timeout_seconds:g} s is rolled back.",
            )
        entry.used = now
        return entry

    def _is_idle(self, entry: _Entry, now: float) -> bool:
        return now - entry.used > self._idle_timeout_seconds

    def _end_idle(self) -> None:
        now = self._monotonic()
        with self._latch:
            idle = [(tx_id, entry) for tx_id, entry in self._open.items() if self._is_idle(entry, now)]
        for tx_id, entry in idle:
            self._end(tx_id, entry)

    def _end(self, tx_id: TransactionId, entry: _Entry) -> None:
        """Roll an abandoned transaction back, unless it is in the middle of a call after all."""
        try:
            entry.work.rollback(f"it took no call for {self._idle_timeout_seconds:g} s")
        except InvalidTransactionState:
            return
        self._forget_ended(tx_id, entry)

    def _forget_ended(self, tx_id: TransactionId, entry: _Entry) -> None:
        if entry.work.ended:
            with self._latch:
                self._open.pop(tx_id, None)

    def close(self) -> None:
        """Close the store; what is not committed is lost. A database it opened is closed, durably. Idempotent."""
        with self._latch:
            self._open.clear()
        self._keyspace.close()

    def __enter__(self) -> KeyValueStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _stored(key: str, value: object) -> tuple[bytes, bool]:
    """(bytes, whether they are text). Raises InvalidArgument, LimitExceeded, UnstorableText."""
    if isinstance(value, str):
        stored, is_text = storable(value).encode(), True
    elif isinstance(value, bytes | bytearray | memoryview):
        stored, is_text = bytes(value), False
    else:
        raise InvalidArgument(f"the value of key {shown(key)} must be bytes or text, not {type(value).__name__}")
    if len(stored) > VALUE_BYTES_MAX:
        raise LimitExceeded(
            f"the value of key {shown(key)} has {len(stored)} bytes, at most {VALUE_BYTES_MAX} are stored",
            hint="Keyed batches (khonsu_engine.open) are for more.",
        )
    return stored, is_text


def _value(head: Row) -> bytes | str:
    value: bytes = head[LIVE]
    return value.decode() if head[_IS_TEXT] else value
