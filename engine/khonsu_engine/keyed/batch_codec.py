"""Arrow record batches as bytes: an IPC stream of one batch, so its schema and dictionaries are in it.

Called by `batches`, and by SQL for the content of a batch. What comes back equals what was given, schema metadata included; buffers are not
copied but lie in the bytes.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from khonsu_engine.errors import CorruptDatabase, InvalidArgument, InvalidValue, LimitExceeded
from khonsu_engine.keyed.keys import shown

__all__ = ["BATCH_BYTES_MAX", "checked_batch", "decode_batch", "encode_batch"]

BATCH_BYTES_MAX = 64 << 20
"""Of one batch as an IPC stream."""


def checked_batch(batch: Any, key: str) -> pa.RecordBatch:
    """`batch` itself. Raises InvalidArgument for anything but a RecordBatch, InvalidValue for one whose data is not valid."""
    if isinstance(batch, pa.Table):
        hint = "Give one of its batches: table.combine_chunks().to_batches()[0]"
        raise InvalidArgument(f"the value of key {shown(key)} must be a pyarrow.RecordBatch, not a Table", hint=hint)
    if not isinstance(batch, pa.RecordBatch):
        raise InvalidArgument(f"the value of key {shown(key)} must be a pyarrow.RecordBatch, not {type(batch).__name__}")
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InvalidValue(f"the batch for key {shown(key)} is not valid Arrow data: {error}") from error
    return batch


def encode_batch(batch: pa.RecordBatch, key: str) -> bytes:
    """Raises LimitExceeded, and InvalidValue for what IPC cannot carry."""
    sink = pa.BufferOutputStream()
    try:
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidValue(f"the batch for key {shown(key)} cannot be stored: {error}") from error
    data = sink.getvalue()
    if data.size > BATCH_BYTES_MAX:
        raise LimitExceeded(
            f"the batch for key {shown(key)} has {data.size} bytes, at most {BATCH_BYTES_MAX} are stored under one key",
            hint="Cut it (batch.slice) and store the parts under several keys; scan(prefix) reads them in order.",
        )
    return data.to_pybytes()  # type: ignore[no-any-return]


def decode_batch(data: bytes, key: str) -> pa.RecordBatch:
    """Raises CorruptDatabase."""
    try:
        with pa.ipc.open_stream(data) as reader:
            return reader.read_next_batch()
    except (pa.ArrowException, StopIteration, OSError) as error:
        raise CorruptDatabase(f"the stored batch of key {shown(key)} is damaged: {error}") from error
