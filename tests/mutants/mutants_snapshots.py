"""Bugs of snapshots and of where rows live: what a reader sees, and how long it stays there."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["SNAPSHOTS"]

CONTRACT = "tests/contracts/test_transaction.py"
SNAPSHOT_TESTS = "tests/engine/test_snapshots.py"
MEMTABLE_TESTS = "tests/engine/test_columns_memtable.py"
CHECKPOINTS = "tests/engine/test_checkpoint_interleavings.py"
DURABILITY = "tests/engine/test_durability.py"

MEMTABLE = "khonsu_engine.columns.memtable"
TABLE = "khonsu_engine.columns.table_version"
SCAN = "khonsu_engine.columns.scan"
RECENT = "khonsu_engine.columns.recent"
REGISTRY = "khonsu_engine.snapshots"
TRIMMING = "khonsu_engine.trimming"
STATE = "khonsu_engine.state_machine"

SNAPSHOTS = (
    Mutant(
        "visible-before-a-lower-timestamp",
        STATE,
        "        versions, tables, changes = self._versions, state.tables, state.changes\n",
        "        versions, tables, changes = self._versions, state.tables, state.changes\n        state.published = self.timestamp\n",
        "nobody sees a commit that is installed in part",
        (SNAPSHOT_TESTS,),
    ),
    Mutant(
        "two-commits-of-one-moment",
        "khonsu_engine.mvcc.clock",
        "    return physical if physical > last else last + 1",
        "    return max(physical, last)",
        "every commit has a timestamp of its own, also when the clock stands still or goes back",
        (CONTRACT, SNAPSHOT_TESTS),
    ),
    Mutant(
        "chain-pruned-under-a-snapshot",
        MEMTABLE,
        "            while older is not None and end <= horizon and not _any_between(active, older.timestamp, end):\n",
        "            while older is not None and end <= horizon:\n",
        "what a registered snapshot sees is not pruned",
        (MEMTABLE_TESTS, SNAPSHOT_TESTS),
    ),
    Mutant(
        "chain-pruned-above-the-horizon",
        MEMTABLE,
        "            while older is not None and end <= horizon and not _any_between(active, older.timestamp, end):\n",
        "            while older is not None and not _any_between(active, older.timestamp, end):\n",
        "what a later snapshot may see is not pruned",
        (MEMTABLE_TESTS, SNAPSHOT_TESTS),
    ),
    Mutant(
        "chain-pruned-under-a-registering-snapshot",
        REGISTRY,
        "self._known = self._snapshots.readers(self._state.durable)",
        "self._known = self._snapshots.readers(self._state.published)",
        "the horizon is where the next snapshot may be taken: at the last durable commit",
        (SNAPSHOT_TESTS,),
    ),
    Mutant(
        "snapshot-not-registered",
        REGISTRY,
        "            self._snapshots.register(token, timestamp)\n        return reader, token\n",
        "        return reader, token\n",
        "a snapshot is registered as long as it is read",
        (SNAPSHOT_TESTS, CONTRACT),
    ),
    Mutant(
        "moved-snapshot-not-registered",
        "khonsu_engine.transaction",
        "            database.snapshots.move(self.token, timestamp)\n",
        "",
        "a snapshot that moved is registered where it reads now",
        (SNAPSHOT_TESTS,),
    ),
    Mutant(
        "snapshot-never-released",
        "khonsu_engine.transaction",
        "            self._database.snapshots.release(self.token)\n            self.token = None",
        "            self.token = None",
        "a transaction that ended reads no more",
        (CONTRACT,),
    ),
    Mutant(
        "write-set-dropped-early",
        STATE,
        "        if len(listed) > CHANGES_TRIM and listed[middle].timestamp <= horizon:\n",
        "        if len(listed) > CHANGES_TRIM:\n",
        "a change is remembered as long as a snapshot is older than it",
        (SNAPSHOT_TESTS,),
    ),
    Mutant(
        "write-set-dropped-under-the-oldest",
        TRIMMING,
        "    horizon = readers.active[0] if readers.active else readers.newest\n",
        "    horizon = readers.newest\n",
        "the same, for the oldest of them",
        (SNAPSHOT_TESTS,),
    ),
    Mutant(
        "catalog-of-now",
        STATE,
        "            if catalog.timestamp <= timestamp:\n                return catalog\n",
        "            return catalog\n",
        "a snapshot sees the tables of its moment",
        (SNAPSHOT_TESTS,),
    ),
    Mutant(
        "dropped-table-forgotten-early",
        "khonsu_engine.maintenance",
        "        upto = min(timestamp, database.horizon())\n",
        "        upto = timestamp\n",
        "a dropped table stays as long as a snapshot sees it",
        (SNAPSHOT_TESTS,),
    ),
    Mutant(
        "pruned-hole-answers",
        MEMTABLE,
        "            if timestamp >= version.older_end:\n                return PRUNED\n",
        "",
        "who reads where versions were pruned is told so, and gets no older row",
        (MEMTABLE_TESTS,),
    ),
    Mutant(
        "pruned-hole-answers-on-the-hot-path",
        TABLE,
        "            if timestamp >= head.older_end:\n                return PRUNED\n",
        "",
        "the same, in the function compiled statements call",
        (MEMTABLE_TESTS,),
    ),
    Mutant(
        "deletion-is-no-change",
        TABLE,
        "        if version is not None:\n            return version.timestamp\n        newest = self.floor\n",
        "        if version is not None and version.row is not None:\n            return version.timestamp\n        newest = self.floor\n",
        "a row that was deleted meanwhile is a conflict: no resurrection",
        (CONTRACT,),
    ),
    Mutant(
        "flush-forgets-deletions",
        "khonsu_engine.columns.flush",
        "            if version.row is None and version.timestamp > horizon:\n",
        "            if False:\n",
        "a deletion that went through a checkpoint is a conflict all the same",
        (SNAPSHOT_TESTS,),
    ),
    Mutant(
        "flush-takes-too-much",
        "khonsu_engine.columns.flush",
        "for version in log[start : start + SLICE] if version.timestamp <= timestamp)",
        "for version in log[start : start + SLICE])",
        "a checkpoint moves nothing that is newer than its cut",
        (CHECKPOINTS, DURABILITY),
    ),
    Mutant(
        "bulk-rows-seen-too-early",
        TABLE,
        "            previous=self.settled(settled),\n",
        "            previous=None,\n",
        "a snapshot older than a bulk write does not see its rows",
        (DURABILITY,),
    ),
    Mutant(
        "mask-hides-the-newest",
        SCAN,
        "    live = (state.begin[: state.slots] <= timestamp) & (state.end[: state.slots] > timestamp)\n",
        "    live = (state.begin[: state.slots] < timestamp) & (state.end[: state.slots] > timestamp)\n",
        "a snapshot sees the commit it was taken at",
        (CONTRACT,),
    ),
    Mutant(
        "mask-shows-what-has-ended",
        SCAN,
        "    live = (state.begin[: state.slots] <= timestamp) & (state.end[: state.slots] > timestamp)\n",
        "    live = (state.begin[: state.slots] <= timestamp) & (state.end[: state.slots] >= timestamp)\n",
        "a row that was replaced at the snapshot's moment is gone",
        (CONTRACT,),
    ),
    Mutant(
        "mask-keeps-own-rows-twice",
        SCAN,
        "    live[own_slots] = False\n",
        "",
        "a row the transaction has written stands once in its scans",
        (CONTRACT,),
    ),
    Mutant(
        "mask-hides-another-version",
        RECENT,
        "        while slot >= 0 and state.begin[slot] > timestamp:\n            slot = int(state.earlier[slot])\n",
        "",
        "own writes hide the version the transaction sees, not one that came later",
        (SNAPSHOT_TESTS,),
    ),
    Mutant(
        "tombstone-ends-nothing",
        RECENT,
        "            if before >= 0 and end[before] == NEVER:\n",
        "            if before >= 0 and end[before] == NEVER and version.row is not None:\n",
        "a deleted row is in no scan",
        (CONTRACT, SNAPSHOT_TESTS),
    ),
    Mutant(
        "segment-row-hidden-too-early",
        SCAN,
        "        hidden = positions[timestamps <= timestamp]\n",
        "        hidden = positions\n",
        "a snapshot sees rows of segments that were replaced later",
        (SNAPSHOT_TESTS,),
    ),
    Mutant(
        "segment-row-shown-too-long",
        SCAN,
        "        hidden = positions[timestamps <= timestamp]\n",
        "        hidden = positions[timestamps < timestamp]\n",
        "a row of a segment that was replaced at the snapshot's moment is gone",
        (SNAPSHOT_TESTS,),
    ),
    Mutant(
        "zone-map-narrows",
        "khonsu_engine.columns.zone_map",
        "            return below or equal, above\n",
        "            return below, above\n",
        "a chunk whose least value is the bound of <= is read",
        ("tests/engine/test_zone_map.py",),
    ),
)
