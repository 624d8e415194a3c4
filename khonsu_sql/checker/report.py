"""The verdict: anomalies in words, the strongest level that holds, and how much the history exercised.

Made by `check`, printed by `khonsu check`. Invariants: a report is a value; `vacuous` says why a history proves nothing, or is None.
"""

from __future__ import annotations

import msgspec

from khonsu_sql.checker.levels import LEVELS, Kind, Level, Variant, forbids, weakest_forbidding

__all__ = ["Anomaly", "Counts", "Report"]

EXAMPLES_MAX = 3


class Anomaly(msgspec.Struct, frozen=True):
    """One thing that must not happen under `forbidden_from` and stronger levels, and who did it."""

    kind: Kind
    variant: Variant
    transactions: tuple[int | str, ...]
    explanation: str

    @property
    def name(self) -> str:
        """Its class as `--level` tables and tests name it: G-single, G2-item-realtime, lost-update."""
        return f"{self.kind}-{self.variant}" if self.variant else str(self.kind)

    @property
    def forbidden_from(self) -> Level:
        return weakest_forbidding(self.kind, self.variant)

    def __str__(self) -> str:
        return f"{self.name}: {self.explanation}"


class Counts(msgspec.Struct, frozen=True):
    """How much there was. `committed` includes unknown transactions whose writes were read.

    `edges` by kind: ww, wr, rw, predicate-rw, process, realtime. `conflicts`: edges of data between different processes.
    `unresolved_reads`: reads of null that may be the first state or a deletion; they are not judged.
    """

    transactions: int
    committed: int
    aborted: int
    unknown: int
    edges: dict[str, int]
    conflicts: int
    concurrent_pairs: int
    unresolved_reads: int


class Report(msgspec.Struct, frozen=True):
    """`level` is the one that was asked for, None for the strongest."""

    anomalies: tuple[Anomaly, ...]
    counts: Counts
    level: Level | None
    vacuous_allowed: bool

    @property
    def strongest_level(self) -> Level | None:
        """The strongest level under which all of this may happen; None if not even the weakest allows it."""
        return next((level for level in reversed(LEVELS) if self.holds(level)), None)

    @property
    def vacuous(self) -> str | None:
        """Why the history proves nothing, or None."""
        if not self.counts.conflicts:
            return "no two processes ever touched the same data"
        if not self.counts.concurrent_pairs:
            return "no two committed transactions overlapped in time"
        return None

    @property
    def ok(self) -> bool:
        """Whether the level that was asked for holds, without one whether there is no anomaly at all; a vacuous history is not ok."""
        return self.holds(self.level or Level.STRICT_SERIALIZABLE) and (self.vacuous is None or self.vacuous_allowed)

    def holds(self, level: Level) -> bool:
        """Is nothing of this forbidden under `level`?"""
        return not any(forbids(level, anomaly.kind, anomaly.variant) for anomaly in self.anomalies)

    def classes(self) -> dict[str, int]:
        """How many anomalies of each class were found, the worst first."""
        found: dict[str, int] = {}
        for anomaly in self.anomalies:
            found[anomaly.name] = found.get(anomaly.name, 0) + 1
        return found

    def __str__(self) -> str:
        counts = self.counts
        lines = [
            f"transactions: {counts.transactions}; {counts.committed} as if committed, {counts.aborted} aborted, {counts.unknown} unknown",
            "edges: " + ", ".join(f"{number} {kind}" for kind, number in counts.edges.items()),
            f"conflicts between processes: {counts.conflicts}; concurrent pairs: {counts.concurrent_pairs}",
        ]
        if counts.unresolved_reads:
            lines.append(f"not judged: {counts.unresolved_reads} reads of null from keys that were also deleted")
        for name, number in self.classes().items():
            examples = [anomaly for anomaly in self.anomalies if anomaly.name == name]
            lines += ["", f"{name}: {number} found, forbidden from {examples[0].forbidden_from}"]
            lines += [anomaly.explanation for anomaly in examples[:EXAMPLES_MAX]]
        lines += ["", f"strongest level that holds: {self.strongest_level or 'none'}"]
        if self.vacuous is not None:
            lines.append(f"vacuous: {self.vacuous}" + (" (allowed)" if self.vacuous_allowed else ""))
        if self.level is not None:
            lines.append(f"{self.level}: {'holds' if self.holds(self.level) else 'violated'}")
        return "\n".join(lines)
