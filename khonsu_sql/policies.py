"""Conflict policies by their names.

Called wherever a user may name one: `connect`, SET, BEGIN, ALTER TABLE, `execute(…, on_conflict=…)`.
"""

from __future__ import annotations

from typing import Any

from khonsu_engine.commands import ConflictPolicy
from khonsu_sql.errors import InvalidOptionValue

__all__ = ["NAMES", "policy_named", "policy_of"]

NAMES = tuple(policy.name for policy in ConflictPolicy)


def policy_named(text: str) -> ConflictPolicy | None:
    """The policy of that name, in any case; None: there is none."""
    return ConflictPolicy.__members__.get(text.strip().upper())


def policy_of(value: Any) -> ConflictPolicy | None:
    """The policy an option names: None, a `ConflictPolicy`, or text in any case. Raises InvalidOptionValue."""
    if value is None or isinstance(value, ConflictPolicy):
        return value
    policy = policy_named(str(value))
    if policy is None:
        raise InvalidOptionValue(f"{value!r} is not a conflict policy", hint=f"Use {', '.join(NAMES)}.")
    return policy
