"""Sequencing in place: how a commit gets its place in the log.

Called by transactions (`commit`, `reserve`, `durable_ticket`) and the database (`start`, `close`, `swap`). The committing
thread itself sequences under the commit latch: validate, stamp, one `put`, install, publish. `syncer` makes it durable then.

Invariants: append → publish → sync → acknowledge; nothing under the latch waits, calls DuckDB or opens a file. From the
stamp on a commit is `_pending`; its finish may be interrupted (Ctrl-C) and repeated by this thread or the next holder of the
latch, so a commit is whole or absent. A failed sync is final: *durable* stays, writes are refused, owners get "unknown".
Whoever writes what another has locked hard is sent away to wait, before anything is validated; conflict policies decide next
(`resolution`). Left out: other tenures than 0 (cluster).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from khonsu_engine.columns.version import PRUNED
from khonsu_engine.commands import (
    Blocked,
    Bulk,
    Collision,
    Commit,
    Committed,
    Effect,
    Key,
    Operation,
    Outcome,
    Refusal,
    Reserved,
    Row,
    TableId,
    Timestamp,
    TransactionId,
)
from khonsu_engine.errors import EngineClosed, EngineError, StoreFailed
from khonsu_engine.latches import stand_back
from khonsu_engine.limits import INLINE_BODY_BYTES_MAX, Limits
from khonsu_engine.locks import Locks
from khonsu_engine.mvcc.clock import next_timestamp
from khonsu_engine.mvcc.horizon import Readers
from khonsu_engine.mvcc.lock_table import LockOwner
from khonsu_engine.pending import Pending, StaleTable
from khonsu_engine.protocols import Store
from khonsu_engine.resolution import resolved
from khonsu_engine.schema.catalog import Table
from khonsu_engine.state_machine import Installation, Reservation, State, effects_of, validate
from khonsu_engine.storage import keys, log
from khonsu_engine.syncer import Syncer, Synchronous, nothing
from khonsu_engine.tickets import CommitTicket, outcome_unknown
from khonsu_engine.trimming import shorten_changes, trim_versions
from khonsu_engine.watches import Watches

__all__ = ["Committer"]

Ordered = Outcome | CommitTicket | Refusal | Blocked

PREVALIDATE_READS_MIN = 64


class Committer:
    """The one place where commits get their order."""

    def __init__(
        self,
        state: State,
        store: Store,
        limits: Limits,
        synchronous: Synchronous,
        readers: Callable[[], Readers],
        new_id: Callable[[bytes], TransactionId],
        locks: Locks,
    ) -> None:
        self.latch = threading.Lock()
        self.state = state
        self.log_bytes = 0
        self.log_files: dict[str, int] = {}
        self.commits = self.checkpointed = 0
        self.conflicts: dict[str, int] = {}
        self.on_due: Callable[[], None] = nothing
        self._new_id = new_id
        self._locks = locks
        self.due = False
        self._store = store
        self._limits = limits
        self._logged = store.durable
        self.syncer = Syncer(self.latch, state, store, synchronous, limits.sync_delay_seconds, self._settle_left, readers)
        self._pending: Pending | None = None
        self.watches = Watches()

    @property
    def failure(self) -> Exception | None:
        """Why no commit is accepted any more, or None."""
        return self.syncer.failure

    # -- committing -----------------------------------------------------------------------------------------------

    def commit(self, command: Commit, effects: tuple[Effect, ...], owner: LockOwner | None = None) -> Ordered:
        """Order `command`. A refusal, or a lock in the way of `owner`: nothing happened. A ticket: published, not durable yet.

        Raises StoreFailed (nothing happened). After a BaseException from elsewhere (Ctrl-C) `outcome` tells how it ended."""
        while True:
            flags = 0
            try:
                body, flags = self._encode(command, effects)
                result = self._sequence(command, effects, body, flags, owner)
            except BaseException:
                self._discard_body(command, flags)
                raise
            if isinstance(result, Refusal | Blocked | Commit):
                self._discard_body(command, flags)
            elif self.due:
                self.on_due()
            if not isinstance(result, Commit):
                return result
            command, effects = result, effects_of(result)  # decided, but too large to be written under the latch

    def _sequence(
        self, command: Commit, effects: tuple[Effect, ...], body: log.Body, flags: int, owner: LockOwner | None
    ) -> Ordered | Commit:
        self._refuse_if_failed()  # a conflict would be tried again
        floor = self._prevalidate(command)
        if isinstance(floor, Refusal):
            return self._counted(floor)
        if self.latch.locked():
            stand_back(self.latch)
        with self.latch:
            self._settle_left()
            self._refuse_if_failed()
            if self._locks.has_hard and (held := self._locks.in_the_way(owner, command)) is not None:
                return held
            if command.policied:
                decided = resolved(self.state, command)
                if isinstance(decided, Refusal):
                    return self._counted(decided)
                if decided is not command:
                    if self._locks.has_hard and (held := self._locks.in_the_way(owner, decided)) is not None:  # entries that were derived
                        return held
                    command, effects = decided, effects_of(decided)
                    if flags or not self._fits(body := self._body(command, effects)):
                        return command
            refusal = validate(self.state, command, floor)
            if refusal is not None:
                return self._counted(refusal)
            self._pending = self._stamp(command.transaction_id, effects, command.bulk, body, flags, command.collisions)
            outcome = self._settle()
            return self._sequenced(effects, outcome) or outcome

    def barrier(self) -> None:
        """Return when every commit has ended that did not see what the caller did before (took a hard lock)."""
        if self.latch.locked():
            stand_back(self.latch)
        with self.latch:
            self._settle_left()

    def _counted(self, refusal: Refusal) -> Refusal:
        self.conflicts[refusal.rule] = self.conflicts.get(refusal.rule, 0) + 1
        return refusal

    def _discard_body(self, command: Commit, flags: int) -> None:
        """The large body of a commit that did not happen: the log does not name it."""
        if not flags or self.failure is not None:
            return
        name = log.body_name(command.transaction_id)
        with self.latch:
            self._settle_left()
            needed = name in self.log_files
        if not needed:
            self._store.remove_file(name)

    def write_point(
        self, table: Table, key: Key, change: Callable[[Row | None], Row | None], name: bytes
    ) -> tuple[bool, CommitTicket | None]:
        """A transaction of one write to one key, as one step: read the newest row, change it, commit. It never conflicts.

        `change`: the row (None: absent) -> the new one (None: delete), or the very same for "nothing to do"; it runs under the
        commit latch, so it computes in microseconds, waits for nothing, and may raise: then nothing happened. `name`: of the
        connection. Returns whether the row changed, and a ticket for what is not durable yet: the commit, or what was read.
        Raises StaleTable when `table` is no longer the table, the row is too large for this way, or somebody has locked it."""
        if self.latch.locked():
            stand_back(self.latch)
        with self.latch:
            self._settle_left()
            self._refuse_if_failed()
            state = self.state
            if state.catalog.by_id.get(table.id) is not table:
                raise StaleTable
            if self._locks.has_hard and self._locks.holds_back(table.id, key):
                raise StaleTable
            before = state.tables[table.id].get(key, state.published)
            assert before is not PRUNED, "the newest version is never pruned"
            row = change(before)
            if row is before:
                return False, self._unsynced()
            operation = Operation.DELETE if row is None else Operation.INSERT if before is None else Operation.UPDATE
            effects = (Effect(table.id, table.version, ((operation, key, row, before),)),)
            body = log.encode_body(effects, (), {table.id: table}) if self._logged else log.NO_BODY
            if len(body) > INLINE_BODY_BYTES_MAX:
                raise StaleTable
            self._pending = self._stamp(self._new_id(name), effects, (), body, 0)
            ticket = self._sequenced(effects, self._settle())
        if self.due:
            self.on_due()
        return True, ticket

    def _sequenced(self, effects: tuple[Effect, ...], outcome: Outcome) -> CommitTicket | None:
        """After the installation, still under the latch: tidy up, and queue for the sync."""
        self._trim(effects)
        return None if self.syncer.instant else self.syncer.queue(outcome.timestamp, outcome)

    def _unsynced(self) -> CommitTicket | None:
        """Under the latch: a ticket for everything published, None when it is durable."""
        state = self.state
        return None if state.durable >= state.published else self.syncer.queue(state.published, None)

    def _encode(self, command: Commit, effects: tuple[Effect, ...]) -> tuple[log.Body, int]:
        """The record's body, made outside the latch; a large one is written ahead as a file and replaced by its name."""
        body = self._body(command, effects)
        if self._fits(body):
            return body, 0
        return log.write_ahead(self._store, command.transaction_id, body), log.BODY_IN_FILE

    def _body(self, command: Commit, effects: tuple[Effect, ...]) -> log.Body:
        if not self._logged:
            return log.NO_BODY
        bulk = tuple((part.table, part.truncate, part.files) for part in command.bulk)
        return log.encode_body(effects, bulk, command.schemas)

    def _fits(self, body: log.Body) -> bool:
        return len(body) <= INLINE_BODY_BYTES_MAX

    def _prevalidate(self, command: Commit) -> Timestamp | Refusal:
        """Validate against everything published so far outside the latch; return up to where. What policies decide is not known yet."""
        if command.policied:
            return 0
        if not command.predicates and not command.bulk and not command.guards:
            keys_read = max(map(len, command.reads.values()), default=0)
            if max(keys_read, 0, *map(len, command.writes.values())) < PREVALIDATE_READS_MIN:
                return 0
        floor = self.state.published
        return validate(self.state, command) or max(floor, command.read_timestamp)

    def _stamp(
        self,
        transaction_id: TransactionId,
        effects: tuple[Effect, ...],
        bulk: tuple[Bulk, ...],
        body: log.Body,
        flags: int,
        collisions: tuple[Collision, ...] = (),
    ) -> Pending:
        index, timestamp = self._next()
        record = Committed(index, timestamp, transaction_id, effects, tuple((part.table, part.truncate, part.files) for part in bulk))
        raw, digest = self._seal(log.COMMITTED, body, index, timestamp, transaction_id, flags)
        files = tuple(file.name for part in bulk for file in part.files) + ((log.body_name(transaction_id),) if flags else ())
        outcome = Outcome(transaction_id, timestamp, index, collisions)
        return Pending(outcome, Installation(record, bulk, collisions), raw, digest, files)

    def _next(self) -> tuple[int, Timestamp]:
        state = self.state
        return state.index + 1, next_timestamp(time.time_ns() // 1_000_000, state.published)

    def _seal(self, kind: int, body: log.Body, index: int, timestamp: Timestamp, transaction_id: bytes, flags: int) -> tuple[bytes, bytes]:
        if not self._logged:
            return b"", b""
        state = self.state
        return log.seal(kind, body, index, state.durable_mark[0], state.tenure, state.last_hash, timestamp, transaction_id, flags)

    def _settle(self) -> Outcome:
        """Finish what is pending, holding interrupts back until it is done. Returns its outcome (index 0: nothing was pending)."""
        held: BaseException | None = None
        outcome = _NO_OUTCOME
        while self._pending is not None:
            try:
                outcome = self._finish(self._pending)
            except Exception as error:
                pending, self._pending = self._pending, None
                if pending is not None and pending.appended:
                    self.syncer.fail(error)
                    raise outcome_unknown(pending.outcome.transaction_id, error) from error
                raise
            except BaseException as interrupt:  # noqa: BLE001 — held back until the commit is whole
                held = interrupt
        if held is not None:
            raise held
        return outcome

    def _settle_left(self) -> None:
        """Finish what a thread that was interrupted twice left pending. If that fails it is told by `outcome` and `failure`, not here."""
        if self._pending is not None:
            with suppress(Exception):
                self._settle()

    def _finish(self, pending: Pending) -> Outcome:
        """Append, install, publish, have it synced. Every step may be repeated: same key and record, same versions."""
        if self._logged and not pending.appended:
            self._append(pending)
        pending.installation.run(self.state)
        if self.watches.listed:
            self.watches.published(pending.installation.tables)
        self.state.last_hash = pending.hash
        if self.syncer.instant:
            self.syncer.advance(look=self.commits & 31 == 0)
        self._pending = None
        self.commits += 1
        return pending.outcome

    def _append(self, pending: Pending) -> None:
        try:
            self._store.put(keys.log_key(pending.outcome.index), pending.raw)
        except EngineError:
            raise
        except Exception as error:
            raise StoreFailed(f"the log refused a record: {error}") from error
        for name in pending.files:  # before anybody can see the rows and let go of them again
            self.log_files[name] = pending.outcome.index
        pending.appended = True
        self.log_bytes += len(pending.raw)

    def _trim(self, effects: tuple[Effect, ...]) -> None:
        """Drop what no snapshot needs; every 16 commits notice what is due."""
        readers = self.syncer.readers
        trim_versions(self.state, effects, readers)
        if self.commits & 15 == 0:
            limits = self._limits
            long = self.log_bytes > limits.checkpoint_bytes or self.commits - self.checkpointed > limits.checkpoint_commits
            self.due |= shorten_changes(self.state, effects, readers, limits) or long

    def _refuse_if_failed(self) -> None:
        if self.syncer.failure is not None:
            raise StoreFailed(
                "the database accepts no more writes: an earlier sync failed",
                detail=str(self.failure),
                hint="Reopen the database; what was acknowledged is safe.",
            ) from self.failure
        if self.syncer.closing.is_set():
            raise EngineClosed("the database is closed")

    # -- counters, outcomes, swaps --------------------------------------------------------------------------------

    def reserve(self, counter: str, count: int) -> int:
        """Raise `counter` by `count`, log it, and return the first number of the block.

        Not waited for: a commit that uses a number comes later in the log, so it is durable only if the reservation is."""
        with self.latch:
            self._settle_left()
            self._refuse_if_failed()
            first = self.state.counters.get(counter, 0)
            index, timestamp = self._next()
            raw, digest = self._seal(log.RESERVED, log.encode_reserved(counter, first + count), index, timestamp, bytes(16), 0)
            reservation = Reservation(Reserved(index, timestamp, counter, first + count))
            self._pending = Pending(Outcome(bytes(16), timestamp, index), reservation, raw, digest)
            self._settle()
        return first

    def outcome(self, transaction_id: TransactionId) -> Outcome | None:
        """How that transaction ended, when it is the last one of its connection; finishes a pending commit first.

        What is told here may not be durable yet."""
        with self.latch:
            self._settle_left()
            found = self.state.outcomes.get(transaction_id[8:])
        return found if found is not None and found.transaction_id == transaction_id else None

    def last_outcome(self, name: bytes) -> Outcome | None:
        """How the last transaction that wrote on the connection of that name ended; None: none did. It may not be durable yet."""
        with self.latch:
            self._settle_left()
            return self.state.outcomes.get(name)

    def swap(self, change: Callable[[dict[TableId, Any]], dict[TableId, Any]]) -> None:
        """Replace table versions under the latch (flush, compaction, forgetting): `change` gets the newest dict, returns another."""
        with self.latch:
            self._settle_left()
            self.state.tables = change(self.state.tables)

    # -- durability -----------------------------------------------------------------------------------------------

    def durable_ticket(self, timestamp: Timestamp) -> CommitTicket | None:
        """A ticket answered when everything up to `timestamp` is durable; None when it is already."""
        if self.state.durable >= timestamp:
            return None
        with self.latch:
            self._settle_left()
            if self.state.durable >= timestamp:
                return None
            return self.syncer.queue(timestamp, None)

    def start(self) -> None:
        """Start the sync thread where there is something to sync."""
        self.syncer.start()

    def close(self) -> None:
        """Sync what is left and answer every ticket. Idempotent. Raises StoreFailed as `Syncer.close` does."""
        with self.latch:
            self._settle_left()
            self.syncer.closing.set()
        self.syncer.close()


_NO_OUTCOME = Outcome(b"", 0, 0)
