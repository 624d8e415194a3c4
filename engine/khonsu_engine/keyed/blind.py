"""Writes that do not depend on what is under their key, kept back until the commit: a policy decides them there, and appends are deltas.

Made by `batches` for each transaction. Nothing is read for them, and what they return is provisional. A read of the transaction sees them:
they are buffered for as long as it takes (`shown`); at SERIALIZABLE it has then read the key, and nothing decides about it any more.

`settle`, at the commit: hard locks on all their heads, in the order of keys, so that nobody comes between; then, if somebody was there
already, the snapshot moves to what is published, after everything read and buffered was validated; then each is decided against the
newest state and buffered. The locks go when the transaction ends.

A change by the sweep is no collision: it leaves the revision as it is, and nobody has written anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from khonsu_engine.commands import Collision, ConflictPolicy, Isolation, Timestamp
from khonsu_engine.errors import EngineError
from khonsu_engine.keyed.contents import Contents, revision_of
from khonsu_engine.keyed.policies import Act, Delta, Value, Whole, applied, decided, with_appended
from khonsu_engine.keyed.shapes import LIVE, REVISION, SCHEMA
from khonsu_engine.mvcc.lock_table import LockMode

if TYPE_CHECKING:
    from khonsu_engine.keyed.work import Work
    from khonsu_engine.transaction import LocalTransaction

__all__ = ["BlindWrites"]


class _Own(NamedTuple):
    """What was done to one key. `base`: as of when; `revision`: of the key then (None: it is not known any more). `result`: what `act`
    makes of what was there when it was first written."""

    base: Timestamp
    revision: int | None
    act: Act
    result: Value | None


class BlindWrites:
    """Those of one transaction, by key. `policy`: what decides the whole ones."""

    __slots__ = ("_contents", "_own", "_work", "policy")

    def __init__(self, work: Work, contents: Contents, policy: ConflictPolicy) -> None:
        self.policy = policy
        self._work = work
        self._contents = contents
        self._own: dict[str, _Own] = {}

    def __bool__(self) -> bool:
        return bool(self._own)

    # -- writing --------------------------------------------------------------------------------------------------

    def write(self, transaction: LocalTransaction, key: str, value: Value, column: str | None) -> int:
        """Put `value` there; returns the revision, as far as it is known."""
        return self._keep(transaction, key, Whole(value, column), value)

    def append(self, transaction: LocalTransaction, key: str, batch: pa.RecordBatch, column: str | None) -> int:
        """Append `batch`; returns the revision, as far as it is known. Raises as `merged` for what is there now."""
        own = self._own.get(key)
        act = with_appended(None if own is None else own.act, key, batch, column)
        if isinstance(act, Whole):
            return self._keep(transaction, key, act, act.value)
        there = self._contents.value(transaction, key) if own is None else own.result
        result = applied(Delta(act.parts[-1:]), key, there)
        return self._keep(transaction, key, act, result)

    def delete(self, transaction: LocalTransaction, key: str) -> bool:
        """Delete what is there. False: there is nothing, and that has been read."""
        own = self._own.get(key)
        if own is None and self._contents.value(transaction, key) is None:
            self._contents.heads.get(transaction, key)
            return False
        if own is not None and self._result(transaction, key, own) is None:
            return False
        self._keep(transaction, key, Whole(None), None)
        return True

    def forget(self, key: str) -> Value | None:
        """The key is written otherwise from here on; its base stays. Returns what was there by now, None if nothing was done to it."""
        own = self._own.pop(key, None)
        if own is None:
            return None
        self._work.note_base(self._contents.heads.table.id, key, own.base)
        return own.result

    def _keep(self, transaction: LocalTransaction, key: str, act: Act, result: Value | None) -> int:
        heads, own = self._contents.heads, self._own.get(key)
        there = revision_of(heads.peek(transaction, key))
        if own is None:
            base = self._work.base(heads.table.id, key)
            own = _Own(base, there if base == transaction.read_timestamp else None, act, result)
        self._own[key] = own._replace(act=act, result=result)
        return there + 1

    # -- reading --------------------------------------------------------------------------------------------------

    def with_prefix(self, prefix: str) -> list[str]:
        """The keys written that begin so."""
        return [key for key in self._own if key.startswith(prefix)]

    @contextmanager
    def shown(self, transaction: LocalTransaction, keys: Iterable[str]) -> Iterator[None]:
        """What was done to these keys can be read while the block runs.

        Raises SchemaMismatch at READ COMMITTED, when somebody else has left there what rows cannot be appended to."""
        shown = [(key, self._own[key]) for key in keys if key in self._own]
        if not shown:
            yield
            return
        before, mark = self._contents.heads.before, transaction.savepoint()
        try:
            for key, own in shown:
                self._buffer(transaction, key, self._result(transaction, key, own))
            yield
        finally:
            transaction.rollback_to(mark)
            for key, _ in shown:
                before.pop(key, None)

    def _result(self, transaction: LocalTransaction, key: str, own: _Own) -> Value | None:
        if transaction.isolation is Isolation.READ_COMMITTED and isinstance(own.act, Delta):
            return applied(own.act, key, self._contents.value(transaction, key))
        return own.result

    def _buffer(self, transaction: LocalTransaction, key: str, value: Value | None) -> None:
        if value is None:
            self._contents.delete(transaction, key, blind=True)
        else:
            self._contents.put(transaction, key, value)

    # -- the commit -----------------------------------------------------------------------------------------------

    def settle(self, transaction: LocalTransaction) -> tuple[Collision, ...]:
        """Buffer them all, right before the commit; returns what was decided. Whatever it raises, the transaction must end.

        Raises SerializationConflict (something read or written otherwise does not stand), SchemaMismatch, UniqueViolation,
        LimitExceeded (of a merged batch), DeadlockDetected."""
        table = self._contents.heads.table.id
        for key in sorted(self._own):
            self._work.lock(table, key, LockMode.EXCLUSIVE)
        late = {key: transaction.changed_since(table, key, own.base) for key, own in self._own.items()}
        if any(late.values()):
            transaction.catch_up()
        collisions = []
        for key, own in self._own.items():
            self._work.note_base(table, key, transaction.read_timestamp)
            action, value = self._decided(transaction, key, own, late[key])
            if action is not None:
                collisions.append(Collision(f"{SCHEMA}.batches", key, action.value, late[key]))
            if action is not ConflictPolicy.IGNORE:
                self._buffer(transaction, key, value)
        return tuple(collisions)

    def _decided(
        self, transaction: LocalTransaction, key: str, own: _Own, timestamp: Timestamp
    ) -> tuple[ConflictPolicy | None, Value | None]:
        """What acts (None: nobody was there), and what is to be under `key`."""
        if not timestamp:
            return None, own.result
        head = self._contents.heads.peek(transaction, key)
        theirs = self._contents.value(transaction, key)
        swept = head is None or (head[REVISION] == own.revision and head[LIVE] is None)
        try:
            return (None, applied(own.act, key, theirs)) if swept else decided(self.policy, own.act, key, theirs)
        except EngineError as error:
            error.evidence.update({"table": f"{SCHEMA}.batches", "key": key, "commit_timestamp": timestamp})
            raise
