"""The directory of a database: whose it is, which format it has, and that only one process has it open.

Called by `rocks`. Layout: `KHONSU` (the marker: name and version of the format, and whether creation was finished), `LOCK`
(held with flock for as long as the database is open; contains the process id), `rocks/` and `files/`.

Invariants: a directory that holds anything of someone else is never touched, not even by a LOCK. The marker is the first thing
written and says `new` until everything else is there, so a database that lost its insides is never taken for a fresh one.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from khonsu_engine.errors import CannotConnect, DatabaseInUse
from khonsu_engine.storage.files import sync_directory, write_durably

__all__ = ["FORMAT_NAME", "FORMAT_VERSION", "Claim", "mark_ready"]

FORMAT_NAME = "khonsu-sql"
FORMAT_VERSION = 1

MARKER = "KHONSU"
LOCK = "LOCK"
READY = "ready"
NEW = "new"

_MARKER_BYTES_MAX = 1_000
_OURS = frozenset({LOCK, MARKER + ".part"})


class Claim:
    """A directory held by this process. `fresh`: it must be filled, then declared `ready`."""

    def __init__(self, path: Path, create: bool) -> None:
        """Raises CannotConnect (missing, not a directory, unreadable, foreign, other format) or DatabaseInUse."""
        self.path = path
        try:
            _examine(path, create)
            if not path.exists():
                path.mkdir(exist_ok=True)
                sync_directory(path.parent)
            self._descriptor = _lock(path)
        except (OSError, ValueError) as error:
            raise _cannot_open(path, error) from error
        try:
            state = _examine(path, create)  # again: before the lock another process may have been at work
            self.fresh = state != READY
            if state == "":
                _mark(path, NEW)
        except BaseException as error:
            self.release()
            if isinstance(error, OSError):
                raise _cannot_open(path, error) from error
            raise

    def ready(self) -> None:
        """Everything is there: from now on it must be found again. Raises OSError."""
        _mark(self.path, READY)
        self.fresh = False

    def release(self) -> None:
        """Let the directory go. In a forked child too: closing its copy of the descriptor leaves the parent's lock alone."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def mark_ready(directory: Path) -> None:
    """Declare a directory complete that was filled by other means (a checkpoint). Raises OSError."""
    _mark(directory, READY)


def _mark(path: Path, state: str) -> None:
    write_durably(path / MARKER, [f"{FORMAT_NAME}\nformat {FORMAT_VERSION}\n{state}\n".encode()])


def _examine(path: Path, create: bool) -> str:
    """What the marker says: READY, NEW, or "" for a directory that may become ours. Raises CannotConnect and OSError."""
    try:
        names = set(os.listdir(path))
    except FileNotFoundError:
        if not create:
            raise CannotConnect(f"there is no database at {path}", hint="Open it with creation allowed to make one.") from None
        if not path.parent.is_dir():
            raise CannotConnect(f"cannot make {path}: there is no directory {path.parent}") from None
        return ""
    except NotADirectoryError:
        raise CannotConnect(f"{path} is not a directory; a database is one") from None
    if MARKER in names:
        state = _read_marker(path)
        if state == NEW and not create:
            raise CannotConnect(f"the database {path} was never finished being made; it is empty")
        return state
    if names - _OURS:
        found = f"found {sorted(names)[0]!r}; nothing was changed"
        raise CannotConnect(f"{path} holds other things and no Khonsu SQL database", detail=found)
    if not create:
        raise CannotConnect(f"there is no database in {path}: it is empty")
    return ""


def _read_marker(path: Path) -> str:
    with (path / MARKER).open("rb") as file:
        lines = file.read(_MARKER_BYTES_MAX).decode(errors="replace").split("\n")
    name, version, state = (*lines, "", "", "")[:3]
    word, _, number = version.partition(" ")
    if name != FORMAT_NAME or word != "format" or not (number.isascii() and number.isdigit()):
        raise CannotConnect(f"{path} is of another format: its {MARKER} file does not say {FORMAT_NAME}")
    if int(number) > FORMAT_VERSION:
        raise CannotConnect(
            f"{path} has format {number}, newer than this program, which reads up to {FORMAT_VERSION}", hint="Upgrade khonsu-sql."
        )
    if state not in (READY, NEW):
        raise CannotConnect(f"the {MARKER} file in {path} is damaged")
    return state


def _lock(path: Path) -> int:
    """The descriptor of the locked LOCK file. Raises DatabaseInUse and OSError."""
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise _in_use(path, holder) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _cannot_open(path: Path, error: Exception) -> CannotConnect:
    """OSError: no permission, no space, a read-only disk; ValueError: a NUL byte in the path."""
    return CannotConnect(f"cannot open {str(path)!r}: {getattr(error, 'strerror', None) or error}")


def _in_use(path: Path, holder: str) -> DatabaseInUse:
    if holder == str(os.getpid()):
        return DatabaseInUse(f"the database {path} is open already in this process")
    who = f"process {holder}" if holder.isdigit() else "another process"
    return DatabaseInUse(f"the database {path} is in use by {who}", hint="One process at a time can open it; close it there first.")
