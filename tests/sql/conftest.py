"""Sessions on a real database in memory, without the driver around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from khonsu_engine.database import Database
from khonsu_sql.local import LocalSession


@pytest.fixture
def database() -> Iterator[Database]:
    opened = Database.open(None)
    yield opened
    opened.close()


@pytest.fixture
def connect(database: Database) -> Iterator[Callable[..., LocalSession]]:
    """A function that makes sessions on one database; they autocommit unless told otherwise."""
    sessions: list[LocalSession] = []

    def connect(**options: Any) -> LocalSession:
        sessions.append(LocalSession(database, **({"autocommit": True} | options)))
        return sessions[-1]

    yield connect
    for session in sessions:
        session.close()


@pytest.fixture
def session(connect: Callable[..., LocalSession]) -> LocalSession:
    return connect()
