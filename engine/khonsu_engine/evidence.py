"""What is known about the cause of a conflict, and the errors that say it.

Called by `transaction`, `writing` and `locks` when a conflict is told, never before. Evidence is a dict with the same keys for every rule:

    rule                   write-write, read-write, catalog, unique, intent (a lock was not had in time) or deadlock
    table, index           names: of the base table, and of the unique constraint if its entry is meant; None: unknown
    keys                   at most `KEYS_MAX` of them; empty: not known one by one
    transaction_id         mine (16 bytes)
    read_timestamp         of the snapshot I read
    other_transaction_id   whose commit it was, or who has the lock (bytes); None: unknown
    commit_timestamp       when that was committed; None: unknown, or not committed

Invariants: it speaks of base tables by name; of DDL it names the table defined; what is not known is None, never a guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from khonsu_engine.commands import EVERY_KEY, Key, KeyRange, Refusal, TableId, Timestamp, TransactionId
from khonsu_engine.errors import DeadlockDetected, LockNotAvailable, SerializationConflict, UniqueViolation
from khonsu_engine.mvcc.clock import milliseconds_of
from khonsu_engine.schema.catalog import CATALOG_TABLE

if TYPE_CHECKING:
    from khonsu_engine.schema.catalog import Catalog, Table

__all__ = ["KEYS_MAX", "Names", "conflict", "deadlock", "duplicate", "facts", "lock_timeout", "names_of", "place_of", "shown_key"]

KEYS_MAX = 8
SHOWN_CHARACTERS_MAX = 100

Names = tuple[str, str | None]
"""The base table's and the index's name; None: the table itself."""

_AGAIN = "Run the transaction again; run_transaction() does it for you."
_HINTS = {
    "write-write": _AGAIN,
    "read-write": f"{_AGAIN} What it had read was changed before it could commit.",
    "catalog": f"{_AGAIN} A table it used was created, changed or dropped, or rows of a table it dropped were changed.",
}


def facts(
    rule: str,
    names: Names | None,
    keys: tuple[Any, ...],
    *,
    transaction_id: TransactionId | None = None,
    read_timestamp: Timestamp | None = None,
    other: TransactionId | None = None,
    commit_timestamp: Timestamp | None = None,
) -> dict[str, Any]:
    """The evidence."""
    table, index = names or (None, None)
    return {
        "rule": rule,
        "table": table,
        "index": index,
        "keys": keys[:KEYS_MAX],
        "transaction_id": transaction_id,
        "read_timestamp": read_timestamp,
        "other_transaction_id": other or None,
        "commit_timestamp": commit_timestamp or None,
    }


# -- errors -----------------------------------------------------------------------------------------------------------


def conflict(
    refusal: Refusal, other: TransactionId | None, names: Names, transaction_id: TransactionId, read_timestamp: Timestamp
) -> SerializationConflict:
    """The error for `refusal`, which speaks of the table `names` and of a commit of `other`."""
    rule, keys, timestamp = refusal.rule, refusal.keys, refusal.timestamp
    if refusal.table == CATALOG_TABLE:
        rule, keys, names = "catalog", (), (str(keys[0][1]) if keys else names[0], None)
    if rule == "catalog":
        names = names if keys else (names[0], None)
        timestamp = timestamp if timestamp > read_timestamp else 0  # a table that is gone: nobody knows since when
    known = facts(
        rule,
        names,
        keys,
        transaction_id=transaction_id,
        read_timestamp=read_timestamp,
        other=other if timestamp else None,
        commit_timestamp=timestamp,
    )
    return SerializationConflict(
        f'could not serialize access to table "{names[0]}" ({rule} conflict)',
        detail=_detail(known),
        hint=_HINTS.get(rule, _AGAIN),
        evidence=known,
    )


def _detail(known: dict[str, Any]) -> str:
    when = "" if known["commit_timestamp"] is None else f" at {milliseconds_of(known['commit_timestamp'])} ms"
    who = "" if known["other_transaction_id"] is None else f" by transaction {known['other_transaction_id'].hex()}"
    moved = (known["commit_timestamp"] or known["read_timestamp"] + 1) <= known["read_timestamp"]
    since = "it was read" if moved else f"this transaction's snapshot at {milliseconds_of(known['read_timestamp'])} ms"
    return f"{_what(known)} changed{when}{who}, after {since}."


def _what(known: dict[str, Any]) -> str:
    keys = "; ".join(map(shown_key, known["keys"]))
    return f"{f'Key ({keys})' if keys else 'The definition' if known['rule'] == 'catalog' else 'Rows'} of {known['table']}"


def duplicate(
    schema: Table,
    names: Names,
    key: Key,
    transaction_id: TransactionId,
    read_timestamp: Timestamp,
    other: TransactionId | None,
    commit_timestamp: Timestamp,
) -> UniqueViolation:
    """The error for a key that exists already in the table described by `schema`, committed by `other` (0: nobody knows when)."""
    known = facts(
        "unique",
        names,
        (key,),
        transaction_id=transaction_id,
        read_timestamp=read_timestamp,
        other=other,
        commit_timestamp=commit_timestamp,
    )
    columns = ", ".join(schema.columns[position].name for position in schema.key_columns)
    return UniqueViolation(
        f'duplicate key value violates unique constraint "{schema.key_name}"',
        detail=f"Key ({columns})=({shown_key(key)}) already exists in table {names[0]}.",
        evidence={**known, "key": key, "constraint": schema.key_name},
    )


def lock_timeout(known: dict[str, Any], blockers: tuple[Any, ...]) -> LockNotAvailable:
    """The error for a lock that was waited for in vain. `blockers`: the transactions that were in the way."""
    return LockNotAvailable(
        "canceling statement due to lock timeout",
        detail=f"{_what(known)} is locked by transaction {', '.join(map(_shown_id, blockers))}." if blockers else None,
        hint="Raise lock_timeout, or run the transaction again.",
        evidence={**known, "blockers": blockers},
    )


def deadlock(known: dict[str, Any], cycle: tuple[Any, ...]) -> DeadlockDetected:
    """The error for the youngest of transactions that wait for each other. `cycle`: each waits for the next, the last for the first."""
    return DeadlockDetected(
        "deadlock detected",
        detail=f"{len(cycle)} transactions wait for each other; this one began last. It waited for: {_what(known)}.",
        hint="Run the transaction again; lock rows in the same order everywhere.",
        evidence={**known, "cycle": cycle},
    )


def _shown_id(name: Any) -> str:
    return name.hex() if isinstance(name, bytes) else str(name)


# -- names and keys ---------------------------------------------------------------------------------------------------


def names_of(catalog: Catalog, table: TableId) -> Names | None:
    """The name of a table, or of an index and its base table; None: the catalog does not know it."""
    for known in catalog.tables.values():
        if known.id == table:
            return known.name, None
        for index in known.indexes:
            if index.id == table:
                return known.name, index.name
    return ("catalog", None) if table == CATALOG_TABLE else None


def place_of(catalog: Catalog, table: TableId, target: Any) -> tuple[str, str | None, str | None]:
    """What a lock is on, for people: base table, index, and the key or range as text (None: the table's definition)."""
    if table == CATALOG_TABLE and isinstance(target, tuple):
        return str(target[1]), None, None
    name, index = names_of(catalog, table) or (f"#{table}", None)
    return name, index, shown_key(target)


def shown_key(key: Any) -> str:
    """A key, or a range of keys, as text of at most `SHOWN_CHARACTERS_MAX` characters."""
    if isinstance(key, KeyRange):
        return "every key" if key == EVERY_KEY else _cut(_range_text(key))
    return _cut(", ".join(str(part) for part in key) if isinstance(key, tuple) else str(key))


def _range_text(keys: KeyRange) -> str:
    low = "(…" if keys.low is None else f"{'[' if keys.low_inclusive else '('}{shown_key(keys.low)}"
    high = "…)" if keys.high is None else f"{shown_key(keys.high)}{']' if keys.high_inclusive else ')'}"
    return f"{low} to {high}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[: SHOWN_CHARACTERS_MAX - 1]}…"
