"""The databases this process has open: one `Database` per real path, opened by the first connection, closed after the last.

Called by `connection`; calls `khonsu_engine.database` (loaded at the first connect). Named databases in memory are kept in the
same way; private ones have an entry of their own that nobody else finds.

Invariants:
  * one entry's latch is held while its database opens or closes, so nobody sees it half open and other databases do not wait;
  * order of latches: an entry's, then the table's; never the other way;
  * finalisers take no latch: a connection that was dropped instead of closed puts itself into a queue that the reaper thread reads;
  * the reaper outlives what a close raises, and logs it;
  * after a fork the child forgets everything without touching it (`_forget_parent`): it belongs to the parent.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from khonsu_engine.errors import EngineError
from khonsu_engine.storage.forks import never_free
from khonsu_sql.errors import ConnectionDoesNotExist, ObjectInUse, translate

if TYPE_CHECKING:
    from khonsu_engine.database import Database
    from khonsu_sql.dsn import Options, Target

__all__ = ["Lease", "abandon", "acquire", "share", "watch"]

logger = logging.getLogger("khonsu_sql.databases")


class _Entry:
    """One open database and how many connections use it. `latch` is held while it opens or closes."""

    __slots__ = ("database", "latch", "options", "users")

    def __init__(self) -> None:
        self.database: Database | None = None
        self.latch = threading.Lock()
        self.options: tuple[Any, ...] = ()
        self.users = 0


class Lease:
    """A connection's share of an open database. `release` once; the last one closes the database."""

    __slots__ = ("_entry", "_key", "database")

    def __init__(self, database: Database, key: Any, entry: _Entry) -> None:
        self.database = database
        self._key = key
        self._entry: _Entry | None = entry

    def release(self) -> None:
        """Give the share back. Raises what closing the database raises."""
        entry, self._entry = self._entry, None
        if entry is not None:
            _leave(self._key, entry)


class Poisonable(Protocol):
    """What `watch` takes: something that must refuse to work in a forked child."""

    def _poison(self, reason: str) -> Any:
        """Refuse from now on; return what must neither be used nor finalised in this process."""
        ...


def acquire(target: Target, options: Options) -> Lease:
    """A share of the database `target` names, opened (and made) if no connection of this process has it open.

    Raises `ObjectInUse` when it is open here with other options or by another process, `CannotConnect`, `DataCorrupted`.
    """
    key = (target.path, target.name) if target.path or target.name else object()
    entry = _enter(key)
    try:
        with entry.latch:
            database = _opened(entry, target, options)
    except BaseException:
        _leave(key, entry)
        raise
    return Lease(database, key, entry)


def share(lease: Lease) -> Lease:
    """Another share of the same database. Raises ConnectionDoesNotExist when `lease` was released."""
    entry = lease._entry
    if entry is None:
        raise ConnectionDoesNotExist("the connection is closed")
    with _latch:
        entry.users += 1
    return Lease(lease.database, lease._key, entry)


def _enter(key: Any) -> _Entry:
    with _latch:
        entry = _entries.get(key)
        if entry is None:
            entry = _entries[key] = _Entry()
        entry.users += 1
        return entry


def _opened(entry: _Entry, target: Target, options: Options) -> Database:
    wanted = (("synchronous", options.synchronous), ("limits", options.limits))
    if entry.database is None:
        entry.database = _open(target, options)
        entry.options = wanted
    for (name, has), (_, asked) in zip(entry.options, wanted, strict=True):
        if has != asked:
            raise ObjectInUse(
                f"database {target.path or target.name!r} is open in this process with {name} = {has!r}, not {asked!r}",
                hint="All connections of a process to one database share these options.",
            )
    return entry.database


def _open(target: Target, options: Options) -> Database:
    from khonsu_engine.database import Database
    from khonsu_engine.limits import DEFAULT

    limits = options.limits or DEFAULT
    try:
        return Database.open(target.path, limits=limits, synchronous=options.synchronous, create=not options.read_only)
    except EngineError as error:
        raise translate(error) from error


def _leave(key: Any, entry: _Entry) -> None:
    with entry.latch:
        with _latch:
            entry.users -= 1
            last = entry.users == 0
        try:
            if last and entry.database is not None:
                database, entry.database = entry.database, None
                database.close()
        finally:
            _drop_if_unused(key, entry)


def _drop_if_unused(key: Any, entry: _Entry) -> None:
    with _latch:
        if entry.users == 0 and _entries.get(key) is entry:
            del _entries[key]


# --- connections dropped without close


def watch(connection: Poisonable) -> None:
    """Note a new connection: it is poisoned in forked children, and there is a reaper for it."""
    _connections.add(connection)
    if _reaper is None or not _reaper.is_alive():
        _start_reaper()


def abandon(session: Any, lease: Lease) -> None:
    """Have `session` closed and `lease` released by the reaper. Safe in a finaliser: takes no latch."""
    _abandoned.put((session, lease))


def _start_reaper() -> None:
    global _reaper
    with _latch:
        if _reaper is None or not _reaper.is_alive():
            _reaper = threading.Thread(target=_reap, args=(_abandoned,), name="khonsu-reaper", daemon=True)
            _reaper.start()


def _reap(abandoned: SimpleQueue[tuple[Any, Lease] | None]) -> None:
    while (item := abandoned.get()) is not None:
        session, lease = item
        try:
            try:
                session.close()
            finally:
                lease.release()
        except Exception:  # those after it still have to let go of what they hold
            logger.exception("closing a dropped connection failed")
        del item, session, lease


# --- the end of the process, and forks of it


def _close_all() -> None:
    """At exit: stop the reaper and close what is still open, as durable as its `synchronous` promises."""
    if _reaper is not None and _reaper.is_alive():
        _abandoned.put(None)
        _reaper.join()
    for connection in list(_connections):
        connection._poison("the connection was closed at the end of the process")
    for entry in list(_entries.values()):
        with entry.latch:
            database, entry.database = entry.database, None
            if database is not None:
                database.close()


def _forget_parent() -> None:
    """In a forked child: everything open belongs to the parent. Keep it from being finalised here, and start with nothing."""
    global _latch, _entries, _connections, _abandoned, _reaper
    reason = "the connection belongs to the process this one was forked from"
    never_free(_entries, _abandoned, [connection._poison(reason) for connection in list(_connections)])
    _latch = threading.Lock()
    _entries, _connections, _abandoned, _reaper = {}, WeakSet(), SimpleQueue(), None


_latch = threading.Lock()
_entries: dict[Any, _Entry] = {}
_connections: WeakSet[Poisonable] = WeakSet()
_abandoned: SimpleQueue[tuple[Any, Lease] | None] = SimpleQueue()
_reaper: threading.Thread | None = None

atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_parent)
