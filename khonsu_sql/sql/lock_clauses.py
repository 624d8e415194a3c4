"""FOR UPDATE, FOR SHARE and LOCK TABLE: what a text asks to be locked, and how.

Called by `parse`; `locking` binds what is read here. `FOR NO KEY UPDATE` locks as `FOR UPDATE`, `FOR KEY SHARE` as `FOR SHARE`.
Invariant: a clause anywhere but at the end of a SELECT that is the whole statement is refused by name, never dropped.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlglot import exp

from khonsu_engine.mvcc.lock_table import LockMode
from khonsu_sql.errors import FeatureNotSupported, SyntaxError_
from khonsu_sql.sql.control import refuse
from khonsu_sql.sql.define import table_name
from khonsu_sql.sql.normal import start_of
from khonsu_sql.sql.plan import LockTable
from khonsu_sql.sql.words import Words

__all__ = ["LockClause", "lock_clauses", "read_lock_table"]


class LockClause(msgspec.Struct, frozen=True):
    """One clause. `kind`: its first words. `names`: (as written, position) of OF, none: all. `policy`: wait, nowait or skip."""

    kind: str
    mode: LockMode
    names: tuple[tuple[str, int | None], ...]
    policy: str

    @property
    def text(self) -> str:
        """The clause as people write it."""
        named = f" OF {', '.join(name for name, _ in self.names)}" if self.names else ""
        return self.kind + named + {"wait": "", "nowait": " NOWAIT", "skip": " SKIP LOCKED"}[self.policy]


def lock_clauses(tree: Any, sql: str) -> tuple[LockClause, ...]:
    """Those of a statement. Raises FeatureNotSupported for one that is not at the end of a plain SELECT, SyntaxError_ (42601)."""
    for node in tree.find_all(exp.Lock):
        if node.parent is not tree or not isinstance(tree, exp.Select):
            raise _misplaced(node, tree, sql)
    return tuple(_clause(node, sql) for node in tree.args.get("locks") or ())


def _misplaced(node: Any, tree: Any, sql: str) -> FeatureNotSupported:
    kind = _kind(node)
    if isinstance(node.parent, exp.Values):
        return FeatureNotSupported(f"{kind} cannot be applied to VALUES", sql=sql)
    if isinstance(tree, exp.SetOperation) and node.parent in (tree, tree.expression):
        return FeatureNotSupported(f"{kind} is not allowed with UNION/INTERSECT/EXCEPT", sql=sql)
    where = "a subquery" if isinstance(tree, exp.Query) else type(tree).__name__.upper()
    hint = "Lock the rows with a SELECT of its own, in the same transaction."
    return FeatureNotSupported(f"{kind} in {where} is not supported yet", sql=sql, hint=hint)


def _kind(node: Any) -> str:
    if node.args.get("update"):
        return "FOR NO KEY UPDATE" if node.args.get("key") else "FOR UPDATE"
    return "FOR KEY SHARE" if node.args.get("key") else "FOR SHARE"


def _clause(node: Any, sql: str) -> LockClause:
    kind, wait = _kind(node), node.args.get("wait")
    if isinstance(wait, exp.Expression):
        raise FeatureNotSupported(f"{kind} WAIT is not supported yet", sql=sql, hint="SET lock_timeout, or say NOWAIT or SKIP LOCKED.")
    names = []
    for table in node.expressions:
        start = start_of(table)
        if not isinstance(table, exp.Table) or not isinstance(table.this, exp.Identifier) or table.args.get("db"):
            position = None if start is None else start + 1
            raise SyntaxError_(f"{kind} must specify unqualified relation names", position=position, sql=sql)
        names.append((table.name, None if start is None else start + 1))
    mode = LockMode.EXCLUSIVE if node.args.get("update") else LockMode.SHARED
    return LockClause(kind, mode, tuple(names), "wait" if wait is None else "nowait" if wait else "skip")


# --- LOCK TABLE

_MODES = {
    "ACCESS SHARE": None,
    "ROW SHARE": None,
    "ROW EXCLUSIVE": None,
    "SHARE UPDATE EXCLUSIVE": None,
    "SHARE ROW EXCLUSIVE": None,
    "SHARE": LockMode.SHARED,
    "EXCLUSIVE": LockMode.EXCLUSIVE,
    "ACCESS EXCLUSIVE": LockMode.EXCLUSIVE,
}
"""Longer names first, of two that begin alike."""


def read_lock_table(words: Words) -> LockTable:
    """`LOCK [TABLE] name, … [IN mode MODE] [NOWAIT]`. Raises SyntaxError_, FeatureNotSupported."""
    words.expect("LOCK")
    words.accept("TABLE")
    if words.word == "ONLY" and words.ahead(1) not in ("", ",", "IN", "NOWAIT"):
        raise refuse(words, "LOCK TABLE ONLY")
    names = [table_name(words)]
    while words.accept(","):
        names.append(table_name(words))
    mode = _mode(words) if words.accept("IN") else LockMode.EXCLUSIVE
    wait = not words.accept("NOWAIT")
    words.end()
    return LockTable(tuple(names), mode, wait)


def _mode(words: Words) -> LockMode:
    for name, mode in _MODES.items():
        if words.accept(*name.split(), "MODE"):
            if mode is None:
                words.position -= len(name.split()) + 1
                raise refuse(words, f"LOCK TABLE … IN {name} MODE", "There are SHARE, EXCLUSIVE and ACCESS EXCLUSIVE.")
            return mode
    raise words.error("expected a lock mode", hint="There are SHARE MODE, EXCLUSIVE MODE and ACCESS EXCLUSIVE MODE.")
