"""Configurations as data: overrides, errors that say what to write, hashes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from fit_cases import released_config
from flax.core import FrozenDict
from helpers import REPO

from annyfit_jax.fit.config import FitConfig, Stage, from_json, load_config
from annyfit_jax.records.settings import apply_overrides, config_hash, table, to_json


def changed(*assignments: str) -> FitConfig:
    return apply_overrides(released_config(), assignments)


# ------------------------------------------------------------------------------------------------ the released schedule


def test_the_released_schedule():
    config = released_config()
    assert [(s.name, s.steps) for s in config.stages] == [("translation", 100), ("shape", 100), ("pose", 200)]
    assert [set(s.lr) for s in config.stages] == [
        {"transl"},
        {"transl", "root_rotvec", "shape"},
        {"transl", "root_rotvec", "shape", "pose"},
    ]
    assert config.mesh == "sampled"


@pytest.mark.parametrize("path", sorted((REPO / "experiments" / "configs").glob("annyfit*.py")), ids=lambda p: p.stem)
def test_every_shipped_config_of_fits_loads(path):
    config = load_config(path)
    assert config.stages or (config.solver, config.lm.objective) == ("lm", "map")


# ------------------------------------------------------------------------------------------------ overrides


def test_stages_by_name_and_by_index():
    by_name = changed("stages.pose.lr.pose=0.002")
    assert by_name.stages[2].lr["pose"] == 0.002
    assert by_name == changed("stages.2.lr.pose=0.002")
    assert by_name.stages[:2] == released_config().stages[:2]
    assert by_name.stages[2].lr["transl"] == 0.01


def test_one_step_size_for_every_free_group_and_no_other():
    assert dict(changed("stages.shape.lr=0.5").stages[1].lr) == dict.fromkeys(("transl", "root_rotvec", "shape"), 0.5)


def test_a_table_may_be_replaced_and_extended():
    assert dict(changed("stages.pose.lr={'pose': 0.1}").stages[2].lr) == {"pose": 0.1}
    assert changed("stages.pose.weights.depth_order=5").stages[2].weights["depth_order"] == 5.0


def test_assignments_apply_in_order_and_leave_the_original():
    config = released_config()
    before = config_hash(config)
    twice = apply_overrides(config, ["sigma_px=50", "sigma_px=70"])
    assert twice.sigma_px == 70.0
    assert isinstance(twice.sigma_px, float)
    assert config_hash(config) == before


@pytest.mark.parametrize(
    ("assignment", "field", "value"),
    [
        ("mesh=exact", "mesh", "exact"),
        ("mesh_samples=64", "mesh_samples", 64),
        ("words_set_start=false", "words_set_start", False),
        ("words_set_start=True", "words_set_start", True),
        ("person_lengths=[4, 16]", "person_lengths", (4, 16)),
        ("frozen_bones=('jaw',)", "frozen_bones", ("jaw",)),
        ("equal_depth_m=1", "equal_depth_m", 1.0),
    ],
)
def test_values_of_every_type(assignment, field, value):
    got = getattr(changed(assignment), field)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("sigma=3", r"--set=sigma=3: FitConfig has no field 'sigma'; it has .*'sigma_px'"),
        ("stages.poses.steps=3", r"no item 'poses'; there are \['translation', 'shape', 'pose'\]"),
        ("stages.7.steps=3", r"no item '7'"),
        ("stages.pose.step=3", r"Stage has no field 'step'; it has .*'steps'"),
        ("stages.pose.lr.pose.x=3", r"'x' cannot be looked up"),
        ("stages.pose.lr.poze.x=3", r"no entry 'poze'; there are .*'pose'"),
        ("stages.pose.lr.poze=3", r"stage 'pose' frees unknown groups \['poze'\]"),
        ("sigma_px", r"expected path=value"),
        ("sigma_px=wide", r"--set=sigma_px=wide: expected float, got 'wide'"),
        ("mesh_samples=2.5", r"expected int, got 2.5"),
        ("mesh_samples=true", r"expected int, got True"),
        ("map.supposed_ages=baby", r"expected a list like \['baby', 'toddler', 'child'\], got 'baby'"),
        ("person_lengths=64", r"expected a list like \[1, 2\], got 64"),
        ("words_set_start=1", r"expected bool, got 1"),
        ("mesh=3", r"expected str, got 3"),
        ("mesh=thin", r"mesh must be 'sampled' or 'exact', got 'thin'"),
        ("start=photo", r"start must be .*'keypoints'.*got 'photo'"),
        ("sigma_px=0", r"sigma_px must be positive, got 0"),
        ("lm.rounds=0", r"rounds and iterations must be at least 1, got 0 and 2"),
        ("lm.iterations=-1", r"rounds and iterations must be at least 1, got 6 and -1"),
        ("stages.pose.steps=-1", r"stage 'pose': steps must be >= 0"),
        ("stages.pose.lr.pose=0", r"step sizes > 0"),
    ],
)
def test_errors_name_the_path_and_what_there_is(assignment, message):
    with pytest.raises(ValueError, match=message):
        changed(assignment)


# ------------------------------------------------------------------------------------------------ identity


def test_equal_content_is_equal_and_hashes_alike():
    again = load_config(REPO / "experiments" / "configs" / "annyfit.py")
    assert again == released_config()
    assert hash(again) == hash(released_config())
    assert config_hash(again) == config_hash(released_config())
    assert config_hash(changed("sigma_px=100")) == config_hash(released_config())


def test_a_table_does_not_remember_its_order():
    assert config_of(table(transl=1.0, pose=2.0)) == config_of(table(pose=2.0, transl=1.0))
    assert config_hash(config_of(table(transl=1.0, pose=2.0))) == config_hash(config_of(table(pose=2.0, transl=1.0)))


def config_of(lr) -> FitConfig:
    return FitConfig(stages=(Stage("s", 1, lr, table()),))


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of everything in a config that is not itself a record."""
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, (*path, field.name))
        else:
            yield (*path, field.name)


def differing(node: Any, path: Sequence[str]) -> Any:
    """The config with one leaf changed."""
    value = getattr(node, path[0])
    if len(path) > 1:
        return dataclasses.replace(node, **{path[0]: differing(value, path[1:])})
    words = {"sampled": "exact", "auto": "never", "map": "released", "adam": "lm"}
    if list(path) == ["start"]:
        words = {"auto": "cue"}
    if isinstance(value, bool):
        other: Any = not value
    elif isinstance(value, str):
        other = words[value]
    elif isinstance(value, tuple):
        other = value[:-1] if value else ("x",)
    elif isinstance(value, FrozenDict):
        other = value.copy({next(iter(value), "added"): 0.123})
    else:
        other = value + 1
    return dataclasses.replace(node, **{path[0]: other})


def test_the_hash_changes_with_every_field():
    base = dataclasses.replace(released_config(), person_lengths=(8, 64))
    paths = list(leaves(base))
    assert ("lm", "rounds") in paths
    assert ("map", "pose_sd") in paths
    hashes = {config_hash(base)} | {config_hash(differing(base, path)) for path in paths}
    inner = ["stages.pose.steps=1", "stages.pose.lr.pose=0.5", "stages.pose.weights.dense=0.5", "stages.pose.name=p"]
    hashes |= {config_hash(apply_overrides(base, [a])) for a in inner}
    assert len(hashes) == 1 + len(paths) + len(inner)


@pytest.mark.parametrize(
    "assignments",
    [
        (),
        ("solver=lm", "map.metric_depth=false", "map.pose_sd.limb=0.2", "lm.iterations=9", "map.depth_order=always"),
        ("person_lengths=[4, 16]", "stages.pose.lr.pose=0.5", "sigma_px=3"),
    ],
)
def test_json_holds_everything(assignments):
    config = changed(*assignments)
    data = to_json(config)
    assert json.loads(json.dumps(data)) == data
    assert set(data) == {f.name for f in dataclasses.fields(FitConfig)}
    back = from_json(data)
    assert back == config
    assert hash(back) == hash(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma_px": "wide"}, r"config\.sigma_px: expected float, got 'wide'"),
        ({"sigma_py": 1.0}, r"config: expected the fields of FitConfig; these differ: \['sigma_py'\]"),
        ({"lm": {"rounds": 3}}, r"config\.lm: expected the fields of LevenbergMarquardt; .*'damping'"),
        ({"stages": [{"name": "s"}]}, r"config\.stages\.0: expected the fields of Stage"),
        ({"mesh_samples": True}, r"config\.mesh_samples: expected int, got True"),
        ({"solver": "newton"}, r"config\.solver must be 'adam' or 'lm'"),
    ],
)
def test_json_of_something_else_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        from_json({**to_json(released_config()), **change})


def test_settings_of_the_second_order_solver_are_overridden_like_all_others():
    config = changed("solver=lm", "map.interpenetration=false", "map.age_low.baby=0.5", "lm.objective=released")
    assert (config.solver, config.map.interpenetration, config.lm.objective) == ("lm", False, "released")
    assert config.map.age_low["baby"] == 0.5
    with pytest.raises(ValueError, match=r"MapObjective has no field 'metric'; it has .*'metric_depth'"):
        changed("map.metric=false")
    for assignment in ("solver=newton", "lm.objective=none", "map.depth_order=often"):
        with pytest.raises(ValueError, match="must be"):
            changed(assignment)


def test_a_config_is_a_static_argument():
    traces = []

    def scale(config, x):
        traces.append(config)
        return config.sigma_px * x

    compiled = jax.jit(scale, static_argnames=("config",))
    one = jnp.ones(())
    assert compiled(changed("sigma_px=3"), one) == 3
    assert compiled(changed("sigma_px=3"), one) == 3
    assert compiled(changed("sigma_px=4"), one) == 4
    assert len(traces) == 2


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "must define get_config"),
        ("def get_config(): return {'a': 1}", "get_config.. returned dict, expected FitConfig"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"mine\.py.*{message}"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.py.*experiments/configs"):
        load_config(tmp_path / "nowhere.py")


def test_a_config_file_of_ones_own(tmp_path: Path):
    path = tmp_path / "own.py"
    path.write_text(
        "from annyfit_jax.fit.config import FitConfig, Stage, table\n"
        "def get_config():\n"
        "    return FitConfig(stages=(Stage('all', 5, table(transl=0.1), table(keypoints=1.0)),), sigma_px=20.0)\n"
    )
    assert load_config(path) == FitConfig((Stage("all", 5, table(transl=0.1), table(keypoints=1.0)),), 20.0)


def test_an_entry_that_no_table_has_is_refused():
    with pytest.raises(
        ValueError, match=r"config\.map\.pose_sd: no entry 'spin'; there are breast, limb, pelvis, spine"
    ):
        apply_overrides(load_config(REPO / "experiments" / "configs" / "annyfit_plus.py"), ["map.pose_sd.spin=0.1"])
    with pytest.raises(ValueError, match="weights: expected finite numbers"):
        apply_overrides(
            load_config(REPO / "experiments" / "configs" / "annyfit.py"), ["stages.pose.weights.words=1e999"]
        )
