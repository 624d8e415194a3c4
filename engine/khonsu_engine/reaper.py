"""The reaper: one thread per database that comes back to what has a deadline.

Made by `database`; asked by sessions (`watch`) whose statements or transactions may take only so long. It knows of neither: at the moment
that was asked for it calls `look`, which does what is due and says when to come again.

Invariants: the thread starts at the first need, sleeps until the next moment and ends with the database; `watch` is one put into a queue,
so it may be called under any latch; whoever is watched is held weakly, and has one moment, the earliest; what goes wrong in a `look`
is logged and hits nobody else.
"""

from __future__ import annotations

import logging
import threading
import time
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from queue import Empty, SimpleQueue
from typing import Protocol
from weakref import WeakKeyDictionary, ref

__all__ = ["Reaper", "Watched"]

logger = logging.getLogger("khonsu_engine.reaper")

SLACK = 64
"""Entries of the agenda that may be out of date before it is tidied."""


class Watched(Protocol):
    """Something with a deadline. Hashable by identity, and weakly referenced."""

    def look(self, now: float) -> float:
        """Do what is due at `now` (of `time.monotonic`). Returns when to look again; `inf`: not before it is asked for.

        Runs in the reaper's thread, for which all others wait: it must not block."""
        ...


class Reaper:
    """`failure`: the last exception of a `look`, or None."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self._asked: SimpleQueue[tuple[float, ref[Watched]] | None] = SimpleQueue()  # its `put` is one step for Ctrl-C
        self._starting = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._agenda: list[tuple[float, int, ref[Watched]]] = []
        self._moments: WeakKeyDictionary[Watched, float] = WeakKeyDictionary()
        self._numbers = count()

    def watch(self, watched: Watched, moment: float) -> None:
        """Look at `watched` at `moment` (of `time.monotonic`), if that is earlier than what was asked for before."""
        self._asked.put((moment, ref(watched)))
        if self._thread is None or self._thread.ident is None:  # the latter: Ctrl-C came between its making and its start
            self._start()

    def _start(self) -> None:
        with self._starting:
            if not self._stopping.is_set() and (self._thread is None or self._thread.ident is None):
                self._thread = threading.Thread(target=self._run, name="khonsu-deadlines", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Stop the thread; a `look` under way is finished first. Idempotent."""
        with self._starting:
            self._stopping.set()
        if self._thread is not None and self._thread.ident is not None:
            self._asked.put(None)
            self._thread.join()
        self._thread = None

    # -- in the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                wait = max(0.0, self._agenda[0][0] - time.monotonic()) if self._agenda else None
                asked = self._asked.get(timeout=wait)
            except Empty:
                asked = None
            if asked is not None:
                self._note(*asked)
            self._look(time.monotonic())
        self._asked.put(None)  # for a second thread, should an interrupted start have left one

    def _note(self, moment: float, reference: ref[Watched]) -> None:
        watched = reference()
        if watched is not None and moment < self._moments.get(watched, inf):
            self._moments[watched] = moment
            heappush(self._agenda, (moment, next(self._numbers), reference))
        if len(self._agenda) > 2 * len(self._moments) + SLACK:
            self._agenda = [entry for entry in self._agenda if self._stands(entry[0], entry[2])]
            heapify(self._agenda)

    def _stands(self, moment: float, reference: ref[Watched]) -> bool:
        watched = reference()
        return watched is not None and self._moments.get(watched) == moment

    def _look(self, now: float) -> None:
        while self._agenda and self._agenda[0][0] <= now:
            moment, _, reference = heappop(self._agenda)
            if self._stands(moment, reference) and (watched := reference()) is not None:
                del self._moments[watched]
                self._note(self._looked(watched, now), reference)
                del watched

    def _looked(self, watched: Watched, now: float) -> float:
        try:
            return watched.look(now)
        except Exception as error:
            self.failure = error
            logger.exception("looking after a deadline failed")
            return inf
