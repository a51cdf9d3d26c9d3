"""Points of SMPL-X in the frames of Anny's bones, against the forward pass; derivatives against differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import compiled_bodies
import jax
import jax.numpy as jnp
import laid_smplx
import numpy as np
import pytest
from helpers import max_abs

from annyfit_jax.fit.problem import Variables
from annyfit_jax.fit.second_order import jacobian
from annyfit_jax.fit.second_order.columns import pack, unpack
from annyfit_jax.fit.second_order.linear_plan import NUM_RIGID, make_plan
from annyfit_jax.smplx_fit import smplx_jacobian
from annyfit_jax.smplx_fit.smplx_jacobian import framed
from annyfit_jax.smplx_fit.smplx_map_body import Laying
from body_models import linear, smplx

pytestmark = pytest.mark.unoptimised

KINDS = (17, 6)
PEOPLE = 3


@pytest.fixture(scope="module")
def laying(load_anny, tmp_path_factory) -> Iterator[Laying]:
    with jax.enable_x64(True):
        yield laid_smplx.laying(load_anny("float64"), tmp_path_factory.mktemp("body"))


@pytest.fixture(scope="module")
def variables() -> Iterator[Variables]:
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        yield Variables(
            jnp.asarray(rng.standard_normal((3, PEOPLE)) + np.array([[0.0], [0.0], [4.0]])),
            jnp.asarray(rng.standard_normal((3, PEOPLE))),
            jnp.asarray(rng.standard_normal((10, PEOPLE))),
            jnp.asarray(0.5 * rng.standard_normal((3, 54, PEOPLE))),
        )


def prepared(laying: Laying, correctives: bool) -> tuple[Any, Any]:
    """Keypoints and points of three vertices, and the plan of their Jacobian."""
    model = laying.model
    if not correctives:
        basis = np.asarray(model.vertices.basis).copy()
        basis[20:] = 0.0
        model = dataclasses.replace(model, vertices=linear.field(np.asarray(model.vertices.mean), basis, model.dtype))
    rows = np.zeros((KINDS[1], smplx.NUM_VERTICES + smplx.NUM_JOINTS))
    rows[np.arange(KINDS[1])[:, None], np.arange(0, 9000, 500).reshape(KINDS[1], 3)] = (0.5, 0.3, 0.2)
    points = framed(smplx.contract(model, np.concatenate([np.asarray(model.keypoint_regressor), rows])), laying.frames)
    return points, make_plan(points, model.labels.parents, range(21), KINDS, 10)


@pytest.fixture(scope="module")
def linearized(laying, variables):
    """Without correctives."""
    with jax.enable_x64(True):
        points, plan = prepared(laying, correctives=False)
        yield points, plan, jax.jit(smplx_jacobian.linearize)(plan, points, variables)


def test_points_are_those_of_the_forward_pass(laying, variables, x64):
    points, plan = prepared(laying, correctives=True)
    lin = jax.jit(smplx_jacobian.linearize)(plan, points, variables)
    own = laying.frames.own(np.asarray(variables.pose).transpose(2, 1, 0))
    transl, root, shape = (jnp.asarray(v).T for v in variables[:3])
    out = compiled_bodies.smplx_forward(laying.model, smplx.Params(shape, root, jnp.asarray(own), transl))
    assert max_abs(np.moveaxis(np.asarray(lin.points[0]), -1, 0).transpose(0, 2, 1), out.keypoints) < 1e-10
    placed = jax.jit(smplx_jacobian.place)(points, *(getattr(variables, n) for n in ARGUMENTS))
    assert max_abs(np.concatenate(lin.points, axis=1), placed) < 1e-12


def test_derivatives_are_those_of_differences(linearized, variables, x64):
    points, plan, lin = linearized
    layout = plan.layout
    place = jax.jit(smplx_jacobian.place)
    x = pack(layout, variables)

    def at(x):
        now = unpack(layout, x, variables)
        return np.asarray(place(points, *(getattr(now, name) for name in ARGUMENTS)))

    found = np.concatenate([np.asarray(jacobian.dense_jacobian(plan, lin, kind)) for kind in (0, 1)], axis=1)
    step = 1e-5
    wanted = np.stack([(at(x.at[d].add(step)) - at(x.at[d].add(-step))) / (2 * step) for d in range(len(x))], axis=2)
    assert max_abs(found, wanted) < 1e-8


def test_correctives_change_derivatives_by_the_pose_of_surface_points_alone(laying, linearized, variables, x64):
    """Joints have none; columns of translation, root and shape turn with the points."""
    points, plan = prepared(laying, correctives=True)
    lin = jax.jit(smplx_jacobian.linearize)(plan, points, variables)
    with_them, without = (np.asarray(jacobian.dense_jacobian(plan, each, 0)) for each in (lin, linearized[2]))
    assert max_abs(with_them[:, 5:], without[:, 5:]) < 1e-12
    first = NUM_RIGID + 10
    assert 0 < np.abs(with_them[:, :5, first:] - without[:, :5, first:]).max() < 0.1


ARGUMENTS = ("shape", "root_rotvec", "pose", "transl")
