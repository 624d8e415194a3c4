"""The transactions of SQLAlchemy's engines, connections, sessions and their makers, for `khonsu_sql.run_transaction`.

Called by `khonsu_sql.retry`, which loads this only when SQLAlchemy is loaded. A Session that is rolled back expires what it had loaded and
forgets what was added; one made here is closed, too. Invariant: nothing here decides whether to run anything again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

__all__ = ["Begun", "begun", "in_transaction", "takes", "takes_level"]


class Begun:
    """An open transaction. `argument`: what the user's function gets. `active`: it has not been ended."""

    def __init__(self, argument: Any, transaction: Any) -> None:
        self.argument = argument
        self._transaction = transaction

    @property
    def active(self) -> bool:
        return bool(self._transaction.is_active)


def takes(connectable: Any) -> bool:
    """Is it something that transactions can be begun on?"""
    return isinstance(connectable, Engine | Connection | Session | sessionmaker | scoped_session)


def takes_level(connectable: Any) -> bool:
    """Can a transaction on it have an isolation level of its own? That of a Connection would outlive it."""
    return not isinstance(connectable, Connection)


def in_transaction(connectable: Any) -> bool:
    """Has it an open transaction already? Makers and engines have none."""
    known = connectable() if isinstance(connectable, scoped_session) else connectable
    return isinstance(known, Connection | Session) and known.in_transaction()


@contextmanager
def begun(connectable: Any, isolation_level: Any) -> Iterator[Begun]:
    """A transaction that is committed at the end of the block, or rolled back after an exception."""
    options = {} if isolation_level is None else {"isolation_level": _text(isolation_level)}
    match connectable:
        case Engine():
            with connectable.connect() as connection, begun(connection.execution_options(**options), None) as transaction:
                yield transaction
        case Connection():
            with connectable.begin() as transaction:
                yield Begun(connectable, transaction)
        case sessionmaker():
            with connectable() as session, begun(session, isolation_level) as transaction:
                yield transaction
        case _:
            session = connectable() if isinstance(connectable, scoped_session) else connectable
            with session.begin() as transaction:
                if options:
                    session.connection(execution_options=options)
                yield Begun(session, transaction)


def _text(isolation_level: Any) -> str:
    """`Isolation` or text, as SQLAlchemy spells it."""
    name = getattr(isolation_level, "name", isolation_level)
    return str(name).replace("_", " ").upper()
