"""The one list of keys: every kind of entry in the keyspace, by its first byte.

Called by `log`, `manifest`, `rocks` and recovery; nobody else builds a key. One keyspace with a kind byte, because an atomic
write and a snapshot are only certain within one.

    C name                             counter, written with the manifest          value: msgpack int
    F                                  name and version of the format              value: text
    L index                            one log record                              value: `log`
    M section table position piece     the manifest, one entry per head, catalog row, table and segment, cut into pieces
    P                                  scratch of the store itself (`rocks` primes its log with it); never read
    W                                  the durable watermark (reserved; issue D)

Numbers are unsigned and big-endian, so byte order is number order: index and table 8 bytes, position 4, piece 2.
Values are under `VALUE_BYTES_LIMIT`: a put holds the GIL for its whole length.
"""

from __future__ import annotations

from struct import Struct

__all__ = [
    "COUNTER",
    "FORMAT",
    "LOG",
    "MANIFEST",
    "PRIMER",
    "VALUE_BYTES_LIMIT",
    "WATERMARK",
    "counter_key",
    "counter_name",
    "kind_range",
    "log_index",
    "log_key",
    "log_range",
    "manifest_key",
    "manifest_place",
]

COUNTER = b"C"
FORMAT = b"F"
LOG = b"L"
MANIFEST = b"M"
PRIMER = b"P"
WATERMARK = b"W"

VALUE_BYTES_LIMIT = 64 << 10

_LOG = Struct(">cQ")
_MANIFEST = Struct(">ccQIH")


def kind_range(kind: bytes) -> tuple[bytes, bytes]:
    """(start, end) of all keys of one kind."""
    return kind, bytes((kind[0] + 1,))


def log_key(index: int) -> bytes:
    """The key of the record with that commit index."""
    return _LOG.pack(LOG, index)


def log_range(first: int, after: int | None = None) -> tuple[bytes, bytes]:
    """(start, end) of the records with first <= index < after (None: all from `first`)."""
    return log_key(first), kind_range(LOG)[1] if after is None else log_key(after)


def log_index(key: bytes) -> int:
    """The commit index in a log key. Raises ValueError for another key."""
    if len(key) != _LOG.size or key[:1] != LOG:
        raise ValueError(f"not the key of a log record: {key!r}")
    return int.from_bytes(key[1:], "big")


def counter_key(name: str) -> bytes:
    """The key of a counter."""
    return COUNTER + name.encode()


def counter_name(key: bytes) -> str:
    """The name in a counter's key."""
    return key[1:].decode()


def manifest_key(section: bytes, table: int = 0, position: int = 0, piece: int = 0) -> bytes:
    """The key of one piece of a manifest entry. `section`: one byte, as `manifest` lists them."""
    return _MANIFEST.pack(MANIFEST, section, table, position, piece)


def manifest_place(key: bytes) -> tuple[bytes, int, int, int]:
    """(section, table, position, piece) of a manifest key."""
    _, section, table, position, piece = _MANIFEST.unpack(key)
    return section, table, position, piece
