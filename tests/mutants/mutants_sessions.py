"""Bugs of sessions: how a transaction begins, fails, starts again and ends."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["SESSIONS"]

TRANSACTIONS = "tests/sql/test_session_transactions.py"
RESTARTS = "tests/driver/test_restarts.py"
HERMITAGE = "tests/interleavings/test_hermitage.py"
SCRIPTS = "tests/scripts/test_scripts.py"

CORE = "khonsu_sql.core"
SESSION = "khonsu_sql.session_transaction"

SESSIONS = (
    Mutant(
        "repeatable-read-is-read-committed",
        "khonsu_sql.isolation",
        '"REPEATABLE READ": Isolation.REPEATABLE_READ',
        '"REPEATABLE READ": Isolation.READ_COMMITTED',
        "a level is the one that was asked for",
        (HERMITAGE,),
    ),
    Mutant(
        "begin-ignores-its-level",
        SESSION,
        "            isolation = options.isolation or settings.default_transaction_isolation\n",
        "            isolation = settings.default_transaction_isolation\n",
        "BEGIN ISOLATION LEVEL is obeyed",
        (TRANSACTIONS, HERMITAGE),
    ),
    Mutant(
        "failed-transaction-goes-on",
        SESSION,
        "        if self.status is TransactionStatus.FAILED:\n            self._refuse_if_terminated()\n            raise",
        "        if False:\n            self._refuse_if_terminated()\n            raise",
        "after an error everything but ROLLBACK raises 25P02",
        (TRANSACTIONS,),
    ),
    Mutant(
        "failed-transaction-commits",
        SESSION,
        "        if self.status is TransactionStatus.FAILED:\n            terminated = self.terminated\n",
        "        if False:\n            terminated = self.terminated\n",
        "COMMIT of a failed transaction says that nothing is committed",
        (TRANSACTIONS,),
    ),
    Mutant(
        "failed-statement-keeps-what-it-wrote",
        SESSION,
        "        if ends or not self._savepoints or not isinstance(error, Exception):\n            self.rollback()\n",
        "        if ends:\n            self.rollback()\n",
        "a statement that fails lets go of everything at once",
        ("tests/driver/test_locks.py::test_a_failed_statement_lets_go",),
        hangs=True,
    ),
    Mutant(
        "conflict-of-one-call-not-tried-again",
        CORE,
        "                if isinstance(error, SerializationConflict | DeadlockDetected) and attempt < ATTEMPTS_MAX:\n",
        "                if False:\n",
        "a call that is a transaction by itself is done again",
        (RESTARTS,),
    ),
    Mutant(
        "conflict-tried-again-in-a-transaction",
        CORE,
        "        if self._ends():\n            return (yield from self._run_by_itself(group, parameters, many))\n",
        "        if self._ends() or not self.transaction.explicit:\n            return (yield from self._run_by_itself(group, parameters, many))\n",
        "a statement of a transaction of several calls is no transaction by itself",
        (TRANSACTIONS,),
    ),
    Mutant(
        "script-is-no-transaction",
        "khonsu_sql.script",
        "    return [script] if whole and script else [[unit] for unit in script]\n",
        "    return [[unit] for unit in script]\n",
        "a call of several statements in autocommit is one transaction",
        (TRANSACTIONS,),
    ),
    Mutant(
        "rollback-leaves-its-results",
        SESSION,
        "        _break(self._shown)\n        self._leave()\n        self._end_left()\n",
        "        self._leave()\n        self._end_left()\n",
        "an open result that shows what was rolled back raises 24000",
        (TRANSACTIONS,),
    ),
    Mutant(
        "interrupt-leaves-the-transaction",
        CORE,
        "        self.transaction.interrupted(ends=ends or (self.autocommit and not self.transaction.explicit))\n",
        "",
        "Ctrl-C leaves nothing half done behind",
        (TRANSACTIONS,),
    ),
    Mutant(
        "interrupt-tears-a-commit",
        "khonsu_engine.committer",
        "            except BaseException as interrupt:  # noqa: BLE001 — held back until the commit is whole\n                held = interrupt\n",
        "            except BaseException:\n                self._pending = None\n                raise\n",
        "a commit that is interrupted is whole or absent",
        ("tests/engine/test_interrupts.py",),
    ),
    Mutant(
        "close-keeps-the-transaction",
        CORE,
        "        self.transaction.rollback()\n        self._evaluator.close()\n",
        "        self._evaluator.close()\n",
        "a session that is closed rolls back and holds nothing",
        (HERMITAGE, "tests/driver/test_locks.py"),
        hangs=True,
    ),
)
