"""ALTER TABLE, read by ourselves: what a table and its columns say about conflicts.

Called by `parse`; its plan runs in `ddl`. Left out, and refused by name: everything that changes the shape of rows (issue C).
"""

from __future__ import annotations

from khonsu_sql.sql.control import refuse
from khonsu_sql.sql.define import table_name
from khonsu_sql.sql.plan import AlterTable, TableOption
from khonsu_sql.sql.table_options import read_options
from khonsu_sql.sql.words import Words

__all__ = ["read_alter_table"]


def read_alter_table(words: Words) -> AlterTable:
    """The plan of the ALTER TABLE at the cursor."""
    words.expect("ALTER", "TABLE")
    if_exists = words.accept("IF", "EXISTS")
    schema, name = table_name(words)
    options: list[TableOption] = []
    while True:
        options += _action(words)
        if not words.accept(","):
            break
    words.end()
    return AlterTable(schema, name, tuple(options), if_exists)


def _action(words: Words) -> list[TableOption]:
    if words.word in ("SET", "RESET") and words.ahead(1) == "(":
        return read_options(words, None, reset=words.take().text.upper() == "RESET")
    if words.word == "ALTER":
        start = words.position
        words.take()
        words.accept("COLUMN")
        column = words.name("the name of a column")
        if words.word in ("SET", "RESET") and words.ahead(1) == "(":
            return read_options(words, column, reset=words.take().text.upper() == "RESET")
        words.position = start
    raise refuse(words, f"ALTER TABLE … {words.word} {words.ahead(1)}".rstrip())
