"""Constants and parameters as values of the column they are compared with, or the finding that they are none.

Called by `predicates`. What DuckDB does in a comparison: text is cast to the other side's type, a decimal to DOUBLE, numbers meet in a
type that holds both. Only where comparing canonical values gives the same answer is there a value; else `Inexact`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import khonsu_engine.errors as engine_errors
from khonsu_engine.schema.types import SqlType
from khonsu_sql.errors import InvalidTextRepresentation
from khonsu_sql.sql.plan import ParameterRef
from khonsu_sql.sql.shape import CastTo, Constant, Expression, Operation, Parameter

__all__ = ["Inexact", "constant_of", "value_of"]

_AS_TEXT = ("VARCHAR", "ENUM", "JSON", "BLOB")


_BLOB_TEXT = re.compile(r"(?:[ -\[\]-~]|\\x[0-9A-Fa-f]{2})*")
_ESCAPE = re.compile(rb"\\x([0-9A-Fa-f]{2})")


class Inexact(Exception):
    """A value that the column's type does not have: the condition stays DuckDB's."""


def constant_of(expression: Expression, column_type: SqlType) -> Any:
    """The value as the column would hold it, or a ParameterRef. Raises Inexact."""
    match expression:
        case Parameter(index=index):
            return ParameterRef(index, column_type)
        case CastTo(operand=Parameter(index=index), type=target):
            return ParameterRef(index, column_type, target)
        case Constant() | Operation() | CastTo():
            return _comparable(_evaluate(expression), column_type)
    raise Inexact


def _evaluate(expression: Expression) -> Any:
    match expression:
        case Constant(value=value):
            return value
        case Operation(name="neg", operands=(operand,)):
            value = _evaluate(operand)
            if type(value) in (int, float, Decimal):
                return -value
        case CastTo(operand=operand, type=target):
            return _cast(_evaluate(operand), target)
    raise Inexact


def _cast(value: Any, target: SqlType) -> Any:
    if target.parts:
        raise Inexact
    if target.kind == "BLOB" and type(value) is str and _BLOB_TEXT.fullmatch(value):
        return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), value.encode("ascii"))
    if target.kind == "VARCHAR" and target.length:
        target = SqlType("VARCHAR")  # DuckDB ignores the length in a cast
    try:
        return target.canonical(value)
    except engine_errors.EngineError:
        raise Inexact from None


def _comparable(value: Any, column_type: SqlType) -> Any:
    """`value` as one of the column's, if comparing with that is the same. DuckDB casts text to the column's type, and a decimal
    to DOUBLE."""
    if value is None:
        return None
    if type(value) is Decimal and column_type.kind == "REAL" and value == Decimal(float(value)):
        value = float(value)  # a binary fraction is the same in any type it meets
    casts = (type(value) is str and column_type.kind not in _AS_TEXT) or (type(value) is Decimal and column_type.kind == "DOUBLE")
    try:
        return column_type.canonical(value) if casts else column_type.exact(value)
    except engine_errors.EngineError:
        raise Inexact from None


def value_of(reference: ParameterRef, values: Sequence[Any]) -> Any:
    """The value given for a parameter. Raises Inexact, InvalidTextRepresentation."""
    value = values[reference.index]
    if reference.cast is not None and value is not None:
        value = _cast(value, reference.cast)
    elif type(value) is str:
        _check_text(value, reference.type)
    return _comparable(value, reference.type)


def _check_text(text: str, column_type: SqlType) -> None:
    """Text that can be no number of any spelling is refused even if there is no row to compare it with, as in PostgreSQL.

    Raises InvalidTextRepresentation (22P02)."""
    kind = column_type.kind
    if not (column_type.is_integer or kind in ("DECIMAL", "REAL", "DOUBLE")) or any(character.isdecimal() for character in text):
        return
    if kind in ("REAL", "DOUBLE") and text.strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    raise InvalidTextRepresentation(f"invalid input for type {column_type.sql}: {shown!r}")
