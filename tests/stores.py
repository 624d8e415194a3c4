"""Stores for tests: one that remembers, one that fails, one that crashes.

All three pass the contract of waist 4. They imitate the outside, a disk; no room of ours is imitated.

* `RecordingStore` keeps the order of everything that changed the store and of the test's own notes, knows what was durable
  when, and can hold a sync in its middle until the test lets it go.
* `FaultyStore` lets chosen calls fail, before or after they took effect.
* `CrashingStore` is a disk that loses what was not synced.

They compose: `RecordingStore(CrashingStore())`, `FaultyStore(RocksStore(path))`.
"""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from khonsu_engine.errors import EngineClosed, StoreFailed
from khonsu_engine.protocols import Buffer, Delete, DeleteRange, Put, Store, StoreOperation
from khonsu_engine.storage.memory import MemoryStore

__all__ = ["CrashingStore", "Event", "FaultyStore", "RecordingStore", "disk_full"]

Answer = TypeVar("Answer")

WRITES = ("put", "write", "sync", "add_file", "remove_file")
HOLD_SECONDS_MAX = 30.0


class _Around:
    """Every call of `inner` passes through `_call`."""

    def __init__(self, inner: Store | None = None) -> None:
        self.inner: Store = MemoryStore(durable=True) if inner is None else inner
        self.durable = self.inner.durable

    def get(self, key: bytes) -> bytes | None:
        return self._call("get", lambda: self.inner.get(key), (key,))

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return self._call("scan", lambda: self.inner.scan(start, end, reverse=reverse), (start, end))

    def put(self, key: bytes, value: bytes) -> None:
        self._call("put", lambda: self.inner.put(key, value), (key,))

    def write(self, operations: Sequence[StoreOperation]) -> None:
        keys = tuple(operation.start if isinstance(operation, DeleteRange) else operation.key for operation in operations)
        self._call("write", lambda: self.inner.write(operations), keys)

    def sync(self) -> None:
        self._call("sync", self.inner.sync)

    def add_file(self, name: str, chunks: Iterable[Buffer]) -> int:
        return self._call("add_file", lambda: self.inner.add_file(name, chunks), name=name)

    def map_file(self, name: str) -> Buffer:
        return self._call("map_file", lambda: self.inner.map_file(name), name=name)

    def remove_file(self, name: str) -> None:
        self._call("remove_file", lambda: self.inner.remove_file(name), name=name)

    def files(self) -> list[str]:
        return self._call("files", self.inner.files)

    def checkpoint(self, directory: Path) -> None:
        self._call("checkpoint", lambda: self.inner.checkpoint(directory))

    def close(self) -> None:
        self._call("close", self.inner.close)

    def _call(self, call: str, action: Callable[[], Answer], keys: tuple[bytes, ...] = (), name: str = "") -> Answer:
        raise AssertionError("a store that does nothing around its calls is its inner store")


class Event(msgspec.Struct, frozen=True):
    """Something that happened, in order of `number` (0, 1, 2, …).

    `call`: one of WRITES, recorded when it returned; `sync begins`; or `note`. `keys`: written ones (of a DeleteRange its start).
    `name`: of the file, or the note's text. `error`: what the call raised, or "". `thread`: the name of the calling thread."""

    number: int
    call: str
    keys: tuple[bytes, ...]
    name: str
    error: str
    thread: str


class RecordingStore(_Around):
    """Remembers `events`."""

    def __init__(self, inner: Store | None = None) -> None:
        super().__init__(inner)
        self.events: list[Event] = []
        self._latch = threading.Lock()
        self._going = threading.Event()
        self._going.set()
        self._syncing = threading.Event()

    def note(self, text: str) -> int:
        """Record something the test saw (an acknowledgement, a row handed out). Returns the event's number."""
        return self._record("note", (), text)

    def count(self, call: str) -> int:
        """How often that was recorded."""
        return sum(event.call == call for event in tuple(self.events))

    def written_at(self, key: bytes, before: int | None = None) -> int | None:
        """Number of the last event below `before` that wrote `key`."""
        found = [event.number for event in tuple(self.events)[:before] if key in event.keys and not event.error]
        return found[-1] if found else None

    def durable_at(self, key: bytes, before: int | None = None) -> int | None:
        """Number of the sync that first covered that last write of `key`: it began after the write and has succeeded. None: not yet."""
        written = self.written_at(key, before)
        begun = -1
        for event in tuple(self.events)[:before]:
            if event.call == "sync begins":
                begun = event.number
            if event.call == "sync" and not event.error and written is not None and begun > written:
                return event.number
        return None

    def was_durable(self, key: bytes, at: int | None = None) -> bool:
        """Was the last write of `key` before event `at` (None: now) synced before `at`?"""
        return self.durable_at(key, at) is not None

    def hold_sync(self) -> None:
        """From now on a sync that has begun waits, without having done anything, for `release_sync`."""
        self._syncing.clear()
        self._going.clear()

    def wait_until_held(self) -> None:
        """Until a sync is being held."""
        assert self._syncing.wait(HOLD_SECONDS_MAX), "no sync began"

    def release_sync(self) -> None:
        """Let held syncs go on."""
        self._going.set()

    def _call(self, call: str, action: Callable[[], Answer], keys: tuple[bytes, ...] = (), name: str = "") -> Answer:
        if call not in WRITES:
            return action()
        if call == "sync":
            self._record("sync begins", (), "")
            self._syncing.set()
            assert self._going.wait(HOLD_SECONDS_MAX), "the test never released the sync"
        try:
            answer = action()
        except BaseException as error:
            self._record(call, keys, name, repr(error))
            raise
        self._record(call, keys, name)
        return answer

    def _record(self, call: str, keys: tuple[bytes, ...], name: str, error: str = "") -> int:
        with self._latch:
            number = len(self.events)
            self.events.append(Event(number, call, keys, name, error, threading.current_thread().name))
        return number


def disk_full() -> OSError:
    """What a full disk says."""
    return OSError(errno.ENOSPC, "No space left on device")


class _Fault(msgspec.Struct):
    calls_before: int
    times: int | None
    after: bool
    error: BaseException


class FaultyStore(_Around):
    """Lets calls fail that the test has chosen. As the real store it refuses every write after a failed sync."""

    def __init__(self, inner: Store | None = None) -> None:
        super().__init__(inner)
        self.failures = 0
        self._broken = False
        self._faults: dict[str, _Fault] = {}
        self._latch = threading.Lock()

    def fail(self, call: str, at: int = 1, *, error: BaseException | None = None, times: int | None = 1, after: bool = False) -> None:
        """Let the `at`-th `call` from now on fail (1: the next one), and `times - 1` more (None: for ever).

        `error`: StoreFailed unless given. `after`: the call takes effect first, then fails."""
        self._faults[call] = _Fault(at - 1, times, after, error or StoreFailed(f"injected: {call} failed"))

    def heal(self) -> None:
        """No more injected failures (a failed sync stays final)."""
        self._faults.clear()

    def _call(self, call: str, action: Callable[[], Answer], keys: tuple[bytes, ...] = (), name: str = "") -> Answer:
        if self._broken and call in WRITES:
            raise StoreFailed("a sync has failed: no more writes")
        fault = self._due(call)
        if fault is None:
            return action()
        if fault.after:
            action()
        self._broken = self._broken or call == "sync"
        raise fault.error

    def _due(self, call: str) -> _Fault | None:
        with self._latch:
            fault = self._faults.get(call)
            if fault is None:
                return None
            if fault.calls_before > 0:
                fault.calls_before -= 1
                return None
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    del self._faults[call]
            self.failures += 1
            return fault


class CrashingStore:
    """A disk: what was synced survives `crash`; of the rest as much as `seed` says, in order."""

    durable = True

    def __init__(self, pairs: dict[bytes, bytes] | None = None, files: dict[str, bytes] | None = None) -> None:
        """`pairs`, `files`: what is there from the beginning, durably."""
        self._now = MemoryStore(durable=True)
        self._now.write([Put(key, value) for key, value in (pairs or {}).items()])
        self._synced = dict(pairs or {})
        self._unsynced: list[tuple[StoreOperation, ...]] = []
        self._files = dict(files or {})
        self._removed: dict[str, bytes] = {}
        self._latch = threading.Lock()
        self._ended = ""

    def crash(self, seed: int | None = None) -> CrashingStore:
        """Pull the plug: this store refuses everything from now on. Returns what the next start finds: the synced writes, with `seed`
        also a random prefix of the others; all files added; of those removed since the last sync some (without `seed` all) are back.
        """
        with self._latch:
            self._ended = self._ended or "crashed"
            dice = random.Random(seed)
            kept = 0 if seed is None else dice.randint(0, len(self._unsynced))
            back = {name: content for name, content in self._removed.items() if seed is None or dice.random() < 0.5}
            return CrashingStore(_after(self._synced, self._unsynced[:kept]), self._files | back)

    def killed(self) -> CrashingStore:
        """Kill the process, not the machine: everything written is found, and nothing of it is known to be durable yet."""
        with self._latch:
            self._ended = self._ended or "killed"
            found = CrashingStore(self._synced, self._files)
        for operations in self._unsynced:
            found.write(operations)
        return found

    @property
    def unsynced(self) -> int:
        """How many writes a crash would lose."""
        return len(self._unsynced)

    def get(self, key: bytes) -> bytes | None:
        self._check()
        return self._now.get(key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        self._check()
        return self._now.scan(start, end, reverse=reverse)

    def put(self, key: bytes, value: bytes) -> None:
        self.write((Put(key, value),))

    def write(self, operations: Sequence[StoreOperation]) -> None:
        with self._latch:
            self._check()
            self._now.write(operations)
            self._unsynced.append(tuple(operations))

    def sync(self) -> None:
        with self._latch:
            self._check()
            self._synced = _after(self._synced, self._unsynced)
            self._unsynced = []
            self._removed = {}

    def add_file(self, name: str, chunks: Iterable[Buffer]) -> int:
        content = b"".join(chunks)
        with self._latch:
            self._check()
            size = self._now.add_file(name, (content,))
            self._files[name] = content
            self._removed.pop(name, None)
        return size

    def map_file(self, name: str) -> Buffer:
        self._check()
        return self._now.map_file(name) if name not in self._files else memoryview(self._files[name])

    def remove_file(self, name: str) -> None:
        with self._latch:
            self._check()
            self._now.remove_file(name)
            if name in self._files:
                self._removed[name] = self._files.pop(name)

    def files(self) -> list[str]:
        self._check()
        return sorted(self._files)

    def checkpoint(self, directory: Path) -> None:
        self._check()
        self._now.checkpoint(directory)

    def close(self) -> None:
        self._ended = self._ended or "closed"
        self._now.close()

    def _check(self) -> None:
        if self._ended:
            raise EngineClosed(f"the store is {self._ended}")


def _after(pairs: dict[bytes, bytes], writes: Iterable[Sequence[StoreOperation]]) -> dict[bytes, bytes]:
    result = dict(pairs)
    for operations in writes:
        for operation in operations:
            match operation:
                case Put(key, value):
                    result[key] = value
                case Delete(key):
                    result.pop(key, None)
                case DeleteRange(start, end):
                    for key in [key for key in result if start <= key < end]:
                        del result[key]
    return result
