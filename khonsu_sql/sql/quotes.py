"""Where quoted text and comments begin and end: dollar quotes, and what a statement forgot to close.

Called by `lex` before the tokenizer, whose own dollar quotes take `$1,$2` for the beginning of one. Knows no other SQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Piece", "pieces", "without_dollar_quotes"]

_PIECE = re.compile(
    r"""
    (?P<word> [^\W\d][\w$]* )
  | (?P<number> \d\w* )
  | (?P<line> --[^\n]* )
  | (?P<comment> /\* )
  | (?P<text> ' )
  | (?P<identifier> " )
  | (?P<dollar> \$(?:[^\W\d]\w*)?\$ )
    """,
    re.VERBOSE,
)
_TEXT_END = re.compile(r"(?:[^']|'')*'(?!')")
_ESCAPED_END = re.compile(r"(?:[^'\\]|''|\\.)*'(?!')", re.DOTALL)
_IDENTIFIER_END = re.compile(r'(?:[^"]|"")*"(?!")')
_COMMENT_EDGE = re.compile(r"/\*|\*/")


class Piece(NamedTuple):
    """`sql[start:stop]`: a `text`, `identifier`, `comment` or `dollar` (quote). `closed`: it has an end."""

    kind: str
    start: int
    stop: int
    closed: bool


def pieces(sql: str) -> Iterator[Piece]:
    """All of them, in order. Nothing follows one that is not closed."""
    position = 0
    escaped = False
    while found := _PIECE.search(sql, position):
        kind = str(found.lastgroup)
        position = found.end()
        if kind in ("word", "number", "line"):
            escaped = kind == "word" and found[0] in "eE" and sql[position : position + 1] == "'"
            continue
        stop = _end(sql, kind, found[0], position, escaped)
        escaped = False
        yield Piece(kind, found.start(), len(sql) if stop < 0 else stop, stop >= 0)
        if stop < 0:
            return
        position = stop


def _end(sql: str, kind: str, opening: str, position: int, escaped: bool) -> int:
    """Where what begins with `opening` before `position` ends, or -1."""
    match kind:
        case "comment":
            return _comment_end(sql, position)
        case "dollar":
            stop = sql.find(opening, position)
            return stop if stop < 0 else stop + len(opening)
        case "identifier":
            end = _IDENTIFIER_END.match(sql, position)
        case _:
            end = (_ESCAPED_END if escaped else _TEXT_END).match(sql, position)
    return end.end() if end else -1


def _comment_end(sql: str, position: int) -> int:
    depth = 1
    for edge in _COMMENT_EDGE.finditer(sql, position):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return -1


def without_dollar_quotes(sql: str) -> tuple[str, str, dict[int, Piece]]:
    """`sql` with `$tag$…$tag$` written as `'…'` of the same length at the same place, the character that stands in it for `'`, and
    the quotes by where their `'` begins."""
    quotes = [piece for piece in pieces(sql) if piece.kind == "dollar" and piece.closed] if sql.count("$") > 1 else []
    if not quotes:
        return sql, "", {}
    mark = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in sql)
    parts, position, places = [], 0, {}
    for piece in quotes:
        width = sql.index("$", piece.start + 1) + 1 - piece.start
        body = sql[piece.start + width : piece.stop - width].replace("'", mark)
        parts += [sql[position : piece.start], " " * (width - 1), "'", body, "'", " " * (width - 1)]
        position = piece.stop
        places[piece.start + width - 1] = piece
    return "".join(parts) + sql[position:], mark, places
