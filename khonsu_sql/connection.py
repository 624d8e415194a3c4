"""PEP 249's connection: transactions, settings, and the end of both.

Made by `opening.connect`; calls a `Session` for everything, and gives its share of the open database back at the end. Threads may
share a connection: one statement runs at a time, the others wait.

Invariants:
  * `_session` is None exactly when the connection must not be used any more (closed, or in a fork); `_refusal()` says which;
  * the session is only touched under `_lock`, but for `cancel`;
  * finalisers take no latch: a connection that is dropped open hands its session to the reaper.
Left out: `tpc_*`.
"""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from khonsu_engine.commands import ConflictPolicy, Isolation
from khonsu_engine.locks import Locking
from khonsu_sql import blocking, databases, dsn, errors
from khonsu_sql.block import TransactionBlock
from khonsu_sql.cursor import Cursor
from khonsu_sql.errors import ActiveSqlTransaction, ConnectionDoesNotExist, InvalidOptionValue, InvalidTransactionTermination
from khonsu_sql.isolation import name_of
from khonsu_sql.policies import policy_of
from khonsu_sql.session import Session, TransactionOptions, TransactionStatus
from khonsu_sql.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from khonsu_engine.commands import Outcome
    from khonsu_sql.retry import RetryReport
    from khonsu_sql.rows import RowFactory
    from khonsu_sql.session import Parameters
    from khonsu_sql.table_description import TableDescription

__all__ = ["Connection"]


class Connection:
    """A connection to a database. Made by `connect`. As a context manager it commits (or rolls back after an exception) and closes.

    `row_factory`  of the cursors made from now on (None = tuples)
    `last_retry`   what `run_transaction` last went through on this connection, or None
    """

    __slots__ = ("__weakref__", "_attempt", "_block", "_lease", "_lock", "_reason", "_session", "_sources", "last_retry", "row_factory")

    Warning = errors.Warning
    Error = errors.Error
    InterfaceError = errors.InterfaceError
    DatabaseError = errors.DatabaseError
    DataError = errors.DataError
    OperationalError = errors.OperationalError
    IntegrityError = errors.IntegrityError
    InternalError = errors.InternalError
    ProgrammingError = errors.ProgrammingError
    NotSupportedError = errors.NotSupportedError

    def __init__(self, session: Session, lease: databases.Lease) -> None:
        self._session: Session | None = session
        self._lease = lease
        self._lock = threading.Lock()
        self._reason = "the connection is closed"
        self._block: TransactionBlock | None = None
        self._attempt: blocking.Attempt | None = None
        self._sources: WeakSet[Source] = WeakSet()
        self.row_factory: RowFactory | None = None
        self.last_retry: RetryReport | None = None
        databases.watch(self)

    # --- statements

    def cursor(self, *, row_factory: RowFactory | None = None) -> Cursor:
        """A new cursor."""
        if self._session is None:
            raise self._refusal()
        return Cursor(self, row_factory or self.row_factory)

    def execute(self, sql: str, parameters: Parameters = None, *, on_conflict: str | ConflictPolicy | None = None) -> Cursor:
        """`cursor().execute(…)`."""
        return self.cursor().execute(sql, parameters, on_conflict=on_conflict)

    def executemany(self, sql: str, seq_of_parameters: Iterable[Sequence[Any] | Mapping[str, Any]]) -> Cursor:
        """`cursor().executemany(…)`."""
        return self.cursor().executemany(sql, seq_of_parameters)

    def tables(self) -> tuple[TableDescription, ...]:
        """The tables this connection sees now, with columns, keys and checks; in a transaction, its own DDL included."""
        with self._lock:
            return self._open_session().tables()

    def cancel(self) -> None:
        """Cancel the statement that runs now, if any; it raises `QueryCanceled`. From any thread."""
        session = self._session
        if session is not None:
            session.cancel()

    def checkpoint(self) -> None:
        """Move recent changes into columns and shorten the log, now. It happens by itself; this is for after a bulk load."""
        with self._lock:
            self._open_session().checkpoint()

    # --- transactions

    def commit(self) -> None:
        """Commit the transaction, durably as `synchronous` says. Without one, nothing happens.

        Whatever it raises, the transaction has ended: it was rolled back (`SerializationFailure`, a violation, 25P02 after an
        earlier error), or its outcome is unknown (`CommitOutcomeUnknown`).
        """
        with self._lock:
            session = self._open_session()
            self._refuse_in_block("commit()")
            session.commit()

    def rollback(self) -> None:
        """Roll the transaction back. Without one, nothing happens."""
        with self._lock:
            session = self._open_session()
            self._refuse_in_block("rollback()")
            session.rollback()

    def transaction(
        self,
        *,
        isolation_level: str | Isolation | None = None,
        read_only: bool | None = None,
        locking: str | Locking | None = None,
        on_conflict: str | ConflictPolicy | None = None,
    ) -> TransactionBlock:
        """`with connection.transaction():` runs its block in one transaction: committed at its end, rolled back after an exception.

        Within a transaction the block is a savepoint: its end releases it, an exception rolls back to it. None = the connection's own
        setting; within a transaction options are refused (25001).
        """
        isolation = None if isolation_level is None else dsn.isolation_of(isolation_level)
        mode = None if locking is None else dsn.locking_of(locking)
        return TransactionBlock(self, TransactionOptions(isolation, read_only, mode, policy_of(on_conflict)))

    retry = blocking.retry
    or_else = blocking.or_else

    @property
    def last_commit(self) -> Outcome | None:
        """How the last transaction of this connection that wrote and committed ended: id, commit timestamp, commit index.

        After Ctrl-C in a COMMIT it tells whether that one did. Waits until it is durable; raises `CommitOutcomeUnknown`.
        """
        with self._lock:
            return self._open_session().last_commit()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed ones included."""
        return self._open_session().status is not TransactionStatus.IDLE

    @property
    def transaction_status(self) -> str:
        """`idle`, `active` or `failed` (an error happened; only ROLLBACK helps)."""
        return self._open_session().status.value

    @property
    def autocommit(self) -> bool:
        """Whether each statement is a transaction of its own. Settable outside a transaction."""
        return self._open_session().autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise InvalidOptionValue(f"autocommit must be True or False, not {value!r}")
        with self._lock:
            self._idle_session("autocommit").autocommit = value

    @property
    def isolation_level(self) -> str:
        """`SERIALIZABLE`, `REPEATABLE READ` or `READ COMMITTED`. Settable outside a transaction, as text or `Isolation`."""
        return name_of(self._open_session().isolation)

    @isolation_level.setter
    def isolation_level(self, value: str | Isolation | None) -> None:
        isolation = dsn.isolation_of(value)
        with self._lock:
            self._idle_session("isolation_level").isolation = isolation

    def _open_session(self) -> Session:
        if self._session is None:
            raise self._refusal()
        return self._session

    def _idle_session(self, setting: str) -> Session:
        session = self._open_session()
        if session.status is not TransactionStatus.IDLE:
            raise ActiveSqlTransaction(f"{setting} cannot be set inside a transaction", hint="Commit or roll back first.")
        return session

    def _refuse_in_block(self, what: str) -> None:
        if self._block is not None:
            hint = "The block commits at its end; raise an exception to roll back."
            raise InvalidTransactionTermination(f"{what} inside a transaction() block", hint=hint)

    def _refusal(self) -> errors.Error:
        return ConnectionDoesNotExist(self._reason, hint="Connect again.")

    # --- the end

    def close(self) -> None:
        """Roll back the open transaction, end open results, close. The last connection closes the database. Twice is fine."""
        session = None
        try:
            with self._lock:
                session, self._session = self._session, None
            if session is not None:
                self._end(session)
        except Exception:
            raise
        except BaseException:  # Ctrl-C: nobody else knows of the session any more
            if session is not None:
                databases.abandon(session, self._lease)
            raise

    def _end(self, session: Session) -> None:
        try:
            try:
                for source in list(self._sources):
                    source.close(self._reason)
            finally:
                session.close()
        finally:
            self._lease.release()

    @property
    def closed(self) -> bool:
        """Whether the connection cannot be used any more."""
        return self._session is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exception: BaseException | None, traceback: object) -> None:
        try:
            if self._session is not None:
                self.commit() if kind is None else self.rollback()
        finally:
            self.close()

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None:
            databases.abandon(session, self._lease)
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)

    def _poison(self, reason: str) -> Any:
        """In a forked child, or at exit: refuse from now on; see `databases`."""
        kept = (self._session, list(self._sources))
        self._reason = reason
        self._lock = threading.Lock()
        self._session = None
        return kept

    def __reduce__(self) -> str:
        raise TypeError("a connection cannot be pickled or copied")

    def __repr__(self) -> str:
        session = self._session
        state = "closed" if session is None else session.status.value
        return f"<khonsu_sql.Connection {state} at {id(self):#x}>"
