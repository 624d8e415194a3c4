"""All mutants. Whoever builds a feature adds its bugs here (a file `mutants_<room>.py` of its own for a room of its own): what would be wrong
if one line of it were, and the test that says so."""

from __future__ import annotations

from tests.mutants.mutant import Mutant
from tests.mutants.mutants_locks import LOCKS
from tests.mutants.mutants_policies import POLICIES
from tests.mutants.mutants_sessions import SESSIONS
from tests.mutants.mutants_snapshots import SNAPSHOTS
from tests.mutants.mutants_storage import STORAGE
from tests.mutants.mutants_transactions import TRANSACTIONS
from tests.mutants.mutants_validation import VALIDATION

__all__ = ["BY_NAME", "MUTANTS"]

MUTANTS: tuple[Mutant, ...] = (*VALIDATION, *TRANSACTIONS, *SNAPSHOTS, *LOCKS, *POLICIES, *STORAGE, *SESSIONS)

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
