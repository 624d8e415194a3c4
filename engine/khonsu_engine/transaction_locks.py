"""What one transaction locks, and what it waits for.

Made by `transaction`, calls `locks`. Invariants: a transaction waits for one thing at a time; asking for something else gives that up.
After a hard lock was granted the commits that did not see it are waited out (`Committer.barrier`) before anything is read under it. Nothing
here keeps the transaction alive: dropped, it lets go of its locks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from weakref import ref

from khonsu_engine.commands import Key, TableId
from khonsu_engine.lock_waiter import LockWaiter
from khonsu_engine.mvcc.lock_table import LockMode, Target, TicketState
from khonsu_engine.restarts import LockWait

if TYPE_CHECKING:
    from khonsu_engine.database import Database

__all__ = ["TransactionLocks"]

_HARD = 4


class TransactionLocks:
    """`owner`: what the lock table knows it by. `hard`: writes take hard locks. `began`: who has the greatest began last."""

    __slots__ = ("_committer", "_hard", "_locks", "_skipped", "_token", "_waiter", "owner", "timeout_seconds")

    def __init__(self, transaction: Any, database: Database, began: int, hard: bool, timeout_seconds: float | None) -> None:
        self._locks = database.locks
        self._committer = database.committer
        self.owner, token = self._locks.owner_for(transaction, began, transaction.id)
        self._token: ref[Any] | None = token
        self._hard = hard
        self.timeout_seconds = timeout_seconds
        self._waiter: LockWaiter | None = None
        self._skipped: set[tuple[TableId, Target]] | None = None

    def intend(self, table: TableId, key: Key) -> None:
        """The write intent of a row. Raises LockWait."""
        if self._waiter is not None:
            self.settle()
        owner = self.owner
        held = owner.held.get(table)
        if held is not None:
            strength = held.get(key, 0)
            if strength & 2 and (strength >= _HARD or not self._hard):  # EXCLUSIVE
                return
        if self._skipped and (table, key) in self._skipped:
            return
        if self._waiter is not None or self._hard:
            self.acquire(table, key, LockMode.EXCLUSIVE, hard=self._hard)
            return
        self._waiter = self._locks.acquire(owner, table, key, LockMode.EXCLUSIVE, False, None)
        if self._waiter is not None:
            raise self._wait(self._waiter)

    def _wait(self, waiter: LockWaiter) -> LockWait:
        transaction = None if self._token is None else self._token()
        if transaction is not None:
            waiter.read_timestamp = transaction.read_timestamp
        return LockWait(waiter)

    def acquire(self, table: TableId, target: Target, mode: LockMode, *, hard: bool, wait: bool = True) -> bool:
        """Have that lock. Raises LockWait; without `wait` the answer is False when somebody is in the way."""
        granted = self._asked(table, target, mode, hard, wait)
        if granted and hard:
            self._committer.barrier()
        return granted

    def acquire_rows(self, table: TableId, keys: Iterable[Key], mode: LockMode, *, wait: bool) -> bool:
        """Have hard locks on all of these, as `acquire`, one after the other; what is held already costs nothing."""
        enough, granted = _HARD | mode, False
        try:
            for key in keys:
                held = self.owner.held.get(table)
                if held is not None and held.get(key, 0) >= enough:
                    continue
                if not self._asked(table, key, mode, True, wait):
                    return False
                granted = True
        finally:
            if granted:
                self._committer.barrier()
        return True

    def _asked(self, table: TableId, target: Target, mode: LockMode, hard: bool, wait: bool) -> bool:
        locks, waiter = self._locks, self._waiter
        if waiter is not None:
            ticket = waiter.ticket
            asked = (ticket.table, ticket.target, ticket.mode, ticket.hard)
            if wait and ticket.state is TicketState.WAITING and asked == (table, target, mode, hard):
                raise LockWait(waiter)
            self._waiter = None
            locks.give_up(waiter)
        if not wait:
            return locks.try_acquire(self.owner, table, target, mode)
        self._waiter = locks.acquire(self.owner, table, target, mode, hard, self.timeout_seconds)
        if self._waiter is not None:
            raise self._wait(self._waiter)
        return True

    @property
    def waiting(self) -> bool:
        """Is a lock waited for? From any thread."""
        waiter = self._waiter
        return waiter is not None and waiter.ticket.state is TicketState.WAITING

    def settle(self) -> None:
        """What was waited for is decided: take note of it."""
        waiter = self._waiter
        if waiter is None or waiter.ticket.state is TicketState.WAITING:
            return
        self._waiter = None
        ticket = waiter.ticket
        if ticket.hard:
            self._committer.barrier()
        elif ticket.state is not TicketState.GRANTED:
            self._skipped = (self._skipped or set()) | {(ticket.table, ticket.target)}

    def give_up(self) -> None:
        """Wait for nothing any more; what was granted meanwhile is held. Repeatable."""
        waiter = self._waiter
        if waiter is None:
            return
        self._locks.give_up(waiter)
        if waiter.ticket.state is TicketState.CANCELLED:
            self._waiter = None
        else:
            self.settle()

    def release(self) -> None:
        """Let go of everything. Repeatable."""
        self._locks.release(self.owner, self._token)
        self._token = self._waiter = None  # no call-back any more
