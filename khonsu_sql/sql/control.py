"""Transaction control and settings, read by ourselves: sqlglot takes SAVEPOINT for an alias and START TRANSACTION for nonsense.

Called by `parse`. Nothing is read and ignored: what has no meaning here yet is refused by its name (0A000).
"""

from __future__ import annotations

from collections.abc import Callable

from sqlglot.tokens import TokenType

from khonsu_engine.commands import ConflictPolicy, Isolation
from khonsu_engine.locks import Locking
from khonsu_sql.errors import FeatureNotSupported
from khonsu_sql.isolation import NAMES, level_of
from khonsu_sql.policies import NAMES as NAMES_OF_POLICIES
from khonsu_sql.policies import policy_named
from khonsu_sql.sql.plan import Setting, TransactionControl
from khonsu_sql.sql.words import Words

__all__ = ["control_plan", "policy_at"]


def control_plan(words: Words) -> TransactionControl | Setting | None:
    """The plan of a transaction or session statement, or None for another one. Raises SyntaxError_, FeatureNotSupported."""
    read = _STATEMENTS.get(words.word)
    if read is None:
        return None
    plan = read(words)
    words.end()
    return plan


def refuse(words: Words, what: str, hint: str | None = None) -> FeatureNotSupported:
    """0A000 at the cursor."""
    start = words.tokens[min(words.position, len(words.tokens) - 1)].start
    return FeatureNotSupported(f"{what} is not supported yet", position=start + 1, sql=words.sql, hint=hint)


def _begin(words: Words) -> TransactionControl:
    if words.accept("START"):
        words.expect("TRANSACTION")
    else:
        words.expect("BEGIN")
        _noise(words)
    isolation: Isolation | None = None
    read_only: bool | None = None
    locking: Locking | None = None
    policy: ConflictPolicy | None = None
    while not words.at_end:
        if words.accept("ISOLATION", "LEVEL"):
            isolation = _level(words)
        elif words.accept("READ", "ONLY"):
            read_only = True
        elif words.accept("READ", "WRITE"):
            read_only = False
        elif (found := next((mode for mode in Locking if words.accept(mode.name)), None)) is not None:
            locking = found
        elif words.accept("ON", "CONFLICT"):
            policy = policy_at(words)
        elif not (words.accept("DEFERRABLE") or words.accept("NOT", "DEFERRABLE")):
            raise _mode_error(words)
        words.accept(",")
    return TransactionControl("begin", isolation, read_only, locking, on_conflict=policy)


def _level(words: Words) -> Isolation:
    for name in (*NAMES, "READ UNCOMMITTED"):
        level = level_of(name)
        if level is not None and words.accept(*name.split()):
            return level
    raise words.error("expected an isolation level", hint=f"{', '.join(NAMES)}.")


def _mode_error(words: Words) -> Exception:
    if words.accept("AS", "OF"):
        words.position -= 2
        return refuse(words, "BEGIN … AS OF")
    return words.error("expected ISOLATION LEVEL, READ ONLY, READ WRITE, OPTIMISTIC, ADAPTIVE, PESSIMISTIC, ON CONFLICT or DEFERRABLE")


def policy_at(words: Words) -> ConflictPolicy:
    """The conflict policy at the cursor, quoted or not. Raises SyntaxError_."""
    policy = None if words.at_end else policy_named(words.token.text)
    if policy is None:
        raise words.error("expected a conflict policy", hint=f"{', '.join(NAMES_OF_POLICIES)}.")
    words.take()
    return policy


def _noise(words: Words) -> None:
    if not words.accept("TRANSACTION"):
        words.accept("WORK")


def _end(action: str) -> Callable[[Words], TransactionControl]:
    def read(words: Words) -> TransactionControl:
        verb = words.take().text.upper()
        if words.word == "PREPARED":
            raise refuse(words, f"{verb} PREPARED")
        _noise(words)
        if action == "rollback" and words.accept("TO"):
            words.accept("SAVEPOINT")
            return TransactionControl("rollback to", name=words.name("the name of a savepoint"))
        if words.accept("AND") and not words.accept("NO", "CHAIN"):
            raise refuse(words, f"{verb} AND CHAIN")
        return TransactionControl(action)

    return read


def _savepoint(words: Words) -> TransactionControl:
    words.expect("SAVEPOINT")
    return TransactionControl("savepoint", name=words.name("the name of a savepoint"))


def _release(words: Words) -> TransactionControl:
    words.expect("RELEASE")
    words.accept("SAVEPOINT")
    return TransactionControl("release", name=words.name("the name of a savepoint"))


def _set(words: Words) -> Setting:
    words.expect("SET")
    for scope in ("GLOBAL", "VARIABLE", "CONSTRAINTS", "TRANSACTION", "ROLE", "AUTHORIZATION"):
        if words.word == scope and words.ahead(1) not in ("=", "TO"):
            raise refuse(words, f"SET {scope}", _HINTS.get(scope))
    local = False
    if words.ahead(1) not in ("=", "TO", ""):
        local = words.accept("LOCAL")
        if not local:
            words.accept("SESSION")
    if words.word in ("CHARACTERISTICS", "AUTHORIZATION"):
        raise refuse(words, f"SET SESSION {words.word}", _HINTS["TRANSACTION"] if words.word == "CHARACTERISTICS" else None)
    if words.accept("TIME", "ZONE"):
        words.position -= 2
        raise refuse(words, "SET TIME ZONE", "The time zone is UTC.")
    name = words.name("the name of a setting")
    if not words.accept("="):
        words.expect("TO")
    return Setting(name, _value(words), local)


_HINTS = {"TRANSACTION": "Use BEGIN ISOLATION LEVEL …, or SET default_transaction_isolation."}


def _value(words: Words) -> str:
    """A quoted text, a number, or words: `SET default_transaction_isolation TO repeatable read`."""
    start = words.position
    token = words.take()
    if token.token_type in (TokenType.STRING, TokenType.IDENTIFIER):
        return token.text
    if token.text in "+-" and not words.at_end:
        words.take()
    while words.word.isalpha() and not words.at_end:
        words.take()
    return words.text(start, words.position)


def _show(words: Words) -> Setting:
    words.expect("SHOW")
    if words.accept("TRANSACTION", "ISOLATION", "LEVEL"):
        words.position -= 3
        raise refuse(words, "SHOW TRANSACTION ISOLATION LEVEL", "SHOW default_transaction_isolation.")
    return Setting(words.name("the name of a setting"))


def _reset(words: Words) -> Setting:
    words.expect("RESET")
    return Setting(words.name("the name of a setting"), "default")


_STATEMENTS: dict[str, Callable[[Words], TransactionControl | Setting]] = {
    "BEGIN": _begin,
    "START": _begin,
    "COMMIT": _end("commit"),
    "END": _end("commit"),
    "ROLLBACK": _end("rollback"),
    "ABORT": _end("rollback"),
    "SAVEPOINT": _savepoint,
    "RELEASE": _release,
    "SET": _set,
    "SHOW": _show,
    "RESET": _reset,
}
