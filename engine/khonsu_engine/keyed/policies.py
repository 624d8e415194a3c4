"""What happens to a write whose key somebody else has changed meanwhile: the one place where that is decided.

Called by `batches` and `blind`. What a transaction did to a key adds up to an act: a value in place of whatever is there (`Whole`; no
value: a deletion), or rows appended to whatever is there (`Delta`). A policy decides about a whole; a delta needs none. Pure functions.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import pyarrow as pa

from khonsu_engine.commands import ConflictPolicy
from khonsu_engine.errors import InvalidArgument, NotSupported
from khonsu_engine.keyed.batch_codec import decode_batch, encode_batch
from khonsu_engine.keyed.merge import merged

__all__ = ["Act", "Delta", "Value", "Whole", "applied", "decided", "policy_of", "with_appended"]


class Value(NamedTuple):
    """A batch as it is stored: the bytes, its number of rows, and when it expires."""

    data: bytes
    rows: int
    expires_at: datetime | None


class Whole(NamedTuple):
    """This value in place of what is there; None: a deletion. `column`: the key column, should it be appended to somebody else's."""

    value: Value | None
    column: str | None = None


class Delta(NamedTuple):
    """Appended batches as (bytes, key column), in order."""

    parts: tuple[tuple[bytes, str | None], ...]


Act = Whole | Delta


def policy_of(on_conflict: str | ConflictPolicy | None) -> ConflictPolicy:
    """The policy of that name, in any case; None stands for 'fail'.

    Raises InvalidArgument for an unknown name, NotSupported for 'merge'."""
    if on_conflict is None:
        return ConflictPolicy.FAIL
    if isinstance(on_conflict, ConflictPolicy):
        found: ConflictPolicy | None = on_conflict
    else:
        found = ConflictPolicy.__members__.get(on_conflict.upper()) if isinstance(on_conflict, str) else None
    if found is None:
        known = ", ".join(repr(policy.name.lower()) for policy in ConflictPolicy)
        raise InvalidArgument(f"on_conflict must be one of {known}, not {on_conflict!r}")
    if found is ConflictPolicy.MERGE:
        raise NotSupported(
            "on_conflict='merge' is not supported for keyed batches",
            hint="It merges columns of tables. 'append' and append() put the rows of two batches together.",
        )
    return found


def with_appended(act: Act | None, key: str, batch: pa.RecordBatch, column: str | None) -> Act:
    """`act`, and then `batch` appended. Raises what `merged` and `encode_batch` raise."""
    part = Delta(((encode_batch(batch, key), column),))
    if isinstance(act, Whole):
        return Whole(applied(part, key, act.value), column if act.value is None else act.column)
    return part if act is None else Delta(act.parts + part.parts)


def applied(act: Act, key: str, there: Value | None) -> Value | None:
    """What `act` makes of the value that is there. Appending leaves an expiry as it is.

    Raises SchemaMismatch, UniqueViolation, LimitExceeded, InvalidValue."""
    if isinstance(act, Whole):
        return act.value
    whole = None if there is None else decode_batch(there.data, key)
    for data, column in act.parts:
        whole = merged(whole, decode_batch(data, key), column)
    assert whole is not None, "a delta has a part"
    return Value(encode_batch(whole, key), whole.num_rows, None if there is None else there.expires_at)


def decided(policy: ConflictPolicy, act: Act, key: str, theirs: Value | None) -> tuple[ConflictPolicy, Value | None]:
    """The policy that acts, and what is under `key` by it, given what somebody else has left there.

    Raises as `applied`."""
    if isinstance(act, Delta):
        return ConflictPolicy.APPEND, applied(act, key, theirs)
    mine = act.value
    if policy is ConflictPolicy.IGNORE:
        return policy, theirs
    if policy is ConflictPolicy.REPLACE or mine is None or theirs is None:
        return policy, mine
    both = applied(Delta(((mine.data, act.column),)), key, theirs)
    assert policy is ConflictPolicy.APPEND and both is not None, "FAIL keeps no whole values back"
    return policy, both if mine.expires_at is None else both._replace(expires_at=mine.expires_at)
