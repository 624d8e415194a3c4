"""Which rows of each table cannot matter: conditions of WHERE and ON, given to the tables they speak of, only where that is sound.

Called by `queries`, `inserts` and `changes` once a query block's names are known. The rules (T a base table of the block,
P a condition on T alone):

    WHERE P               thins out T, if no outer join can fill T with NULLs, or P is never true of a row of NULLs
    a JOIN b ON P         as WHERE, seen from this join
    a LEFT JOIN b ON P    thins out b only (a's rows stay, whatever P says); RIGHT the other way round; FULL neither
    a SEMI JOIN b ON P    both;  ANTI: b only
    x = y of two tables   in WHERE or an inner ON, a condition on x holds for y too; in a LEFT ON, from left to right

Samples, pivots, POSITIONAL and ASOF joins look at rows that conditions reject: their tables are never thinned out. HAVING, QUALIFY,
LIMIT and ORDER BY never narrow anything.
"""

from __future__ import annotations

from typing import Any

from khonsu_engine.mvcc.predicates import Predicate, columns_of
from khonsu_engine.schema.types import SqlType
from khonsu_sql.sql.expressions import conjuncts, resolver_of, translate
from khonsu_sql.sql.predicates import null_rejecting, predicate_of, retyped
from khonsu_sql.sql.relations import Binding, Hit, JoinStep, Relation, Scope
from khonsu_sql.sql.shape import ColumnRef, Expression, Operation

__all__ = ["push_down"]

Equality = tuple[Hit, Hit, bool]
"""Two columns that are equal in every row that matters; True: conditions go from left to right only."""

_LEFT_OF = {"inner": True, "semi": True, "right": True, "left": False, "anti": False, "full": False, "other": False}
_RIGHT_OF = {"inner": True, "semi": True, "right": False, "left": True, "anti": True, "full": False, "other": False}


def push_down(binding: Binding, scope: Scope, where: Any) -> None:
    """Give every occurrence of `scope` the filters that hold for it."""
    pusher = _Pusher(binding, scope)
    for step in scope.steps:
        pusher.join(step)
    pusher.conditions(where, scope.relations)
    pusher.spread()


class _Pusher:
    def __init__(self, binding: Binding, scope: Scope) -> None:
        self.relations = scope.relations
        self.index = {id(relation): number for number, relation in enumerate(scope.relations) if relation.occurrence is not None}
        self.resolve = resolver_of(self.index, binding.hits)
        self.equalities: list[Equality] = []

    def join(self, step: JoinStep) -> None:
        """The conditions of one join, then what it does to its sides."""
        if step.kind == "other":
            for relation in (*step.left, *step.right):
                relation.pinned = True
        targets = [*(step.left if _LEFT_OF[step.kind] else ()), *(step.right if _RIGHT_OF[step.kind] else ())]
        if targets:
            directed = step.kind not in ("inner", "semi")
            sources = step.right if step.kind == "right" else step.left
            self.conditions(step.on, targets, sources if directed else None)
            for left, right in step.using:
                self.equalities.append((left, right, directed))
        if step.kind in ("left", "full"):
            _fill(step.right)
        if step.kind in ("right", "full"):
            _fill(step.left)

    def conditions(self, node: Any, targets: list[Relation], sources: list[Relation] | None = None) -> None:
        """Each conjunct of `node` for each of `targets` it speaks of. `sources`: equalities hold from these towards the others only."""
        for conjunct in conjuncts(node):
            expression = translate(conjunct, self.resolve)
            for relation in targets:
                if relation.occurrence is not None and not relation.pinned:
                    self.give(relation, predicate_of(expression, self.index[id(relation)], relation.occurrence.table))
            self.equality(expression, sources)

    def give(self, relation: Relation, predicate: Predicate | None) -> bool:
        occurrence = relation.occurrence
        if predicate is None or occurrence is None or relation.pinned or predicate in occurrence.filters:
            return False
        if relation.nullable and not null_rejecting(predicate):
            return False
        occurrence.filters.append(predicate)
        return True

    def equality(self, expression: Expression, sources: list[Relation] | None) -> None:
        match expression:
            case Operation(name="=", operands=(ColumnRef() as first, ColumnRef() as second)) if first.source != second.source:
                left = (self.relations[first.source], first.column)
                right = (self.relations[second.source], second.column)
                if sources is not None and right[0] in sources:
                    left, right = right, left
                if sources is None or (left[0] in sources and right[0] not in sources):
                    self.equalities.append((left, right, sources is not None))

    def spread(self) -> None:
        """Conditions on one of two equal columns hold for the other; repeated until nothing new is learned."""
        for _ in range(len(self.equalities)):
            learned = False
            for left, right, directed in self.equalities:
                learned = self._copy(left, right) or learned
                if not directed:
                    learned = self._copy(right, left) or learned
            if not learned:
                return

    def _copy(self, source: Hit, target: Hit) -> bool:
        (origin, column), (relation, other) = source, target
        if origin.occurrence is None or relation.occurrence is None:
            return False
        target_type = relation.occurrence.table.columns[other].type
        if not _same_values(origin.occurrence.table.columns[column].type, target_type):
            return False
        learned = False
        for predicate in tuple(origin.occurrence.filters):
            if columns_of(predicate) == 1 << column and null_rejecting(predicate):
                learned = self.give(relation, retyped(predicate, other, target_type)) or learned
        return learned


def _fill(relations: list[Relation]) -> None:
    for relation in relations:
        relation.nullable = True


def _same_values(first: SqlType, second: SqlType) -> bool:
    """Are equal values of these types the same canonical value?"""
    if first.is_integer and second.is_integer:
        return True
    return first.sql_equal and not first.parts and (first == second or first.kind == second.kind == "VARCHAR")
