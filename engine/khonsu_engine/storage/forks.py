"""Use after fork: every open store is poisoned in the child, whose copy could only destroy the parent's database.

Called by `memory` and `rocks`, which register themselves when they open. Whoever wants several processes spawns them.
Only a weak reference is kept. `poison` runs in the child, in the one thread that is left: it must take no latch.
"""

from __future__ import annotations

import ctypes
import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["USED_AFTER_FORK", "Poisonable", "never_free", "register"]

USED_AFTER_FORK = "used after fork: this process is a copy of the one that opened the database. Open it in a spawned process instead"


class Poisonable(Protocol):
    """An open store: from `poison` on every call raises EngineClosed, and nothing of it is closed, flushed or freed."""

    def poison(self) -> None: ...


_open: WeakSet[Poisonable] = WeakSet()


def register(store: Poisonable) -> None:
    """Poison `store` in every child this process forks from now on."""
    _open.add(store)


def never_free(*objects: object) -> None:
    """Leak `objects` on purpose: no finaliser of theirs runs in this process, not even when the interpreter exits."""
    for lent in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(lent))


def _poison_all() -> None:
    stores = tuple(_open)
    for store in stores:
        store.poison()
    if stores:
        _leave_without_native_handlers()


def _leave_without_native_handlers() -> None:
    """Let `exit` in this child end in `_exit`: RocksDB's own handler would wait for threads that fork did not copy, and crash.

    Of the handlers the one registered last runs first, and Python has finished by then. `on_exit` is glibc's."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        libc.on_exit(libc._exit, None)


os.register_at_fork(after_in_child=_poison_all)
