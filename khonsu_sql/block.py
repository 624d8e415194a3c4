"""`with connection.transaction():`, a block that is one transaction, or within one a savepoint.

Made by `Connection.transaction`; calls the session under the connection's lock. Inside, `commit()` and `rollback()` are refused: the
outermost block does it. A COMMIT or ROLLBACK given as SQL is found out at the end (2D000).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from khonsu_sql.errors import (
    ActiveSqlTransaction,
    IdleInTransactionTimeout,
    InvalidSavepointSpecification,
    InvalidTransactionTermination,
    NoActiveSqlTransaction,
    TransactionTimeout,
)
from khonsu_sql.session import Session, TransactionOptions, TransactionStatus

if TYPE_CHECKING:
    from khonsu_sql.connection import Connection

__all__ = ["TransactionBlock"]


class TransactionBlock:
    """What `Connection.transaction` returns. Its `with` yields the connection."""

    __slots__ = ("_connection", "_depth", "_mark", "_name", "_options", "_outer")

    def __init__(self, connection: Connection, options: TransactionOptions) -> None:
        self._connection = connection
        self._options = options
        self._depth = 1
        self._name = ""
        self._mark: object = None
        self._outer: TransactionBlock | None = None

    def __enter__(self) -> Connection:
        try:
            self._begin()
            return self._connection
        except BaseException:
            self._drop()
            raise

    def _begin(self) -> None:
        connection = self._connection
        self._mark, self._name = None, ""
        with connection._lock:
            session = connection._open_session()
            if session.status is TransactionStatus.IDLE:
                self._mark = self  # while it is begun
                session.begin(self._options)
                self._mark = session.mark
            elif self._options != TransactionOptions():
                raise ActiveSqlTransaction("a block within a transaction takes no options", hint="Give them to the outermost one.")
            else:
                outer = connection._block
                self._depth = 1 if outer is None else outer._depth + 1
                self._name = f"khonsu_block_{self._depth}"
                session.savepoint("savepoint", self._name)
            self._outer, connection._block = connection._block, self

    def __exit__(self, kind: type[BaseException] | None, exception: BaseException | None, traceback: object) -> None:
        try:
            self._end(kind)
        except Exception:
            raise
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        """Ctrl-C at its begin or end: the block is over, and so is the transaction it has begun. A savepoint goes with the outer block."""
        connection = self._connection
        if connection._block is self:
            connection._block = self._outer
        with connection._lock:
            session = connection._session
            if session is not None and (self._mark is self or self._mark is session.mark):
                session.rollback()

    def _end(self, kind: type[BaseException] | None) -> None:
        connection, name = self._connection, self._name
        connection._block = self._outer
        with connection._lock:
            session = connection._session
            if session is None:
                if kind is None:
                    raise connection._refusal()
            elif not name:
                if kind is not None:
                    session.rollback()
                else:
                    self._commit(session)
            elif kind is None:
                session.savepoint("release", name)
            else:
                _roll_back_to(session, name)

    def _commit(self, session: Session) -> None:
        if session.status is not TransactionStatus.FAILED and session.mark is not self._mark:
            session.rollback()  # whatever was begun meanwhile
            raise InvalidTransactionTermination(
                "the transaction of this block was ended inside it, by a COMMIT or ROLLBACK statement",
                hint="The block commits at its end; raise an exception to roll back.",
            )
        session.commit()


def _roll_back_to(session: Session, name: str) -> None:
    """After an exception; one that took the whole transaction along (Ctrl-C, a timeout) left no savepoint."""
    with suppress(InvalidSavepointSpecification, NoActiveSqlTransaction, IdleInTransactionTimeout, TransactionTimeout):
        session.savepoint("rollback to", name)
        session.savepoint("release", name)
