"""What a commit drops on its way out: versions no snapshot needs, old entries of the change lists.

Called by `committer` under its latch, after the installation. Invariants: the newest version of a key and whatever a registered
snapshot can see stay; a change list holds every change newer than the oldest snapshot. It allocates next to nothing and calls nobody.
"""

from __future__ import annotations

from khonsu_engine.commands import Effect
from khonsu_engine.limits import Limits
from khonsu_engine.mvcc.horizon import Readers
from khonsu_engine.state_machine import State

__all__ = ["shorten_changes", "trim_versions"]


def trim_versions(state: State, effects: tuple[Effect, ...], readers: Readers) -> None:
    """Drop old versions of the rows just written."""
    tables = state.tables
    newest, active = readers.newest, readers.active
    for effect in effects:
        memtable = tables[effect.table].memtable
        chains, prune = memtable.chains, memtable.prune
        for _, key, _, _ in effect.rows:
            if chains[key].older is not None:
                prune(key, newest, active)


def shorten_changes(state: State, effects: tuple[Effect, ...], readers: Readers, limits: Limits) -> bool:
    """Shorten the change lists of the tables just written. Is one of their memtables full?"""
    full = False
    horizon = readers.active[0] if readers.active else readers.newest
    for number in {effect.table for effect in effects}:
        state.cut_changes(number, horizon)
        memtable = state.tables[number].memtable
        full |= len(memtable.log) > limits.memtable_versions_max or memtable.size_bytes > limits.memtable_bytes_max
    return full
