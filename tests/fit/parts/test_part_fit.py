"""Hands, head and feet after the body: points and derivatives, recovery from exact points, what is left alone."""

from __future__ import annotations

import dataclasses

import compiled_bodies
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from annyfit_jax.fit import fit_body
from annyfit_jax.fit.config import FitConfig, PartFit
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.fit.parts import part_body, part_cues, part_fit, part_points
from annyfit_jax.fit.problem import Variables
from annyfit_jax.fit.second_order import jacobian
from annyfit_jax.inputs.point_sets import WHOLE_BODY
from annyfit_jax.people.fitted import PARTS
from annyfit_jax.people.named_points import named_points
from annyfit_jax.people.scene import SceneError
from annyfit_jax.synthetic.moving_parts import PartNoise, WholeBodies
from annyfit_jax.synthetic.plain import Generator, Recipe
from body_models import anny, kinematics, rotations

pytestmark = pytest.mark.unoptimised
CAMERA = np.array([[1200.0, 0.0, 320.0], [0.0, 1200.0, 320.0], [0.0, 0.0, 1.0]])

rest_of, of_pose, points_of, points_and_slopes, solve = (
    jax.jit(part_points.rest_of), jax.jit(part_fit.of_pose), jax.jit(part_points.points),
    jax.jit(part_points.points_and_slopes), jax.jit(part_fit.solve, static_argnums=0),
)  # fmt: skip


def test_points_and_their_derivatives() -> None:
    with jax.enable_x64(True):
        model = anny.load(dtype=jnp.float64)
        body = part_body.parts_body(model)
        rng, n = np.random.default_rng(0), 3
        shape, pose = rng.uniform(0.2, 0.8, (6, n)), 0.15 * rng.normal(size=(3, 162, n))
        root, transl = rng.normal(size=(3, n)), rng.normal(size=(3, n)) + np.array([[0], [0], [4]])
        params = (shape.T, root.T, np.moveaxis(pose, (0, 1, 2), (2, 1, 0)), transl.T)
        out = compiled_bodies.anny_forward(model, anny.Params(*(jnp.asarray(p) for p in params)))
        placed = (
            named_points(model.labels).select(part_cues.POINTS).of(np.asarray(out.vertices), np.asarray(out.bone_poses))
        )
        z = anny.coefficients(body.joints.rest, jnp.asarray(shape), None)
        frames, heads = jax.jit(lambda *given: jacobian.transforms_of(*given)[:2])(body.joints, jnp.asarray(pose), z)
        turn = rotations.rotvec_to_matrix_axes_first(jnp.asarray(root))
        place = jnp.concatenate([turn, (transl - kinematics.matvec(turn, heads[:, 0]))[:, None]], axis=1)
        for alike, places in zip(body.kinds, body.places, strict=True):
            for k, own in enumerate(places):
                part = jax.tree.map(lambda leaf, k=k: leaf[k], alike)
                outer = kinematics.compose(place, frames[:, :, own.outer])
                bones = jnp.asarray(pose)[:, np.array(own.rows)]
                rest = rest_of(part, z, outer, bones)
                wanted = np.moveaxis(placed[:, slice(*own.points)], (0, 1, 2), (2, 1, 0))
                # Some skin of the jaw hangs on the trunk as well, which counts as the part here.
                tolerance = 0.003 if part.layout.kind == "head" else 1e-9
                assert np.abs(of_pose(part, rest, bones) - wanted).max() < tolerance
                motions = jnp.asarray(0.3 * rng.normal(size=(len(part.sd), n)))
                points, slopes = points_and_slopes(part, rest, motions)
                step = rng.normal(size=motions.shape)
                at = lambda t, part=part, rest=rest, m=motions, s=step: points_of(part, rest, m + t * s)  # noqa: E731
                np.testing.assert_allclose(points, at(0.0), atol=1e-12)
                numeric = (at(1e-6) - at(-1e-6)) / 2e-6
                np.testing.assert_allclose(jnp.einsum("idkn,dn->ikn", slopes, step), numeric, atol=1e-7)


@pytest.fixture(scope="module")
def people() -> tuple[anny.AnnyModel, Variables, np.ndarray]:
    """Four people in front of the camera with fingers and faces of their own, and their points in `part_cues.POINTS`."""
    model = anny.load()
    n, rng = 4, np.random.default_rng(3)
    bodies = WholeBodies(model)
    pose = bodies.draw(rng, n)
    shape = np.tile([0.5, 0.66, 0.5, 0.5, 0.5, 0.5], (n, 1))
    root, transl = np.tile([np.pi / 2, 0.0, 0.0], (n, 1)), np.tile([0.0, 0.0, 4.0], (n, 1))
    out = compiled_bodies.anny_forward(
        model, anny.Params(*(jnp.asarray(p, jnp.float32) for p in (shape, root, pose, transl)))
    )
    points = named_points(model.labels).select(part_cues.POINTS)
    at = points.of(np.asarray(out.vertices, np.float64), np.asarray(out.bone_poses, np.float64))
    last = lambda p: jnp.asarray(np.moveaxis(p, 0, -1), jnp.float32)  # noqa: E731
    variables = Variables(last(transl), last(root), last(shape), jnp.zeros((3, 162, n)))
    return model, variables, at


def fit_hands(model: anny.AnnyModel, variables: Variables, points: np.ndarray) -> part_fit.PartsFit:
    """The fit of both hands alone: a program that compiles in seconds."""
    whole = part_body.parts_body(model)
    hands = dataclasses.replace(whole, kinds=whole.kinds[:1], places=whole.places[:1])
    body = fit_body.anny_body(model, FitConfig(stages=(), frozen_bones=("toe",)))
    cues = part_fit.PartCues(
        jnp.asarray(points, jnp.float32), jnp.asarray(np.repeat(CAMERA[..., None], points.shape[-1], -1), jnp.float32)
    )
    keypoints = jnp.ones((3, 17, points.shape[-1]))
    return solve(PartFit(), body, hands, cues, variables, keypoints, jnp.zeros(points.shape[-1]))


def seen_points(at: np.ndarray) -> np.ndarray:
    """Exact detections, people last."""
    pixels = at @ CAMERA.T
    points = np.concatenate([pixels[..., :2] / pixels[..., 2:], np.ones_like(pixels[..., :1])], axis=-1)
    return np.moveaxis(points, (0, 1, 2), (2, 1, 0))


def test_hands_are_found_and_what_is_not_seen_stays(people: tuple) -> None:
    model, variables, at = people
    points = seen_points(at)
    points[2, 21:42, 1] = 0.0  # the second person shows no right hand
    points[2, 4:21, 2] = 0.0  # the third shows too few points of the left one
    points[:2, :21, 3] = np.random.default_rng(0).uniform(0, 640, (2, 21))  # no hand looks like the fourth's left one
    found = fit_hands(model, variables, points)
    moved = np.asarray(found.moved)
    np.testing.assert_array_equal(moved, [[1, 1, 0, 0], [1, 0, 1, 1]])
    pose = np.asarray(found.pose)
    rows = {name: i - 1 for i, name in enumerate(model.labels.bones)}
    left = [i for name, i in rows.items() if name.endswith(".L")]
    right = [i for name, i in rows.items() if name.endswith(".R")]
    assert (pose[:, right, 1] == 0).all() and (pose[:, left, 2:] == 0).all()
    assert (np.abs(pose[:, left, :2]).max((0, 1)) > 0.1).all()
    first = lambda v: jnp.moveaxis(jnp.asarray(v), -1, 0)  # noqa: E731
    params = anny.Params(
        first(variables.shape),
        first(variables.root_rotvec),
        jnp.swapaxes(first(found.pose), 1, 2),
        first(variables.transl),
    )
    body = compiled_bodies.anny_forward(model, params)
    placed = (
        named_points(model.labels).select(part_cues.POINTS).of(np.asarray(body.vertices), np.asarray(body.bone_poses))
    )
    error = np.linalg.norm(placed - at, axis=-1)
    for part, fits in enumerate(moved):
        own = error[fits > 0, 21 * part : 21 * part + 21]
        assert np.median(own) < 0.006 and own.mean() < 0.012
    at_rest = np.asarray(found.start_error_px)[moved > 0]
    assert (np.asarray(found.error_px)[moved > 0] < 0.35 * at_rest).all()
    assert np.isnan(np.asarray(found.error_px)[1, 1]) and np.isnan(np.asarray(found.sd_m)[moved == 0]).all()
    assert (np.asarray(found.sd_m)[moved > 0] < 0.03).all()
    # COCO's keypoints follow only where a part has moved.
    unmoved = fit_hands(model, variables, np.zeros_like(points))
    np.testing.assert_array_equal(unmoved.keypoints, np.ones((3, 17, 4)))
    np.testing.assert_array_equal(unmoved.pose, variables.pose)


def test_a_person_alone_is_a_person_in_a_list(people: tuple) -> None:
    model, variables, at = people
    points = seen_points(at)
    together = np.asarray(fit_hands(model, variables, points).pose)
    mixed = points.copy()
    mixed[2, :, 1:] = 0.0
    np.testing.assert_allclose(np.asarray(fit_hands(model, variables, mixed).pose)[..., 0], together[..., 0], atol=1e-5)


def test_kinds_that_nobody_shows_are_not_computed(people: tuple) -> None:
    model, variables, at = people
    points = seen_points(at)
    points[2, :-6] = 0.0  # feet alone
    body = part_body.parts_body(model).with_shown(points[2])
    assert body.shown == (False, False, True)
    cues = part_fit.PartCues(
        jnp.asarray(points, jnp.float32), jnp.asarray(np.repeat(CAMERA[..., None], 4, -1), jnp.float32)
    )
    ranges = fit_body.anny_body(model, FitConfig(stages=()))
    keypoints = jnp.zeros((3, 17, 4))
    program = jax.jit(lambda *given: part_fit.solve(PartFit(iterations=1), ranges, *given))
    found = program(body, cues, variables, keypoints, jnp.zeros(4))
    assert found.moved.shape == found.error_px.shape == found.sd_m.shape == (5, 4)
    np.testing.assert_array_equal(found.moved, np.array([[0], [0], [0], [1], [1]]) * np.ones((5, 4)))
    assert np.isnan(found.error_px[:3]).all() and np.isfinite(found.error_px[3:]).all()
    assert (np.asarray(found.pose) == 0).all(0)[[model.labels.bones.index("finger2-1.L") - 1]].all()


def test_points_of_a_scene(people: tuple) -> None:
    scene = next(Generator(Recipe(seed=1, people=(2,)), people[0]).scenes(range(1)))
    assert part_cues.part_points(scene) is None
    whole = np.zeros((2, 133, 3))
    whole[0, WHOLE_BODY.index("left_index_tip")] = (10, 20, 0.9)
    scene.extra["keypoints_133"] = whole
    scene.extra |= {
        "other_points": np.array([[[5, 6, 0.5]], [[7, 8, 0.5]]]),
        "other_point_names": np.array(["right_pinky"]),
    }
    points = part_cues.part_points(scene)
    assert points is not None
    np.testing.assert_allclose(points[0, part_cues.POINTS.index("left_index_tip")], (10, 20, 0.9))
    np.testing.assert_allclose(points[1, part_cues.POINTS.index("right_little_1")], (7, 8, 0.5))
    assert (points[..., 2] > 0).sum() == 3
    scene.extra["keypoints_133"] = whole[:1]
    with pytest.raises(SceneError, match=r"keypoints_133.*\(2, 133, 3\)"):
        part_cues.part_points(scene)


@pytest.mark.slow
def test_fits_hold_the_parts_and_others_are_what_they_were() -> None:
    from helpers import REPO

    from annyfit_jax.fit.config import load_config

    config = load_config(REPO / "experiments/configs/annyfit_plus.py")
    fitter = Fitter(dataclasses.replace(config, person_lengths=(32,)))
    plain = list(Generator(Recipe(seed=5, people=(1, 2)), fitter.model).scenes(range(4)))
    bodies, rng = WholeBodies(fitter.model), np.random.default_rng(0)
    scenes = [bodies.add(scene, rng, PartNoise(share=0.01)) if k % 2 else scene for k, scene in enumerate(plain)]
    fits = list(fitter.fit(scenes))
    without = list(Fitter(dataclasses.replace(fitter.config, parts=PartFit(on=False)), fitter.model).fit(scenes))
    changed = 0
    for scene, fit, before in zip(scenes, fits, without, strict=True):
        moved = fit.parts_seen > 0
        changed += int(moved.sum())
        assert moved.any() == ("keypoints_133" in scene.extra) and np.isnan(before.parts_seen).all()
        assert (fit.parts_px[moved] < fit.start_parts_px[moved] + 0.5).all()
        for name in ("transl", "root_rotvec", "shape", "height_m"):
            np.testing.assert_array_equal(getattr(fit, name), getattr(before, name))
        hands = [fit.bone_labels.tolist().index(f"finger3-2.{side}") for side in "LR"]
        for person in range(len(fit)):
            np.testing.assert_array_equal(
                np.abs(fit.pose[person, hands] - before.pose[person, hands]).max(1) > 0, moved[person, :2]
            )
            if not moved[person].any():
                np.testing.assert_array_equal(fit.pose[person], before.pose[person])
                np.testing.assert_array_equal(fit.fitted_keypoints_3d[person], before.fitted_keypoints_3d[person])
        keypoints, _ = fitter.meshes.keypoints_and_height(fit.parameters)
        np.testing.assert_allclose(fit.fitted_keypoints_3d, keypoints, atol=2e-4)
    assert changed >= 6


def test_parts_have_their_names() -> None:
    assert tuple(part_cues.PART_POINTS) == PARTS
    assert (
        sum(len(names) for names in part_cues.PART_POINTS.values())
        == len(part_cues.POINTS)
        == len(set(part_cues.POINTS))
    )
    assert set(part_cues.POINTS) == {*WHOLE_BODY[17:], "left_pupil", "right_pupil"}
