"""The store of `:memory:`: a sorted dict and a dict of files, gone with the process.

Called by the composition root, and by tests, which ask for `durable=True` to have a log without a disk.
Invariants: one latch around everything ordered (`sortedcontainers` is not readable beside a writer); a scan is a copy.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import assert_never

from sortedcontainers import SortedDict

from khonsu_engine.errors import CorruptDatabase, EngineClosed, NotSupported, StoreFailed
from khonsu_engine.protocols import Buffer, Delete, DeleteRange, Put, StoreOperation
from khonsu_engine.storage.forks import USED_AFTER_FORK, register
from khonsu_engine.storage.keys import VALUE_BYTES_LIMIT

__all__ = ["MemoryStore"]


class MemoryStore:
    """A `Store` without a disk. `durable=True` promises a log to those who ask, for tests: `sync` does nothing either way."""

    def __init__(self, durable: bool = False) -> None:
        self.durable = durable
        self._map: SortedDict = SortedDict()
        self._files: dict[str, memoryview] = {}
        self._latch = threading.Lock()
        self._ended = ""
        register(self)

    def get(self, key: bytes) -> bytes | None:
        self._check()
        value: bytes | None = self._map.get(key)
        return value

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        self._check()
        with self._latch:
            pairs = [(key, self._map[key]) for key in self._map.irange(start, end, (True, False), reverse)] if start < end else []
        return self._each(pairs)

    def _each(self, pairs: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for pair in pairs:
            self._check()
            yield pair

    def put(self, key: bytes, value: bytes) -> None:
        self._check()
        assert len(value) < VALUE_BYTES_LIMIT
        with self._latch:
            self._map[key] = value

    def write(self, operations: Sequence[StoreOperation]) -> None:
        self._check()
        with self._latch:
            for operation in operations:
                self._apply(operation)

    def _apply(self, operation: StoreOperation) -> None:
        match operation:
            case Put(key, value):
                assert len(value) < VALUE_BYTES_LIMIT
                self._map[key] = value
            case Delete(key):
                self._map.pop(key, None)
            case DeleteRange(start, end):
                for key in list(self._map.irange(start, end, (True, False))) if start < end else ():
                    del self._map[key]
            case _:
                assert_never(operation)

    def sync(self) -> None:
        self._check()

    def add_file(self, name: str, chunks: Iterable[Buffer]) -> int:
        self._check()
        content = b"".join(chunks)
        if self._files.setdefault(name, view := memoryview(content)) is not view:
            raise StoreFailed(f"the file {name} exists already")
        return len(content)

    def map_file(self, name: str) -> Buffer:
        self._check()
        if name not in self._files:
            raise CorruptDatabase(f"the file {name} is missing")
        return self._files[name]

    def remove_file(self, name: str) -> None:
        self._check()
        self._files.pop(name, None)

    def files(self) -> list[str]:
        self._check()
        return sorted(self._files)

    def checkpoint(self, directory: Path) -> None:
        raise NotSupported("a database in memory has no files that a checkpoint could link", detail=str(directory))

    def close(self) -> None:
        """Let everything go; mappings handed out stay valid. Idempotent."""
        self._ended = self._ended or "the database is closed"
        self._map, self._files = SortedDict(), {}

    def poison(self) -> None:
        self._ended = USED_AFTER_FORK

    def _check(self) -> None:
        if self._ended:
            raise EngineClosed(self._ended)
