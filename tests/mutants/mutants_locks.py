"""Bugs of locks: who waits, who is woken, who loses, and when they are let go."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["LOCKS"]

TABLE_TESTS = "tests/engine/test_lock_table.py"
DEADLOCKS = "tests/engine/test_lock_deadlocks.py"
LOCK_TESTS = "tests/driver/test_locks.py"
HELD = "tests/sql/test_locks_held.py"
HERMITAGE = "tests/interleavings/test_hermitage.py"

TABLE = "khonsu_engine.mvcc.lock_table"
CONFLICTS = "khonsu_engine.mvcc.lock_conflicts"
LOCKS_ROOM = "khonsu_engine.locks"

LOCKS = (
    Mutant(
        "intent-released-too-early",
        "khonsu_engine.transaction",
        "            result = self._database.committer.commit(",
        "            self._locks is None or self._locks.release()\n            result = self._database.committer.commit(",
        "locks are held until the commit has its place",
        (HELD,),
    ),
    Mutant(
        "intent-released-by-a-savepoint",
        "khonsu_engine.writing",
        "        created = set(self._write_set.created)\n        gone =",
        "        self._locks is None or self._locks._locks.release(self._locks.owner, None)\n        created = set(self._write_set.created)\n        gone =",
        "locks end with the transaction, not with a savepoint or a statement that starts again",
        (HELD, LOCK_TESTS),
    ),
    Mutant(
        "locks-never-released",
        "khonsu_engine.transaction",
        "        if self._locks is not None:\n            self._locks.release()\n        if self.token",
        "        if self.token",
        "a transaction that ended holds nothing",
        (LOCK_TESTS,),
        hangs=True,
    ),
    Mutant(
        "locks-of-the-dropped-stay",
        LOCKS_ROOM,
        "weakref.ref(transaction, self._dropped.append)",
        "weakref.ref(transaction)",
        "a transaction that is garbage holds nothing",
        (HELD,),
    ),
    Mutant(
        "optimistic-commit-ignores-hard-locks",
        "khonsu_engine.committer",
        "            if self._locks.has_hard and (held := self._locks.in_the_way(owner, command)) is not None:\n",
        "            if False:\n",
        "nobody commits over a row that is locked",
        (LOCK_TESTS,),
    ),
    Mutant(
        "point-write-ignores-hard-locks",
        "khonsu_engine.committer",
        "            if self._locks.has_hard and self._locks.holds_back(table.id, key):\n",
        "            if False:\n",
        "nor does a statement of its own on the point path",
        (HELD, LOCK_TESTS),
    ),
    Mutant(
        "bulk-write-ignores-hard-locks",
        LOCKS_ROOM,
        "                if not locks.has_hard_in(part.table):\n                    continue\n",
        "                continue\n",
        "nor does a bulk write",
        (LOCK_TESTS,),
    ),
    Mutant(
        "lock-without-barrier",
        "khonsu_engine.transaction_locks",
        "        if granted and hard:\n            self._committer.barrier()\n        return granted\n",
        "        return granted\n",
        "who has a lock sees every commit that did not see the lock",
        (HELD,),
    ),
    Mutant(
        "read-committed-takes-soft-intents",
        "khonsu_sql.session_transaction",
        "        return Locking.PESSIMISTIC if chosen and isolation is Isolation.READ_COMMITTED else chosen\n",
        "        return chosen\n",
        "READ COMMITTED never fails with 40001 for a row it wrote",
        (HELD, HERMITAGE, "tests/interleavings/test_every_interleaving.py"),
    ),
    Mutant(
        "soft-request-waits-for-ever",
        "khonsu_engine.lock_waiter",
        "            woken = table.overrule(ticket) if ticket.hard else table.cancel(ticket)\n",
        "            woken = table.overrule(ticket) if ticket.hard else []\n",
        "a forgotten session blocks nobody for long at ADAPTIVE",
        (LOCK_TESTS,),
        "adaptive",
        hangs=True,
    ),
    Mutant(
        "lock-timeout-never-comes",
        "khonsu_engine.lock_waiter",
        "self._latest is not None and now >= self._latest:",
        "self._latest is not None and now < 0:",
        "a wait ends after lock_timeout with 55P03",
        (LOCK_TESTS,),
        "timeout",
        hangs=True,
    ),
    Mutant(
        "hard-locks-overruled",
        TABLE,
        "            if strength < HARD:\n                locks.lose(other, held)\n",
        "            locks.lose(other, held)\n",
        "patience takes away soft locks only",
        (TABLE_TESTS,),
    ),
    Mutant(
        "sharers-shut-nobody-out",
        CONFLICTS,
        "            if (strength | mode) & LockMode.EXCLUSIVE:\n                yield other, key, strength\n",
        "            if strength & LockMode.EXCLUSIVE:\n                yield other, key, strength\n",
        "an exclusive lock waits for sharers",
        (TABLE_TESTS,),
    ),
    Mutant(
        "range-locks-no-new-key",
        CONFLICTS,
        "                if (strength | mode) & LockMode.EXCLUSIVE and overlaps(held, target):\n                    yield other, held, strength\n",
        "                if (strength | mode) & LockMode.EXCLUSIVE and held == target:\n                    yield other, held, strength\n",
        "a range that is locked keeps every key in it",
        (TABLE_TESTS,),
    ),
    Mutant(
        "queue-is-overtaken",
        TABLE,
        "        return len(rivals) > (len(dependents(owner, rivals)) if owner.awaited else 0)\n",
        "        return False\n",
        "who comes later waits behind those who wait already: nobody starves",
        (TABLE_TESTS,),
    ),
    Mutant(
        "nobody-is-woken",
        TABLE,
        "                if not blocked(ticket):\n                    self._give(ticket)\n                elif",
        "                if",
        "what a release makes free is given to the next",
        (TABLE_TESTS, DEADLOCKS),
        hangs=True,
    ),
    Mutant(
        "deadlock-not-looked-for",
        TABLE,
        "        for other, _, _ in holders(locks, owner, target, mode):\n            other.awaited = True\n",
        "",
        "transactions that wait for each other are told at once",
        (DEADLOCKS, TABLE_TESTS),
        hangs=True,
    ),
    Mutant(
        "deadlock-takes-the-eldest",
        TABLE,
        "            loser = max(",
        "            loser = min(",
        "of those who wait for each other the one that began last loses",
        (DEADLOCKS,),
    ),
    Mutant(
        "what-cannot-be-compared-is-free",
        "khonsu_engine.mvcc.lock_ranges",
        "_precedes(high, key_range.high_inclusive, key, True))\n    except TypeError:\n        return True\n",
        "_precedes(high, key_range.high_inclusive, key, True))\n    except TypeError:\n        return False\n",
        "a key that cannot be compared with a locked range is in it",
        (TABLE_TESTS,),
    ),
    Mutant(
        "upgrade-forgets-the-lock",
        TABLE,
        "        held[target] = after = max(before & ~HARD, strength & ~HARD) | (before | strength) & HARD",
        "        held[target] = after = strength",
        "a lock only grows: asking for less takes nothing away",
        (TABLE_TESTS, DEADLOCKS),
    ),
    Mutant(
        "locked-row-may-be-old",
        "khonsu_engine.row_locks",
        "            self._refuse_superseded(table, key, self._base(table, key))\n",
        "            pass\n",
        "SELECT FOR UPDATE returns the newest rows, or starts again",
        ("tests/scripts/test_scripts.py", "tests/driver/test_row_locks.py"),
        "row_locks",
    ),
    Mutant(
        "locked-rows-without-barrier",
        "khonsu_engine.transaction_locks",
        "        finally:\n            if granted:\n                self._committer.barrier()\n",
        "        finally:\n            pass\n",
        "who has locked rows sees every commit that did not see the locks",
        ("tests/driver/test_row_locks.py",),
    ),
    Mutant(
        "range-of-keys-not-locked",
        "khonsu_sql.sql.locked_query",
        "        elif not context.transaction.lock_range(",
        "        elif False and not context.transaction.lock_range(",
        "FOR UPDATE of a PESSIMISTIC transaction keeps new keys out of its range",
        ("tests/driver/test_row_locks.py",),
    ),
)
