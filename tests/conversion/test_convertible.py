"""The posing of the conversion is that of the body models."""

from __future__ import annotations

import compiled_bodies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs

from annyfit_jax.conversion import convertible, matching
from annyfit_jax.people.scene import BodyParameters
from body_models import anny, smplx

pytestmark = pytest.mark.unoptimised

POSE = jax.jit(lambda body, *people: body.pose(*people))


def people(body: convertible.Convertible, seed: int = 0) -> BodyParameters:
    rng = np.random.default_rng(seed)
    bones, count = len(body.facts.bones) - 1, len(body.facts.shape_labels)
    shape = rng.uniform(0.1, 0.9, (2, count)) if body.facts.name == "anny" else rng.normal(size=(2, count))
    return BodyParameters(rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), 0.2 * rng.normal(size=(2, bones, 3)), shape)


@pytest.mark.parametrize("name", ["anny", "smplx"])
def test_points_turns_and_heads_are_those_of_the_body(name, anny_body, smplx_body):
    body = {"anny": anny_body, "smplx": smplx_body}[name]
    drawn = people(body)
    arrays = [jnp.asarray(x, "float32") for x in (drawn.shape, drawn.root_rotvec, drawn.pose, drawn.transl)]
    here = POSE(body, arrays[3].T, arrays[1].T, arrays[0].T, arrays[2].transpose(2, 1, 0))
    if name == "anny":
        out = compiled_bodies.anny_forward(body.model, anny.Params(*arrays))
        rest = compiled_bodies.anny_rest(body.model, arrays[0])[1][..., :3]
    else:
        out = compiled_bodies.smplx_forward(body.model, smplx.Params(*arrays))
        rest = jnp.broadcast_to(jnp.eye(3), (2, 55, 3, 3))
    chosen = np.array(body.facts.chosen)
    assert max_abs(here.points.transpose(2, 1, 0), out.vertices[:, chosen]) < 1e-5
    assert max_abs(here.heads.transpose(2, 1, 0), out.bone_poses[..., :3, 3]) < 1e-5
    turned = out.bone_poses[..., :3, :3] @ jnp.swapaxes(rest, -1, -2)
    assert max_abs(here.turns.transpose(3, 2, 0, 1), turned) < 1e-5


def test_chosen_points_cover_the_body_and_its_small_parts(anny_body, smplx_body):
    for body in (anny_body, smplx_body):
        facts = body.facts
        assert len(facts.chosen) == 600 + len(facts.seen_points)
        assert sum(facts.fine) >= 180
        assert len(facts.paired) == 55


def test_smplx_is_seen_where_its_keypoints_are(smplx_body):
    drawn = people(smplx_body)
    drawn = BodyParameters(drawn.root_rotvec, drawn.transl + np.array([0, 0, 6.0]), drawn.pose, drawn.shape)
    K = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
    arrays = [jnp.asarray(x, "float32") for x in (drawn.transl.T, drawn.root_rotvec.T, drawn.shape.T)]
    here = POSE(smplx_body, *arrays, jnp.asarray(drawn.pose.transpose(2, 1, 0), "float32"))
    camera = jnp.repeat(jnp.asarray(np.pad(K, ((0, 0), (0, 1))), "float32")[..., None], 2, -1)
    keypoints = convertible.posed(smplx_body, drawn).keypoints
    expected = keypoints @ K.T
    pixels = matching.projected(smplx_body, here, camera).transpose(2, 1, 0)
    assert max_abs(pixels, expected[..., :2] / expected[..., 2:]) < 1e-2


def test_bones_of_the_face_are_not_free(anny_body):
    names = [anny_body.facts.bones[1:][row] for row in anny_body.facts.free]
    assert {"jaw", "eye.L", "finger3-2.R", "toe1-1.L", "spine04"} <= set(names)
    assert not {"oris01", "tongue00", "breast.L", "metacarpal1.L", "levator02.R"} & set(names)


def test_another_anny_is_refused(load_anny):
    with pytest.raises(ValueError, match="six-phenotype"):
        convertible.convertible_anny(load_anny("float64", extended=True))
