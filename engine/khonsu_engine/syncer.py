"""Durability: one sync for everything appended before it, and the tickets of those who wait for it.

Made and called by `committer`. One thread at a time syncs for all that queued meanwhile, advances *durable* and answers the
tickets: the sync thread, or the only one that waits.

Invariants: `queue` is called under the commit latch, after the append; `_syncing` is never asked for under that latch; a failed
sync is final (`failure`): *durable* stays, owners get "unknown". Whoever syncs may be interrupted and the next one repeats it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from khonsu_engine.commands import Outcome, Timestamp
from khonsu_engine.errors import StoreFailed
from khonsu_engine.latches import stand_back
from khonsu_engine.mvcc.horizon import Readers
from khonsu_engine.protocols import Store
from khonsu_engine.state_machine import State
from khonsu_engine.tickets import CommitTicket

__all__ = ["Syncer", "Synchronous", "nothing"]

Synchronous = str
"""full: a commit is told when it is synced. normal: synced within `sync_delay_seconds`. off: synced at close."""


class Syncer:
    """`failure`: why nothing can be made durable any more, or None. `readers`: who reads, as of the last sync. `syncs`: their number.

    `instant`: published is durable, because there is nothing to sync or `synchronous` says so. `settle`: finishes what an
    interrupted commit left pending, under the latch."""

    def __init__(
        self,
        latch: threading.Lock,
        state: State,
        store: Store,
        synchronous: Synchronous,
        delay_seconds: float,
        settle: Callable[[], None],
        readers: Callable[[], Readers],
    ) -> None:
        self.failure: Exception | None = None
        self.instant = synchronous != "full" or not store.durable
        self.closing = threading.Event()
        self.readers = Readers(0, ())
        self.syncs = 0
        self.on_failure: Callable[[], None] = nothing
        self._latch = latch
        self._state = state
        self._store = store
        self._synchronous = synchronous
        self._delay_seconds = delay_seconds
        self._settle = settle
        self._readers_now = readers
        self._synced = state.index
        self._waiting: list[CommitTicket] = []
        self._answered: list[CommitTicket] = []  # those whose sync is under way
        self._syncing = threading.Lock()
        self._signal: SimpleQueue[None] = SimpleQueue()  # its `put` is one step, interrupted before or after, never within
        self._thread: threading.Thread | None = None

    # -- under the latch ------------------------------------------------------------------------------------------

    def queue(self, timestamp: Timestamp, outcome: Outcome | None) -> CommitTicket:
        """A ticket for what was published up to `timestamp`. `outcome`: of the waiter's own commit."""
        ticket = CommitTicket(timestamp, outcome, self._expedite)
        if self.failure is not None:
            ticket.answer(StoreFailed("the sync that would cover what was read has failed", detail=str(self.failure)))
        else:
            self._waiting.append(ticket)
        return ticket

    def advance(self, look: bool) -> None:
        """Published is durable now. `look`: also see who reads."""
        state = self._state
        state.durable = state.published
        state.durable_mark = (state.index, state.last_hash, state.published)
        if look:
            self.readers = self._readers_now()
        self._wake()

    def fail(self, error: Exception) -> None:
        """Nothing becomes durable any more, and nobody reads above what is."""
        self._state.ahead = False
        self.failure = error
        self.on_failure()

    # -- syncing --------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Have what was appended synced soon."""
        if self._thread is not None and self._signal.empty():
            self._signal.put(None)

    def start(self) -> None:
        """Start the sync thread where there is something to sync."""
        if self._store.durable and self._synchronous != "off":
            self._thread = threading.Thread(target=self._run, name="khonsu-sync", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._signal.get()
            if self._synchronous == "normal":
                self.closing.wait(self._delay_seconds)
            with self._syncing:
                self._sync_once()
            if self.closing.is_set() and not self._waiting:
                return

    def _expedite(self, here: bool) -> None:
        """A thread begins to wait. When it is alone (and `here`) it does the sync itself, which spares two changes of threads."""
        if not here or len(self._waiting) > 1 or self._syncing.locked():
            self._wake()
            return
        try:
            with self._syncing:
                self._sync_once()
        except BaseException:
            self._wake()
            raise

    def _sync_once(self) -> None:
        """One sync for everything appended before it. Whoever holds `_syncing` may be interrupted in it, and the next one repeats it."""
        answered = self._answered
        if self._latch.locked():
            stand_back(self._latch)
        with self._latch:
            self._settle()
            answered += self._waiting
            self._waiting = []
            state = self._state
            mark = (state.index, state.last_hash, state.published)
        if self.failure is None and mark[0] > self._synced:
            try:
                self._store.sync()
            except Exception as error:  # noqa: BLE001 — whatever it is, what was appended is not durable
                self.fail(error)
        if self.failure is None and mark[0] > self._synced:
            self.syncs += 1
            if not self.instant:  # else it is further already, and would go back
                state.durable = mark[2]
                state.durable_mark = mark  # after it: a checkpoint takes nothing that a snapshot taken now could not see
            self._synced = mark[0]  # last: what was interrupted before is repeated
            self.readers = self._readers_now()
        for ticket in answered:
            ticket.answer(self.failure)
        answered.clear()

    def close(self) -> None:
        """Sync what is left, answer every ticket, stop the thread. `closing` was set under the latch. Idempotent.

        Raises StoreFailed when commits that were told (below `synchronous = full`) could not be made durable."""
        if self._thread is not None:
            self._signal.put(None)
            self._thread.join()
            self._thread = None
        elif self._store.durable and self.failure is None:
            self._sync_once()
        if self.failure is not None and self._store.durable and self.instant:
            raise StoreFailed("the last commits could not be made durable", detail=str(self.failure)) from self.failure


def nothing() -> None:
    """What is called where nobody asked to be."""
