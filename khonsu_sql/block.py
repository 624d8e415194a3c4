"""`with connection.transaction():`, a block that is one transaction.

Made by `Connection.transaction`; calls the session under the connection's lock. Inside, `commit()` and `rollback()` are refused: the
block does it. Left out: nesting (savepoints).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from khonsu_sql.errors import FeatureNotSupported
from khonsu_sql.session import TransactionOptions, TransactionStatus

if TYPE_CHECKING:
    from khonsu_sql.connection import Connection

__all__ = ["TransactionBlock"]


class TransactionBlock:
    """What `Connection.transaction` returns. Its `with` yields the connection."""

    __slots__ = ("_connection", "_options")

    def __init__(self, connection: Connection, options: TransactionOptions) -> None:
        self._connection = connection
        self._options = options

    def __enter__(self) -> Connection:
        connection = self._connection
        with connection._lock:
            session = connection._open_session()
            if session.status is not TransactionStatus.IDLE:
                raise FeatureNotSupported(
                    "transaction() inside a transaction is not supported by this version", hint="Commit or roll back first."
                )
            session.begin(self._options)
            connection._block = self
        return connection

    def __exit__(self, kind: type[BaseException] | None, exception: BaseException | None, traceback: object) -> None:
        connection = self._connection
        connection._block = None
        with connection._lock:
            session = connection._session
            if session is not None:
                session.commit() if kind is None else session.rollback()
            elif kind is None:
                raise connection._refusal()
