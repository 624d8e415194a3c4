"""The record codec: what one commit is in the log, byte by byte. The header is final.

Called by the committer (`encode_body` outside the commit latch, `seal` under it) and by recovery (`decode`). A record is a header of
80 bytes, little-endian, and its body:

    magic            4   KREC
    version          1   1
    kind             1   COMMITTED, RESERVED
    flags            2   BODY_IN_FILE
    index            8   commit index: 1, 2, 3, without a hole
    durable index    8   the durable index known when it was written
    tenure           8   under whose leadership it was ordered (embedded: 0)
    previous hash   16   of the record before it (GENESIS for the first)
    timestamp        8   commit timestamp, signed
    transaction id  16   (a reservation: zeros)
    body length      4
    checksum         4   crc32 of the body followed by the 76 bytes above

A record's hash is blake2b-128 of its header and the blake2b-128 of its body, so that all work that grows with the body is done
outside the latch. The body is MessagePack: (effects, bulk) as in `Committed`, or (counter, upto). One larger than
`INLINE_BODY_BYTES_MAX` is written ahead as a file; the record then carries (file name, length, hash) in its place.
Rows are tuples of canonical values, converted by `effects` where MessagePack cannot carry a type exactly.

Invariants: nothing damaged is decoded: CorruptDatabase names the index. Left out: bulk rows (they are segment files, named).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from struct import Struct
from zlib import crc32

import msgspec

from khonsu_engine.commands import BulkFile, Committed, Effect, Record, Reserved, TableId, Timestamp, TransactionId
from khonsu_engine.errors import CannotConnect, CorruptDatabase
from khonsu_engine.protocols import Buffer, Store
from khonsu_engine.schema.catalog import Table
from khonsu_engine.storage.effects import canonical, portable

__all__ = [
    "BODY_IN_FILE",
    "COMMITTED",
    "GENESIS",
    "NO_BODY",
    "RESERVED",
    "Body",
    "Header",
    "body_name",
    "decode",
    "encode_body",
    "encode_reserved",
    "files_of",
    "read_header",
    "seal",
    "write_ahead",
]

COMMITTED = 1
RESERVED = 2

BODY_IN_FILE = 1

GENESIS = bytes(16)
"""The hash before the first record."""

_MAGIC = b"KREC"
_VERSION = 1
_FIELDS = Struct("<4sBBHQQQ16sq16sI")
_CHECKSUM = Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECKSUM.size

BulkEffect = tuple[TableId, bool, tuple[BulkFile, ...]]


class Body(msgspec.Struct, frozen=True, gc=False):
    """An encoded body with what `seal` needs of it. `len` is its size in bytes."""

    data: bytes
    hash: bytes
    crc: int

    def __len__(self) -> int:
        return len(self.data)


class Header(msgspec.Struct, frozen=True, gc=False):
    """A verified header. `hash`: this record's own. `body_file`: name of the file that holds the body, or ""."""

    version: int
    kind: int
    flags: int
    index: int
    durable_index: int
    tenure: int
    previous_hash: bytes
    timestamp: Timestamp
    transaction_id: TransactionId
    hash: bytes
    body_file: str = ""


class _FileBody(msgspec.Struct, frozen=True, array_like=True):
    name: str
    size: int
    hash: bytes


_encode = msgspec.msgpack.Encoder().encode
_committed = msgspec.msgpack.Decoder(tuple[tuple[Effect, ...], tuple[BulkEffect, ...]])
_reserved = msgspec.msgpack.Decoder(tuple[str, int])
_file_body = msgspec.msgpack.Decoder(_FileBody)


# -- writing ----------------------------------------------------------------------------------------------------------


def encode_body(effects: Sequence[Effect], bulk: Sequence[BulkEffect], tables: Mapping[TableId, Table]) -> Body:
    """The body of a commit. `tables`: at least those in `effects` (the catalog's own apart), at the effects' schema versions."""
    return _body(_encode((portable(effects, tables), bulk)))


def encode_reserved(counter: str, upto: int) -> Body:
    """The body of a reservation."""
    return _body(_encode((counter, upto)))


def body_name(transaction_id: TransactionId) -> str:
    """The file that holds the body of that transaction's record when it is large."""
    return f"body-{transaction_id.hex()}"


def write_ahead(store: Store, transaction_id: TransactionId, body: Body) -> Body:
    """Make the large `body` a durable file of `store`; returns the body to seal in its place, with the flag BODY_IN_FILE."""
    name = body_name(transaction_id)
    store.add_file(name, (body.data,))
    return _body(_encode(_FileBody(name, len(body), body.hash)))


def seal(
    kind: int,
    body: Body,
    index: int,
    durable_index: int,
    tenure: int,
    previous_hash: bytes,
    timestamp: Timestamp,
    transaction_id: TransactionId,
    flags: int = 0,
) -> tuple[bytes, bytes]:
    """(the record, its hash). The cost does not depend on the body, except for one copy."""
    data = body.data
    fields = _FIELDS.pack(_MAGIC, _VERSION, kind, flags, index, durable_index, tenure, previous_hash, timestamp, transaction_id, len(data))
    header = fields + _CHECKSUM.pack(crc32(fields, body.crc))
    return header + data, blake2b(header + body.hash, digest_size=16).digest()


def _body(data: bytes) -> Body:
    return Body(data, _digest(data), crc32(data))


def _digest(data: Buffer) -> bytes:
    return blake2b(data, digest_size=16).digest()


NO_BODY = _body(b"")
"""Stands for a body where no log is kept."""


# -- reading ----------------------------------------------------------------------------------------------------------


def read_header(record: bytes, index: int) -> Header:
    """The header of the record found under `index`, after its length and checksum were verified.

    Raises CorruptDatabase, or CannotConnect for a version this program does not know."""
    if len(record) < HEADER_BYTES or record[:4] != _MAGIC:
        raise _damaged(index, "it does not begin like a record")
    _, version, kind, flags, own_index, durable_index, tenure, previous, timestamp, transaction_id, size = _FIELDS.unpack_from(record)
    data = record[HEADER_BYTES:]
    if len(data) != size:
        raise _damaged(index, f"its body has {len(data)} bytes instead of {size}")
    if crc32(record[: _FIELDS.size], crc32(data)) != _CHECKSUM.unpack_from(record, _FIELDS.size)[0]:
        raise _damaged(index, "its checksum does not match")
    if version > _VERSION or kind not in (COMMITTED, RESERVED) or flags & ~BODY_IN_FILE:
        raise CannotConnect(f"log record {index} (version {version}, kind {kind}, flags {flags}) was written by a newer program")
    if own_index != index:
        raise _damaged(index, f"it says that it is record {own_index}")
    body_hash = _digest(data)
    own_hash = _digest(record[:HEADER_BYTES] + body_hash)
    name = _named(index, data).name if flags & BODY_IN_FILE else ""
    return Header(version, kind, flags, index, durable_index, tenure, previous, timestamp, transaction_id, own_hash, name)


def decode(
    record: bytes, tables: Mapping[TableId, Table], map_file: Callable[[str], Buffer], index: int
) -> tuple[Header, Committed | Reserved]:
    """The record found under `index`.

    `tables`: all that stand just before it, index tables included, at the schema versions of that moment (tables the record itself
    creates or drops are found in it). `map_file`: as of the store. Raises CorruptDatabase, CannotConnect (a newer version)."""
    header = read_header(record, index)
    body: Buffer = record[HEADER_BYTES:]
    if header.flags & BODY_IN_FILE:
        body = _load(index, _named(index, body), map_file)
    try:
        if header.kind == RESERVED:
            counter, upto = _reserved.decode(body)
            return header, Reserved(index, header.timestamp, counter, upto)
        effects, bulk = _committed.decode(body)
        restored = canonical(effects, tables)
    except (msgspec.DecodeError, ValueError, TypeError, ArithmeticError) as error:
        raise _damaged(index, f"its body cannot be read: {error}") from error
    return header, Committed(index, header.timestamp, header.transaction_id, restored, bulk)


def files_of(header: Header, record: Record) -> set[str]:
    """Names of the files the record needs: its body and its bulk rows."""
    bulk = record.bulk if isinstance(record, Committed) else ()
    return {file.name for _, _, files in bulk for file in files} | ({header.body_file} if header.body_file else set())


def _named(index: int, data: Buffer) -> _FileBody:
    try:
        return _file_body.decode(data)
    except msgspec.DecodeError as error:
        raise _damaged(index, f"the name of its body cannot be read: {error}") from error


def _load(index: int, named: _FileBody, map_file: Callable[[str], Buffer]) -> Buffer:
    data = map_file(named.name)
    if len(data) != named.size or _digest(data) != named.hash:
        raise _damaged(index, f"its body, the file {named.name}, is not what was written")
    return data


def _damaged(index: int, what: str) -> CorruptDatabase:
    return CorruptDatabase(f"log record {index} is damaged: {what}", evidence={"index": index})
