"""Hands, head and feet of SMPL-X on the made body: points, derivatives, motions, and what is found again from exact points."""

from __future__ import annotations

import compiled_bodies
import jax
import jax.numpy as jnp
import laid_smplx
import numpy as np
import pytest

from annyfit_jax.fit.config import FitConfig, PartFit
from annyfit_jax.fit.parts import part_cues, part_fit, part_points
from annyfit_jax.fit.problem import Variables
from annyfit_jax.people import part_motion
from annyfit_jax.people.fitted import PARTS
from annyfit_jax.smplx_fit import smplx_part_body
from annyfit_jax.smplx_fit.smplx_map_body import Laying, fit_body_of
from annyfit_jax.smplx_fit.smplx_points import smplx_points
from body_models import anny, kinematics, rotations, smplx

pytestmark = pytest.mark.unoptimised
CAMERA = np.array([[1200.0, 0.0, 320.0], [0.0, 1200.0, 320.0], [0.0, 0.0, 1.0]])
EXACT = PartFit(noise_share=1e-4, noise_floor_px=0.01, robust_sigmas=1e5, outlier_sigmas=1e5, iterations=40)
"""Points are known to a hundredth of a pixel, so that no prior has a say in what they tell."""


@pytest.fixture(scope="module")
def laying(load_anny, made_file) -> Laying:
    return laid_smplx.made_laying(load_anny(), made_file)


def last(array: np.ndarray, dtype=jnp.float32) -> jax.Array:
    return jnp.asarray(np.moveaxis(array, (0, -1), (-1, 0)), dtype)


def points_at(laying: Laying, shape, root, u, transl, face) -> np.ndarray:
    """(n, K, 3) of `part_cues.POINTS`, from the whole mesh."""
    given = (shape, root, laying.frames.own(u), transl, face)
    out = compiled_bodies.smplx_forward(
        laying.model, smplx.Params(*(jnp.asarray(x, laying.model.dtype) for x in given))
    )
    points = smplx_points(laying.laid, laying.anny_model, laying.model).select(part_cues.POINTS)
    return points.of(np.asarray(out.vertices, np.float64), np.asarray(out.bone_poses, np.float64))


def test_points_are_those_of_the_mesh_and_have_these_derivatives(made_file):
    with jax.enable_x64(True):
        laying = laid_smplx.made_laying(anny.load(dtype=jnp.float64), made_file)
        body = smplx_part_body.smplx_parts_body(laying)
        rng, n = np.random.default_rng(0), 3
        shape, root = rng.normal(size=(n, 10)), rng.normal(size=(n, 3))
        transl, face = rng.normal(size=(n, 3)) + np.array([0.0, 0.0, 4.0]), rng.normal(size=(n, 10))
        u = laying.frames.of_own(0.15 * rng.normal(size=(n, 54, 3)))
        at = points_at(laying, shape, root, u, transl, face)
        wide = lambda x: last(x, jnp.float64)  # noqa: E731
        z, frames, head = jax.jit(body.motion.posed)(body.joints, wide(shape), wide(u))
        turn = rotations.rotvec_to_matrix_axes_first(wide(root))
        place = jnp.concatenate([turn, (wide(transl) - kinematics.matvec(turn, head))[:, None]], axis=1)
        whole = jax.jit(body.motion.place)(body.whole, *map(wide, (shape, root, u, transl)), jnp.zeros((0, n)))
        for alike, places in zip(body.kinds, body.places, strict=True):
            for k, own in enumerate(places):
                part = jax.tree.map(lambda leaf, k=k: leaf[k], alike)
                outer = kinematics.compose(place, frames[:, :, own.outer])
                bones = wide(u)[:, np.array(own.rows)]
                rest = jax.jit(part_points.rest_of)(part, z, outer, bones)
                motions = np.zeros((len(part.sd), n))
                motions[list(part.layout.expression)] = face.T[: len(part.layout.expression)]
                # Bones as they are: no motion turns them here, only the face moves.
                outside = whole[:, slice(*own.points)] - jax.jit(part_fit.of_pose)(part, rest, bones)
                rest = rest._replace(outside=outside)
                placed = jax.jit(part_points.points)(part, rest._replace(still=bones), jnp.asarray(motions))
                wanted = np.moveaxis(at[:, slice(*own.points)], (0, 1, 2), (2, 1, 0))
                off = np.linalg.norm(placed - wanted, axis=0)
                # Some skin of the jaw hangs on the trunk as well, and does not know of the face.
                assert off.max() < (1e-4 if part.layout.kind == "head" else 1e-9)
                assert np.median(off) < 1e-9
                motions, step = jnp.asarray(0.2 * rng.normal(size=motions.shape)), rng.normal(size=motions.shape)
                points, slopes = jax.jit(part_points.points_and_slopes)(part, rest, motions)
                one = jax.jit(part_points.points)
                np.testing.assert_allclose(points, one(part, rest, motions), atol=1e-12)
                numeric = (one(part, rest, motions + 1e-6 * step) - one(part, rest, motions - 1e-6 * step)) / 2e-6
                np.testing.assert_allclose(jnp.einsum("idkn,dn->ikn", slopes, step), numeric, atol=1e-7)


def test_motions_are_those_of_annys_bones(laying):
    anatomy = part_motion.Anatomy(laying.anny_model)
    for part, fingers in (("left_hand", 45), ("right_hand", 45)):
        joints = smplx_part_body.joints_of(laying.model, part)
        motions = smplx_part_body.joint_motions(laying, anatomy.motions(part), joints)
        own = [m for m in motions if m.read is None]
        turned = np.zeros((len(own), len(joints), 3))
        for row, motion in enumerate(own):
            for joint, vector in motion.turns:
                turned[row, joints.index(joint)] += vector
        # The whole hand pose is free, and the palm, which SMPL-X does not bend, has no motion.
        assert len(own) == np.linalg.matrix_rank(turned.reshape(len(own), -1)) == fingers
        assert not any("cup" in m.name for m in motions)
        given = {m.name: m for m in anatomy.motions(part)}
        name = f"{part.partition('_')[0]}_index1"
        bend = next(m for m in own if m.name == "index_1 bend")
        assert bend.turns == ((name, given["index_1 bend"].turns[0][1]),) and bend.sd == given["index_1 bend"].sd
        wrist = [m for m in motions if m.name.startswith(f"{part.partition('_')[0]}_wrist")]
        assert len(wrist) == 3 and wrist[2].sd == pytest.approx(np.hypot(0.8, 0.15))
    head = smplx_part_body.joint_motions(
        laying, anatomy.motions("head"), smplx_part_body.joints_of(laying.model, "head")
    )
    names = {m.name for m in head}
    assert {"jaw open", "jaw side", "look aside", "jaw other 0"} <= names and not any("smile" in n for n in names)


class People:
    """Four people whose bodies are known, with fingers, faces and toes of their own."""

    def __init__(self, laying: Laying) -> None:
        rng, n = np.random.default_rng(3), 4
        self.shape, self.root = 0.5 * rng.normal(size=(n, 10)), np.tile([np.pi, 0.0, 0.0], (n, 1))
        self.transl, self.face = np.tile([0.0, 0.0, 3.0], (n, 1)), rng.normal(size=(n, 10))
        self.start, self.u = np.zeros((n, 54, 3)), np.zeros((n, 54, 3))
        anatomy = part_motion.Anatomy(laying.anny_model)
        for part in PARTS:
            joints = smplx_part_body.joints_of(laying.model, part)
            for motion in smplx_part_body.joint_motions(laying, anatomy.motions(part), joints):
                for joint, vector in motion.turns if motion.read is None else ():
                    row = smplx.JOINTS.index(joint) - 1
                    self.start[:, row] += motion.mean * np.array(vector)
                    size = (motion.mean + 0.7 * motion.sd * rng.normal(size=(n, 1))).clip(motion.low, motion.high)
                    self.u[:, row] += size * np.array(vector)
        self.at = points_at(laying, self.shape, self.root, self.u, self.transl, self.face)
        pixels = self.at @ CAMERA.T
        seen = np.concatenate([pixels[..., :2] / pixels[..., 2:], np.ones((*pixels.shape[:2], 1))], axis=-1)
        self.points = np.moveaxis(seen, (0, 1, 2), (2, 1, 0))


@pytest.fixture(scope="module")
def people(laying) -> People:
    return People(laying)


@pytest.fixture(scope="module")
def fit(laying, people):
    """points (3, K, 4) -> the fit of all parts from the start, as `part_fit.solve` returns it; compiled once."""
    whole, body = smplx_part_body.smplx_parts_body(laying), fit_body_of(laying, FitConfig(stages=()))
    variables = Variables(last(people.transl), last(people.root), last(people.shape), last(people.start))
    intrinsics = jnp.asarray(np.repeat(CAMERA[..., None], 4, -1), jnp.float32)
    solve = jax.jit(lambda *given: part_fit.solve(EXACT, *given))
    return lambda points: solve(
        body, whole, part_fit.PartCues(jnp.asarray(points, jnp.float32), intrinsics), variables,
        jnp.zeros((3, 17, 4)), jnp.zeros(4),
    )  # fmt: skip


@pytest.mark.slow
def test_exact_points_give_hands_face_and_feet_back(laying, people, fit):
    found = fit(people.points)
    np.testing.assert_array_equal(found.moved, np.ones((5, 4)))
    first = lambda x: np.moveaxis(np.asarray(x, np.float64), (0, -1), (-1, 0))  # noqa: E731
    u, face = first(found.pose), first(found.expression)
    at = points_at(laying, people.shape, people.root, u, people.transl, face)
    rest = points_at(laying, people.shape, people.root, people.start, people.transl, np.zeros((4, 10)))
    before = np.linalg.norm(rest - people.at, axis=-1)
    # Where a finger points away from the camera it has a mirror image that looks alike: so medians.
    for part, least, most in (
        ("left_hand", 0.01, 1e-3), ("right_hand", 0.005, 1e-3), ("head", 0.003, 1e-3)
    ):  # fmt: skip
        own = np.isin(part_cues.POINTS, part_cues.PART_POINTS[part])
        middle = (at - people.at)[:, own].mean(1, keepdims=True) if part == "head" else 0.0
        off = np.linalg.norm((at - people.at)[:, own] - middle, axis=-1)
        print(part, f"before {1e3 * before[:, own].mean():.2f} median {1e3 * np.median(off):.3f}")
        assert before[:, own].mean() > least and np.median(off) < most
    assert np.asarray(found.error_px).max() < 0.5 < np.asarray(found.start_error_px)[:3].min()


def test_what_is_not_seen_stays(people, fit):
    points = people.points.copy()
    points[2, :42, 1] = 0.0  # no hands of the second person
    points[2, 42:, 2] = 0.0  # nothing but hands of the third
    found = fit(points)
    np.testing.assert_array_equal(np.asarray(found.moved)[:, 1:3], [[0, 1], [0, 1], [1, 0], [1, 0], [1, 0]])
    pose = np.asarray(found.pose)
    start = np.asarray(last(people.start))
    fingers = np.arange(24, 54)
    np.testing.assert_array_equal(pose[:, fingers, 1], start[:, fingers, 1])
    np.testing.assert_array_equal(pose[:, 21:24, 2], start[:, 21:24, 2])
    assert (np.asarray(found.expression)[:, 2] == 0).all() and (np.asarray(found.expression)[:, 0] != 0).any()
    whole = fit(people.points)
    np.testing.assert_allclose(pose[..., 0], np.asarray(whole.pose)[..., 0], atol=1e-5)
    nobody = fit(np.zeros_like(points))
    np.testing.assert_array_equal(nobody.pose, start)
