"""The errors of conflicts and duplicate keys, with what is known about their cause.

Called by `transaction`. Evidence speaks of base tables by name; keys are bounded by whoever found them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from khonsu_engine.commands import Key, Refusal, Timestamp
from khonsu_engine.errors import SerializationConflict, UniqueViolation
from khonsu_engine.mvcc.clock import milliseconds_of

if TYPE_CHECKING:
    from khonsu_engine.schema.catalog import Table

__all__ = ["conflict", "duplicate"]


def conflict(refusal: Refusal, table: str, read_timestamp: Timestamp) -> SerializationConflict:
    """The error for `refusal`, which speaks of the table of that name."""
    shown = "; ".join(_shown(key) for key in refusal.keys)
    return SerializationConflict(
        f'could not serialize access to table "{table}" ({refusal.rule} conflict)',
        detail=f"{f'Key ({shown})' if shown else 'Rows'} of {table} changed at {milliseconds_of(refusal.timestamp)} ms, "
        f"after this transaction's snapshot at {milliseconds_of(read_timestamp)} ms.",
        hint="Run the transaction again; run_transaction() does it for you.",
        evidence={
            "rule": refusal.rule,
            "table": table,
            "keys": refusal.keys,
            "commit_timestamp": refusal.timestamp,
            "read_timestamp": read_timestamp,
        },
    )


def duplicate(schema: Table, key: Key) -> UniqueViolation:
    """The error for a key that exists already in the table described by `schema`."""
    names = ", ".join(schema.columns[position].name for position in schema.key_columns)
    return UniqueViolation(
        f'duplicate key value violates unique constraint "{schema.key_name}"',
        detail=f"Key ({names})=({_shown(key)}) already exists in table {schema.name}.",
        evidence={"table": schema.name, "key": key, "constraint": schema.key_name},
    )


def _shown(key: Key) -> str:
    text = ", ".join(str(part) for part in key) if isinstance(key, tuple) else str(key)
    return text if len(text) <= 100 else text[:97] + "…"
