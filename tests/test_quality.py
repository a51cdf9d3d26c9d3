"""What holds of the source tree as a whole: what may stand in a file, packaging, documents. Style and types: `make lint`."""

from __future__ import annotations

import ast
import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from helpers import HANG_S, REPO

LARGEST_FILE_BYTES = 3_000_000
LARGEST_NETWORK_BYTES = 12_000_000
NETWORKS = (REPO / "experts" / "networks" / "weights", REPO / "annyfit_jax" / "data" / "lifter.npz")
PACKAGES = ("annyfit_jax", "body_models", "experts", "experiments")
NOT_INSTALLED = (REPO / "experiments" / "results",)  # recorded measurements: for readers of the repository

FORBIDDEN = {
    "a path of somebody's machine": re.compile(r"(?<![\w.:/-])/(?:home|Users|root|mnt|scratch|work|farm|tmp)/\w"),
    "a package index": re.compile(
        r"(?:extra-)?inde[x]-url|find-link[s]|https?://[^\s/\"')]*(?:pypi|artifactory|nexus|devpi)"
    ),
    "a mark of an unfinished merge": re.compile(r"^(?:<{7}|>{7}) \S"),
    "an unfinished mark": re.compile(r"\b(?:TOD[O]|FIXM[E]|XX[X]|NotImplemented[E]rror)\b"),
    "a word about how the text came to be": re.compile(r"\b(?:A[I]|[Cc]hatbot|[Cc]opilot|[Cc]o-[Aa]uthored-[Bb]y)\b"),
}


def run(*command: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, cwd=REPO, **options)


@pytest.fixture(scope="module")
def project_files() -> list[Path]:
    """Files that git tracks or would track."""
    try:
        listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := REPO / name).is_file()]


# ------------------------------------------------------------------------------------------------ contents of files


@pytest.mark.process
@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what, project_files):
    found = []
    for path in project_files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # data
        for number, line in enumerate(text.splitlines(), 1):
            if FORBIDDEN[what].search(line):
                found.append(f"{path.relative_to(REPO)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a path of somebody's machine", "see /ho" + "me/me/data"),
        ("a package index", "pip install --index" + "-url x"),
        ("a mark of an unfinished merge", "<<<<<<" + "< HEAD"),
        ("an unfinished mark", "# TO" + "DO later"),
        ("a word about how the text came to be", "written by an A" + "I"),
    ],
)
def test_forbidden_patterns_find_what_they_are_for(what, line):
    assert FORBIDDEN[what].search(line)


@pytest.mark.process
def test_files_are_small(project_files):
    """The bundled networks may be larger than the rest."""

    def limit(path: Path) -> int:
        return LARGEST_NETWORK_BYTES if any(path.is_relative_to(place) for place in NETWORKS) else LARGEST_FILE_BYTES

    large = {str(p.relative_to(REPO)): p.stat().st_size for p in project_files if p.stat().st_size > limit(p)}
    assert not large


# ------------------------------------------------------------------------------------------------ packaging


@pytest.mark.process
def test_a_package_of_the_same_name_is_named_in_the_error(tmp_path):
    """The PyPI distribution `body-models` also installs `body_models`."""
    other = tmp_path / "body_models"
    other.mkdir()
    (other / "__init__.py").write_text('"""Somebody else\'s package."""\n')
    path = os.pathsep.join([str(tmp_path), str(REPO)])
    done = subprocess.run(
        [sys.executable, "-c", "import annyfit_jax"],
        capture_output=True, text=True, timeout=HANG_S, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError")
    assert "body-models" in message
    assert str(other / "__init__.py") in message


@pytest.mark.process
def test_data_files_go_into_the_wheel(project_files):
    """Everything in a package that is not a module of it is named in `package-data`."""
    table = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    data = [p for package in PACKAGES for p in project_files if p.is_relative_to(REPO / package) and p.suffix != ".py"]
    assert data
    for path in data:
        if any(path.is_relative_to(folder) for folder in NOT_INSTALLED):
            continue
        package, _, name = path.relative_to(REPO).as_posix().partition("/")
        assert any(fnmatch.fnmatch(name, pattern) for pattern in table.get(package, [])), f"{package}/{name}"


def test_licence_files_are_there_and_named():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (REPO / "LICENSE").read_text()
    notice = (REPO / "NOTICE").read_text()
    for pattern in project["license-files"]:
        assert list(REPO.glob(pattern)), pattern
    for path in (REPO / "body_models" / "assets").iterdir():
        assert path.name in notice, path.name


def test_continuous_integration_runs_the_demo_lint_and_all_tests():
    script = REPO / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = re.findall(r"^make (\S+)", script.read_text(), flags=re.MULTILINE)
    assert commands == ["demo", "lint", "test-all"]


# ------------------------------------------------------------------------------------------------ documents


@pytest.mark.parametrize("document", ["README.md", "WORKSPACE.md", "experiments/demo_data/CREDITS.md"])
def test_links_lead_somewhere(document):
    path = REPO / document
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    local = [t.partition("#")[0] for t in targets if not re.match(r"https?:|#", t)]
    missing = [t for t in local if not (path.parent / t).exists()]
    assert not missing
    assert targets


# ------------------------------------------------------------------------------------------------ docstrings

DOCUMENTED = ("annyfit_jax", "body_models", "experts")
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def undocumented(sources: Mapping[str, str]) -> list[str]:
    """`<module>`, or `<module>: <name>`, of what lacks a docstring in the modules given as text.

    Needed: by modules, and by functions, classes and methods whose names begin with no underscore. Not needed: by overloads and
    setters, whose docstring is elsewhere, and by methods that a base class in the same modules documents.
    """
    trees = {name: ast.parse(text) for name, text in sources.items()}
    classes: dict[str, list[ast.ClassDef]] = {}
    for node in (node for tree in trees.values() for node in tree.body):
        if isinstance(node, ast.ClassDef):
            classes.setdefault(node.name, []).append(node)

    def inherited(node: ast.ClassDef, method: str, seen: frozenset[str] = frozenset()) -> bool:
        names = {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases} - seen
        bases = [base for name in names for base in classes.get(name, [])]
        own = (m for base in bases for m in base.body if isinstance(m, Definition) and m.name == method)
        return any(ast.get_docstring(m) for m in own) or any(inherited(base, method, seen | names) for base in bases)

    found = []
    for name, tree in trees.items():
        if not ast.get_docstring(tree):
            found.append(name)
        for node in public(tree):
            if not ast.get_docstring(node):
                found.append(f"{name}: {node.name}")
            if isinstance(node, ast.ClassDef):
                methods = [m for m in public(node) if not ast.get_docstring(m) and not inherited(node, m.name)]
                found += [f"{name}: {node.name}.{m.name}" for m in methods]
    return found


def public(node: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Definitions directly in a module or class, without private ones, overloads and setters."""
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in child.decorator_list}
            if not decorators & {"overload", "setter"}:
                yield child


def test_public_names_have_docstrings():
    paths = [path for package in DOCUMENTED for path in sorted((REPO / package).rglob("*.py"))]
    assert len(paths) > 100
    missing = undocumented({path.relative_to(REPO).as_posix(): path.read_text() for path in paths})
    assert not missing, "\n".join(missing)


def test_missing_docstrings_are_found():
    module = """
class Base:
    'Said.'
    def told(self):
        'Said.'
    def untold(self): ...
    def _own(self): ...
    @property
    def size(self): ...
    @size.setter
    def size(self, value): ...

class _Hidden(Base):
    def quiet(self): ...

class Heir(package._Hidden):
    'Said.'
    def told(self): ...
    def untold(self): ...
    def quiet(self): ...

@typing.overload
def function(): ...
def function(): ...
async def later(): ...
"""
    assert undocumented({"m": module, "n": "'Said.'\nclass Other(Heir): ..."}) == [
        "m", "m: Base.untold", "m: Base.size", "m: Heir.untold", "m: Heir.quiet", "m: function", "m: later", "n: Other",
    ]  # fmt: skip
