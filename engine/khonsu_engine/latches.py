"""How threads ask for a latch that is held.

Called by `committer` and `database` before `with latch:` on the paths of every statement. A latch here is held for microseconds,
but CPython hands a lock over in the worst moment: the thread that gets it must wait for the interpreter with the lock in its hand,
the next one finds it taken, gives up the interpreter, and from then on every acquisition changes threads (measured: 16 threads that
only compute commit half as much as one). So whoever finds a latch taken stands back until it is free, and takes it while it runs.

Source: "lock convoy" (Blasgen, Gray, Mitoma, Price, "The Convoy Phenomenon", ACM SIGOPS OSR 13(2), 1979).
"""

from __future__ import annotations

from threading import Lock
from time import sleep

__all__ = ["stand_back"]

PAUSE_SECONDS = 20e-6
PAUSES_MAX = 50
"""After these the thread queues as usual: so nobody waits for ever."""


def stand_back(latch: Lock) -> None:
    """Wait until `latch` is free, or for about two milliseconds."""
    for _ in range(PAUSES_MAX):
        sleep(PAUSE_SECONDS)
        if not latch.locked():
            return
