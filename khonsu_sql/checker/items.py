"""What is known of one key, and of one scan: filled by `intake`, made edges of by `lists`, `registers` and `ranges`.

Invariants: `writers` knows every value ever written, by whoever; everything else is of transactions that count as committed.
A version is named by a length for lists (of the longest read), by its value for registers.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

__all__ = ["ABSENT", "Item", "ScanRead"]


class _Absent:
    """No entry at all, where None would be the value of a deleted register."""


ABSENT = _Absent()


class Item:
    """One key.

    `longest`, `longest_by`: the longest list read, and by whom; `odd`: reads that disagree with it (transaction, values, length without its
    own). `readers`, `versions`: who read which version of others. `written`: by whom and what last. `updates`: who had read what it wrote
    over. `intermediate`: values that their own transaction overwrote. `deleted`: somebody wrote null who did not abort.
    """

    __slots__ = (
        "deleted",
        "intermediate",
        "is_list",
        "longest",
        "longest_by",
        "name",
        "number",
        "odd",
        "readers",
        "updates",
        "versions",
        "writers",
        "written",
    )

    def __init__(self, number: int, name: str, is_list: bool) -> None:
        self.number = number
        self.name = name
        self.is_list = is_list
        self.longest: list[Any] = []
        self.longest_by = -1
        self.odd: list[tuple[int, list[Any], int]] = []
        self.writers: dict[Any, int] = {}
        self.readers: list[int] = []
        self.versions: list[Any] = []
        self.written: list[tuple[int, Any]] = []
        self.updates: list[tuple[int, Any]] = []
        self.intermediate: set[Any] = set()
        self.deleted = False

    def agrees(self, number: int, values: list[Any]) -> bool:
        """Is one of `values` and the longest read so far the beginning of the other? The longer one is kept."""
        longest = self.longest
        if len(values) <= len(longest):
            return longest[: len(values)] == values
        if values[: len(longest)] != longest:
            return False
        self.longest, self.longest_by = values, number
        return True

    def note_written(self, number: int, written: Any) -> None:
        """A transaction that counts as committed wrote this: the values appended, or the last value."""
        if self.is_list:
            self.written += [(number, value) for value in written]
        else:
            self.written.append((number, written))

    def observed_values(self) -> set[Any]:
        """Every value that somebody read who counts as committed."""
        if not self.is_list:
            return set(self.versions)
        return set(self.longest).union(*(values for _, values, _ in self.odd))


class ScanRead(NamedTuple):
    """`number` scanned `range`; `judged`: keys it found or had written itself. All other keys of the range were not there."""

    number: int
    range: str | tuple[str, str | None]
    judged: array[int]

    @classmethod
    def of(cls, number: int, range: str | tuple[str, str | None], judged: list[int]) -> ScanRead:
        return cls(number, range, array("i", judged))
