"""One direction of imports, no circles, and names that say which module is meant."""

from __future__ import annotations

import ast
import collections
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from helpers import REPO

FLOORS = ("body_models", "annyfit_jax", "experts", "experiments")
"""Each imports only from itself and from those before it."""

KNOWN_CIRCLES: list[set[str]] = []
"""Circles of files that are still there. To be emptied, never added to."""

Graph = Mapping[str, set[str]]


# ------------------------------------------------------------------------------------------------ reading the tree


def module_name(path: Path) -> str:
    """`annyfit_jax/fit/adam.py` is `annyfit_jax.fit.adam`; an `__init__.py` has the name of its folder."""
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.Module, module: str, is_package: bool, modules: Iterable[str]) -> set[str]:
    """Modules of this repository that a module imports, at its top or in a function. Imports for types only count as well.

    Importing a module runs the `__init__.py` of the packages around it; those are left out where the importing module stands in
    the same package, since they have been started by then.
    """
    modules = set(modules)
    named = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            named += [inner if (inner := f"{base}.{alias.name}") in modules else base for alias in node.names]
    return {name for name in named if name in modules and name != module}


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The modules that each module imports."""
    paths = {module_name(path): path for floor in FLOORS for path in (REPO / floor).rglob("*.py")}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}
    return {n: imported_modules(tree, n, paths[n].name == "__init__.py", paths) for n, tree in trees.items()}


def circles(graph: Graph) -> list[set[str]]:
    """Groups of two or more nodes that reach each other (Tarjan's strongly connected components), largest first."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], index[other])
        if lowest[node] == index[node]:
            group = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(group)

    for node in graph:
        if node not in index:
            visit(node)
    return sorted(groups, key=len, reverse=True)


def rooms(graph: Graph) -> Graph:
    """The packages one level below `annyfit_jax` and the packages that each imports from."""

    def room(module: str) -> str:
        return module.split(".")[1]

    inside = [module for module in graph if module.startswith("annyfit_jax.")]
    packages: dict[str, set[str]] = collections.defaultdict(set)
    for module in inside:
        packages[room(module)] |= {room(other) for other in graph[module] if other in inside} - {room(module)}
    return packages


# ------------------------------------------------------------------------------------------------ what must hold


def test_imports_go_one_way(graph):
    floor = {module: FLOORS.index(module.partition(".")[0]) for module in graph}
    upwards = [f"{m} imports {other}" for m, others in graph.items() for other in others if floor[other] > floor[m]]
    assert not upwards, "\n".join(upwards)


def test_no_circle_of_files(graph):
    found = circles(graph)
    new = [circle for circle in found if circle not in KNOWN_CIRCLES]
    assert not new, "\n".join(", ".join(sorted(circle)) for circle in new)
    gone = [circle for circle in KNOWN_CIRCLES if circle not in found]
    assert not gone, f"no circle any more, take it off KNOWN_CIRCLES: {gone}"


def test_no_circle_of_rooms(graph):
    found = circles(rooms(graph))
    assert not found, "\n".join(", ".join(sorted(circle)) for circle in found)


def test_names_of_modules_are_told_apart(graph):
    """Configs are pages of settings that bear the name of what they set; a package may bear the name of its program."""
    places = collections.defaultdict(list)
    for module in graph:
        if not (REPO / module.replace(".", "/")).is_dir() and not module.startswith("experiments.configs."):
            places[module.rpartition(".")[2]].append(module)
    shared = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert not shared


def test_tests_are_found_by_the_name_of_their_module(graph):
    """`annyfit_jax/fit/adam.py` is tested in `tests/fit/test_adam.py`. Tests of several modules have a name of their own."""
    tests = REPO / "tests"
    homes = collections.defaultdict(set)
    for module in graph:
        *rooms, name = module.removeprefix("annyfit_jax.").split(".")
        homes[name].add("/".join(rooms))
    astray = []
    for path in tests.rglob("test_*.py"):
        name, room = path.stem.removeprefix("test_"), path.parent.relative_to(tests).as_posix()
        if name in homes and room not in homes[name]:
            astray.append(f"tests/{room}/{path.name} belongs into {' or '.join(sorted(homes[name]))}")
    assert not astray, "\n".join(astray)


# ------------------------------------------------------------------------------------------------ that it can fail


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"f"}, "f": {"g"}, "g": {"e"}}
    assert circles(graph) == [{"e", "f", "g"}, {"b", "c"}]
    assert rooms({"annyfit_jax.a.x": {"annyfit_jax.b.y", "body_models"}, "annyfit_jax.b.y": {"annyfit_jax.b"}}) == {
        "a": {"b"}, "b": set(),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import p.q.r", {"p.q.r"}),
        ("import p.q.r as r", {"p.q.r"}),
        ("from p.q import r, name", {"p.q.r", "p.q"}),
        ("def f():\n    from p.q.r import name", {"p.q.r"}),
        ("from . import r", {"p.q.r"}),
        ("from .r import name", {"p.q.r"}),
        ("from .. import s", {"p.s"}),
        ("import numpy, pathlib", set()),
    ],
)
def test_every_form_of_import_is_seen(statement, expected):
    modules = {"p", "p.q", "p.q.r", "p.q.own", "p.s"}
    assert imported_modules(ast.parse(statement), "p.q.own", False, modules) == expected
