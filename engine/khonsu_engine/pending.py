"""A stamped record on its way into the log and the state; and why a commit in one step is not possible.

Part of `committer`, which alone makes and finishes what is pending.
"""

from __future__ import annotations

from khonsu_engine.commands import Outcome
from khonsu_engine.state_machine import Installation, Reservation

__all__ = ["Pending", "StaleTable"]


class StaleTable(Exception):
    """`write_point` cannot do it: the table was changed meanwhile, the row is too large or locked."""


class Pending:
    """A stamped record on its way: appended once, installed once, each of them repeatable. `files`: those the record names."""

    __slots__ = ("appended", "files", "hash", "installation", "outcome", "raw")

    def __init__(
        self, outcome: Outcome, installation: Installation | Reservation, raw: bytes, digest: bytes, files: tuple[str, ...] = ()
    ) -> None:
        self.outcome = outcome
        self.installation = installation
        self.raw = raw
        self.hash = digest
        self.files = files
        self.appended = False
