"""A history: what transactions asked for and what they got, as values and as a file of JSON lines.

One line is one `Transaction`; the order of the lines has no meaning. Written by `recorder` and by workloads in any language, read by
`khonsu check`.
Invariants: `read_history` yields what a line says or raises `HistoryError` with that line's number: unknown fields, unknown operations
and blank lines are errors too. Keys are strings; every value written to a key is unique for that key, in aborted attempts too.
Leaves out: the meaning. What contradicts itself across lines is found by `intake`.
Source of the operations: Kingsbury & Alvaro 2020 ("Elle"), list-append and registers; ranges make phantoms visible (Berenson et al. 1995).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import msgspec

__all__ = ["Append", "HistoryError", "Operation", "Read", "ReadList", "Scan", "Status", "Transaction", "Value", "Write"]
__all__ += ["encode_transaction", "read_history", "write_history"]

Value = int | str
Range = str | tuple[str, str | None]


class HistoryError(ValueError):
    """The history cannot be judged: it is not well formed or contradicts its own rules. `line` counts transactions from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line = line
        self.problem = problem


class Status(StrEnum):
    """What the client knows. UNKNOWN counts as committed if, and only if, somebody read one of its writes."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class Append(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True, tag="append"):
    """`value` went to the end of the list at `key`."""

    key: str
    value: Value


class ReadList(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True, tag="read-list"):
    """The whole list at `key`; a key that is not there is an empty list."""

    key: str
    values: list[Value]


class Write(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True, tag="write"):
    """The register `key` was set; None deletes it."""

    key: str
    value: Value | None


class Read(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True, tag="read"):
    """The register `key`; None when it is not there."""

    key: str
    value: Value | None


class Scan(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True, tag="scan"):
    """All keys of a range with their registers or lists; a key of the range that is missing in `found` was not there.

    `range` is a prefix, or (first key, first key behind it or None for no end).
    """

    range: Range
    found: dict[str, Value | list[Value]]


Operation = Append | ReadList | Write | Read | Scan


class Transaction(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """One attempt of one client. `invoked` and `completed` are points of real time in any unit, the same for all clients.

    `process` runs one transaction at a time. `commit` is the database's commit index or timestamp, if it told one.
    """

    id: int | str
    process: int | str
    status: Status
    invoked: int
    operations: list[Operation]
    completed: int | None = None
    commit: int | None = None


_decoder = msgspec.json.Decoder(Transaction)
_encoder = msgspec.json.Encoder()


def encode_transaction(transaction: Transaction) -> bytes:
    """Its line, with the line feed."""
    return _encoder.encode(transaction) + b"\n"


def read_history(source: Path | str | BinaryIO) -> Iterator[Transaction]:
    """The transactions of a file, one at a time. Raises HistoryError with the number of a line that is none, OSError as `open` does."""
    if not isinstance(source, Path | str):
        yield from _transactions(source)
        return
    with open(source, "rb") as file:
        yield from _transactions(file)


def _transactions(lines: Iterable[bytes]) -> Iterator[Transaction]:
    decode = _decoder.decode
    for number, line in enumerate(lines, 1):
        try:
            yield decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HistoryError(number, str(error)) from error


def write_history(target: Path | str, history: Iterable[Transaction]) -> None:
    """Write `history` as a file of JSON lines, over what was there."""
    with open(target, "wb") as file:
        file.writelines(map(encode_transaction, history))
