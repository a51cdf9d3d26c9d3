"""Lists of people on several devices: the same fits, no communication, one compilation per length."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import chex
import fit_cases
import jax
import numpy as np
import pytest
from fit_cases import short_config

from annyfit_jax.fit import adam
from annyfit_jax.fit import fitter as fitting
from annyfit_jax.fit.config import PartFit
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.records.fit_files import SceneFit
from body_models import anny

DEVICES = 4
PARAMETERS = ("transl", "root_rotvec", "pose", "shape_raw", "height_m", "reprojection_px", "fitted_keypoints_3d")

pytestmark = [
    pytest.mark.skipif(len(jax.devices()) < DEVICES, reason="needs four devices"),
    pytest.mark.slow,
    pytest.mark.unoptimised,
]


def scenes(count: int) -> list:
    """Scenes of 2, 4, 4 and 6 people with starts, each under several names."""
    out = []
    for k in range(count):
        scene, start = fit_cases.trajectory(k % 4)
        scene.name, scene.start = f"scene{k}", start
        out.append(scene)
    return out


@pytest.fixture(scope="module")
def fitters() -> dict[int, Fitter]:
    config, model = short_config("person_lengths=[8, 16]"), anny.load()
    return {count: Fitter(config, model, jax.devices()[:count]) for count in (1, DEVICES)}


@pytest.fixture(scope="module")
def fits(fitters) -> dict[int, list[SceneFit]]:
    return {count: list(fitter.fit(scenes(13))) for count, fitter in fitters.items()}


def test_sharded_equals_unsharded(fits):
    """Other lists, other devices: each person's fit stays the same up to the rounding of other vector lengths."""
    for alone, together in zip(fits[1], fits[DEVICES], strict=True):
        assert alone.name == together.name
        assert (together.status == "ok").all()
        for name in PARAMETERS:
            np.testing.assert_allclose(
                getattr(together, name), getattr(alone, name), rtol=2e-4, atol=2e-5, err_msg=name
            )
        np.testing.assert_allclose(together.loss_curve, alone.loss_curve, rtol=2e-3, atol=1e-4)


def test_the_starts_move(fits):
    """The comparison above is not of two fits that did nothing."""
    for fit in fits[DEVICES]:
        assert np.abs(fit.transl - fit.start_transl).max() > 1e-3


def test_scenes_come_back_in_order(fits):
    assert [fit.name for fit in fits[DEVICES]] == [f"scene{k}" for k in range(13)]


def lowered(fitter: Fitter):
    batch = [fitter.prepare(scene) for scene in scenes(13)]
    _, problem, variables = fitter.assemble(batch)
    return fitting.fit_lists(fitter.config, fitter.devices).lower(fitter.body, problem, variables)


def test_no_communication(fitters):
    text = lowered(fitters[DEVICES]).compile().as_text() or ""
    assert "num_partitions=4" in text
    assert not re.search(r"all-reduce|all-gather|all-to-all|collective|reduce-scatter", text)


def test_variables_are_donated(fitters):
    """The memory of the start becomes that of the end."""
    assert "input_output_alias" in (lowered(fitters[1]).compile().as_text() or "")


def test_one_compilation_per_length(fitters):
    """However many batches and scenes: a program per length of list, and none for values."""
    fitter = fitters[1]
    config = dataclasses.replace(fitter.config, parts=PartFit())  # that of the bodies does not depend on their parts
    list(fitter.fit(scenes(9)))
    program: Any = fitting.fit_lists(config, fitter.devices)
    lengths = {fitter.lists(batch)[1].people for batch in fitter.batches(map(fitter.prepare, scenes(9)))}
    before = program._cache_size()
    assert before <= len(fitter.lengths)
    assert len(lengths) <= before
    list(fitter.fit(reversed(scenes(9))))
    assert program._cache_size() == before
    assert fitting.fit_lists(config, fitter.devices) is program


def test_the_solver_is_traced_once_per_length(fitters):
    fitter = fitters[1]
    solve = chex.assert_max_traces(adam.solve, n=2)
    chex.clear_trace_counter()
    traced = jax.jit(solve, static_argnums=0)
    for batch in fitter.batches(map(fitter.prepare, scenes(9))):
        _, problem, variables = fitter.assemble(batch)
        traced(fitter.config, fitter.body, *jax.tree.map(lambda x: x[0], (problem, variables)))


def test_a_single_scene_on_four_devices(fitters):
    """Three devices have nothing to do."""
    (alone,) = fitters[1].fit(scenes(1))
    (together,) = fitters[DEVICES].fit(scenes(1))
    np.testing.assert_allclose(together.transl, alone.transl, rtol=1e-5, atol=1e-5)
