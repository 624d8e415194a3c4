"""The house rules a machine can check: import law, cycles, cores without I/O, packaging, sizes as a ratchet.

Everything is read from the `ast`; nothing is imported, except in the fresh process that shows what `import khonsu_sql` loads.
"""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    name: folder
    for name, folder in {
        "khonsu_sql": ROOT / "khonsu_sql",
        "khonsu_engine": ROOT / "engine" / "khonsu_engine",
        "khonsu_cluster": ROOT / "cluster" / "khonsu_cluster",
    }.items()
    if folder.is_dir()
}

FUNCTION_LINES_MAX = 45
FILE_LINES_MAX = 300

# Today's exceptions, as "module.function" or "module": they may shrink and go, never grow.
LONG_FUNCTIONS: dict[str, int] = {}
LONG_FILES: dict[str, int] = {
    "khonsu_engine.committer": 404,  # one critical section, told in one place
    "khonsu_sql.errors": 476,  # a list: one small class for each SQLSTATE that code branches on; an entry more is a line more
}


class Import(NamedTuple):
    """`importer` imports `target` (a module, as far as the text tells) in `line`; `top`: when it is itself imported."""

    importer: str
    target: str
    line: int
    top: bool


@cache
def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(), str(modules()[module]))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def import_nodes(node: ast.AST, top: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Import statements that run (not those for the type checker), and whether they run at import."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, top
        elif is_type_checking(child):
            assert isinstance(child, ast.If)
            for otherwise in child.orelse:
                yield from import_nodes(otherwise, top)
        else:
            yield from import_nodes(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def resolve(module: str, node: ast.ImportFrom, name: str) -> str:
    """The module that `from node.module import name` in `module` loads."""
    base = node.module or ""
    if node.level:
        parts = module.split(".")
        if modules()[module].name != "__init__.py":
            parts = parts[:-1]
        parts = parts[: len(parts) - node.level + 1]
        base = ".".join([*parts, *([node.module] if node.module else [])])
    return f"{base}.{name}" if f"{base}.{name}" in modules() else base


@cache
def imports() -> tuple[Import, ...]:
    found = []
    for module in modules():
        for node, top in import_nodes(tree(module)):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                targets = [resolve(module, node, alias.name) for alias in node.names]
            found += [Import(module, target, node.lineno, top) for target in targets]
    return tuple(found)


def within(module: str, *rooms: str) -> bool:
    """Is `module` one of `rooms`, or inside one?"""
    return any(module == room or module.startswith(room + ".") for room in rooms)


def violations(
    importers: tuple[str, ...], banned: tuple[str, ...], *, allowed: tuple[str, ...] = (), except_in: tuple[str, ...] = ()
) -> list[str]:
    return [
        f"{edge.importer} line {edge.line} imports {edge.target}"
        for edge in imports()
        if within(edge.importer, *importers)
        and not within(edge.importer, *except_in)
        and within(edge.target, *banned)
        and not within(edge.target, *allowed)
    ]


ALL = tuple(PACKAGES)
ENGINE_CORES = ("khonsu_engine.mvcc", "khonsu_engine.state_machine")
IMPURE = ("time", "random", "threading", "asyncio", "socket", "grpc", "os", "secrets", "uuid", "_thread", "concurrent", "multiprocessing")


def test_there_is_something_to_check() -> None:
    assert {"khonsu_engine.protocols", "khonsu_sql.session"} <= set(modules())
    assert len(imports()) > 50


def test_the_engine_imports_neither_front_nor_cluster() -> None:
    assert violations(("khonsu_engine",), ("khonsu_sql", "khonsu_cluster")) == []


def test_the_front_never_imports_the_cluster() -> None:
    assert violations(("khonsu_sql",), ("khonsu_cluster",)) == []


def test_the_shell_uses_the_public_surface_only() -> None:
    inside = tuple(name for name in modules() if within(name, "khonsu_sql", "khonsu_engine") and name != "khonsu_sql")
    assert (
        violations(
            ("khonsu_sql.cli", "khonsu_sql.sqlalchemy"),
            inside,
            allowed=("khonsu_sql.cli", "khonsu_sql.sqlalchemy", "khonsu_sql.admin", "khonsu_sql.checker"),
        )
        == []
    )
    private = [
        f"{edge} line {node.lineno} takes {alias.name}"
        for edge in modules()
        if within(edge, "khonsu_sql.cli", "khonsu_sql.sqlalchemy")
        for node, _ in import_nodes(tree(edge))
        if isinstance(node, ast.ImportFrom) and node.module == "khonsu_sql"
        for alias in node.names
        if alias.name.startswith("_") and alias.name != "__version__"
    ]
    assert private == []


def test_cores_do_no_io() -> None:
    assert violations(ENGINE_CORES, IMPURE) == []


def test_cores_import_only_pure_rooms() -> None:
    """A clock or a die must not come in through the back door either: nothing that a core imports at import time has one."""
    reached = set()
    waiting = [module for module in modules() if within(module, *ENGINE_CORES)]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += [edge.target for edge in imports() if edge.importer == module and edge.top and edge.target in modules()]
    assert violations(tuple(reached), ("time", "random", "secrets", "asyncio", "socket", "grpc")) == []


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("rocksdict", ("khonsu_engine.storage.rocks",)),
        ("duckdb", ("khonsu_sql.sql.query",)),
        ("sqlglot", ("khonsu_sql.sql",)),
        ("prompt_toolkit", ("khonsu_sql.cli",)),
        ("pygments", ("khonsu_sql.cli",)),
        ("sqlalchemy", ("khonsu_sql.sqlalchemy",)),
        ("grpc", ("khonsu_cluster.net", "khonsu_sql.remote", "khonsu_sql.wire")),
    ],
)
def test_a_library_is_imported_in_its_room_only(library: str, rooms: tuple[str, ...]) -> None:
    assert violations(ALL, (library,), except_in=rooms) == []


def strongly_connected(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan 1972, iterative enough for our depth)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for after in edges.get(node, ()):
            if after not in number:
                visit(after)
                low[node] = min(low[node], low[after])
            elif after in stack:
                low[node] = min(low[node], number[after])
        if low[node] == number[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            groups.append(sorted(group))

    for node in edges:
        if node not in number:
            visit(node)
    return [group for group in groups if len(group) > 1]


def test_no_import_cycles() -> None:
    """Imports inside functions count too: a cycle that is only late is a cycle."""
    edges: dict[str, set[str]] = {module: set() for module in modules()}
    for edge in imports():
        if edge.target in modules() and edge.target != edge.importer:
            edges[edge.importer].add(edge.target)
    assert strongly_connected(edges) == []


def test_the_cycle_finder_finds_cycles() -> None:
    assert strongly_connected({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert strongly_connected({"a": {"b"}, "b": set()}) == []


def test_a_thing_lives_where_its_noun_lives() -> None:
    banned = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "manager.py", "misc.py"}
    assert [str(path) for path in modules().values() if path.name in banned] == []


def test_every_module_says_what_it_is() -> None:
    assert [module for module in modules() if not ast.get_docstring(tree(module))] == []


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_setup_cfg_lists_every_package() -> None:
    """A forgotten one works in an editable install and is missing in the wheel."""
    in_tree = {module for module, path in modules().items() if path.name == "__init__.py"}
    assert set(setup_cfg()["options"]["packages"].split()) == in_tree


def test_every_folder_with_code_is_a_package() -> None:
    assert {path.parent for path in modules().values()} == {path.parent for path in modules().values() if path.name == "__init__.py"}


IMPORT_NAMES = {"sqlglot[c]": "sqlglot"}


def test_dependencies_are_what_is_imported() -> None:
    """Nothing is imported that is not declared, and nothing is declared that nobody imports."""
    lines = [line for line in setup_cfg()["options"]["install_requires"].splitlines() if line]
    declared = {IMPORT_NAMES.get(name, name) for name in (line.split()[0] for line in lines)}
    used = {edge.target.partition(".")[0] for edge in imports()} - set(PACKAGES) - set(sys.stdlib_module_names)
    optional = {"pandas", "polars"}  # imported by fetch_df and fetch_polars, which say so when they are missing
    optional |= {"sqlalchemy"}  # imported by its own dialect, which it loads itself
    assert used - optional - declared == set()
    assert declared - used == set()


def function_lines(module: str) -> Iterator[tuple[str, int]]:
    """(dotted name, lines without docstring) of every function, nested ones as part of their owner and on their own."""

    def walk(node: ast.AST, owner: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{owner}.{child.name}", size(child)
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from walk(child, f"{owner}.{child.name}")
            else:
                yield from walk(child, owner)

    def size(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        lines = (node.end_lineno or 0) - node.lineno + 1
        if ast.get_docstring(node) is not None:
            lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
        return lines

    return walk(tree(module), module)


def too_long(sizes: dict[str, int], ratchet: dict[str, int], limit: int) -> list[str]:
    """What is over its limit, and what the ratchet table says too generously."""
    grown = [
        f"{name}: {lines} lines, at most {ratchet.get(name, limit)}" for name, lines in sizes.items() if lines > ratchet.get(name, limit)
    ]
    slack = [
        f"{name}: the table says {allowed}, it is {sizes.get(name, 0)}: tighten the table"
        for name, allowed in ratchet.items()
        if sizes.get(name, 0) < allowed
    ]
    return grown + slack


def test_functions_stay_short() -> None:
    sizes: dict[str, int] = {}
    for module in modules():
        for name, lines in function_lines(module):
            sizes[name] = max(lines, sizes.get(name, 0))  # overloads and property setters share a name
    assert too_long(sizes, LONG_FUNCTIONS, FUNCTION_LINES_MAX) == []


def test_files_stay_short() -> None:
    sizes = {module: len(path.read_text().splitlines()) for module, path in modules().items()}
    assert too_long(sizes, LONG_FILES, FILE_LINES_MAX) == []


HEAVY = {"duckdb", "pyarrow", "sqlglot", "rocksdict", "grpc", "numpy", "pandas", "polars", "prompt_toolkit", "pygments", "sqlalchemy"}


def loaded_by(code: str) -> set[str]:
    """The heavy libraries a fresh process has loaded after running `code`."""
    path = [str(ROOT), str(ROOT / "engine"), str(ROOT / "cluster")]
    script = f"import sys; sys.path[:0] = {path!r}\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    return HEAVY & {name.partition(".")[0] for name in done.stdout.split()}


def test_import_loads_nothing_heavy() -> None:
    assert loaded_by("import khonsu_sql") == set()
    assert loaded_by("import khonsu_sql, duckdb") >= {"duckdb"}, "the check itself must see a loaded library"


def test_embedded_use_never_loads_grpc() -> None:
    code = "import khonsu_sql; c = khonsu_sql.connect(':memory:'); c.execute('SELECT sum(1)').fetchall(); c.close()"
    assert loaded_by(code) & {"grpc", "pandas", "polars", "prompt_toolkit", "rocksdict"} == set()
