"""A cursor over the tokens of one statement, for the small grammars we read ourselves.

Used by `control`, `refusals` and `define`. Words are compared in upper case; quoted names are never words. sqlglot's tokens of
two words (`PRIMARY KEY`) count as two.
"""

from __future__ import annotations

from typing import NoReturn

from sqlglot.tokens import Token, TokenType

from khonsu_sql.errors import SyntaxError_
from khonsu_sql.sql.lex import shown, syntax_error

__all__ = ["Words", "words_of"]

_QUOTED = (TokenType.STRING, TokenType.IDENTIFIER, TokenType.NUMBER)


def words_of(token: Token) -> list[str]:
    """The token as upper-case words; "" for what is quoted or a number."""
    return [""] if token.token_type in _QUOTED else token.text.upper().split()


class Words:
    """`tokens` of `sql`, read from `position`."""

    def __init__(self, tokens: list[Token], sql: str) -> None:
        self.sql = sql
        self.tokens: list[Token] = []
        self._words: list[str] = []
        for token in tokens:
            words = words_of(token)
            self._words += words
            self.tokens += [token] * len(words)
        self.position = 0

    @property
    def at_end(self) -> bool:
        return self.position >= len(self.tokens)

    @property
    def word(self) -> str:
        """The word at the cursor; "" at the end and for what is quoted."""
        return self.ahead(0)

    def ahead(self, count: int) -> str:
        place = self.position + count
        return self._words[place] if place < len(self._words) else ""

    @property
    def token(self) -> Token:
        """The token at the cursor. Raises SyntaxError_ at the end."""
        if self.at_end:
            self.fail()
        return self.tokens[self.position]

    def take(self) -> Token:
        token = self.token
        self.position += 1
        return token

    def accept(self, *words: str) -> bool:
        """Step over `words` if they stand here, all of them."""
        if all(self.ahead(number) == word for number, word in enumerate(words)):
            self.position += len(words)
            return True
        return False

    def expect(self, *words: str) -> None:
        for word in words:
            if not self.accept(word):
                self.fail(f"expected {' '.join(words)}")

    def end(self) -> None:
        """Raises SyntaxError_ unless everything was read."""
        if not self.at_end:
            self.fail()

    def name(self, what: str = "a name") -> str:
        """An identifier, as written (quoted or not)."""
        token = self.token
        if token.token_type in (TokenType.STRING, TokenType.NUMBER) or not (
            token.token_type is TokenType.IDENTIFIER or token.text.replace("_", "a").replace("$", "a").isalnum()
        ):
            self.fail(f"expected {what}")
        if token.token_type is TokenType.IDENTIFIER and not token.text:
            self.fail(f"expected {what}: an empty identifier is none")
        self.position += 1
        return token.text

    def error(self, message: str | None = None, *, hint: str | None = None) -> SyntaxError_:
        """42601 at the cursor."""
        if self.at_end:
            start, near = len(self.sql[: self._end()].rstrip()), "end of input"
        else:
            token = self.tokens[self.position]
            start, near = token.start, f'or near "{shown(self.sql[token.start : token.end + 1])}"'
        text = f"syntax error at {near}"
        return syntax_error(f"{text}: {message}" if message else text, self.sql, start, hint=hint)

    def fail(self, message: str | None = None) -> NoReturn:
        raise self.error(message)

    def _end(self) -> int:
        return self.tokens[-1].end + 1 if self.tokens else len(self.sql)

    def text(self, start: int, stop: int) -> str:
        """The source of the tokens from `start` up to `stop` (positions of this cursor)."""
        return self.sql[self.tokens[start].start : self.tokens[stop - 1].end + 1] if stop > start else ""
