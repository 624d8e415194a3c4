"""Who reads at which timestamp: snapshots are taken, moved and let go here, under one latch.

Made by `database`, which takes them; the committer and maintenance ask for the horizon. Invariants: whoever pins a snapshot pins the
table versions and the timestamp *together*; registering a snapshot and computing the horizon share the latch, which is never
held while the commit latch is asked for. A token is a weak reference whose callback lets go: finalisers and Ctrl-C lose none.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from khonsu_engine.columns.table_version import TableVersion
from khonsu_engine.commands import TableId, Timestamp
from khonsu_engine.latches import stand_back
from khonsu_engine.mvcc.horizon import Readers, Snapshots
from khonsu_engine.state_machine import State

__all__ = ["Pin", "SnapshotRegistry", "Tables", "Token"]

Tables = dict[TableId, TableVersion]
Token = weakref.ref[Any]

T = TypeVar("T")

STALE_SHIFT = 7
"""Below 128 snapshots every question is answered anew, with 10,000 each 79th."""


class Pin:
    """Whose death lets go of a snapshot."""

    __slots__ = ("__weakref__",)


class SnapshotRegistry:
    """The snapshots of one database."""

    def __init__(self, state: State) -> None:
        self.latch = threading.Lock()
        self._state = state
        self._released: deque[Token] = deque()
        self._snapshots: Snapshots[Token] = Snapshots()
        self._known = Readers(0, ())
        self._asked = 0

    def __len__(self) -> int:
        self._enter()
        with self.latch:
            self._drain()
            return len(self._snapshots)

    def take(self, published: bool, make: Callable[[Timestamp, Tables], T]) -> tuple[T, Token]:
        """`make` a reader at the newest durable (or `published`) commit; it reads until its token is released or it is garbage."""
        if self.latch.locked():
            stand_back(self.latch)
        with self.latch:
            if self._released:
                self._drain()
            timestamp, tables = self._newest(published)
            reader = make(timestamp, tables)
            # When the reader is garbage its token is released by a call that is not Python's: Ctrl-C cannot get lost in it.
            token = weakref.ref(reader, self._released.append)
            self._snapshots.register(token, timestamp)
        return reader, token

    @contextmanager
    def pinned(self, published: bool, floor: Timestamp) -> Iterator[tuple[Timestamp, Tables]]:
        """The newest durable (or `published`) snapshot, not older than `floor`, readable for the time of the block."""
        pin = Pin()
        token = weakref.ref(pin, self._released.append)
        self._enter()
        with self.latch:
            self._drain()
            timestamp, tables = self._newest(published)
            timestamp = max(timestamp, floor)
            self._snapshots.register(token, timestamp)
        yield timestamp, tables

    def keep(self, timestamp: Timestamp) -> Pin:
        """Hold what came after `timestamp`, as long as the pin lives: whoever reads there now may move on, and still tell what has
        changed since."""
        pin = Pin()
        token = weakref.ref(pin, self._released.append)
        self._enter()
        with self.latch:
            self._snapshots.register(token, timestamp)
        return pin

    def move(self, token: Token, timestamp: Timestamp) -> None:
        """The reader of `token` reads at `timestamp` from now on, which is pinned."""
        self._enter()
        with self.latch:
            self._snapshots.register(token, timestamp)

    def release(self, token: Token) -> None:
        """The reader of that token reads no more. Takes no latch; repeatable."""
        self._released.append(token)

    def readers(self) -> Readers:
        """Who reads below what a snapshot taken now would get; or would have got a while ago, when there are very many.

        So the look at n of them is paid by as many commits. An old answer is a right one: whoever came later reads above its `newest`."""
        self._enter()
        with self.latch:
            self._drain()
            self._asked += 1
            if self._asked > len(self._snapshots) >> STALE_SHIFT:
                self._asked = 0
                self._known = self._snapshots.readers(self._state.durable)
            return self._known

    def horizon(self) -> Timestamp:
        """The oldest timestamp anybody reads at, or will."""
        self._enter()
        with self.latch:
            self._drain()
            return self._snapshots.horizon(self._state.durable)

    def holders(self) -> list[Any]:
        """The readers that `take` made and that still read."""
        self._enter()
        with self.latch:
            self._drain()
            tokens = self._snapshots.tokens()
        readers = [token() for token in tokens]  # not under the latch: the last one to let go of a reader may be this thread
        return [reader for reader in readers if reader is not None and not isinstance(reader, Pin)]

    def _enter(self) -> None:
        if self.latch.locked():
            stand_back(self.latch)

    def _newest(self, published: bool) -> tuple[Timestamp, Tables]:
        state = self._state
        while True:
            tables = state.tables
            timestamp = state.published if published and state.ahead else state.durable
            if tables is state.tables:
                return timestamp, tables

    def _drain(self) -> None:
        """Under the latch. A token leaves the queue after its release, which may be repeated: an interrupt loses none."""
        released = self._released
        while released:
            with suppress(TypeError):  # interrupted in the making: dead before it was registered, it has no hash
                self._snapshots.release(released[0])
            released.popleft()
