"""What a mutant is: one seeded bug, as a replacement in the source of one module.

`mutants_*.py` beside this declare them, room by room; `seeded` has them all; `hook` plants one as its module is imported; `running` runs the
tests that must notice it. The product knows nothing of all this.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

__all__ = ["Misfit", "Mutant", "path_of"]


class Misfit(Exception):
    """The text to replace is not there exactly once, or the module is imported already."""


class Mutant(NamedTuple):
    """`text`, which stands exactly once in `module`, becomes `replacement`. `breaks`: what is promised and does not hold any more.

    `tests`: what must notice it, cheapest first, as pytest's arguments; `only`: an expression for its `-k`. `hangs`: somebody waits for
    ever then, so that a test which runs out of time has noticed it, too."""

    name: str
    module: str
    text: str
    replacement: str
    breaks: str
    tests: tuple[str, ...]
    only: str = ""
    hangs: bool = False

    def planted(self, source: str) -> str:
        """The source with the bug. Raises Misfit."""
        count = source.count(self.text)
        if count != 1:
            raise Misfit(f"mutant {self.name}: its text stands {count} times in {self.module}, not once")
        return source.replace(self.text, self.replacement)


def path_of(module: str) -> Path:
    """The file of a module. Imports the packages around it, not the module itself."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise Misfit(f"there is no module {module}")
    return Path(spec.origin)
