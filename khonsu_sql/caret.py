"""The line of a statement an error speaks of, with a caret under the place, as psql shows it.

Called by `errors.Error.__str__`. Knows nothing of SQL but its line breaks.
"""

from __future__ import annotations

__all__ = ["caret_lines"]

CARET_WIDTH = 72
"""Characters of the offending line that are shown around the caret."""


def caret_lines(sql: str, position: int) -> list[str]:
    """The line of `sql` that holds the 1-based `position`, cut to a readable width, and a caret under it."""
    offset = min(max(position - 1, 0), len(sql))
    start = sql.rfind("\n", 0, offset) + 1
    end = sql.find("\n", offset)
    line = sql[start : end if end >= 0 else len(sql)].rstrip("\r")
    line = "".join(character if character.isprintable() else " " if character.isspace() else "?" for character in line)
    column = offset - start
    left = max(0, column - CARET_WIDTH // 2) if len(line) > CARET_WIDTH else 0
    shown = line[left : left + CARET_WIDTH]
    prefix = f"LINE {sql.count(chr(10), 0, start) + 1}: " + ("..." if left else "")
    suffix = "..." if left + CARET_WIDTH < len(line) else ""
    return [prefix + shown + suffix, " " * (len(prefix) + column - left) + "^"]
