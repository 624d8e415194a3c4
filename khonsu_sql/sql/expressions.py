"""sqlglot's expressions into ours (`shape`), where every column is known. Called by `pushdown`, `queries`, `inserts` and `changes`.

sqlglot's tree ends here: predicates and the point path see only frozen values. What has no word in `shape` becomes `Opaque`, and so
does everything nested more deeply than anyone compiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from sqlglot import exp

import khonsu_engine.errors as engine_errors
from khonsu_engine.schema.types import BIGINT, BLOB, BOOLEAN, DOUBLE, INTEGER, SqlType, parse_type
from khonsu_sql.sql.shape import Call, CastTo, ColumnRef, Constant, Expression, Merged, Opaque, Operation, Parameter

__all__ = ["Resolver", "conjuncts", "number", "resolver_of", "translate"]

DEPTH_MAX = 40

Resolver = Callable[[Any], Expression]
"""What a column node is: a ColumnRef, a Merged, or Opaque."""

_BINARY: dict[type, str] = {
    exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%", exp.DPipe: "||",
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=", exp.NullSafeEQ: "is not distinct from",
}  # fmt: skip

_CALLS: dict[type, str] = {
    exp.Count: "count", exp.Sum: "sum", exp.Min: "min", exp.Max: "max", exp.Coalesce: "coalesce",
}  # fmt: skip
_NAMED_CALLS = ("abs", "avg", "length", "lower", "upper")

_CALL_PARTS = ("this", "expressions", "big_int", "is_null")
OPAQUE = Opaque()


def conjuncts(node: Any) -> Iterator[Any]:
    """The operands of nested ANDs, without recursion. None gives none."""
    waiting = [node] if node is not None else []
    while waiting:
        found = waiting.pop()
        match found:
            case exp.And():
                waiting += [found.expression, found.this]
            case exp.Paren(this=exp.And() | exp.Paren()):
                waiting.append(found.this)
            case _:
                yield found


def translate(node: Any, resolve: Resolver, depth: int = 0) -> Expression:
    """`node` in our words."""
    if depth > DEPTH_MAX or node is None:
        return OPAQUE
    kind = type(node)
    if kind in _BINARY:
        return _operation(_BINARY[kind], (node.this, node.expression), resolve, depth)
    if kind in _CALLS:
        return _call(node, resolve, depth)
    handler = _HANDLERS.get(kind)
    return OPAQUE if handler is None else handler(node, resolve, depth + 1)


def _operation(name: str, operands: Any, resolve: Resolver, depth: int) -> Expression:
    return Operation(name, tuple(translate(operand, resolve, depth + 1) for operand in operands))


def _call(node: Any, resolve: Resolver, depth: int) -> Expression:
    if isinstance(node, exp.Count) and isinstance(node.this, exp.Star):
        return Call("count", ())
    operands: list[Any] = [node.this, *node.expressions]
    distinct = False
    if isinstance(node.this, exp.Distinct):
        operands, distinct = [*node.this.expressions, *node.expressions], True
        if node.this.args.get("on"):
            return OPAQUE
    if any(value and name not in _CALL_PARTS for name, value in node.args.items()):
        return OPAQUE
    return Call(_CALLS[type(node)], tuple(translate(operand, resolve, depth + 1) for operand in operands), distinct)


def _anonymous(node: Any, resolve: Resolver, depth: int) -> Expression:
    name = str(node.this).lower()
    plain = name in _NAMED_CALLS and not any(isinstance(operand, exp.Distinct | exp.Order) for operand in node.expressions)
    return Call(name, tuple(translate(operand, resolve, depth) for operand in node.expressions)) if plain else OPAQUE


def _column(node: Any, resolve: Resolver, depth: int) -> Expression:
    return resolve(node)


def _inside(node: Any, resolve: Resolver, depth: int) -> Expression:
    return translate(node.this, resolve, depth)


def _literal(node: Any, resolve: Resolver, depth: int) -> Expression:
    return Constant(node.name) if node.is_string else number(node.name)


def _bytes(node: Any, resolve: Resolver, depth: int) -> Expression:
    text = node.name
    return Constant(bytes.fromhex(text), BLOB) if len(text) % 2 == 0 else OPAQUE


def number(text: str) -> Expression:
    """A numeric literal with the type DuckDB gives it."""
    if text.isdecimal():
        value = int(text)
        return Constant(value, _integer_type(value)) if value < 1 << 127 else Constant(float(text), DOUBLE)
    if "e" in text.lower():
        return Constant(float(text), DOUBLE)
    whole, _, fraction = text.partition(".")
    if not (whole + fraction).isdecimal():
        return OPAQUE
    precision = max(len(whole.lstrip("0")) + len(fraction), 1)
    if precision > 38:
        return Constant(float(text), DOUBLE)
    return Constant(Decimal(text), SqlType("DECIMAL", precision=precision, scale=len(fraction)))


def _integer_type(value: int) -> SqlType:
    if value < 1 << 31:
        return INTEGER
    return BIGINT if value < 1 << 63 else SqlType("HUGEINT")


def _parameter(node: Any, resolve: Resolver, depth: int) -> Expression:
    return Parameter(int(node.this.name) - 1)


def _cast(node: Any, resolve: Resolver, depth: int) -> Expression:
    try:
        target = parse_type(node.to.sql(dialect="duckdb"), duckdb=True)
    except engine_errors.EngineError:
        return OPAQUE
    return CastTo(translate(node.this, resolve, depth), target)


def _logical(name: str, kind: type[Any]) -> Any:
    def read(node: Any, resolve: Resolver, depth: int) -> Expression:
        operands: list[Any] = []
        waiting: list[Any] = [node]
        while waiting:
            found: Any = waiting.pop()
            while isinstance(found, exp.Paren):
                found = found.this
            if type(found) is kind:
                waiting += [found.expression, found.this]
            else:
                operands.append(found)
        return _operation(name, operands, resolve, depth)

    return read


def _not(node: Any, resolve: Resolver, depth: int) -> Expression:
    return _operation("not", (node.this,), resolve, depth)


def _neg(node: Any, resolve: Resolver, depth: int) -> Expression:
    return _operation("neg", (node.this,), resolve, depth)


def _is(node: Any, resolve: Resolver, depth: int) -> Expression:
    match node.expression:
        case exp.Null():
            name = "is null"
        case exp.Boolean() as truth:
            name = "is true" if truth.this else "is false"
        case _:
            return OPAQUE
    result = _operation(name, (node.this,), resolve, depth)
    return Operation("not", (result,)) if node.args.get("negate") else result


def _in(node: Any, resolve: Resolver, depth: int) -> Expression:
    used = {name for name, value in node.args.items() if value}
    if used != {"this", "expressions"}:
        return OPAQUE
    return _operation("in", (node.this, *node.expressions), resolve, depth)


def _between(node: Any, resolve: Resolver, depth: int) -> Expression:
    if node.args.get("symmetric"):
        return OPAQUE
    value, low, high = (translate(node.args[part], resolve, depth) for part in ("this", "low", "high"))
    return Operation("and", (Operation(">=", (value, low)), Operation("<=", (value, high))))


def _distinct_from(node: Any, resolve: Resolver, depth: int) -> Expression:
    return Operation("not", (_operation("is not distinct from", (node.this, node.expression), resolve, depth),))


_HANDLERS: dict[type, Callable[[Any, Resolver, int], Expression]] = {
    exp.Anonymous: _anonymous,
    exp.Column: _column,
    exp.Paren: _inside,
    exp.Literal: _literal,
    exp.HexString: _bytes,
    exp.Null: lambda node, resolve, depth: Constant(None),
    exp.Boolean: lambda node, resolve, depth: Constant(bool(node.this), BOOLEAN),
    exp.Parameter: _parameter,
    exp.Cast: _cast,
    exp.And: _logical("and", exp.And),
    exp.Or: _logical("or", exp.Or),
    exp.Not: _not,
    exp.Neg: _neg,
    exp.Is: _is,
    exp.In: _in,
    exp.Between: _between,
    exp.NullSafeNEQ: _distinct_from,
}


def resolver_of(index: dict[int, int], hits: dict[int, list[tuple[Any, int]]]) -> Resolver:
    """Columns by `hits` (id(node) -> relation and ordinal), relations numbered by `index` (id(relation) -> source)."""

    def resolve(node: Any) -> Expression:
        found = [ColumnRef(index[id(relation)], ordinal) for relation, ordinal in hits.get(id(node), ()) if id(relation) in index]
        if not found or len(found) != len(hits[id(node)]):
            return OPAQUE
        return found[0] if len(found) == 1 else Merged(tuple(found))

    return resolve
