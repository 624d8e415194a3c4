"""The transaction of a session: when it begins, how it fails, how it ends.

Called by `core` only; calls the engine. What must be waited for is yielded as a ticket (see `core`).

    IDLE ──first statement, BEGIN──▶ ACTIVE ──error──▶ FAILED (25P02 for everything but ROLLBACK, and COMMIT, which rolls back)
      ▲                                │                  │
      └───── COMMIT, ROLLBACK, an error in autocommit ────┘

Invariants: an engine transaction is open only in ACTIVE, and is opened by the first statement, not by BEGIN, because that
statement decides where it reads (a first write at the last published commit, a first read at the last durable one). Whatever
`commit` raises, the transaction has ended. No row and no error leaves that depends on a commit which is not durable.
Left out: savepoints, silent retry, read refresh, waiting for locks (issue B).
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING

from khonsu_engine.commands import Outcome
from khonsu_engine.errors import EngineError
from khonsu_engine.protocols import Ticket
from khonsu_sql.errors import ActiveSqlTransaction, InFailedSqlTransaction
from khonsu_sql.session import TransactionOptions, TransactionStatus, Validity

if TYPE_CHECKING:
    from khonsu_engine.commands import Timestamp
    from khonsu_engine.database import Database
    from khonsu_engine.transaction import LocalTransaction
    from khonsu_sql.sql.settings import Settings

__all__ = ["SessionTransaction", "Steps"]

Steps = Generator[Ticket, None, None]


class SessionTransaction:
    """`engine`: the open engine transaction, or None. `outcome`: how the last one that committed ended.

    `explicit`: it was begun by BEGIN. `name`: 8 random bytes, the second half of its transaction ids."""

    __slots__ = ("_database", "_options", "_settings", "_validity", "engine", "explicit", "name", "outcome", "status")

    def __init__(self, database: Database, settings: Settings) -> None:
        self.status = TransactionStatus.IDLE
        self.engine: LocalTransaction | None = None
        self.explicit = False
        self.outcome: Outcome | None = None
        self._database = database
        self._settings = settings
        self.name = os.urandom(8)
        self._options = TransactionOptions()
        self._validity: Validity | None = None

    # --- the beginning

    def refuse_if_failed(self) -> None:
        if self.status is TransactionStatus.FAILED:
            raise InFailedSqlTransaction("the transaction has failed: commands are ignored until ROLLBACK")

    def begin(self, options: TransactionOptions) -> None:
        """BEGIN. Raises 25001 in a transaction, 25P02 in a failed one."""
        self.refuse_if_failed()
        if self.status is TransactionStatus.ACTIVE:
            raise ActiveSqlTransaction("there is a transaction in progress already", hint="COMMIT or ROLLBACK first.")
        self._options = options
        self.explicit = True
        self.status = TransactionStatus.ACTIVE

    def open(self, writes_first: bool) -> LocalTransaction:
        """The engine transaction, begun now if this is the first statement."""
        if self.engine is None:
            self.refuse_if_failed()
            options, settings = self._options, self._settings
            self.engine = self._database.begin(
                options.isolation or settings.default_transaction_isolation,
                read_only=settings.default_transaction_read_only if options.read_only is None else options.read_only,
                writes_first=writes_first,
                name=self.name,
            )
            self.status = TransactionStatus.ACTIVE
        return self.engine

    def shown(self) -> Validity | None:
        """What a result must carry that shows this transaction's own writes; None while there are none."""
        if self.engine is None or not self.engine.wrote:
            return None
        if self._validity is None:
            self._validity = Validity()
        return self._validity

    # --- the end

    def commit(self) -> Steps:
        """COMMIT; nothing without a transaction. Of a failed one: 25P02, rolled back."""
        if self.status is TransactionStatus.FAILED:
            self._leave()
            raise InFailedSqlTransaction("the transaction had failed: it was rolled back, nothing is committed")
        transaction, validity = self._leave()
        if transaction is None:
            return
        try:
            answer = transaction.commit()
        except BaseException as error:
            if validity is not None and transaction.outcome is None:
                validity.broken = True
            transaction.rollback()
            if isinstance(error, EngineError):
                yield from self.durable(error.evidence.get("commit_timestamp", 0))
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
        transaction, validity = self._leave()
        if validity is not None:
            validity.broken = True
        if transaction is not None:
            transaction.rollback()

    def fail(self, error: BaseException, *, ends: bool) -> Steps:
        """A statement went wrong: what the transaction wrote is gone. It has ended (`ends`: autocommit), or only ROLLBACK helps."""
        transaction = self.engine
        self.rollback()
        if not ends:
            self.status = TransactionStatus.FAILED
        if transaction is not None and isinstance(error, Exception):
            yield from self.durable(transaction.read_timestamp)

    def interrupted(self, *, ends: bool) -> None:
        """An exception that is not a statement's came between any two lines: roll back, if the transaction has not ended yet.

        `ends`: it is over then, else it has failed."""
        status = self.status
        if status is TransactionStatus.IDLE or (status is TransactionStatus.FAILED and not ends):
            return
        self.rollback()
        if not ends:
            self.status = TransactionStatus.FAILED

    def _leave(self) -> tuple[LocalTransaction | None, Validity | None]:
        """IDLE again; what the transaction was is the caller's to finish."""
        left = (self.engine, self._validity)
        self.engine = self._validity = None
        self._options = TransactionOptions()
        self.explicit = False
        self.status = TransactionStatus.IDLE
        return left

    def durable(self, timestamp: Timestamp) -> Steps:
        """Until everything up to `timestamp` is durable: what was read there may then be told."""
        if self._database.state.durable < timestamp:
            ticket = self._database.committer.durable_ticket(timestamp)
            if ticket is not None:
                yield ticket
