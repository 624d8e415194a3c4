"""`connect`: the arguments, a share of the open database, a session on it.

Called by users; calls `dsn` for the arguments, `databases` for the share, and `khonsu_sql.local`, loaded at the first connect.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from khonsu_engine.commands import ConflictPolicy, Isolation
from khonsu_engine.locks import Locking
from khonsu_sql import databases, dsn
from khonsu_sql.connection import Connection

if TYPE_CHECKING:
    from khonsu_engine.limits import Limits

__all__ = ["connect"]


def connect(
    database: str | os.PathLike[str] = ":memory:",
    *,
    isolation_level: str | Isolation | None = None,
    locking: str | Locking | None = None,
    on_conflict: str | ConflictPolicy | None = None,
    autocommit: bool = False,
    read_only: bool = False,
    timeout: float = 10.0,
    synchronous: str = "full",
    limits: Limits | None = None,
    statement_timeout: float | str = 0,
    transaction_timeout: float | str = 0,
    idle_in_transaction_timeout: float | str = 0,
    **unknown: Any,
) -> Connection:
    """Open a database (and make it if it does not exist) and return a connection to it.

    `database`         path of a directory, `khonsu:///path`, `:memory:` (private), `:memory:name` (shared in this process)
    `isolation_level`  SERIALIZABLE (default), REPEATABLE READ or READ COMMITTED
    `autocommit`       False: a transaction begins with the first statement; True: each statement is one
    `read_only`        writes are refused (25006), and a database that does not exist is not made
    `timeout`          seconds to wait for a lock (lock_timeout; 55P03 then); 0 is without end
    `locking`          how transactions meet rivals: OPTIMISTIC, ADAPTIVE (default) or PESSIMISTIC
    `synchronous`      when a commit is acknowledged: full (on disk), normal (on disk 100 ms later at the latest), off
    `limits`           bounds of the engine (`khonsu_engine.limits.Limits`); like `synchronous` one for all connections
    `statement_timeout`, `transaction_timeout`, `idle_in_transaction_timeout`
                       what may take how long: milliseconds, or text with a unit (`30s`, `5min`); 0 is without end
    `on_conflict`      what becomes of rows that collide: FAIL (default), IGNORE, REPLACE, APPEND or MERGE

    Raises `CannotConnect`, `ObjectInUse` (another process has it, or other options are in force here), `DataCorrupted`,
    `InvalidOption` and `InvalidOptionValue` (both `InterfaceError`).
    """
    dsn.refuse_unknown(unknown)
    target = dsn.parse(database)
    given = (isolation_level, autocommit, read_only, timeout, synchronous, limits, locking, on_conflict)
    timeouts = (statement_timeout, transaction_timeout, idle_in_transaction_timeout)
    options = dsn.options_of({**dict(zip(dsn.NAMES, (*given, *timeouts), strict=True)), **unknown}, target.options)
    lease = databases.acquire(target, options)
    try:
        from khonsu_sql.local import session_on

        return Connection(session_on(lease.database, options), lease)
    except BaseException:
        lease.release()
        raise
