"""The transaction of a session: when it begins, how it fails, how it ends.

Called by `core` only; calls the engine. What must be waited for is yielded as a ticket (see `core`).

    IDLE ──first statement, BEGIN──▶ ACTIVE ──error──▶ FAILED (25P02 for everything but ROLLBACK, and COMMIT, which rolls back)
      ▲                                │                  │
      └───── COMMIT, ROLLBACK, an error in autocommit ────┘       ROLLBACK TO makes a failed transaction ACTIVE again

Invariants: an engine transaction is opened by the first statement, not by BEGIN, because that statement decides where it reads (a
first write at the last published commit, a first read at the last durable one). In FAILED it is still open only if there is a
savepoint to go back to. Whatever `commit` raises, the transaction has ended. No row and no error leaves that depends on a commit
which is not durable. A transaction that ran out of time (`terminate`) is FAILED, holds nothing, and says so to everything but ROLLBACK.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from khonsu_engine.commands import ConflictPolicy, Isolation, Outcome
from khonsu_engine.errors import EngineError
from khonsu_engine.locks import Locking
from khonsu_engine.protocols import Ticket
from khonsu_engine.restarts import LockWait
from khonsu_sql.errors import (
    ActiveSqlTransaction,
    Error,
    InFailedSqlTransaction,
    InvalidSavepointSpecification,
    NoActiveSqlTransaction,
    QueryCanceled,
    TransactionTimeout,
)
from khonsu_sql.session import SavepointMark, TransactionOptions, TransactionStatus, Validity

if TYPE_CHECKING:
    from khonsu_engine.commands import Timestamp
    from khonsu_engine.database import Database
    from khonsu_engine.transaction import LocalTransaction
    from khonsu_sql.sql.settings import Settings

__all__ = ["SessionTransaction", "Steps"]

Steps = Generator[Ticket, None, None]


class SessionTransaction:
    """`engine`: the open engine transaction, or None. `outcome`: how the last one that committed ended.

    `explicit`: it was begun by BEGIN. `pessimistic`: it was begun as such. `name`: 8 random bytes, half of its transaction ids.
    `terminated`: what to raise since it ran out of time, else None. `check_cancelled` raises once it was told to stop."""

    def __init__(self, database: Database, settings: Settings, check_cancelled: Callable[[], None]) -> None:
        self._check_cancelled = check_cancelled
        self.terminated: Callable[[], Error] | None = None
        self.status = TransactionStatus.IDLE
        self.engine: LocalTransaction | None = None
        self.explicit = self.pessimistic = False
        self.outcome: Outcome | None = None
        self._database = database
        self._settings = settings
        self.name = os.urandom(8)
        self._options = TransactionOptions()
        self._shown: list[Validity] = []  # the last one is that of results since the last savepoint
        self._savepoints: list[SavepointMark] = []
        self._left: LocalTransaction | None = None

    # --- the beginning

    def refuse_if_failed(self) -> None:
        if self.status is TransactionStatus.FAILED:
            self._refuse_if_terminated()
            raise InFailedSqlTransaction("the transaction has failed: commands are ignored until ROLLBACK")

    def _refuse_if_terminated(self) -> None:
        if self.terminated is not None:
            raise self.terminated()

    def begin(self, options: TransactionOptions) -> None:
        """BEGIN. Raises 25001 in a transaction, 25P02 in a failed one."""
        self.refuse_if_failed()
        if self.status is TransactionStatus.ACTIVE:
            raise ActiveSqlTransaction("there is a transaction in progress already", hint="COMMIT or ROLLBACK first.")
        self._options = options
        self.explicit = True
        self.status = TransactionStatus.ACTIVE

    def open(self, writes_first: bool, locking: Locking | None = None) -> LocalTransaction:
        """The engine transaction, begun now if this is the first statement. `locking`: of a transaction by itself, instead of what the
        options and settings say; PESSIMISTIC locks what it reads, too."""
        self.refuse_if_failed()
        if self.engine is None:
            options, settings = self._options, self._settings
            isolation = options.isolation or settings.default_transaction_isolation
            self.engine = self._database.begin(
                isolation,
                read_only=settings.default_transaction_read_only if options.read_only is None else options.read_only,
                writes_first=writes_first,
                name=self.name,
                restarts=True,
                locking=self._locking(isolation) if locking is None else locking,
                lock_timeout_seconds=settings.lock_timeout or None,
                holds_reads=locking is Locking.PESSIMISTIC,
            )
            self.status = TransactionStatus.ACTIVE
        return self.engine

    @property
    def on_conflict(self) -> ConflictPolicy:
        """The policy of statements on tables where neither says something else."""
        return self._options.on_conflict or self._settings.conflict_resolution

    def apply_settings(self) -> None:
        """Settings have changed: what holds for an open transaction holds from now on."""
        if self.engine is not None:
            self.engine.set_lock_timeout(self._settings.lock_timeout or None)

    def _locking(self, isolation: Isolation) -> Locking:
        """READ COMMITTED promises that nobody commits over what it wrote, which takes hard locks, unless it was told to be optimistic."""
        chosen = self._settings.locking if self._options.locking is None else self._options.locking
        self.pessimistic = chosen is Locking.PESSIMISTIC
        return Locking.PESSIMISTIC if chosen and isolation is Isolation.READ_COMMITTED else chosen

    def shown(self) -> Validity | None:
        """What a result must carry that shows this transaction's own writes; None while there are none."""
        if self.engine is None or not self.engine.wrote:
            return None
        if not self._shown or (self._savepoints and self._savepoints[-1].shown == len(self._shown)):
            self._shown.append(Validity())
        return self._shown[-1]

    # --- savepoints

    def savepoints(self, action: str, name: str, *, begins: bool) -> None:
        """`action`: savepoint, release or rollback to. `begins`: without a transaction SAVEPOINT begins one."""
        if action == "rollback to":
            self.rollback_to(name)
        elif action == "release":
            self.release(name)
        else:
            self.begin_for("SAVEPOINT", begins=begins)
            self.savepoint(name)

    def savepoint(self, name: str) -> None:
        """SAVEPOINT. A name that is in use is hidden, until the new one is released or rolled back behind."""
        self._database.savepoints.add()
        mark = 0 if self.engine is None else self.engine.savepoint()
        self._savepoints.append(SavepointMark(name, mark, len(self._shown), self._settings.local_values()))

    def release(self, name: str) -> None:
        """RELEASE: the savepoint and later ones go, their changes stay. Raises 3B001."""
        self.begin_for("RELEASE SAVEPOINT", begins=False)
        del self._savepoints[self._find(name) :]

    def rollback_to(self, name: str) -> None:
        """ROLLBACK TO: every change since the savepoint goes, and so do later savepoints; a failed transaction goes on. Raises 3B001."""
        self._refuse_if_terminated()
        self._require_transaction("ROLLBACK TO SAVEPOINT")
        savepoint = self._savepoints[position := self._find(name)]
        _break(self._shown[savepoint.shown :])
        self._settings.end_local(savepoint.local)
        self.apply_settings()
        if self.engine is not None:
            self.engine.rollback_to(savepoint.mark)
        del self._shown[savepoint.shown :]
        del self._savepoints[position + 1 :]
        self.status = TransactionStatus.ACTIVE

    def _find(self, name: str) -> int:
        names = [savepoint.name for savepoint in self._savepoints]
        if name in names:
            return len(names) - 1 - names[::-1].index(name)
        hint = f"There are {', '.join(dict.fromkeys(names))}." if names else "There is none."
        raise InvalidSavepointSpecification(f'savepoint "{name}" does not exist', hint=hint)

    def begin_for(self, what: str, *, begins: bool) -> None:
        """A transaction that works, for `what` needs one; `begins`: it begins one. Raises 25P01, 25P02."""
        self.refuse_if_failed()
        if begins and self.status is TransactionStatus.IDLE:
            self.begin(TransactionOptions())
        self._require_transaction(what)

    def _require_transaction(self, what: str) -> None:
        if self.status is TransactionStatus.IDLE:
            raise NoActiveSqlTransaction(f"{what} can only be used in a transaction", hint="BEGIN one.")

    # --- the end

    def commit(self, *, tells: bool = True) -> Steps:
        """COMMIT; nothing without a transaction. Of a failed one: 25P02, rolled back. `tells`: the user will see a conflict."""
        if self.status is TransactionStatus.FAILED:
            terminated = self.terminated
            self.rollback()
            if terminated is not None:
                raise terminated()
            raise InFailedSqlTransaction("the transaction had failed: it was rolled back, nothing is committed")
        transaction, shown = self._leave()
        if transaction is None:
            return
        try:
            while True:
                try:
                    answer = transaction.commit()
                    self._left = None
                    break
                except LockWait as wait:
                    yield wait.ticket
                    self._check_cancelled()
        except BaseException as error:
            if shown and transaction.outcome is None:
                _break(shown)
            self._end_left()
            if tells:
                yield from self.durable(_known_by(error))
            raise
        if not isinstance(answer, Outcome):
            try:
                yield answer
            except KeyboardInterrupt:  # it was held back until the answer came
                self.outcome = transaction.outcome
                raise
        self.outcome = transaction.outcome

    def rollback(self) -> None:
        """ROLLBACK; nothing without a transaction."""
        _break(self._shown)
        self._leave()
        self._end_left()

    def fail(self, error: BaseException, *, ends: bool) -> Steps:
        """A statement went wrong. The transaction has ended (`ends`: autocommit), or only ROLLBACK helps, and ROLLBACK TO a savepoint;
        without one, what it wrote is gone."""
        transaction = self.engine
        if ends or not self._savepoints or not isinstance(error, Exception):
            self.rollback()
        elif transaction is not None:
            transaction.wait_no_more()
        if not ends:
            self.status = TransactionStatus.FAILED
        cancelled = isinstance(error, QueryCanceled | TransactionTimeout)  # which tells nothing of what was read
        if transaction is not None and isinstance(error, Exception) and not cancelled:
            yield from self.durable(max(transaction.read_timestamp, _known_by(error)))

    def terminate(self, error: Callable[[], Error]) -> None:
        """It is out of time: what it holds is let go at once, and everything but ROLLBACK raises `error()`."""
        if self.status is TransactionStatus.IDLE or self.terminated is not None:
            return
        self.terminated, self.status = error, TransactionStatus.FAILED
        self._left, shown = self.engine, self._shown
        self.engine, self._shown, self._savepoints = None, [], []
        _break(shown)
        self._end_left()

    def interrupted(self, *, ends: bool) -> None:
        """An exception that is not a statement's came between any two lines: roll back, if the transaction has not ended yet.

        `ends`: it is over then, else it has failed."""
        self._end_left()
        status, terminated = self.status, self.terminated
        if status is TransactionStatus.IDLE or (status is TransactionStatus.FAILED and not ends):
            return
        self.rollback()
        if not ends:
            self.status, self.terminated = TransactionStatus.FAILED, terminated

    def _leave(self) -> tuple[LocalTransaction | None, list[Validity]]:
        """IDLE again; what the transaction was is the caller's to finish, by `_end_left` or a commit."""
        self._end_left()
        self._left = self.engine
        left = (self.engine, self._shown)
        self.engine, self._shown, self._savepoints = None, [], []
        self._options = TransactionOptions()
        self.explicit = self.pessimistic = False
        self.status, self.terminated = TransactionStatus.IDLE, None
        self._settings.end_local()
        return left

    def _end_left(self) -> None:
        """Roll back what was left and has not ended. Ctrl-C may have come in between: then whoever comes next does it."""
        if self._left is not None:
            self._left.rollback()
            self._left = None

    def durable(self, timestamp: Timestamp) -> Steps:
        """Until everything up to `timestamp` is durable: what was read there may then be told."""
        ticket = self._database.committer.durable_ticket(timestamp)
        if ticket is not None:
            yield ticket


def _known_by(error: BaseException) -> Timestamp:
    """The commit an error speaks of; 0: of none."""
    return (error.evidence.get("commit_timestamp") or 0) if isinstance(error, EngineError) else 0


def _break(shown: list[Validity]) -> None:
    for validity in shown:
        validity.broken = True
