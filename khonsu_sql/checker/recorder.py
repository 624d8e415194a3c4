"""Recording a history while a workload runs, from any number of threads.

Used by tests and benchmarks. The recording block goes *around* the database's transaction, so that `invoked` is before its begin and
`completed` after its commit. Invariants: a transaction is recorded whole when its block ends, whatever ended it; exceptions pass through.
An exception says ABORTED if its `sqlstate` is of a class that a database raises only for what it did not commit (`ROLLED_BACK`), anything
else is UNKNOWN, which is always safe to say; `aborted()` inside the block says that it surely was rolled back.
Leaves out: clocks of several machines, which are the workload's business (`clock`).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from khonsu_sql.checker.history import (
    Append,
    Operation,
    Range,
    Read,
    ReadList,
    Scan,
    Status,
    Transaction,
    Value,
    Write,
    encode_transaction,
)

__all__ = ["Recorder", "Recording"]

# Wrong values, constraints, conflicts, wrong statements, locks. Not connections (08), operators (57), the system (58): may follow a commit.
ROLLED_BACK = ("21", "22", "23", "25", "40", "42", "55")
STATEMENT_COMPLETION_UNKNOWN = "40003"


class Recording:
    """The transaction that is being recorded; its methods are called after the database has answered."""

    __slots__ = ("_operations", "commit", "status")

    def __init__(self) -> None:
        self._operations: list[Operation] = []
        self.status: Status | None = None
        self.commit: int | None = None

    def append(self, key: str, value: Value) -> None:
        self._operations.append(Append(key, value))

    def read_list(self, key: str, values: list[Value]) -> None:
        """An absent list is an empty one."""
        self._operations.append(ReadList(key, list(values)))

    def write(self, key: str, value: Value | None) -> None:
        self._operations.append(Write(key, value))

    def read(self, key: str, value: Value | None) -> None:
        self._operations.append(Read(key, value))

    def scan(self, range: Range, found: dict[str, Value | list[Value]]) -> None:
        self._operations.append(Scan(range, dict(found)))

    def aborted(self) -> None:
        """It was rolled back for sure, whatever ends the block."""
        self.status = Status.ABORTED

    @property
    def operations(self) -> list[Operation]:
        return self._operations


class Recorder:
    """Keeps transactions in `transactions`, or writes each at once to `path`, which `close` closes."""

    def __init__(self, path: Path | str | None = None, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.transactions: list[Transaction] = []
        self._clock = clock
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._file = None if path is None else open(path, "wb")  # noqa: SIM115

    @contextmanager
    def transaction(self, process: int | str) -> Iterator[Recording]:
        """Record what the block does as one transaction of `process`."""
        recording = Recording()
        number, invoked = next(self._numbers), self._clock()
        try:
            yield recording
        except BaseException as error:
            self._keep(recording, number, process, invoked, recording.status or _status_after(error))
            raise
        self._keep(recording, number, process, invoked, recording.status or Status.COMMITTED)

    def _keep(self, recording: Recording, number: int, process: int | str, invoked: int, status: Status) -> None:
        done = Transaction(number, process, status, invoked, recording.operations, self._clock(), recording.commit)
        if self._file is None:
            self.transactions.append(done)
            return
        line = encode_transaction(done)
        with self._lock:
            self._file.write(line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _status_after(error: BaseException) -> Status:
    sqlstate = getattr(error, "sqlstate", None) or ""
    certain = str(sqlstate).startswith(ROLLED_BACK) and sqlstate != STATEMENT_COMPLETION_UNKNOWN
    return Status.ABORTED if certain else Status.UNKNOWN
