"""One row at one commit timestamp, as a link of its key's chain.

Made by `state_machine` for every effect of a commit, linked by `memtable`, kept in the change lists for validation.

Invariants of a chain, newest first: timestamps fall; `older` is what a reader below `timestamp` goes to, and stands for
the key's state only below `older_end`; whoever reads in [`older_end`, `timestamp`) meets versions that were pruned. At the
end of a chain (`older` is None) the same rule holds for the segments below: they hold the key's state before `older_end`.
Only `older` and `older_end` ever change, and only towards less history.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from khonsu_engine.commands import Key, Row, Timestamp

__all__ = ["PRUNED", "Pruned", "SnapshotPruned", "Version"]


class Pruned(Enum):
    """The type of `PRUNED`."""

    PRUNED = 1


PRUNED: Final = Pruned.PRUNED
"""Returned instead of a row: the history at this timestamp is gone. Only a reader that registered no snapshot can meet it;
it takes a fresh timestamp and starts again."""


class SnapshotPruned(Exception):
    """`PRUNED` for readers of many rows (`TableVersion.rows`): a signal to start again, never shown to anybody."""


class Version(msgspec.Struct, gc=False):
    """`row` None is a tombstone. `before`: the row this one replaced, None for an insert. `older_end` begins as `timestamp`."""

    key: Key
    timestamp: Timestamp
    row: Row | None
    before: Row | None
    older: Version | None
    older_end: Timestamp
