"""Pieces of generated code: parameters and expressions whose meaning plain Python reproduces exactly.

Called by `point`, which puts the pieces together. Whatever is not certain to mean what DuckDB would make of it is refused here,
either when the plan is made (`Unsupported`) or when it runs (the generated code raises `Fallback`, and the general path
evaluates the statement, errors included). So every piece may assume operands of exactly the column's own type.

What is exact: comparisons of a column with a value of its type or with a column of the same kind of values; integer `+` and `-` on
a column of the assigned column's type (any overflow falls back); the same for DOUBLE on finite values; NULL in, NULL out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from khonsu_engine.columns.version import PRUNED
from khonsu_engine.errors import EngineError
from khonsu_engine.schema.catalog import Column, Table
from khonsu_engine.schema.types import SqlType
from khonsu_sql.sql.shape import Call, CastTo, ColumnRef, Constant, Expression, Merged, Operation, Parameter

__all__ = ["FALLBACK", "Code", "Fallback", "Unsupported", "flattened", "folded", "function_of", "sources_of"]

COMPARISONS = {"=": "==", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
MIRRORED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
INVERTED = {"=": "<>", "<>": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
EXACT_INTEGER_MAX = 2**53


class Fallback(Exception):
    """This execution needs the general path."""


FALLBACK = Fallback
"""The class, not an instance: one that lived for good would keep the frames of its last raise alive, and with them the connection."""


class Unsupported(Exception):
    """The statement has no point plan."""


class Code:
    """A function under construction. `before`: its lines before a row is read, `after`: those that need the row.

    Parameters are called `p0`, `p1`, …; `rows`: the variables that hold a row of each of `tables`; `names`: the objects the lines
    refer to."""

    def __init__(self, tables: Sequence[Table], rows: Sequence[str] = ("row",)) -> None:
        self.tables = tables
        self.rows = rows
        self.before: list[str] = []
        self.after: list[str] = []
        self.names: dict[str, Any] = {"FALLBACK": FALLBACK}
        self._variables = [0]

    def about(self, rows: Sequence[str]) -> Code:
        """The same function; conditions made by what is returned speak of other variables and have an `after` of their own."""
        other = Code(self.tables, rows)
        other.before, other.names, other._variables = self.before, self.names, self._variables
        return other

    def name(self, stem: str, value: Any) -> str:
        """A name for `value` in the generated code."""
        name = f"{stem}_{len(self.names)}"
        self.names[name] = value
        return name

    def variable(self) -> str:
        """A new local variable."""
        self._variables[0] += 1
        return f"v{self._variables[0]}"

    def literal(self, value: Any) -> str:
        """`value` in the text where that is exact and quick, else a name."""
        return repr(value) if value is None or value.__class__ in (int, bool) else self.name("c", value)

    def reference(self, expression: Expression) -> ColumnRef | None:
        """The column that `expression` is, if it is one; of columns that USING made one, the first."""
        match expression:
            case ColumnRef():
                return expression
            case Merged(columns=columns) if len({self.column(column).type for column in columns}) == 1:
                return columns[0]
        return None

    def column(self, reference: ColumnRef) -> Column:
        return self.tables[reference.source].columns[reference.column]

    def cell(self, reference: ColumnRef) -> str:
        """Code for a column's value."""
        return f"{self.rows[reference.source]}[{reference.column}]"

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

    def assigned(self, expression: Expression, column: Column) -> str:
        """Code for the new value of `column`, NULL if need be."""
        match expression:
            case Constant(value=value):
                return self.literal(None if value is None else _converted(column.type, value, exact=False))
            case Parameter(index=index):
                return self._parameter(index, column.type, exact=False)
            case ColumnRef() if self.column(expression).type == column.type:
                return self.cell(expression)
            case Operation(name="+" | "-" as operator, operands=(left, right)):
                return self._arithmetic(operator, left, right, column.type)
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

    def _arithmetic(self, operator: str, left: Expression, right: Expression, sql_type: SqlType) -> str:
        """`column ± value` or `value + column` where the column has the assigned column's type."""
        if isinstance(right, ColumnRef) and operator == "+":
            left, right = right, left
        if not isinstance(left, ColumnRef) or self.column(left).type != sql_type:
            raise Unsupported
        old, result = self.cell(left), self.variable()
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

    # -- conditions on rows ---------------------------------------------------------------------------------------

    def condition(self, conjunct: Expression, truth: bool = True) -> str:
        """Code that is true exactly where `conjunct` is `truth` (NULL is neither true nor false)."""
        match conjunct:
            case Operation(name="is null", operands=(operand,)) if (reference := self.reference(operand)) is not None:
                return f"{self.cell(reference)} is {'' if truth else 'not '}None"
            case Operation(name="not", operands=(operand,)):
                return self.condition(operand, not truth)
            case Operation(name="and" | "or" as word, operands=parts):
                if not truth:
                    word = "or" if word == "and" else "and"
                return f" {word} ".join([f"({self.condition(part, truth)})" for part in parts])
            case Operation(name="in", operands=(operand, *values)):
                return self._membership(operand, values, truth)
        return self._comparison(conjunct, truth)

    def _membership(self, operand: Expression, values: Sequence[Expression], truth: bool) -> str:
        reference = self.reference(operand)
        if reference is None or self.column(reference).type.kind in ("REAL", "DOUBLE"):
            raise Unsupported
        cell = self.cell(reference)
        listed = [self.compared(value, self.column(reference)) for value in values]
        return f"{cell} is not None and {cell} {'' if truth else 'not '}in ({', '.join(listed)},)"

    def _comparison(self, conjunct: Expression, truth: bool) -> str:
        found = self.comparison_of(conjunct)
        if found is None:
            raise Unsupported
        reference, operator, other = found
        sql_type, cell = self.column(reference).type, self.cell(reference)
        comparison = COMPARISONS[operator if truth else INVERTED[operator]]
        if not sql_type.sql_ordered or sql_type.kind == "REAL":
            raise Unsupported
        if isinstance(other, ColumnRef):
            if not self.equatable(reference, other):
                raise Unsupported
            return f"{cell} is not None and {self.cell(other)} is not None and {cell} {comparison} {self.cell(other)}"
        value = self.compared(other, self.column(reference))
        if sql_type.kind == "DOUBLE":  # NaN has SQL's own order
            self.before.append(f"if {value} != {value}: raise FALLBACK")
            self.after.append(f"if {cell} != {cell}: raise FALLBACK")
        return f"{cell} is not None and {cell} {comparison} {value}"

    def comparison_of(self, conjunct: Expression) -> tuple[ColumnRef, str, ColumnRef | Constant | Parameter] | None:
        """(column, operator, other) of a comparison of a column with a column, parameter or literal."""
        if not isinstance(conjunct, Operation) or conjunct.name not in COMPARISONS or len(conjunct.operands) != 2:
            return None
        left, right = (self.reference(operand) or operand for operand in conjunct.operands)
        if isinstance(left, ColumnRef) and isinstance(right, ColumnRef | Parameter | Constant):
            return left, conjunct.name, right
        if isinstance(right, ColumnRef) and isinstance(left, Parameter | Constant):
            return right, MIRRORED[conjunct.name], left
        return None

    def equatable(self, one: ColumnRef, other: ColumnRef) -> bool:
        """Do the values of both columns compare in Python as in SQL, without a cast that changes them?"""
        left, right = self.column(one).type, self.column(other).type
        same = left == right or (left.is_integer and right.is_integer) or left.kind == right.kind == "VARCHAR"
        return same and left.sql_ordered and left.kind not in ("REAL", "DOUBLE")


def flattened(conjuncts: Sequence[Expression]) -> tuple[Expression, ...]:
    """The conjuncts with those that are conjunctions themselves (BETWEEN) taken apart, and `folded`."""
    parts: list[Expression] = []
    for conjunct in map(folded, conjuncts):
        inner = conjunct.operands if isinstance(conjunct, Operation) and conjunct.name == "and" else None
        parts += [conjunct] if inner is None else flattened(inner)
    return tuple(parts)


def folded(expression: Expression) -> Expression:
    """`expression` with negative literals as literals (DuckDB's own are positive, with an operator)."""
    match expression:
        case Operation(name="neg", operands=(Constant(value=value, type=sql_type),)) if value.__class__ is int and value < 2**31:
            return Constant(-value, sql_type)
        case Operation(name=name, operands=operands):
            return Operation(name, tuple(folded(operand) for operand in operands))
    return expression


def sources_of(expression: Expression) -> set[int]:
    """The tables `expression` speaks of."""
    match expression:
        case ColumnRef(source=source):
            return {source}
        case Merged(columns=columns):
            return {columns[0].source}
        case Operation(operands=operands) | Call(operands=operands):
            return {source for operand in operands for source in sources_of(operand)}
        case CastTo(operand=operand):
            return sources_of(operand)
        case Constant() | Parameter():
            return set()
    raise Unsupported


def _converted(sql_type: SqlType, value: Any, *, exact: bool) -> Any:
    try:
        return (sql_type.exact if exact else sql_type.canonical)(value)
    except EngineError as error:
        raise Unsupported from error


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
