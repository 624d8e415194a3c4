"""Who is connected to a database of this process. Told by `local` when a session is made, asked by `khonsu.transactions`.

Invariant: nothing is kept alive by being known here; a session that is garbage is forgotten without a latch.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

if TYPE_CHECKING:
    from khonsu_engine.database import Database
    from khonsu_sql.local import LocalSession

__all__ = ["register", "sessions_on"]

_sessions: WeakKeyDictionary[Database, WeakSet[Any]] = WeakKeyDictionary()
_latch = threading.Lock()


def register(database: Database, session: LocalSession) -> None:
    """`session` is one on `database`, as long as it lives."""
    with _latch:
        _sessions.setdefault(database, WeakSet()).add(session)


def sessions_on(database: Database) -> list[LocalSession]:
    """The sessions on `database`, idle ones too."""
    with _latch:
        return list(_sessions.get(database, ()))


def _forget_parent() -> None:
    """In a forked child: the latch may be held by a thread that is not here."""
    global _latch
    _latch = threading.Lock()


os.register_at_fork(after_in_child=_forget_parent)
