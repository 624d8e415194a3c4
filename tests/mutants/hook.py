"""A pytest plugin that plants one mutant: `KHONSU_MUTANT=name python -m pytest -p tests.mutants.hook …`.

The source of its module is replaced as the module is imported, in this process only; no bytecode of it is kept. Everything that does not fit
is a UsageError (exit code 4), so that it is never taken for a test that noticed something. `KHONSU_MUTANT_REPORT` names a file that gets
one JSON object per line: that the module was loaded, and each failure with its phase and its exception.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

import pytest

from tests.mutants.mutant import Misfit, Mutant, path_of
from tests.mutants.seeded import BY_NAME

__all__ = ["plant"]


class MutantLoader(SourceFileLoader):
    """Loads a module with its bug; neither reads nor writes bytecode."""

    def __init__(self, mutant: Mutant, path: str) -> None:
        super().__init__(mutant.module, path)
        self.mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = compile(self.mutant.planted(self.get_data(path).decode()), path, "exec", dont_inherit=True)
        note(loaded=fullname)
        return code


class MutantFinder(MetaPathFinder):
    """Gives one module a `MutantLoader`."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self.mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = MutantLoader(self.mutant, spec.origin)
            spec.cached = None
        return spec


def plant(mutant: Mutant) -> MutantFinder:
    """From now on the module of `mutant` is imported with its bug. Raises Misfit when that cannot be, before anything is imported."""
    if mutant.module in sys.modules:
        raise Misfit(f"mutant {mutant.name}: {mutant.module} is imported already")
    finder = MutantFinder(mutant)
    sys.meta_path.insert(0, finder)  # first: to look for the module imports the packages around it, and perhaps the module
    try:
        compile(mutant.planted(path_of(mutant.module).read_text()), mutant.module, "exec", dont_inherit=True)
    except BaseException:
        sys.meta_path.remove(finder)
        raise
    return finder


def note(**facts: Any) -> None:
    """A line of the report, if there is one."""
    path = os.environ.get("KHONSU_MUTANT_REPORT")
    if path:
        with open(path, "a", encoding="utf-8") as report:
            report.write(json.dumps(facts) + "\n")


def pytest_addoption() -> None:
    """Pytest's first call of a plugin: nothing of the product is imported yet, not even by a conftest."""
    name = os.environ.get("KHONSU_MUTANT", "")
    if name not in BY_NAME:
        raise pytest.UsageError(f"KHONSU_MUTANT={name!r} is no mutant")
    try:
        plant(BY_NAME[name])
    except (Misfit, SyntaxError) as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        kind = "" if call.excinfo is None else call.excinfo.type.__name__
        note(test=item.nodeid, phase=report.when, kind=kind, said="" if call.excinfo is None else str(call.excinfo.value)[:500])
        if report.when != "setup":
            os._exit(1)  # a bug may have left threads behind that wait for ever: there is nothing to tear down
    return report
