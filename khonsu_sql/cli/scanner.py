"""Where statements end: the shell's own look at SQL text, no deeper than quotes, comments and parentheses.

Called by `repl` (is the input complete? which prompt continues it?) and `shell` (scripts). Knows nothing of the grammar:
that is the database's work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["Scanner", "split"]

# What may start something in which a semicolon is no end, in the order in which it is looked for.
_TOKEN = re.compile(
    r"""(?P<line_comment>--[^\n]*)
      | (?P<comment>/\*)
      | (?P<string>')
      | (?P<name>")
      | (?P<dollar>\$(?:[A-Za-z_][A-Za-z_0-9]*)?\$)
      | (?P<open>[(\[])
      | (?P<close>[)\]])
      | (?P<end>;)""",
    re.VERBOSE,
)
_MARKS = {"string": "'", "name": '"', "dollar": "$", "comment": "*"}


class Scanner:
    """Cuts statements off a text that comes in pieces.

    `feed` takes a piece and yields the statements it completes, each with its semicolon. `pending` is what has not ended yet,
    `mark` the character of the prompt that asks for the rest: ' " $ * inside of something, ( in parentheses, - between, = for nothing.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what has not ended."""
        self._text = ""
        self._place = 0
        self._inside = ""  # name of the group of _TOKEN we are in
        self._closing = ""
        self._depth = 0

    @property
    def pending(self) -> str:
        """The text of the statement that has not ended, "" when there is nothing but space and comments."""
        return self._text if _has_words(self._text) else ""

    @property
    def mark(self) -> str:
        """What the next prompt shows."""
        if self._inside:
            return _MARKS[self._inside]
        if not self._text.strip():
            return "="
        return "(" if self._depth else "-"

    def feed(self, piece: str) -> Iterator[str]:
        """Add `piece`; yield each statement that is complete now."""
        self._text += piece
        while self._step():
            if self._text[self._place - 1 : self._place] == ";" and not self._inside and self._ended:
                statement, self._text = self._text[: self._place], self._text[self._place :]
                self._place = self._depth = 0
                if _has_words(statement.rstrip().removesuffix(";")):
                    yield statement.strip()

    _ended = False

    def _step(self) -> bool:
        """Move `_place` over one token; False at the end of the text."""
        self._ended = False
        if self._inside:
            return self._leave()
        found = _TOKEN.search(self._text, self._place)
        if found is None:
            self._place = _resume(self._text, self._place)
            return False
        if found.lastgroup == "line_comment" and found.end() == len(self._text):
            self._place = found.start()  # it may go on in the next piece
            return False
        self._place = found.end()
        self._enter(found)
        return True

    def _enter(self, found: re.Match[str]) -> None:
        kind = found.lastgroup or ""
        if kind in _MARKS:
            self._inside = kind
            self._closing = "*/" if kind == "comment" else found.group()
        elif kind in ("open", "close"):
            self._depth = max(0, self._depth + (1 if kind == "open" else -1))
        else:
            self._ended = kind == "end"

    def _leave(self) -> bool:
        """Look for the end of what we are in. A doubled quote ends it and starts it again, which comes to the same."""
        end = self._text.find(self._closing, self._place)
        if end < 0:
            self._place = max(self._place, len(self._text) - len(self._closing) + 1)
            return False
        self._place = end + len(self._closing)
        self._inside = ""
        return True


def _resume(text: str, place: int) -> int:
    """Where to search on when more text comes: a token may be cut ("-" of "--", "$ta" of "$tag$")."""
    tail = re.search(r"(-|/|\$\w*)$", text)
    return max(place, tail.start() if tail else len(text))


def _has_words(text: str) -> bool:
    """Is there anything but space and comments?"""
    return bool(re.sub(r"--[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL).strip())


def split(text: str) -> list[str]:
    """All statements of `text`; the last one may lack its semicolon."""
    scanner = Scanner()
    statements = list(scanner.feed(text))
    rest = scanner.pending.strip()
    return [*statements, rest] if rest else statements
