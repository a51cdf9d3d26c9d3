"""The command `annyfit`: installed as a wheel, in a folder that has an `experiments` of its own; wrong usage and help."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from helpers import REPO


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """`bin/annyfit` of a fresh environment with nothing but this project in it; what it depends on is seen by a .pth file."""
    folder = tmp_path_factory.mktemp("installed")
    tree = folder / "tree"
    for name in ("annyfit_jax", "body_models", "experts", "experiments"):
        shutil.copytree(REPO / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "weights", "results"))
    for name in ("annyfit_cli.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(REPO / name, tree)
    # No isolation: setuptools is there already, and a test must not need a network.
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(tree),
    ]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = folder.glob("*.whl")
    place = folder / "env"
    venv.create(place, with_pip=False, symlinks=True)
    (site,) = place.glob("lib/python*/site-packages")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(place / "bin" / "python"),
        "install",
        "--quiet",
        "--no-deps",
        str(wheel),
    ]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (others,) = {path for path in map(Path, sys.path) if (path / "absl").is_dir()}
    (site / "dependencies.pth").write_text(f"{others}\n")
    return place / "bin" / "annyfit"


def call(command: Path, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(command), *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**kept, "JAX_PLATFORMS": "cpu", **environment},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of a user whose own work is called `experiments`, once as a package."""
    own = tmp_path / "experiments"
    own.mkdir()
    (own / "__init__.py").write_text("raise RuntimeError('this is not the project')\n")
    (own / "fit.py").write_text("raise RuntimeError('this is not the project')\n")
    return tmp_path


@pytest.mark.parametrize("first", [False, True], ids=["", "with that folder first on the path"])
def test_it_runs_its_own_programs_from_any_folder(installed, folder, first):
    path = {"PYTHONPATH": str(folder)} if first else {}
    listed = call(installed, folder, **path)
    assert listed.returncode == 0, listed.stderr
    assert "  fit  " in listed.stdout and "  inspect  " in listed.stdout
    shown = call(installed, folder, "fit", "--help", **path)
    assert shown.returncode == 0 and "--input=" in shown.stdout, shown.stderr
    made = call(installed, folder, "synthesize", "--output=d", "--scenes=2", "--people=1", "--compile_cache=", **path)
    assert made.returncode == 0, made.stderr[-2000:]
    assert made.stdout.startswith("1 of 1 shards, 2 scenes, 2 people")


def test_shipped_configs_are_found_from_any_folder(installed, folder):
    """The config is found: what is missing is the input."""
    for config in ("annyfit_plus", "annyfit_plus.py", "experiments/configs/annyfit_plus.py"):
        done = call(installed, folder, "fit", f"--config={config}", "--input=nowhere.json", "--output=o")
        assert (done.returncode, done.stderr) == (2, "annyfit fit: nowhere.json: no such file or folder\n")


def test_what_goes_into_the_wheel(installed):
    """Programs, configs, launch files and the command; no benchmarks, studies, builders, recorded results."""
    (wheel,) = installed.parents[2].glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"annyfit_cli.py", "experiments/program.py", "experiments/configs/aios.py"} <= set(names)
    assert "experiments/launch/slurm_array.sh" in names
    left_out = ("experiments/benchmarks/", "experiments/studies/", "experiments/builders/", "experiments/results/")
    assert not [name for name in names if name.startswith(left_out)]
