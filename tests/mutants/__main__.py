"""`python -m tests.mutants [part of a name …]`: every mutant, or those named, one after the other. Exit code 1 unless all are killed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tests.mutants.running import KILLED, run
from tests.mutants.seeded import MUTANTS


def main(words: Sequence[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    if not chosen:
        print(f"no mutant is called {' or '.join(words)}")
        return 2
    width = max(len(mutant.name) for mutant in chosen)
    alive = 0
    for mutant in chosen:
        verdict = run(mutant)
        alive += verdict.state != KILLED
        print(f"{mutant.name:{width}}  {verdict.state:8}  {verdict.seconds:5.1f} s  {verdict.by}", flush=True)
        if verdict.state != KILLED:
            print(f"{'':{width}}  {mutant.module}: {mutant.breaks}", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} mutants killed")
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
