"""Bugs of durability: what is told before it is safe, and what is believed though it is damaged.

Left out: what is tested in processes of their own, where nothing is planted (the fork guard, kill loops).
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["STORAGE"]

DURABILITY = "tests/engine/test_durability.py"
DAMAGE = "tests/engine/test_damage.py"
LOG_TESTS = "tests/engine/test_log.py"
CRASH_POINTS = "tests/engine/test_crash_points.py"
SESSION_DURABILITY = "tests/sql/test_session_durability.py"

COMMITTER = "khonsu_engine.committer"
SYNCER = "khonsu_engine.syncer"
RECOVERY = "khonsu_engine.storage.recovery"
LOG = "khonsu_engine.storage.log"

STORAGE = (
    Mutant(
        "published-before-logged",
        COMMITTER,
        "        if self._logged and not pending.appended:\n            self._append(pending)\n        pending.installation.run(self.state)\n",
        "        pending.installation.run(self.state)\n        if self._logged and not pending.appended:\n            self._append(pending)\n",
        "a commit the log refused is seen by nobody",
        (DURABILITY,),
    ),
    Mutant(
        "acknowledged-before-its-sync",
        COMMITTER,
        "        return None if self.syncer.instant else self.syncer.queue(outcome.timestamp, outcome)\n",
        "        return None\n",
        "COMMIT returns when the log is synced",
        (DURABILITY,),
    ),
    Mutant(
        "durable-beyond-the-sync",
        SYNCER,
        "                state.durable = mark[2]\n",
        "                state.durable = state.published\n",
        "what was appended while a sync was under way is not covered by it",
        ("tests/engine/test_snapshots.py",),
    ),
    Mutant(
        "failed-sync-swallowed",
        SYNCER,
        "            except Exception as error:  # noqa: BLE001 — whatever it is, what was appended is not durable\n                self.fail(error)\n",
        "            except Exception:\n                pass\n",
        "a failed sync is unknown and final",
        (DURABILITY,),
    ),
    Mutant(
        "read-ahead-of-a-failed-sync",
        SYNCER,
        "        self._state.ahead = False\n",
        "",
        "after a failed sync nobody reads above the last durable commit",
        (DURABILITY,),
    ),
    Mutant(
        "row-told-before-it-is-durable",
        "khonsu_sql.core",
        "            yield from self.transaction.durable(transaction.seen)\n        return results\n",
        "        return results\n",
        "no row leaves that depends on a commit which is not on disk",
        (SESSION_DURABILITY, DURABILITY),
    ),
    Mutant(
        "point-row-told-before-it-is-durable",
        "khonsu_sql.fast_lane",
        "                rows = plan.run(engine, _values(plan.names, parameters))\n                engine.fresh = False\n                if engine.seen > self._state.durable:\n",
        "                rows = plan.run(engine, _values(plan.names, parameters))\n                engine.fresh = False\n                if False:\n",
        "nor does one of the point path",
        (SESSION_DURABILITY,),
    ),
    Mutant(
        "error-told-before-it-is-durable",
        "khonsu_sql.session_transaction",
        "            yield from self.durable(max(transaction.read_timestamp, _known_by(error)))\n",
        "            yield from ()\n",
        "nor does an error that depends on it",
        (SESSION_DURABILITY,),
    ),
    Mutant(
        "hole-in-the-log-accepted",
        RECOVERY,
        "    if index != state.index + 1:\n",
        "    if False:\n",
        "a record that is missing is told, not skipped",
        (DAMAGE, LOG_TESTS),
    ),
    Mutant(
        "log-read-short",
        RECOVERY,
        "    if store.get(keys.log_key(state.index + 1)) is not None:\n",
        "    if False:\n",
        "a log whose scan ends early is told",
        (DAMAGE, LOG_TESTS, "tests/engine/test_rocks.py"),
    ),
    Mutant(
        "hash-chain-not-checked",
        RECOVERY,
        "    if header.previous_hash != state.last_hash:\n",
        "    if False:\n",
        "a record of another log is told",
        (DAMAGE, LOG_TESTS),
    ),
    Mutant(
        "checksum-not-checked",
        LOG,
        "    if crc32(record[: _FIELDS.size], crc32(data)) != _CHECKSUM.unpack_from(record, _FIELDS.size)[0]:\n",
        "    if False:\n",
        "a flipped bit is told",
        (LOG_TESTS, DAMAGE),
    ),
    Mutant(
        "body-file-not-checked",
        LOG,
        "    if len(data) != named.size or _digest(data) != named.hash:\n",
        "    if False:\n",
        "a flipped bit in a body written ahead is told",
        (LOG_TESTS, DAMAGE),
    ),
    Mutant(
        "missing-file-accepted",
        RECOVERY,
        "    if missing:\n",
        "    if False:\n",
        "a file that is missing is told when the database is opened",
        (DAMAGE,),
    ),
    Mutant(
        "manifest-holds-later-segments",
        "khonsu_engine.storage.checkpoint",
        "        if meta.timestamp_min > timestamp:\n            continue\n",
        "",
        "a checkpoint holds nothing that was committed after its cut: bulk writes",
        (DURABILITY, "tests/engine/test_checkpoint_interleavings.py", "tests/engine/test_manifest.py"),
    ),
    Mutant(
        "log-cut-too-far",
        "khonsu_engine.maintenance",
        "        start, end = keys.log_range(self._oldest_record, mark[0] + 1)\n",
        "        start, end = keys.log_range(self._oldest_record, mark[0] + 2)\n",
        "the log is shortened up to the checkpoint, not beyond",
        (DURABILITY, "tests/engine/test_checkpoint_interleavings.py", CRASH_POINTS),
    ),
    Mutant(
        "manifest-not-synced",
        "khonsu_engine.maintenance",
        "        store.sync()\n        before, self._named",
        "        before, self._named",
        "the log is cut only when the manifest that replaces it is durable",
        (DURABILITY, CRASH_POINTS),
    ),
)
