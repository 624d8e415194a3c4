"""What a session's transaction has read, for `retry`: whether there is a record of it, and what to sleep on.

Called by `local`; looks into `session_transaction`. Invariant: below SERIALIZABLE, and in a read only transaction, there is no record,
and that is said by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from khonsu_engine.commands import Isolation
from khonsu_sql.errors import FeatureNotSupported, InternalError
from khonsu_sql.isolation import name_of

if TYPE_CHECKING:
    from khonsu_engine.watches import Watch
    from khonsu_sql.session_transaction import SessionTransaction

__all__ = ["refuse_unrecorded", "watch_of"]


def refuse_unrecorded(transaction: SessionTransaction, what: str) -> None:
    """Raises 0A000 when what is read is not recorded, which `what` needs; 25P02 when the transaction has failed."""
    transaction.refuse_if_failed()
    options, settings, engine = transaction._options, transaction._settings, transaction.engine
    isolation = options.isolation or settings.default_transaction_isolation
    read_only = settings.default_transaction_read_only if options.read_only is None else options.read_only
    if (isolation is Isolation.SERIALIZABLE and not read_only) if engine is None else engine.records_reads:
        return
    why = "a read only transaction" if isolation is Isolation.SERIALIZABLE else name_of(isolation)
    raise FeatureNotSupported(
        f"{what} is not supported in {why}: what it reads is not recorded", hint="Run the function at SERIALIZABLE, and not read only."
    )


def watch_of(transaction: SessionTransaction) -> Watch:
    """What was read, to sleep on. Raises 25000 when that is nothing, 25P02."""
    transaction.refuse_if_failed()
    watch = None if transaction.engine is None else transaction.engine.watch()
    if watch is None:
        hint = "Read what must change first."
        raise InternalError("retry() would sleep forever: nothing was read", sqlstate="25000", hint=hint)
    return watch
