"""What changes the session itself: BEGIN, COMMIT, ROLLBACK, savepoints, SET and SHOW.

Base of `core.SessionCore`. Calls `session_transaction` and the settings. What must be waited for is yielded as a ticket.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from khonsu_engine.protocols import Ticket
from khonsu_sql.session import Result, TransactionOptions, TransactionStatus
from khonsu_sql.sql import settings as setting_table
from khonsu_sql.sql.plan import Setting, TransactionControl

if TYPE_CHECKING:
    from khonsu_sql.deadlines import Deadlines
    from khonsu_sql.session_transaction import SessionTransaction
    from khonsu_sql.sql.settings import Settings

__all__ = ["SessionControls", "Work"]

Work = Generator[Ticket, None, Result]


class SessionControls:
    """The part of a session that runs no statement on data."""

    autocommit: bool
    settings: Settings
    transaction: SessionTransaction
    deadlines: Deadlines

    def _set(self, plan: Setting) -> Result:
        if plan.value is None:
            return setting_table.show(self.settings, plan.name)
        if plan.local:
            self.transaction.begin_for("SET LOCAL", begins=not self.autocommit)
        result = setting_table.change(self.settings, plan.name, plan.value, local=plan.local)
        self.transaction.apply_settings()
        if plan.name.casefold() == "transaction_timeout":
            self.deadlines.count_again()
        return result

    def _control(self, plan: TransactionControl) -> Work:
        if plan.action == "begin":
            self.transaction.begin(TransactionOptions(plan.isolation, plan.read_only, plan.locking, plan.on_conflict))
            return Result(None, -1, "BEGIN")
        if plan.name:
            self.transaction.savepoints(plan.action, plan.name, begins=not self.autocommit)
            return Result(None, -1, plan.action.split()[0].upper())
        idle = self.transaction.status is TransactionStatus.IDLE
        if plan.action == "commit":
            yield from self.transaction.commit()
        else:
            self.transaction.rollback()
        return Result(None, -1, plan.action.upper(), notices=("there is no transaction in progress",) if idle else ())
