"""A cycle in words: which transaction did what, and why each has to come before the next.

Called by `check` for each cycle that is reported. Invariant: every sentence names what the history itself contains.
"""

from __future__ import annotations

from khonsu_sql.checker.cycles import Cycle, Step
from khonsu_sql.checker.edges import EdgeKind, Edges
from khonsu_sql.checker.intake import Ledger

__all__ = ["explain"]

STEPS_SHOWN = 20


def explain(ledger: Ledger, edges: Edges, cycle: Cycle) -> str:
    """The cycle as a chain of names, and one line for each step."""
    steps = cycle.steps[:STEPS_SHOWN]
    names = [ledger.name(step.source) for step in steps] + ["…"] * (len(steps) < len(cycle.steps))
    lines = [" < ".join([*names, names[0]])]
    lines += [f"  {ledger.name(step.source)} < {ledger.name(step.target)}: {_reason(ledger, edges, step)}" for step in steps]
    if len(steps) < len(cycle.steps):
        lines.append(f"  and {len(cycle.steps) - len(steps)} more steps")
    return "\n".join([*lines, "  so each of them would have to come before itself"])


def _reason(ledger: Ledger, edges: Edges, step: Step) -> str:
    source, target = ledger.name(step.source), ledger.name(step.target)
    if step.kind is EdgeKind.PROCESS:
        name = list(ledger.process_names)[ledger.processes[step.source]]
        return f"process {name} had finished {source} when it began {target}"
    if step.kind is EdgeKind.REALTIME:
        return f"{source} was complete at {ledger.completed[step.source]}, {target} was invoked at {ledger.invoked[step.target]}"
    item = ledger.items[edges.item[step.last]]
    old, new = edges.old[step.edge], edges.new[step.last]
    wrote = f"appended {new} to {item.name}" if item.is_list else f"deleted {item.name}" if new is None else f"set {item.name} to {new}"
    if step.kind is EdgeKind.PREDICATE_RW:
        return f"{source} scanned {old} and did not find {item.name}; {target} {wrote}"
    if step.kind is EdgeKind.RW:
        if item.is_list:
            read = f"{item.name} up to {old}" if old is not None else f"{item.name} when it was empty"
            return f"{source} read {read}, so it did not see that {target} {wrote}"
        read = f"{item.name} = {old}" if old is not None else f"{item.name} before anybody had set it"
        return f"{source} read {read}, which {target} replaced: it {wrote}"
    if step.kind is EdgeKind.WR:
        return f"{source} {wrote}, and {target} read that"
    if item.is_list:
        return f"{target} {wrote} behind {old}, which {source} had appended"
    return f"{target} {wrote} over {'the deletion' if old is None else f'{item.name} = {old}'} by {source} (commit order)"
