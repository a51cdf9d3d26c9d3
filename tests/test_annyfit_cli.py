"""The command `annyfit`: installed as a wheel, in a folder that has an `experiments` of its own; wrong usage and help."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import REPO
from setuptools import find_namespace_packages


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The command as an installer lays it out: what `pyproject.toml` puts into the wheel, and a script in another folder.

    Building the wheel itself would need a network, or the very setuptools that `pyproject.toml` asks for.
    """
    folder = tmp_path_factory.mktemp("installed")
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    tool = project["tool"]["setuptools"]
    found = tool["packages"]["find"]
    for package in find_namespace_packages(str(REPO), include=found["include"], exclude=found["exclude"]):
        source = REPO / package.replace(".", "/")
        data = [path for pattern in tool["package-data"].get(package, ()) for path in source.glob(pattern)]
        for path in (*source.glob("*.py"), *data):
            if path.is_file():
                target = folder / "site" / path.relative_to(REPO)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    for module in tool["py-modules"]:
        shutil.copy(REPO / f"{module}.py", folder / "site")
    module, _, function = project["project"]["scripts"]["annyfit"].partition(":")
    (folder / "bin").mkdir()
    (folder / "bin" / "annyfit").write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    return folder


def call(installed: Path, folder: Path, *arguments: str, first: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command in `folder`; `first` comes before the place of the installation on Python's path."""
    path = os.pathsep.join(map(str, [*([first] if first else []), installed / "site"]))
    return subprocess.run(
        [sys.executable, str(installed / "bin" / "annyfit"), *arguments], cwd=folder, capture_output=True, text=True,
        check=False, env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of a user whose own work is called `experiments`, once as a package."""
    own = tmp_path / "experiments"
    own.mkdir()
    (own / "__init__.py").write_text("raise RuntimeError('this is not the project')\n")
    (own / "fit.py").write_text("raise RuntimeError('this is not the project')\n")
    return tmp_path


@pytest.mark.process
@pytest.mark.parametrize("shadowed", [False, True], ids=["", "with that folder first on the path"])
def test_it_runs_its_own_programs_from_any_folder(installed, folder, shadowed):
    path = {"first": folder if shadowed else None}
    listed = call(installed, folder, **path)
    assert listed.returncode == 0, listed.stderr
    assert "  fit  " in listed.stdout and "  inspect  " in listed.stdout
    shown = call(installed, folder, "fit", "--help", **path)
    assert shown.returncode == 0 and "--input=" in shown.stdout, shown.stderr
    demo = installed / "site" / "experiments" / "demo_data"
    scenes = (f"--input={demo / 'annotations.json'}", f"--images={demo / 'photos'}")
    made = call(installed, folder, "pack", *scenes, "--output=d", **path)
    assert made.returncode == 0, made.stderr[-2000:]
    assert made.stdout.startswith("1 of 1 shard, 6 scenes")


@pytest.mark.process
def test_shipped_configs_are_found_from_any_folder(installed, folder):
    """The config is found: what is missing is the input."""
    for config in ("annyfit_plus", "annyfit_plus.py", "experiments/configs/annyfit_plus.py"):
        done = call(installed, folder, "fit", f"--config={config}", "--input=nowhere.json", "--output=o")
        assert (done.returncode, done.stderr) == (2, "annyfit fit: nowhere.json: no such file or folder\n")


def test_what_is_installed(installed):
    """Programs, configs, launch files and the command; no benchmarks, studies, builders, recorded results."""
    site = installed / "site"
    for name in (
        "annyfit_cli.py",
        "experiments/program.py",
        "experiments/configs/aios.py",
        "experiments/launch/ray_slurm.sh",
    ):
        assert (site / name).is_file(), name
    assert not [
        name for name in ("benchmarks", "builders", "results", "studies") if (site / "experiments" / name).exists()
    ]
