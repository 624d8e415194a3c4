"""What sqlglot's tree needs before it means what the text says: the last corrections to a reading, and the alias guard.

Called by `parse` and `define` on every tree; calls nobody. Changes the tree in place.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp
from sqlglot.tokens import Token, TokenType

import khonsu_engine.errors as engine_errors
from khonsu_engine.schema.types import parse_type
from khonsu_sql.errors import SyntaxError_, translate
from khonsu_sql.sql.dialect import GUARDED
from khonsu_sql.sql.lex import shown, syntax_error
from khonsu_sql.sql.native import reveal

__all__ = ["misread_alias", "normalise_tree", "start_of"]


def start_of(node: Any) -> int | None:
    """0-based character at which `node` stands in the text, if sqlglot knows."""
    for found in node.walk():
        if "start" in found.meta:
            start: int = found.meta["start"]
            return start
    return None


def normalise_tree(tree: Any, sql: str) -> Any:
    """Raises UndefinedObject (42704) and FeatureNotSupported for types that do not exist."""
    for node in list(tree.walk()):
        correct = _CORRECTIONS.get(type(node))
        if correct is not None:
            replacement = correct(node, sql)
            if replacement is not None:
                if node is tree:
                    tree = replacement
                node.replace(replacement)
    return tree


def _byte_string(node: Any, sql: str) -> Any:
    """`e'…'` is text whose escapes were resolved."""
    return exp.Literal.string(node.name)


def _anonymous(node: Any, sql: str) -> None:
    if isinstance(node.this, str):
        node.set("this", reveal(node.this))


def _placeholder(node: Any, sql: str) -> Any:
    """DuckDB's reading of the `$n` that `lex` made."""
    return exp.Parameter(this=exp.Literal.number(node.name)) if node.name.isdecimal() else None


def _identifier(node: Any, sql: str) -> None:
    """DuckDB's reserved words are names only in quotes."""
    node.set("this", reveal(node.name))
    if not node.quoted and node.name.lower() in GUARDED:
        node.set("quoted", True)


def _is_word(column: Any, word: str, sql: str) -> bool:
    """Is this column the keyword `word`, which sqlglot does not know here?"""
    if not isinstance(column, exp.Column) or column.table or column.name.lower() != word:
        return False
    return "start" in column.this.meta and sql[column.this.meta["start"]] != '"'


def _ordered(node: Any, sql: str) -> None:
    if _is_word(node.this, "all", sql):
        node.set("this", exp.Var(this="ALL"))


def _column(node: Any, sql: str) -> Any:
    return exp.Var(this="DEFAULT") if _is_word(node, "default", sql) else None


def _json_arrow(node: Any, sql: str) -> None:
    """`'a'` is a key, as in PostgreSQL; `'$.a[0]'` is a path, as in DuckDB."""
    path = node.expression
    if isinstance(path, exp.JSONPath) and len(path.expressions) == 2:
        key = path.expressions[1]
        if isinstance(key, exp.JSONPathKey) and isinstance(key.this, str) and key.this.startswith("$"):
            node.set("expression", exp.Literal.string(key.this))


def _lambda(node: Any, sql: str) -> Any:
    """`f(j -> 'a')` is a JSON look-up, not a function of j that returns 'a'."""
    names = node.expressions
    spine = node.this
    while isinstance(spine, exp.JSONExtract | exp.JSONExtractScalar):
        spine = spine.this
    if len(names) != 1 or not isinstance(names[0], exp.Identifier) or not isinstance(spine, exp.Literal):
        return None
    key = spine.name if spine.is_string else f"$[{spine.name}]"
    path = exp.Literal.string(key if key.startswith("$") else f'$."{key}"')
    look_up = exp.JSONExtract(this=exp.column(names[0].copy()), expression=path, only_json_types=True)
    if spine is node.this:
        return look_up
    spine.replace(look_up)
    return node.this


def _data_type(node: Any, sql: str) -> None:
    """sqlglot keeps unknown type names for later; here they are known or not."""
    if node.this != exp.DType.USERDEFINED:
        return
    kind = node.args.get("kind")
    name = kind if isinstance(kind, str) else kind.sql(dialect="duckdb")
    try:
        parse_type(name)
    except engine_errors.EngineError as error:
        translated = translate(error, sql=sql)
        start = None if isinstance(kind, str) else start_of(kind)
        translated.position = None if start is None else start + 1
        raise translated from error


_CORRECTIONS: dict[type, Any] = {
    exp.Anonymous: _anonymous,
    exp.ByteString: _byte_string,
    exp.Column: _column,
    exp.Identifier: _identifier,
    exp.Ordered: _ordered,
    exp.Placeholder: _placeholder,
    exp.JSONExtract: _json_arrow,
    exp.JSONExtractScalar: _json_arrow,
    exp.Lambda: _lambda,
    exp.DataType: _data_type,
}


def misread_alias(tree: Any, tokens: list[Token], sql: str) -> SyntaxError_ | None:
    """42601 for the first alias without AS that is a word of DuckDB's own or touches a number: the text meant something else."""
    places = {token.start: number for number, token in enumerate(tokens)}
    for node in tree.find_all(exp.Alias, exp.TableAlias):
        name = node.args.get("alias") if isinstance(node, exp.Alias) else node.this
        place = places.get(name.meta.get("start", -1)) if isinstance(name, exp.Identifier) else None
        if place is None or tokens[place].token_type is TokenType.IDENTIFIER:
            continue
        token, before = tokens[place], tokens[place - 1]
        if before.token_type is TokenType.ALIAS:
            continue
        word = token.text.lower() in GUARDED
        if word or (before.token_type is TokenType.NUMBER and before.end + 1 == token.start):
            text = shown(sql[token.start : token.end + 1])
            return syntax_error(f'syntax error at or near "{text}"', sql, token.start, hint=f'To use it as a name write AS "{text}".')
    return None
