"""Lost updates (P4, Berenson et al. 1995): two transactions read one version of a key and both wrote the key.

Called by `lists` and `registers`. Invariant: whatever the order of the two writes is, the second one overwrote a version that its own
transaction had not read: that is also a G-single. Where the order is known the cycle is found as one; where it is not, it is told here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from khonsu_sql.checker.intake import Ledger
from khonsu_sql.checker.items import Item
from khonsu_sql.checker.levels import Kind

__all__ = ["accuse_lost_updates"]


def accuse_lost_updates(
    ledger: Ledger, item: Item, updates: Iterable[tuple[int, Any]], unordered: set[int], value_of: Callable[[Any], Any]
) -> None:
    """`updates`: (transaction, version it read of what it also wrote); `unordered`: those whose writes no edge orders."""
    groups: dict[Any, dict[int, None]] = {}
    for number, version in updates:
        groups.setdefault(version, {})[number] = None
    for version, numbers in groups.items():
        if len(numbers) < 2:
            continue
        value = value_of(version)
        names = " and ".join(ledger.name(number) for number in numbers)
        state = f"{item.name} = {value}" if value is not None else f"{item.name} when it was empty"
        words = f"{names} all read {state} and then wrote it: only one of these writes is based on what it replaced"
        ledger.accuse(Kind.LOST_UPDATE, numbers, words.replace(" all ", " both ") if len(numbers) == 2 else words)
        rivals = [number for number in numbers if number in unordered]
        if len(rivals) > 1:
            one, other = ledger.name(rivals[0]), ledger.name(rivals[1])
            words = f"if {one} wrote {item.name} before {other}, {other} read a version older than the one it replaced; else {one} did"
            ledger.accuse(Kind.G_SINGLE, rivals[:2], words)
