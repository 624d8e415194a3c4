"""The DuckDB instances of this process: their settings, their lock-down, and the pool of cursors of each.

Called by `execution`. Nothing of a database is in them: tables are bound to slots of cursors for the time of a statement, so all
databases of the process share them. They start at the first query and end at exit (or by `close_instances`).

Invariants: every setting is given to `connect` or as a GLOBAL, then the configuration is locked, because what is SET on one cursor is
not seen by the others; DuckDB reaches no file, no network, no extension and no Python variable. Finalisers append to `abandoned` and
nothing else; `acquire` cleans up after them. A forked child forgets the instances of its parent without touching them.
"""

from __future__ import annotations

import atexit
import os
import secrets
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import duckdb

from khonsu_engine.storage.forks import never_free
from khonsu_sql.sql.query.aside import Aside, listening
from khonsu_sql.sql.query.cursors import PooledCursor
from khonsu_sql.sql.query.statements import forget

__all__ = ["Instance", "close_instances", "narrow", "wide"]

IDLE_CURSORS_MAX = 32

_CONFIG = {
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "allow_unsigned_extensions": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "enable_external_access": "false",
    "error_on_division_by_zero": "true",
    "integer_division": "true",
    "python_enable_replacements": "false",
}
_LOCK = ("SET GLOBAL TimeZone = 'UTC'", "SET GLOBAL allowed_configs = ['timezone']", "SET GLOBAL lock_configuration = true")


class Instance:
    """One DuckDB with its pool. `threads`: None for as many as DuckDB takes. `single`: it runs in the thread that calls it."""

    def __init__(self, threads: int | None = None) -> None:
        self.single = threads == 1
        self.broken = False
        self.abandoned: deque[Callable[[], None]] = deque()
        self._idle: deque[PooledCursor] = deque()
        self._cursors: WeakValueDictionary[int, PooledCursor] = WeakValueDictionary()
        self.aside = Aside()
        spill = Path(tempfile.gettempdir()) / f"khonsu-{os.getpid()}-{secrets.token_hex(8)}"  # made only when a query does not fit
        config: dict[str, Any] = {**_CONFIG, "temp_directory": str(spill)}
        if threads is not None:
            config["threads"] = threads
        with listening():
            self._connection = duckdb.connect(":memory:", config=config)
            for statement in _LOCK:
                self._connection.execute(statement)

    def acquire(self) -> PooledCursor:
        """A cursor that nobody else uses, until it is released or closed."""
        self._clean()
        try:
            return self._idle.pop()
        except IndexError:
            cursor = PooledCursor(self, self._connection.cursor())
            self._cursors[id(cursor)] = cursor
            return cursor

    def release(self, cursor: PooledCursor) -> None:
        """Back into the pool, its statement over and its slots empty."""
        if self.broken or len(self._idle) >= IDLE_CURSORS_MAX:
            cursor.close()
        else:
            self._idle.append(cursor)

    def forget(self, cursor: PooledCursor) -> None:
        """`cursor` was closed."""
        self._cursors.pop(id(cursor), None)

    def _clean(self) -> None:
        for _ in range(len(self.abandoned)):
            try:
                end = self.abandoned.popleft()
            except IndexError:
                return
            end()

    def close(self) -> None:
        """Interrupt what runs and let everything go."""
        self.broken = True
        self.abandoned.clear()
        self._idle.clear()
        for reference in self._cursors.valuerefs():
            cursor = reference()
            if cursor is not None:
                cursor.close()
        self.aside.close()
        self._connection.close()


_instances: dict[bool, Instance] = {}
_latch = threading.Lock()


def narrow() -> Instance:
    """The instance of a single thread, for small input."""
    return _instance(True)


def wide() -> Instance:
    """The instance that uses all processors."""
    return _instance((os.cpu_count() or 1) == 1)


def _instance(single: bool) -> Instance:
    instance = _instances.get(single)
    if instance is not None and not instance.broken:
        return instance
    with _latch:
        instance = _instances.get(single)
        if instance is None or instance.broken:
            if not _instances:
                atexit.register(close_instances)
            instance = _instances[single] = Instance(1 if single else None)
        return instance


def close_instances() -> None:
    """End all instances of this process; the next query starts new ones. Results that still stream cannot be read on."""
    forget()
    for single in (True, False):
        instance = _instances.pop(single, None)
        if instance is not None:
            instance.close()


def _forget_parent() -> None:
    """In a forked child the threads of DuckDB are gone: its objects must neither be used nor be finalised."""
    global _instances, _latch
    never_free(_instances)
    _instances, _latch = {}, threading.Lock()


os.register_at_fork(after_in_child=_forget_parent)
