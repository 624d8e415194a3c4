"""Keyed batches beside SQL: the engine's own API on the database a connection has open.

Called by users as `khonsu_sql.batches(connection)`. The store has a share of the database of its own: it stays open until it is closed,
whatever becomes of the connection; dropped, the share is given back by the thread that reaps connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from khonsu_sql import databases

if TYPE_CHECKING:
    from khonsu_engine.keyed.batches import BatchStore
    from khonsu_sql.connection import Connection

__all__ = ["batches"]


class _NoSession:
    """What the reaper closes before it gives the share back."""

    def close(self) -> None:
        """There is nothing."""


def batches(connection: Connection, **options: Any) -> BatchStore:
    """The keyed batches of the connection's database, in transactions of their own.

    `options`: isolation, on_conflict and revisions_kept, as of `khonsu_engine.open`. What it raises later are the engine's errors
    (`khonsu_engine.errors`). Raises ConnectionDoesNotExist when the connection is closed."""
    from khonsu_engine.keyed.batches import BatchStore

    with connection._lock:
        connection._open_session()
        lease = databases.share(connection._lease)
    try:
        return BatchStore(lease.database, release=lease.release, abandoned=lambda: databases.abandon(_NoSession(), lease), **options)
    except BaseException:
        lease.release()
        raise
