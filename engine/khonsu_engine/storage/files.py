"""The immutable files of a store: `<directory>/files/`, each written once, durable before anyone hears of it, mapped to be read.

Called by `rocks` and `directory`. A file is written under a temporary name, synced, renamed, and its directory synced.
Invariant: what has its final name is complete. Left-overs of a crash keep the temporary suffix and are swept at open.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from khonsu_engine.errors import CorruptDatabase, StoreFailed
from khonsu_engine.protocols import Buffer

__all__ = ["FileSet", "sync_directory", "write_durably"]

SLICE_BYTES = 1 << 20
"""Bytes per write call: between two of them another thread can have the GIL."""

SYNC_BYTES = 16 << 20
"""Bytes after which a file being written is synced, so that a commit's sync beside it never finds a long queue."""

UNFINISHED = ".part"


class FileSet:
    """The files of one store. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._latch = threading.Lock()

    def create(self) -> None:
        """Make the directory. Raises OSError."""
        self.directory.mkdir(exist_ok=True)

    def sweep(self) -> None:
        """Remove what a crash left unfinished. Raises CorruptDatabase when the directory is missing, and OSError."""
        if not self.directory.is_dir():
            raise CorruptDatabase(f"{self.directory} is missing")
        for left_over in self.directory.glob("*" + UNFINISHED):
            left_over.unlink()

    def add(self, name: str, chunks: Iterable[Buffer]) -> int:
        """Write the file; returns its size in bytes. Raises StoreFailed; then there is no such file."""
        path = self._path(name)
        if path.exists():
            raise StoreFailed(f"the file {path} exists already")
        try:
            return write_durably(path, chunks)
        except OSError as error:
            raise StoreFailed(f"the file {path} could not be written: {error}") from error

    def map(self, name: str) -> Buffer:
        """The file's bytes, memory-mapped. The mapping lives as long as the view, also when the file is removed."""
        path = self._path(name)
        try:
            with path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    return memoryview(b"")
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            raise CorruptDatabase(f"the file {path} is missing") from None
        except OSError as error:
            raise StoreFailed(f"the file {path} could not be read: {error}") from error

    def remove(self, name: str) -> None:
        """Remove the file; absent is fine."""
        path = self._path(name)
        try:
            with self._latch:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreFailed(f"the file {path} could not be removed: {error}") from error

    def names(self) -> list[str]:
        """Names of all finished files."""
        return sorted(entry for entry in os.listdir(self.directory) if not entry.endswith(UNFINISHED))

    def link_into(self, directory: Path) -> None:
        """Hard links of all files in the new `directory`, durable. Nothing is removed meanwhile. Raises OSError."""
        directory.mkdir()
        with self._latch:
            for name in self.names():
                os.link(self.directory / name, directory / name)
        sync_directory(directory)

    def _path(self, name: str) -> Path:
        assert name and "/" not in name and not name.startswith(".") and not name.endswith(UNFINISHED), name
        return self.directory / name


def write_durably(path: Path, chunks: Iterable[Buffer]) -> int:
    """Create or replace `path` with `chunks`: whole or not at all, durable when it returns. Returns the size. Raises OSError."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        size = _write_synced(unfinished, chunks)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return size


def _write_synced(path: Path, chunks: Iterable[Buffer]) -> int:
    size = synced = 0
    with path.open("wb", buffering=0) as file:
        for chunk in chunks:
            rest = memoryview(chunk).cast("B")
            while len(rest):
                written = file.write(rest[:SLICE_BYTES])
                size += written
                rest = rest[written:]
                if size - synced >= SYNC_BYTES:
                    os.fdatasync(file.fileno())
                    synced = size
        os.fsync(file.fileno())
    return size


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
