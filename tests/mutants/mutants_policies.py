"""Bugs of conflict policies: rows they make, rows they must not touch."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["POLICIES"]

SCRIPTS = "tests/scripts/test_scripts.py"
ONLY = "policies"

RESOLUTION = "khonsu_engine.resolution"
RULES = "khonsu_engine.mvcc.policies"
OWN = "khonsu_engine.own_policies"
FINDINGS = "tests/driver/test_policy_findings.py"
MODEL = "tests/driver/test_conflict_policies.py"

POLICIES = (
    Mutant(
        "policy-row-not-indexed-again",
        RESOLUTION,
        "            _derive_entries(state, command, base, changed, writes, schemas)\n",
        "",
        "the index entries of a row that a policy made are derived from it",
        (SCRIPTS,),
        ONLY,
    ),
    Mutant(
        "policy-leaves-their-index-entry",
        RESOLUTION,
        "        removed = dict(_entries(table, index, (write.before for write in rows.values())))\n",
        "        removed: dict[Key, Row] = {}\n",
        "the entry of the row it replaces goes",
        (SCRIPTS,),
        ONLY,
    ),
    Mutant(
        "policy-makes-a-duplicate",
        RESOLUTION,
        "            if entry_row is not None and before is not None and key not in removed:\n",
        "            if False:\n",
        "a unique value never stands twice, whatever the policy",
        (SCRIPTS,),
        ONLY,
    ),
    Mutant(
        "policy-row-not-checked",
        RULES,
        "        if violated is not None:\n",
        "        if False:\n",
        "a row made of both sides is checked again",
        (SCRIPTS,),
        ONLY,
    ),
    Mutant(
        "policy-acts-on-what-was-read",
        "khonsu_engine.own_policies",
        "                self._settle(table, write)\n        return columns\n",
        "                pass\n        return columns\n",
        "at SERIALIZABLE no policy decides a row that was looked at",
        (SCRIPTS,),
        ONLY,
    ),
    Mutant(
        "policy-ignore-overwrites",
        RULES,
        "    if kind is ConflictPolicy.IGNORE:\n        return None\n",
        "",
        "IGNORE leaves theirs",
        (SCRIPTS,),
        ONLY,
    ),
    Mutant(
        "policy-append-takes-all-columns",
        RULES,
        "own if assigned >> number & 1 else other for",
        "own for",
        "APPEND takes the columns I assigned and leaves the others",
        (SCRIPTS,),
        ONLY,
    ),
    Mutant(
        "policy-sum-forgets-the-base",
        RULES,
        "(mine if base is None else mine - base)",
        "mine",
        "a sum adds my change to theirs, not my value",
        (SCRIPTS,),
        ONLY,
    ),
    Mutant(
        "policy-ignores-a-deletion-that-was-seen",
        OWN,
        " or (_may_vanish(write) and None in (write.row, write.before))",
        "",
        "whoever saw that its own row is gone does not find it there again",
        (FINDINGS,),
        "deletion",
    ),
    Mutant(
        "policy-read-noted-too-late",
        OWN,
        "            if timestamp > write.base:\n",
        "            if False:\n",
        "an own row that is read in a moved snapshot is read as of its own base",
        (FINDINGS,),
        "savepoint",
    ),
    Mutant(
        "policy-base-image-not-updated",
        RULES,
        "return Write(operation, mine.key, row, theirs, timestamp, policy)",
        "return Write(operation, mine.key, row, mine.before, timestamp, policy)",
        "a row that a policy made takes the place of theirs, entries included",
        (MODEL,),
        "UNIQUE",
    ),
)
