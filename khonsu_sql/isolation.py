"""Isolation levels by their names.

Called wherever a user may name one: `connect`, SET, BEGIN. READ UNCOMMITTED is READ COMMITTED, as the standard allows and as PostgreSQL
does it: nobody ever reads what is not committed.
"""

from __future__ import annotations

from khonsu_engine.commands import Isolation

__all__ = ["NAMES", "level_of", "name_of"]

NAMES = {"SERIALIZABLE": Isolation.SERIALIZABLE, "REPEATABLE READ": Isolation.REPEATABLE_READ, "READ COMMITTED": Isolation.READ_COMMITTED}
_KNOWN = {**NAMES, "READ UNCOMMITTED": Isolation.READ_COMMITTED}


def level_of(text: str) -> Isolation | None:
    """The level of that name, in any case and with `_` or `-` for spaces; None: there is none."""
    return _KNOWN.get(" ".join(text.replace("_", " ").replace("-", " ").upper().split()))


def name_of(level: Isolation) -> str:
    """As SQL writes it."""
    return level.name.replace("_", " ")
