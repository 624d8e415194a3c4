"""Ways to a table's rows on the point path: by the key of a constraint, by a list of keys, by a range of its key order.

Called by `point` (one row by its key) and `point_scan` (the tables of a join, each with what is known of its key once the tables before
it have a row). `choose` says which way there is, without side effects; `Access` is that way as code.

Invariants: a unique constraint's table has no entry for a row with a NULL in one of the constraint's columns, so a range of it that
leaves such a column open does not find every row and is not chosen. Bounds and keys are exact: what they say need not be tested again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from khonsu_engine.schema.catalog import Index, Table
from khonsu_sql.sql.point_code import Code, sources_of
from khonsu_sql.sql.shape import ColumnRef, Constant, Expression, Merged, Operation, Parameter

__all__ = ["Access", "Choice", "choose", "tuple_text"]


class Choice(msgspec.Struct):
    """How the rows of `table`, source number `source`, are found. `index`: None for the primary key.

    equal   column -> what it equals, for a prefix of the key's columns
    listed  the values of the key's only column (IN)
    sides   ">" and "<": the operator and the bound of the column after the prefix
    used    the conjuncts that say all that
    """

    source: int
    table: Table
    index: Index | None
    equal: dict[int, Expression]
    listed: Sequence[Expression] = ()
    sides: dict[str, tuple[str, Expression]] = {}
    used: list[Expression] = []

    @property
    def key(self) -> Sequence[int]:
        """The columns of the key."""
        return self.table.key_columns if self.index is None else self.index.columns

    @property
    def single(self) -> bool:
        """Is it one row at most?"""
        return len(self.equal) == len(self.key)

    @property
    def rank(self) -> int:
        """The better, the smaller."""
        if self.single:
            return 0 if self.index is None else 1
        return 2 if self.listed else 3 if self.equal else 4

    @property
    def described(self) -> str:
        """For EXPLAIN."""
        name = "primary key" if self.index is None else f"unique constraint {self.index.name}"
        if self.single:
            return f"{self.table.name} by {name}"
        return f"{self.table.name} by {len(self.listed)} keys of {name}" if self.listed else f"range of {self.table.name} by {name}"


def choose(code: Code, source: int, conjuncts: Sequence[Expression], bound: set[int]) -> Choice | None:
    """The best way to the rows of a table when those of the tables `bound` are known; None: there is none."""
    table = code.tables[source]
    usable = [conjunct for conjunct in conjuncts if _speaks_only_of(conjunct, bound | {source})]
    choices = [choice for index in (None, *table.indexes) if (choice := _choice(code, source, index, usable)) is not None]
    return min(choices, key=lambda choice: choice.rank, default=None)


def _speaks_only_of(conjunct: Expression, sources: set[int]) -> bool:
    found = [operand for operand in getattr(conjunct, "operands", ()) if not isinstance(operand, Constant | Parameter)]
    return bool(found) and all(isinstance(operand, ColumnRef | Merged) for operand in found) and sources_of(conjunct) <= sources


def _choice(code: Code, source: int, index: Index | None, conjuncts: Sequence[Expression]) -> Choice | None:
    table = code.tables[source]
    choice = Choice(source, table, index, {}, (), {}, [])
    for number, position in enumerate(choice.key):
        column = table.columns[position]
        if not column.type.sql_ordered:
            break
        here = list(_comparisons(code, ColumnRef(source, position), conjuncts))
        equal = next(((conjunct, other) for conjunct, operator, other in here if operator == "="), None)
        if equal is not None:
            choice.equal[position] = equal[1]
            choice.used.append(equal[0])
            continue
        floating = column.type.kind in ("REAL", "DOUBLE")
        lists = [conjunct for conjunct in conjuncts if not floating and _lists(conjunct, ColumnRef(source, position))]
        if len(choice.key) == 1 and lists:
            choice.used.append(lists[0])
            choice.listed = lists[0].operands[1:]  # type: ignore[union-attr]
        elif not floating:
            _bound_sides(choice, here)
        if index is not None and not choice.listed and _may_miss_rows(choice, number):
            return None
        break
    return choice if choice.used else None


def _comparisons(code: Code, column: ColumnRef, conjuncts: Sequence[Expression]) -> Iterator[tuple[Expression, str, Expression]]:
    """(conjunct, operator, other) for those that compare `column` with something known before."""
    for conjunct in conjuncts:
        found = code.comparison_of(conjunct)
        if found is not None and found[0] != column and isinstance(found[2], ColumnRef) and found[1] == "=":
            found = (found[2], "=", found[0])
        if found is None or found[0] != column:
            continue
        other = found[2]
        if not isinstance(other, ColumnRef) or (other.source != column.source and code.equatable(column, other) and found[1] == "="):
            yield conjunct, found[1], other


def _lists(conjunct: Expression, column: ColumnRef) -> bool:
    return isinstance(conjunct, Operation) and conjunct.name == "in" and conjunct.operands[0] == column


def _bound_sides(choice: Choice, here: Sequence[tuple[Expression, str, Expression]]) -> None:
    for conjunct, operator, other in here:
        if operator != "<>" and operator[0] not in choice.sides:
            choice.sides[operator[0]] = (operator, other)
            choice.used.append(conjunct)


def _may_miss_rows(choice: Choice, prefix: int) -> bool:
    """Could a row with a NULL, which has no entry, be in this range?"""
    open_columns = choice.key[prefix + bool(choice.sides) :]
    return any(choice.table.columns[position].nullable for position in open_columns)


class Access:
    """A choice as code. `key`: of the row, or the leading part of it; `unknown`: code that is true when NULL is among it, or empty."""

    def __init__(self, code: Code, choice: Choice, name: str) -> None:
        self.choice = choice
        self.table = choice.table
        self.index = choice.index
        self.row = code.rows[choice.source]
        self.entry = f"entry{name}"
        table = choice.table
        self._parts: list[str] = []
        nullable: list[str] = []
        for position, other in choice.equal.items():
            if isinstance(other, ColumnRef):
                self._parts.append(code.cell(other))
                nullable.append(f"{code.cell(other)} is None")
            else:
                self._parts.append(code.compared(other, table.columns[position]))
        self.unknown = " or ".join(nullable)
        self.key = tuple_text(self._parts) if self._parts else ""
        first = table.columns[choice.key[0]] if choice.key else None
        self.listed = [code.compared(value, first) for value in choice.listed] if first is not None else []
        self.bounds = "" if choice.single or choice.listed else self._bounds(code)

    def _bounds(self, code: Code) -> str:
        """Code for the KeyRange: the prefix, then the sides of the column after it."""
        choice = self.choice
        position = choice.key[len(self._parts)]
        sides = {sign: (operator, code.compared(other, self.table.columns[position])) for sign, (operator, other) in choice.sides.items()}
        low, high = sides.get(">"), sides.get("<")
        inclusive = f"{low is None or low[0] == '>='}, {high is None or high[0] == '<='}"
        return f"KeyRange({self._bound(low)}, {self._bound(high)}, {inclusive})"

    def _bound(self, side: tuple[str, str] | None) -> str:
        parts = [*self._parts, *([side[1]] if side is not None else [])]
        if not parts:
            return "None"
        return parts[0] if len(self.choice.key) == 1 else f"({', '.join(parts)},)"

    @property
    def primary(self) -> str:
        """Code for the primary key in the entry of a unique constraint's table."""
        assert self.index is not None
        width = len(self.index.columns)
        return tuple_text([f"{self.entry}[{number}]" for number in range(width, width + len(self.table.key_columns))])


def tuple_text(parts: Sequence[str]) -> str:
    """Code for a key of these parts: one alone is the key itself."""
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"
