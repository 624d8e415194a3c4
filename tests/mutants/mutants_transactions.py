"""Bugs of what a transaction notes, how its snapshot moves, and how its writes are kept."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["TRANSACTIONS"]

CONTRACT = "tests/contracts/test_transaction.py"
HERMITAGE = "tests/interleavings/test_hermitage.py"
EVERY = "tests/interleavings/test_every_interleaving.py"
SCRIPTS = "tests/scripts/test_scripts.py"
EXACT = "tests/sql/test_false_conflicts.py"

TRANSACTION = "khonsu_engine.transaction"
READING = "khonsu_engine.reading"
WRITING = "khonsu_engine.writing"

TRANSACTIONS = (
    Mutant(
        "read-of-no-row-lost",
        READING,
        "            self._record(table, key, columns, constraint)\n        return self.peek(table, key)",
        "            if self.peek(table, key) is not None:\n                self._record(table, key, columns, constraint)\n        return self.peek(table, key)",
        "a read of an absent key is a read",
        (CONTRACT,),
    ),
    Mutant(
        "zero-row-predicate-lost",
        READING,
        "        if predicate is not None:\n            self.record(table, range, predicate, columns)\n",
        "        if predicate is not None and any(True for _ in self._pinned(table)[0].rows(self.read_timestamp, range)):\n            self.record(table, range, predicate, columns)\n",
        "a range without rows is a read",
        (EXACT + "::test_a_read_of_nothing_is_a_read",),
    ),
    Mutant(
        "zero-row-scan-lost",
        READING,
        "        if not recorded:\n            self.record(",
        "        if any(__import__('khonsu_engine.mvcc.predicates', fromlist=['matcher']).matcher(predicate)(row) for _, row in self._pinned(table)[0].rows(self.read_timestamp, range)):\n"
        "            self.record(",
        "a search that finds nothing is a read",
        (EXACT + "::test_a_read_of_nothing_is_a_read",),
    ),
    Mutant(
        "second-read-narrows-the-first",
        READING,
        "            by_key[key] = by_key.get(key, 0) | columns",
        "            by_key[key] = columns",
        "columns read of a row add up",
        (EXACT + "::test_the_columns_of_several_reads_of_a_row_add_up",),
    ),
    Mutant(
        "guarded-keys-only-at-serializable",
        READING,
        "            self._record(table, what, ALL_COLUMNS, True)",
        "            if self._recording:\n                self._record(table, what, ALL_COLUMNS, True)",
        "CREATE TABLE IF NOT EXISTS and DROP TABLE IF EXISTS are still right at COMMIT, at every level",
        (SCRIPTS,),
        "ddl",
    ),
    Mutant(
        "guard-skipped-at-repeatable-read",
        READING,
        "        if isinstance(what, Predicate):\n            self._reads.guards.append(",
        "        if isinstance(what, Predicate) and not self._recording:\n            pass\n        elif isinstance(what, Predicate):\n            self._reads.guards.append(",
        "DROP TABLE and a write: never both, at REPEATABLE READ and READ COMMITTED, too",
        (CONTRACT,),
    ),
    Mutant(
        "select-columns-not-read",
        "khonsu_sql.sql.relations",
        "        columns = ALL_COLUMNS if self.whole else self.columns\n",
        "        columns = ALL_COLUMNS if self.whole else 0\n",
        "the columns a statement uses are what it reads",
        (EXACT + "::test_the_columns_used_are_those_that_conflict",),
    ),
    Mutant(
        "point-path-range-reads-no-columns",
        "khonsu_sql.sql.point_readers",
        'filter{source}, columns={self.masks[source]}, reverse={reverse})"',
        'filter{source}, columns=0, reverse={reverse})"',
        "the same, for ranges on the point path",
        (EXACT + "::test_the_columns_used_are_those_that_conflict",),
    ),
    Mutant(
        "point-path-forgets-a-unique-range",
        "khonsu_sql.sql.point_scan",
        "        if depth == 0 and level.access.index is not None and level.access.bounds:\n            lines += reader.record(level.access)\n",
        "",
        "a range of a unique constraint is read as a condition on its table",
        (EXACT + "::test_a_read_of_nothing_is_a_read",),
    ),
    Mutant(
        "refresh-without-validation",
        TRANSACTION,
        "            refusal = None if before is None else validate(database.state, without_policies(before))\n",
        "            refusal = None\n",
        "a refresh moves the snapshot only when all that was read stands",
        (SCRIPTS,),
        "read_refresh",
    ),
    Mutant(
        "base-timestamp-moved-by-refresh",
        TRANSACTION,
        "            refusal = None if before is None else validate(database.state, without_policies(before))\n",
        "            before = None if before is None else without_policies(before)\n"
        "            refusal = None if before is None else validate(database.state, type(before)(*[getattr(before, name) if name != 'writes' else {} for name in before.__struct_fields__]))\n"
        "            for rows in self._writes.values():\n"
        "                rows.update({key: type(write)(write.operation, key, write.row, write.before, timestamp) for key, write in rows.items()})\n",
        "a buffered write is validated from the version it was computed from: a refresh hides no lost update",
        (SCRIPTS,),
        "read_refresh",
    ),
    Mutant(
        "plain-select-refreshes",
        TRANSACTION,
        "        if not self.keeps_snapshot and not self.fresh:\n",
        "        if not self.fresh and (writes or not self.wrote):\n",
        "a SELECT never moves a snapshot that has been used",
        (HERMITAGE,),
    ),
    Mutant(
        "repeatable-read-refreshes",
        TRANSACTION,
        "        if last or (self.isolation is Isolation.REPEATABLE_READ and not self.fresh):\n",
        "        if last:\n",
        "at REPEATABLE READ a newer row is a conflict once something was read",
        (HERMITAGE,),
    ),
    Mutant(
        "wait-moves-a-used-snapshot",
        TRANSACTION,
        "        if self.isolation is not Isolation.REPEATABLE_READ or self.fresh:\n            self._move(True)",
        "        self._move(True)",
        "the same, after a wait for a lock",
        (HERMITAGE, EVERY),
    ),
    Mutant(
        "read-committed-keeps-its-snapshot",
        TRANSACTION,
        "        if not self.keeps_snapshot and not self.fresh:\n",
        "        if False:\n",
        "each statement of READ COMMITTED sees what is committed when it begins",
        (HERMITAGE,),
    ),
    Mutant(
        "read-committed-goes-back",
        "khonsu_engine.snapshots",
        "            timestamp = max(timestamp, floor)\n",
        "",
        "a statement's snapshot is never older than the one before it",
        ("tests/engine/test_snapshots.py",),
    ),
    Mutant(
        "restart-keeps-what-it-read",
        TRANSACTION,
        "        self._reads.restore(mark[1])\n",
        "",
        "a statement that starts again reads anew: what it read before does not make it fail",
        (SCRIPTS,),
        "read_refresh",
    ),
    Mutant(
        "restart-keeps-what-it-wrote",
        TRANSACTION,
        "        self.rollback_to(mark[0])\n        self._reads",
        "        self._reads",
        "a statement that starts again has changed nothing: no row is changed twice",
        ("tests/sql/test_locks_held.py",),
    ),
    Mutant(
        "rolled-back-insert-not-read",
        WRITING,
        "        if self._recording:\n            for table, key in self._write_set.inserted_since(savepoint):\n                self._record(table, key, NO_COLUMNS, False)\n",
        "",
        "what was read within a savepoint stays read when it is rolled back: that a key was free",
        (EVERY + "::test_what_was_read_stays_read",),
    ),
    Mutant(
        "failed-insert-not-read",
        WRITING,
        "        if self._recording:\n            self._record(table, key, NO_COLUMNS, False)\n        version = self._tables[table]\n",
        "        version = self._tables[table]\n",
        "that a key was taken is a read",
        (EVERY + "::test_what_a_failed_insert_has_read_stays_read",),
    ),
    Mutant(
        "newer-row-not-noticed",
        WRITING,
        "            if timestamp > base:\n                raise Superseded(",
        "            if False:\n                raise Superseded(",
        "READ COMMITTED starts again on a newer row instead of failing",
        (SCRIPTS,),
        "read_refresh",
    ),
    Mutant(
        "savepoint-keeps-a-write",
        "khonsu_engine.write_set",
        "        if earlier is not None:\n            by_key[key] = earlier\n            return\n",
        "        if earlier is not None:\n            return\n",
        "ROLLBACK TO takes the second write of a row back to the first",
        (SCRIPTS,),
        "savepoints",
    ),
    Mutant(
        "deleted-row-read-again",
        READING,
        "            if write is not None:\n                return write.row\n",
        "            if write is not None and write.row is not None:\n                return write.row\n",
        "a transaction does not see what it has deleted",
        (CONTRACT,),
    ),
    Mutant(
        "index-entry-of-the-old-value-stays",
        "khonsu_sql.sql.constraints",
        "    _fill(change, itemgetter(*index.columns), row_of, indexed(removed), indexed(added))\n",
        "    _fill(change, itemgetter(*index.columns), row_of, () if added else indexed(removed), indexed(added))\n",
        "an UPDATE of a unique value frees the old one",
        (HERMITAGE, "tests/sql/test_session_dml.py"),
    ),
    Mutant(
        "index-not-written",
        "khonsu_sql.sql.constraints",
        "        _fill_index(change, table, index, removed, added)\n",
        "        _fill_index(change, table, index, removed, ())\n",
        "two rows never have one unique value, at every level",
        (HERMITAGE,),
    ),
)
