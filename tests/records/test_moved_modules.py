"""Modules of version 0.1: where they are now, and what a config file that imports one is told."""

from __future__ import annotations

import re

import pytest
from helpers import REPO

from annyfit_jax.fit.config import load_config
from annyfit_jax.records.moved_modules import moved_modules, old_imports


def exists(name: str) -> bool:
    path = REPO / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_old_names_are_gone_and_new_ones_exist():
    moved = moved_modules()
    assert len(moved) > 100
    assert not [old for old in moved if exists(old)]
    assert not [new for new in moved.values() if not exists(new)]


def test_the_page_lists_every_move():
    page = (REPO / "docs" / "migration.md").read_text()
    listed = dict(re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", page, re.MULTILINE))
    assert listed.items() >= moved_modules().items()  # the page lists functions of programs as well


@pytest.mark.parametrize(
    ("line", "old"),
    [
        ("from annyfit_jax.config import FitConfig, table", "annyfit_jax.config"),
        ("from annyfit_jax import objective", "annyfit_jax.objective"),
        ("import annyfit_jax.cues.schema as s", "annyfit_jax.cues.schema"),
    ],
)
def test_a_config_with_an_old_import_names_the_new_module(line, old, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f'"""Mine."""\n\n{line}\n')
    with pytest.raises(ValueError, match=r"docs/migration\.md") as caught:
        load_config(path)
    assert f"line 3 imports {old}, which is {moved_modules()[old]} now" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_missing_modules_stay_what_they_are(tmp_path):
    (tmp_path / "mine.py").write_text("import there_is_no_such_module\n")
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        load_config(tmp_path / "mine.py")


def test_shipped_configs_import_no_old_name():
    for path in (REPO / "experiments" / "configs").glob("*.py"):
        assert not old_imports(path.read_text()), path.name
