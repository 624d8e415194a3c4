"""Where statements end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from khonsu_sql.cli.scanner import Scanner, split


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("SELECT 1; SELECT 2;", ["SELECT 1;", "SELECT 2;"]),
        ("SELECT 1", ["SELECT 1"]),
        ("", []),
        (" ;; -- nothing\n;", []),
        ("SELECT ';'; SELECT 2", ["SELECT ';';", "SELECT 2"]),
        ("SELECT 'it''s; so'; x", ["SELECT 'it''s; so';", "x"]),
        ('SELECT ";"";"; x', ['SELECT ";"";";', "x"]),
        ("SELECT $$;$$; x", ["SELECT $$;$$;", "x"]),
        ("SELECT $a$;$$;$b$;$a$; x", ["SELECT $a$;$$;$b$;$a$;", "x"]),
        ("SELECT 1 -- ;\n+ 2; x", ["SELECT 1 -- ;\n+ 2;", "x"]),
        ("SELECT /* ; ' */ 1; x", ["SELECT /* ; ' */ 1;", "x"]),
        ("SELECT $1; x", ["SELECT $1;", "x"]),
        ("SELECT (1; 2)", ["SELECT (1;", "2)"]),
        ("SELECT a - -1; x", ["SELECT a - -1;", "x"]),
    ],
)
def test_split(text: str, statements: list[str]) -> None:
    assert split(text) == statements


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("", "="),
        ("\n", "="),
        ("SELECT", "-"),
        ("SELECT (1", "("),
        ("SELECT (1)", "-"),
        ("SELECT 'a", "'"),
        ('SELECT "a', '"'),
        ("SELECT $x$ a", "$"),
        ("SELECT /* a", "*"),
        ("SELECT 1;", "="),
        ("SELECT 1; SELECT", "-"),
        ("SELECT 'a;'", "-"),
    ],
)
def test_the_mark_says_what_is_open(text: str, mark: str) -> None:
    scanner = Scanner()
    list(scanner.feed(text))
    assert scanner.mark == mark


PIECES = st.lists(st.sampled_from(["'", '"', "$$", "$a$", ";", "--", "-", "/*", "*/", "/", "*", "\n", "(", ")", "x", " "]), max_size=25)


@given(PIECES, st.data())
def test_the_pieces_in_which_text_comes_do_not_matter(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    scanner = Scanner()
    found, place = [], 0
    while place < len(text):
        size = data.draw(st.integers(1, 5))
        found += scanner.feed(text[place : place + size])
        place += size
    whole = Scanner()
    assert found == list(whole.feed(text))
    assert scanner.mark == whole.mark and scanner.pending == whole.pending
