"""Pieces of generated code: parameters and expressions whose meaning plain Python reproduces exactly.

Called by `point`, which puts the pieces together. Whatever is not certain to mean what DuckDB would make of it is refused here,
either when the plan is made (`Unsupported`) or when it runs (the generated code raises `Fallback`, and the general path
evaluates the statement, errors included). So every piece may assume operands of exactly the column's own type.

What is exact: comparisons of a column with a value of its type; integer `+` and `-` on a column of the assigned column's type
(any overflow falls back); the same for DOUBLE on finite values; NULL in, NULL out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from khonsu_engine.columns.version import PRUNED
from khonsu_engine.errors import EngineError
from khonsu_engine.schema.catalog import Column, Table
from khonsu_engine.schema.types import SqlType
from khonsu_sql.sql.shape import ColumnRef, Constant, Expression, Operation, Parameter

__all__ = ["COMPARISONS", "FALLBACK", "Code", "Fallback", "Tally", "Unsupported", "comparison_of", "flattened", "function_of", "row_text"]

COMPARISONS = {"=": "==", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
MIRRORED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
EXACT_INTEGER_MAX = 2**53


class Fallback(Exception):
    """This execution needs the general path."""


FALLBACK = Fallback()


class Unsupported(Exception):
    """The statement has no point plan."""


class Tally:
    """How often a range function was right to try."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = self.misses = 0

    def missed(self) -> None:
        """The range was too long."""
        self.misses += 1

    @property
    def hopeless(self) -> bool:
        """Most ranges were too long: better not to try."""
        return self.misses > 3 and self.misses > self.hits


class Code:
    """A function under construction. `before`: its lines before the row is read, `after`: those that need `row`.

    Parameters are called `p0`, `p1`, …; `names`: the objects the lines refer to."""

    def __init__(self) -> None:
        self.before: list[str] = []
        self.after: list[str] = []
        self.names: dict[str, Any] = {"FALLBACK": FALLBACK}
        self._variables = 0

    def name(self, stem: str, value: Any) -> str:
        """A name for `value` in the generated code."""
        name = f"{stem}_{len(self.names)}"
        self.names[name] = value
        return name

    def variable(self) -> str:
        """A new local variable."""
        self._variables += 1
        return f"v{self._variables}"

    def literal(self, value: Any) -> str:
        """`value` in the text where that is exact and quick, else a name."""
        return repr(value) if value is None or value.__class__ in (int, bool) else self.name("c", value)

    def null(self, text: str) -> str:
        """Code for `text IS NULL`, of what `assigned` returned."""
        if text == "None":
            return "True"
        return "False" if text.lstrip("-").isdigit() or text in ("True", "False") else f"{text} is None"

    # -- values of a column's type --------------------------------------------------------------------------------

    def compared(self, expression: Expression, column: Column) -> str:
        """Code for a value that a column of this type is compared with; never NULL."""
        match expression:
            case Constant(value=value) if value is not None:
                return self.literal(_converted(column.type, value, exact=True))
            case Parameter(index=index):
                return self._parameter(index, column.type, exact=True)
        raise Unsupported

    def assigned(self, expression: Expression, column: Column, columns: tuple[Column, ...]) -> str:
        """Code for the new value of `column`, NULL if need be."""
        match expression:
            case Constant(value=value):
                return self.literal(None if value is None else _converted(column.type, value, exact=False))
            case Parameter(index=index):
                return self._parameter(index, column.type, exact=False)
            case ColumnRef(column=number) if columns[number].type == column.type:
                return f"row[{number}]"
            case Operation(name="+" | "-" as operator, operands=(left, right)):
                return self._arithmetic(operator, left, right, column.type, columns)
        raise Unsupported

    def _parameter(self, index: int, sql_type: SqlType, *, exact: bool) -> str:
        parameter, value = f"p{index}", self.variable()
        if sql_type.is_integer:
            integer = f"{parameter}.__class__ is not int or not {sql_type.low} <= {parameter} <= {sql_type.high}"
            if exact:
                self.before.append(f"if {integer}: raise FALLBACK")
                return parameter
            self.before.append(f"if {parameter} is not None and ({integer}): raise FALLBACK")
            return parameter
        convert = self.name("convert", sql_type.exact if exact else sql_type.canonical)
        if exact:
            self.before.append(f"if {parameter} is None: raise FALLBACK")
        if sql_type.kind == "VARCHAR" and not sql_type.length:
            plain = f"{parameter}.__class__ is str and {parameter}.isascii() and '\\0' not in {parameter}"
            self.before.append(f"{value} = {parameter} if {plain} else {convert}({parameter})")
        elif sql_type.kind == "DOUBLE":
            plain = f"{parameter}.__class__ is float and {parameter} == {parameter}"
            self.before.append(f"{value} = {parameter} if {plain} else {convert}({parameter})")
        else:
            self.before.append(f"{value} = {convert}({parameter})")
        return value

    def _arithmetic(self, operator: str, left: Expression, right: Expression, sql_type: SqlType, columns: tuple[Column, ...]) -> str:
        """`column ± value` or `value + column` where the column has the assigned column's type."""
        if isinstance(right, ColumnRef) and operator == "+":
            left, right = right, left
        if not isinstance(left, ColumnRef) or columns[left.column].type != sql_type:
            raise Unsupported
        old, result = f"row[{left.column}]", self.variable()
        if sql_type.is_integer and sql_type.kind != "HUGEINT":
            value = self._integer_operand(right)
            if value is None:
                raise Unsupported
            self.after.append(f"{result} = None if {old} is None else {old} {operator} {value}")
            self.after.append(f"if {result} is not None and not {sql_type.low} <= {result} <= {sql_type.high}: raise FALLBACK")
        elif sql_type.kind == "DOUBLE":
            value = self._float_operand(right)
            self.after.append(f"{result} = None if {old} is None else {old} {operator} {value}")
            self.after.append(f"if {result} is not None and not {-1.7e308} < {result} < {1.7e308}: raise FALLBACK")
        else:
            raise Unsupported
        return result

    def _integer_operand(self, expression: Expression) -> str | None:
        match expression:
            case Constant(value=value) if value.__class__ is int:
                return f"({value})"
            case Parameter(index=index):
                self.before.append(f"if p{index}.__class__ is not int: raise FALLBACK")
                return f"p{index}"
        return None

    def _float_operand(self, expression: Expression) -> str:
        match expression:
            case Constant(value=value) if value.__class__ is int and abs(value) < EXACT_INTEGER_MAX:
                return f"({value})"
            case Parameter(index=index):
                integer = f"p{index}.__class__ is int and -{EXACT_INTEGER_MAX} < p{index} < {EXACT_INTEGER_MAX}"
                self.before.append(f"if not (p{index}.__class__ is float or ({integer})): raise FALLBACK")
                return f"p{index}"
        raise Unsupported

    # -- conditions on a row --------------------------------------------------------------------------------------

    def condition(self, conjunct: Expression, columns: tuple[Column, ...]) -> str:
        """Code that is true exactly for rows the conjunct keeps (NULL and false are both "no")."""
        match conjunct:
            case Operation(name="is null", operands=(ColumnRef(column=number),)):
                return f"row[{number}] is None"
            case Operation(name="not", operands=(Operation(name="is null", operands=(ColumnRef(column=number),)),)):
                return f"row[{number}] is not None"
            case Operation(name="and" | "or" as word, operands=parts):
                return f" {word} ".join(f"({self.condition(part, columns)})" for part in parts)
            case Operation(name="in", operands=(ColumnRef(column=number), *values)) if columns[number].type.kind not in ("REAL", "DOUBLE"):
                listed = [self.compared(value, columns[number]) for value in values]
                return f"row[{number}] is not None and row[{number}] in ({', '.join(listed)},)"
        found = comparison_of(conjunct)
        if found is None:
            raise Unsupported
        number, operator, other = found
        column = columns[number]
        if not column.type.sql_ordered or column.type.kind == "REAL":
            raise Unsupported
        value = self.compared(other, column)
        if column.type.kind == "DOUBLE":  # NaN has SQL's own order
            self.before.append(f"if {value} != {value}: raise FALLBACK")
            self.after.append(f"if row[{number}] != row[{number}]: raise FALLBACK")
        return f"row[{number}] is not None and row[{number}] {COMPARISONS[operator]} {value}"


def flattened(conjuncts: Sequence[Expression]) -> tuple[Expression, ...]:
    """The conjuncts with those that are conjunctions themselves (BETWEEN) taken apart."""
    parts: list[Expression] = []
    for conjunct in conjuncts:
        inner = conjunct.operands if isinstance(conjunct, Operation) and conjunct.name == "and" else None
        parts += [conjunct] if inner is None else flattened(inner)
    return tuple(parts)


def comparison_of(conjunct: Expression) -> tuple[int, str, Expression] | None:
    """(column, operator, value) of a comparison of a column of the first table with a parameter or literal."""
    if not isinstance(conjunct, Operation) or conjunct.name not in COMPARISONS or len(conjunct.operands) != 2:
        return None
    left, right = conjunct.operands
    if isinstance(left, ColumnRef) and isinstance(right, Parameter | Constant) and left.source == 0:
        return left.column, conjunct.name, right
    if isinstance(right, ColumnRef) and isinstance(left, Parameter | Constant) and right.source == 0:
        return right.column, MIRRORED[conjunct.name], left
    return None


def _converted(sql_type: SqlType, value: Any, *, exact: bool) -> Any:
    try:
        return (sql_type.exact if exact else sql_type.canonical)(value)
    except EngineError as error:
        raise Unsupported from error


def row_text(code: Code, table: Table, outputs: Sequence[int], row: str = "row") -> str:
    """Code for the row as the driver hands it out."""
    types = [table.columns[number].type for number in outputs]
    if all(sql_type.python_identity for sql_type in types):
        if list(outputs) == list(range(len(table.columns))):
            return row
        return f"({', '.join(f'{row}[{number}]' for number in outputs)},)"
    parts = [
        f"{row}[{number}]" if sql_type.python_identity else f"{code.name('python', sql_type.to_python)}({row}[{number}])"
        for number, sql_type in zip(outputs, types, strict=True)
    ]
    return f"({', '.join(parts)},)"


def function_of(code: Code, arguments: str, count: int, lines: Sequence[str]) -> Callable[..., Any]:
    """The function of `arguments` and the parameter list with these lines as body."""
    names = ", ".join(f"p{number}" for number in range(count))
    unpacked = [f"if len(parameters) != {count}: raise FALLBACK"]
    if count:
        unpacked.append(f"{names}{',' if count == 1 else ''} = parameters")
    text = "\n    ".join([f"def function({arguments}, parameters):", *unpacked, *lines])
    scope: dict[str, Any] = {**code.names, "PRUNED": PRUNED, "FALLBACK": FALLBACK}
    exec(compile(text, "<point path>", "exec"), scope)
    function: Callable[..., Any] = scope["function"]
    return function
