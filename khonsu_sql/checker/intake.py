"""Taking in a history, one transaction at a time: who wrote what, who read which version, and what a single transaction shows to be wrong.

Called by `check`; `lists`, `registers`, `ranges` and `orders` make edges of a `Ledger` when all is in.
Invariants: transactions have numbers in the order of the lines; a list read is kept as its length while it agrees with the longest read
of its key, so memory grows with the number of operations and not with the length of lists; an unknown transaction is held back until a
read shows one of its writes. Reads of aborted transactions, and of unknown ones nobody saw, are not judged (the levels bind what commits).
Leaves out: everything that needs two transactions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from khonsu_sql.checker.history import Append, HistoryError, Read, ReadList, Scan, Status, Transaction, Write
from khonsu_sql.checker.items import ABSENT, Item, ScanRead
from khonsu_sql.checker.keys import contains, describe
from khonsu_sql.checker.levels import Kind, Variant
from khonsu_sql.checker.report import Anomaly

__all__ = ["Ledger", "shown"]

TIME_MAX = 2**62


class Ledger:
    """All that was read and written. `members` tells which transactions count as committed."""

    def __init__(self) -> None:
        self.ids: list[int | str] = []
        self.processes: list[int] = []
        self.process_names: dict[int | str, int] = {}
        self.statuses: list[Status] = []
        self.invoked: list[int] = []
        self.completed: list[int | None] = []
        self.commits: list[int | None] = []
        self.members = bytearray()
        self.items: list[Item] = []
        self.scans: list[ScanRead] = []
        self.anomalies: list[Anomaly] = []
        self._by_name: dict[str, Item] = {}
        self._waiting: list[tuple[int, Transaction]] = []

    def take(self, history: Iterable[Transaction]) -> None:
        """Take in everything. Raises HistoryError for what no history can contain."""
        known: set[int | str] = set()
        commits: set[int] = set()
        for number, transaction in enumerate(history):
            _demand_sane(number + 1, transaction)
            if transaction.id in known:
                raise HistoryError(number + 1, f"there is another transaction {transaction.id!r}")
            known.add(transaction.id)
            if self._enter(number, transaction) and transaction.commit is not None:
                if transaction.commit in commits:
                    raise HistoryError(number + 1, f"another transaction that wrote has commit {transaction.commit} too")
                commits.add(transaction.commit)
        self._admit_unknown()

    def accuse(self, kind: Kind, numbers: Iterable[int], explanation: str) -> None:
        self.anomalies.append(Anomaly(kind, Variant.PLAIN, tuple(self.ids[number] for number in numbers), explanation))

    def name(self, number: int) -> str:
        """How explanations call a transaction."""
        return f"T{self.ids[number]}"

    def _enter(self, number: int, transaction: Transaction) -> bool:
        """Note who and when, the writes, and for a committed one the reads; whether it wrote anything."""
        self.ids.append(transaction.id)
        self.processes.append(self.process_names.setdefault(transaction.process, len(self.process_names)))
        self.statuses.append(transaction.status)
        self.invoked.append(transaction.invoked)
        self.completed.append(transaction.completed)
        self.commits.append(transaction.commit)
        self.members.append(transaction.status is Status.COMMITTED)
        wrote = False
        for operation in transaction.operations:
            if type(operation) is Append or type(operation) is Write:
                wrote = True
                self._enter_write(number, operation)
        if transaction.status is Status.COMMITTED:
            self._read_all(number, transaction)
        elif transaction.status is Status.UNKNOWN:
            self._waiting.append((number, transaction))
        return wrote

    def _item(self, number: int, name: str, is_list: bool) -> Item:
        item = self._by_name.get(name)
        if item is None:
            item = self._by_name[name] = Item(len(self.items), name, is_list)
            self.items.append(item)
        elif item.is_list is not is_list:
            raise HistoryError(number + 1, f"key {name!r} is used as a list and as a register")
        return item

    def _enter_write(self, number: int, operation: Append | Write) -> None:
        item = self._item(number, operation.key, type(operation) is Append)
        value = operation.value
        if value is None:
            item.deleted = item.deleted or self.statuses[number] is not Status.ABORTED  # nobody can tell whether an unknown one did
            return
        if value in item.writers:
            who = item.writers[value]
            raise HistoryError(
                number + 1,
                f"value {value!r} of key {item.name!r} was written before, in line {who + 1}: each attempt needs values of its own",
            )
        item.writers[value] = number

    def _admit_unknown(self) -> None:
        """Unknown transactions that somebody saw count as committed, and so do those that only they saw."""
        found = True
        while found and self._waiting:
            found = False
            observed: dict[int, set[Any]] = {}
            waiting, self._waiting = self._waiting, []
            for entry in waiting:
                if not self._was_seen(entry[1], observed):
                    self._waiting.append(entry)
                    continue
                self.members[entry[0]] = True
                self._read_all(*entry)
                found = True

    def _was_seen(self, transaction: Transaction, observed: dict[int, set[Any]]) -> bool:
        for operation in transaction.operations:
            if type(operation) is Append or type(operation) is Write:
                item = self._by_name[operation.key]
                if item.number not in observed:
                    observed[item.number] = item.observed_values()
                if operation.value is not None and operation.value in observed[item.number]:
                    return True
        return False

    # --- the reads of one transaction

    def _read_all(self, number: int, transaction: Transaction) -> None:
        own: dict[str, Any] = {}  # the appended values of a list, the last value of a register
        seen: dict[str, Any] = {}  # what it read first of others: a length, a value
        for operation in transaction.operations:
            kind = type(operation)
            if kind is Append:
                assert isinstance(operation, Append)
                if operation.key in own:
                    self._by_name[operation.key].intermediate.add(own[operation.key][-1])
                own.setdefault(operation.key, []).append(operation.value)
            elif kind is Write:
                assert isinstance(operation, Write)
                if own.get(operation.key) is not None:
                    self._by_name[operation.key].intermediate.add(own[operation.key])
                own[operation.key] = operation.value
            elif kind is ReadList:
                assert isinstance(operation, ReadList)
                self._read_list(number, operation.key, operation.values, own, seen)
            elif kind is Read:
                assert isinstance(operation, Read)
                self._read_register(number, operation.key, operation.value, own, seen)
            else:
                assert isinstance(operation, Scan)
                self._read_range(number, operation, own, seen)
        for name, written in own.items():
            item = self._by_name[name]
            item.note_written(number, written)
            version = seen.get(name, ABSENT)
            if version is not ABSENT:
                item.updates.append((number, version))

    def _read_list(self, number: int, name: str, values: list[Any], own: dict[str, Any], seen: dict[str, Any]) -> None:
        item = self._item(number, name, True)
        mine = own.get(name)
        length = len(values)
        if mine:
            if values[-len(mine) :] != mine and [value for value in values if value in mine] != mine:
                words = f"{self.name(number)} had appended {mine} to {name} and then read {shown(values)}"
                self.accuse(Kind.INTERNAL, [number], words)
                return
            while length and values[length - 1] in mine:
                length -= 1
        if not item.agrees(number, values):
            item.odd.append((number, values, length))
            return
        before = seen.setdefault(name, length)
        if before != length:
            self._accuse_non_repeatable(number, name, f"{before} values", f"{length} values")
        item.readers.append(number)
        item.versions.append(length)

    def _read_register(self, number: int, name: str, value: Any, own: dict[str, Any], seen: dict[str, Any]) -> None:
        item = self._item(number, name, False)
        if name in own:
            if own[name] != value:
                self.accuse(Kind.INTERNAL, [number], f"{self.name(number)} had set {name} to {own[name]} and then read {value}")
            return
        before = seen.setdefault(name, value)
        if before != value:
            self._accuse_non_repeatable(number, name, before, value)
        item.readers.append(number)
        item.versions.append(value)

    def _read_range(self, number: int, scan: Scan, own: dict[str, Any], seen: dict[str, Any]) -> None:
        for name, value in scan.found.items():
            if not contains(scan.range, name):
                raise HistoryError(number + 1, f"key {name!r} is outside of the range {describe(scan.range)} that was scanned")
            if isinstance(value, list):
                self._read_list(number, name, value, own, seen)
            else:
                self._read_register(number, name, value, own, seen)
        judged = [self._by_name[name].number for name in scan.found]
        for name, written in own.items():
            if name not in scan.found and contains(scan.range, name):
                judged.append(self._by_name[name].number)
                if written is not None:
                    words = f"{self.name(number)} had written {name} and then did not find it when it scanned {describe(scan.range)}"
                    self.accuse(Kind.INTERNAL, [number], words)
        for name, version in seen.items():
            if name not in scan.found and name not in own and version and contains(scan.range, name):
                self._accuse_non_repeatable(number, name, version, "nothing")
        self.scans.append(ScanRead.of(number, scan.range, judged))

    def _accuse_non_repeatable(self, number: int, name: str, before: Any, now: Any) -> None:
        words = f"{self.name(number)} read {name} twice without writing it in between: first {before}, then {now}"
        self.accuse(Kind.NON_REPEATABLE_READ, [number], words)


def shown(values: list[Any]) -> str:
    """A list as explanations show it: the end of a long one."""
    return str(values) if len(values) <= 8 else f"[… {len(values) - 6} more, {', '.join(map(repr, values[-6:]))}]"


def _demand_sane(line: int, transaction: Transaction) -> None:
    if not all(-TIME_MAX <= time <= TIME_MAX for time in (transaction.invoked, transaction.completed or 0)):
        raise HistoryError(line, f"times must be within ±{TIME_MAX}")
    if transaction.completed is None:
        if transaction.status is Status.COMMITTED:
            raise HistoryError(line, "a committed transaction has no completion time")
    elif transaction.completed < transaction.invoked:
        raise HistoryError(line, f"completed at {transaction.completed}, before it was invoked at {transaction.invoked}")
