"""Statements and clauses this version knows by name and does not run: 0A000, never a misleading syntax error, never ignored.

Called by `parse`: `refuse_statement` looks at the first words, before sqlglot does (which reads LISTEN as an alias), `refuse_history`
at all of them; `refuse_clauses` at the tree.
"""

from __future__ import annotations

import difflib
from typing import Any

from sqlglot import exp
from sqlglot.tokens import Token, TokenType

from khonsu_sql.errors import Error, FeatureNotSupported, SyntaxError_
from khonsu_sql.sql.control import refuse
from khonsu_sql.sql.words import Words

__all__ = ["KNOWN_STARTS", "refuse_clauses", "refuse_history", "refuse_statement"]

KNOWN_STARTS = tuple("SELECT WITH VALUES FROM TABLE INSERT UPDATE DELETE CREATE ALTER DROP EXPLAIN PIVOT UNPIVOT LOCK".split())

_STATEMENTS = frozenset(
    """
    ALTER ANALYZE ANALYSE ATTACH CALL CHECKPOINT CLOSE CLUSTER COMMENT COPY DEALLOCATE DECLARE DESC DESCRIBE DETACH DISCARD DO EXECUTE
    EXPORT FETCH GRANT IMPORT INSTALL LISTEN LOAD MERGE MOVE NOTIFY PRAGMA PREPARE REASSIGN REFRESH REINDEX REPLACE REVOKE
    SECURITY SUMMARIZE TRUNCATE UNLISTEN USE VACUUM
    """.split()
)

_WITH_OBJECT = {"ALTER": 2, "COMMENT": 1, "MERGE": 2, "REPLACE": 2, "PREPARE": 1, "TRUNCATE": 1}

_HINTS = {
    "TRUNCATE": "DELETE FROM the table deletes all rows.",
    "COPY": "Use cursor.ingest() and fetch_arrow_table().",
    "MERGE": "Use INSERT, UPDATE and DELETE in a transaction.",
    "PRAGMA": "SHOW ALL lists the settings.",
}

_OBJECTS = frozenset(
    """
    ACCESS AGGREGATE CAST COLLATION CONVERSION DATABASE DOMAIN EVENT EXTENSION FOREIGN FUNCTION GROUP INDEX LANGUAGE MACRO
    MATERIALIZED OPERATOR OWNED POLICY PROCEDURE PUBLICATION RECURSIVE ROLE RULE SCHEMA SECRET SEQUENCE SERVER STATISTICS
    SUBSCRIPTION TABLESPACE TEXT TRANSFORM TRIGGER TYPE UNIQUE USER VIEW VIRTUAL
    """.split()
)
_MODIFIERS = frozenset(["TEMP", "TEMPORARY", "UNLOGGED", "PERSISTENT", "LOCAL", "GLOBAL", "EXTERNAL", "TRANSIENT"])


def refuse_statement(words: Words) -> None:
    """Raises FeatureNotSupported for a known statement, SyntaxError_ (with the nearest word) for an unknown one."""
    word = words.word
    if word in _STATEMENTS and (word, words.ahead(1)) != ("ALTER", "TABLE"):
        name = " ".join(filter(None, (words.ahead(n) for n in range(_WITH_OBJECT.get(word, 1)))))
        raise refuse(words, name, _HINTS.get(word))
    if word in ("CREATE", "DROP"):
        _refuse_object(words, word)
    elif word not in KNOWN_STARTS and word != "(":
        near = difflib.get_close_matches(word, KNOWN_STARTS, 1, 0.6) if word else []
        raise words.error(hint=f"Did you mean {near[0]}?" if near else None)


def _refuse_object(words: Words, verb: str) -> None:
    """CREATE and DROP of anything but a table, and of tables that are not plain ones."""
    object_word = words.ahead(1)
    if (object_word, words.ahead(2)) == ("OR", "REPLACE"):
        raise refuse(words, f"{verb} OR REPLACE {words.ahead(3)}".rstrip(), "DROP TABLE IF EXISTS it first.")
    if object_word in _MODIFIERS:
        raise refuse(words, f"{verb} {object_word} {words.ahead(2)}".rstrip())
    if object_word in _OBJECTS:
        following = f" {words.ahead(2)}" if object_word in ("UNIQUE", "MATERIALIZED", "FOREIGN", "RECURSIVE") else ""
        hint = "PRIMARY KEY and UNIQUE constraints have indexes." if "INDEX" in object_word + following else None
        raise refuse(words, f"{verb} {object_word}{following}", hint)


# --- clauses


def refuse_history(tokens: list[Token], sql: str) -> None:
    """Raises FeatureNotSupported for `t AS OF TIMESTAMP …` and `t AS OF REVISION …`, where sqlglot sees an alias."""
    for word, of, kind in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if of.text.upper() == "OF" and word.token_type is TokenType.ALIAS and kind.text.upper() in ("TIMESTAMP", "REVISION"):
            raise FeatureNotSupported("AS OF is not supported yet", position=word.start + 1, sql=sql)


_CLAUSES: dict[type, str] = {
    exp.Into: "SELECT INTO",
    exp.Version: "AS OF (AT)",
    exp.OnConflict: "INSERT … ON CONFLICT",
    exp.BitString: "a bit string",
    exp.JSONBExtract: "the operator #>",
    exp.JSONBExtractScalar: "the operator #>>",
    exp.JSONBContains: "the operator ? of JSON",
    exp.JSONBContainsTopKey: "the operator ? of JSON",
    exp.MatchRecognize: "MATCH_RECOGNIZE",
    exp.Connect: "CONNECT BY",
    exp.Summarize: "SUMMARIZE",
    exp.Describe: "DESCRIBE",
    exp.Command: "this statement",
    exp.Merge: "MERGE",
    exp.SessionParameter: "a session variable",
    exp.HistoricalData: "AS OF (AT)",
}

_DML = (exp.Insert, exp.Update, exp.Delete)


def refuse_clauses(tree: Any, sql: str) -> None:
    """Raises FeatureNotSupported for the first clause of `tree` that no version of DuckDB's SELECT would run as meant."""
    for node in tree.walk():
        what = _CLAUSES.get(type(node))
        if what is not None:
            raise _refused(node, sql, what)
        if isinstance(node, _DML) and node is not tree:
            raise _refused(node, sql, f"{type(node).__name__.upper()} inside another statement")
        if isinstance(node, exp.Table) and node.args.get("only"):
            raise _refused(node, sql, "FROM ONLY")
        if isinstance(node, exp.LimitOptions) and node.args.get("with_ties"):
            raise _refused(node, sql, "FETCH … WITH TIES")
        if isinstance(node, exp.Placeholder):
            raise SyntaxError_("syntax error: a parameter is ?, $1, :name or $name", sql=sql)


def _refused(node: Any, sql: str, what: str) -> Error:
    start = next((found.meta["start"] for found in node.walk() if "start" in found.meta), None)
    return FeatureNotSupported(f"{what} is not supported yet", position=None if start is None else start + 1, sql=sql)
