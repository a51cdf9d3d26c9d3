"""Starts from keypoints: the search finds who stands how, whichever way the picture is turned, and programs lower elsewhere."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs, require_shared
from scipy.spatial.transform import Rotation
from second_order_cases import plus_config

from annyfit_jax.fit import packing, second_order
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.fit.landmark_start import COCO_OF_LANDMARKS
from annyfit_jax.fit.second_order import hypotheses
from annyfit_jax.fit.second_order.placement import named_shape
from annyfit_jax.fit.starts import prepare
from annyfit_jax.inputs import open_input
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import LANDMARKS_M, LANDMARKS_PX, NUM_DENSE, Scene
from annyfit_jax.records.fit_files import SceneFit
from body_models import anny

SIZE = (1000, 800)
K = np.array([[900.0, 0.0, 500.0], [0.0, 900.0, 400.0], [0.0, 0.0, 1.0]])
LENGTH = 8
YAWS_DEGREES = np.array([0.0, 40.0, 90.0, 180.0, 250.0, 315.0])


@pytest.fixture(scope="module")
def fitter() -> Fitter:
    return Fitter(plus_config(f"person_lengths=[{LENGTH}]"), anny.load(), jax.devices()[:1])


def upright(yaw_degrees: float, roll_degrees: float = 0.0) -> np.ndarray:
    """Root orientation of somebody who stands before a level camera."""
    facing = Rotation.from_rotvec([np.pi / 2, 0.0, 0.0]) * Rotation.from_euler("z", yaw_degrees, degrees=True)
    return (Rotation.from_euler("z", roll_degrees, degrees=True) * facing).as_rotvec()


@pytest.fixture(scope="module")
def standing(fitter) -> Scene:
    """People in a relaxed pose, turned by different angles, with the keypoints of their bodies."""
    model, count = fitter.model, len(YAWS_DEGREES)
    root = np.stack([upright(yaw) for yaw in YAWS_DEGREES])
    transl = np.stack([np.linspace(-1.5, 1.5, count), np.zeros(count), np.full(count, 4.0)], 1)
    pose = np.tile(np.asarray(fitter.body.pose_rest).T, (count, 1, 1))
    shape = np.tile([0.0, 0.72, 0.5, 0.5, 0.39, 0.5], (count, 1))
    points = anny.contract(model, np.asarray(model.keypoint_regressor)[:17])
    joints = np.asarray(
        jax.jit(anny.points)(points, anny.Params(*(jnp.asarray(a, jnp.float32) for a in (shape, root, pose, transl))))
    )
    keypoints = np.concatenate([project(joints.astype(np.float64), K), np.ones((count, 17, 1))], axis=2)
    keypoints[np.abs(YAWS_DEGREES - 180.0) < 80.0, :3, 2] = 0.0  # faces that are turned away are not seen
    return Scene(
        "standing", SIZE, K, keypoints, np.zeros((count, NUM_DENSE, 3)), np.full(count, np.nan), np.full(count, -1),
        np.full(count, 0.66), np.zeros(count), extra={"root": root, "transl": transl},
    )  # fmt: skip


def half_turned(scene: Scene) -> Scene:
    """The picture and its camera turned by 180 degrees."""
    keypoints = np.array(scene.keypoints)
    keypoints[..., :2] = np.array(scene.image_size) - keypoints[..., :2]
    k = np.array(scene.intrinsics)
    k[:2, 2] = np.array(scene.image_size) - k[:2, 2]
    return dataclasses.replace(scene, keypoints=keypoints, intrinsics=k)


@pytest.fixture(scope="module")
def searched(fitter, standing):
    """Starts of the scene and of the same picture turned."""
    both = [prepare(s, fitter.config, fitter.starter) for s in (standing, half_turned(standing))]
    given = [second_order.assemble([ready], fitter.config, packing.capacity(LENGTH)) for ready in both]

    @jax.jit
    def run(body, problem, variables):
        shape = named_shape(fitter.config, body, problem.cues, variables.shape)
        return hypotheses.search(fitter.config, body, problem.problem, problem.cues, shape, 4)

    body = fitter.solver_body(second_order.Kind(False, True, True))
    return [jax.tree.map(np.asarray, run(body, *jax.tree.map(jnp.asarray, one))) for one in given]


@pytest.mark.slow
def test_the_best_start_faces_the_right_way(searched, standing):
    root = Rotation.from_rotvec(searched[0].variables.root_rotvec[0, :, : len(YAWS_DEGREES)].T)
    off = np.degrees((root * Rotation.from_rotvec(standing.extra["root"]).inv()).magnitude())
    assert (off < 30.0).all(), off
    distance = searched[0].variables.transl[0, 2, : len(YAWS_DEGREES)]
    np.testing.assert_allclose(distance, 4.0, rtol=0.12)
    assert (searched[0].reading[0, : len(YAWS_DEGREES)] == 0).all()


def test_starts_are_apart(searched):
    found = searched[0]
    for n in range(len(YAWS_DEGREES)):
        turns = Rotation.from_rotvec(found.variables.root_rotvec[:, :, n])
        for i in range(4):
            for j in range(i):
                angle = np.degrees((turns[i] * turns[j].inv()).magnitude())
                assert angle > 49.0 or found.reading[i, n] != found.reading[j, n]


def test_a_turned_picture_is_seen_as_turned(searched):
    straight, turned = searched
    assert straight.roll_mode[0] == 0.0
    assert turned.roll_mode[0] == pytest.approx(np.pi)
    flip = np.array([-1.0, -1.0, 1.0])[None, :, None]
    assert max_abs(turned.variables.transl * flip, straight.variables.transl) < 1e-3


def test_readings_are_undone_by_themselves():
    for reading in hypotheses.READINGS:
        np.testing.assert_array_equal(reading[reading], np.arange(17))
    assert len(np.unique(hypotheses.READINGS, axis=0)) == 4


def test_rotation_vectors_of_matrices():
    turns = Rotation.random(64, rng=np.random.default_rng(0))
    close = Rotation.from_rotvec(np.pi * np.eye(3) * (1 - 1e-7))
    for rotation in (turns, close, Rotation.identity(1)):
        found = np.asarray(hypotheses._rotvec(jnp.asarray(np.moveaxis(rotation.as_matrix(), 0, -1), jnp.float32))).T
        assert (Rotation.from_rotvec(found) * rotation.inv()).magnitude().max() < 2e-3


# ------------------------------------------------------------------------------------------------ the lifter


@pytest.fixture(scope="module")
def lifting() -> Fitter:
    changes = ("map.lifted=2", "map.starts=0", "map.lifted_ages=true")
    return Fitter(plus_config(f"person_lengths=[{LENGTH}]", *changes), anny.load(), jax.devices()[:1])


@pytest.fixture(scope="module")
def lifted(lifting, standing):
    """What the lifter says of the scene: starts, ages, and its cost of three bodies: its own, turned about, larger."""
    ready = lifting.prepare(standing)
    given, variables = second_order.assemble([ready], lifting.config, packing.capacity(LENGTH))

    @jax.jit
    def run(body, given, variables):
        readings = hypotheses.read_keypoints(lifting.config, body, given.problem, given.cues)
        shape = named_shape(lifting.config, body, given.cues, variables.shape)
        later = hypotheses.lifted(lifting.config, body, given.problem, given.cues, readings, shape)
        one = jnp.moveaxis(later.said[0].keypoints[:, 0], 0, -1).swapaxes(0, 1)  # (3, 17, N)
        about = one * jnp.asarray([-1.0, 1.0, -1.0])[:, None, None]
        tall = jnp.full(shape.shape[-1:], 1.7)
        cost = hypotheses.lifter_cost(
            later, tall, jnp.stack([one, about, 2.0 * one]), jnp.stack([tall, tall, 2.0 * tall]),
            jnp.zeros((3, shape.shape[-1]), jnp.int32),
        )  # fmt: skip
        unknown = given.cues._replace(age_known=jnp.zeros_like(jnp.asarray(given.cues.age_known)))
        ages = [
            hypotheses.with_read_ages(lifting.config, cues, readings[0]).age_start for cues in (given.cues, unknown)
        ]
        alone = hypotheses.of_lifter(lifting.config, given.problem, given.cues, later, 0)
        return later, cost, ages, hypotheses.together(alone, later)

    body = lifting.solver_body(second_order.Kind(False, True, True))
    return given, jax.tree.map(np.asarray, run(body, *jax.tree.map(jnp.asarray, (given, variables))))


def test_starts_of_the_lifter_alone(lifted):
    given, (later, _, _, starts) = lifted
    assert given.starts == 2
    for a, b in zip(starts.variables, later.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (starts.reading[0, : len(YAWS_DEGREES)] == 0).all()
    assert (np.diff(later.cost[:2], axis=0)[:, : len(YAWS_DEGREES)] >= 0).all()  # the best one first
    assert starts.roll_mode[0] == 0.0
    assert np.isfinite(starts.variables.pose).all()


@pytest.mark.slow
def test_the_lifter_sees_a_turned_picture_upright(lifting, standing):
    body = lifting.solver_body(second_order.Kind(False, True, True))

    @jax.jit
    def run(body, given, variables, mode):
        readings = hypotheses.read_keypoints(lifting.config, body, given.problem, given.cues, mode)
        shape = named_shape(lifting.config, body, given.cues, variables.shape)
        return hypotheses.lifted(lifting.config, body, given.problem, given.cues, readings, shape).variables

    starts = []
    for scene, turn in ((standing, 0.0), (half_turned(standing), np.pi), (half_turned(standing), 0.0)):
        given, variables = second_order.assemble([lifting.prepare(scene)], lifting.config, packing.capacity(LENGTH))
        mode = jnp.full((given.problem.num_scenes,), turn)
        starts.append(run(body, *jax.tree.map(jnp.asarray, (given, variables)), mode))
    flip, people = Rotation.from_rotvec([0.0, 0.0, np.pi]), slice(0, len(YAWS_DEGREES))
    straight, turned, mistaken = (
        Rotation.from_rotvec(np.asarray(start.root_rotvec)[0, :, people].T) for start in starts
    )
    assert np.degrees(((flip * turned).inv() * straight).magnitude()).max() < 0.1
    assert max_abs(starts[0].pose[..., people], starts[1].pose[..., people]) < 1e-3
    assert np.degrees(((flip * mistaken).inv() * straight).magnitude()).max() > 1.0  # the turn is what does it


@pytest.mark.slow
def test_one_of_the_likeliest_hypotheses_faces_the_right_way(lifted, standing):
    _, (later, _, _, _) = lifted
    true = Rotation.from_rotvec(standing.extra["root"])
    off = [
        np.degrees((Rotation.from_rotvec(root[:, : len(true)].T) * true.inv()).magnitude())
        for root in later.variables.root_rotvec
    ]
    assert np.min(off[:2], axis=0).max() < 40.0, off


def test_the_lifter_does_not_like_what_it_did_not_say(lifted):
    _, (_, cost, _, _) = lifted
    people = slice(0, len(YAWS_DEGREES))
    assert (cost[0, people] < cost[1, people] - 2.0).all()
    np.testing.assert_allclose(cost[2, people], cost[0, people], atol=1e-2)  # sizes do not count


def test_the_lifter_tells_ages_only_where_no_word_does(lifted):
    given, (_, _, (told, read), _) = lifted
    np.testing.assert_array_equal(told, given.cues.age_start)
    assert (read[: len(YAWS_DEGREES)] > 0.3).all()  # nobody there is a baby


@pytest.mark.slow
def test_people_are_fitted_from_the_lifter_alone(lifting, standing):
    (fit,) = lifting.fit([standing])
    assert (fit.status == "ok").all()
    off = Rotation.from_rotvec(fit.root_rotvec) * Rotation.from_rotvec(standing.extra["root"]).inv()
    assert np.degrees(off.magnitude()).max() < 25.0
    assert fit.reprojection_px.max() < 5.0


def test_no_start_at_all_is_refused():
    config = plus_config("map.starts=0", "map.lifted=0")
    with pytest.raises(ValueError, match="no start"):
        Fitter(config, anny.load()).solver_body(second_order.Kind(False, True, True))
    with pytest.raises(ValueError, match="must not be negative"):
        plus_config("map.lifted=-1")


# ------------------------------------------------------------------------------------------------ landmarks


@pytest.fixture(scope="module")
def marked(fitter, standing) -> Scene:
    """The scene with landmarks of the first two people alone."""
    root, pose = standing.extra["root"], np.array(np.tile(np.asarray(fitter.body.pose_rest).T, (len(standing), 1, 1)))
    points = anny.contract(fitter.model, np.asarray(fitter.model.keypoint_regressor)[:17])
    shape = np.tile([0.0, 0.72, 0.5, 0.5, 0.39, 0.5], (len(standing), 1))
    params = (jnp.asarray(a, jnp.float32) for a in (shape, root, pose, standing.extra["transl"]))
    joints = np.asarray(jax.jit(anny.points)(points, anny.Params(*params)), np.float64)
    pixels, metres = (np.zeros((len(standing), 33, 3)) for _ in range(2))
    every = list(COCO_OF_LANDMARKS)
    pixels[:, every] = standing.keypoints
    metres[:, every] = joints - joints[:, [11, 12]].mean(1, keepdims=True)
    metres[:, 31:33] = metres[:, 27:29] + [0.0, 0.1, 0.0]
    metres[2:] = 0.0
    return dataclasses.replace(standing, extra=standing.extra | {LANDMARKS_PX: pixels, LANDMARKS_M: metres})


@pytest.fixture(scope="module")
def with_landmarks() -> Fitter:
    return Fitter(plus_config(f"person_lengths=[{LENGTH}]", "map.landmark_start=true"), anny.load(), jax.devices()[:1])


def test_landmarks_are_one_start_more_and_only_for_scenes_that_have_them(fitter, with_landmarks, standing, marked):
    capacity = packing.capacity(LENGTH)

    def assembled(own: Fitter, scene: Scene):
        ready = own.prepare(scene)
        return second_order.kind_of(ready, own.config), second_order.assemble([ready], own.config, capacity)[0]

    kind, problem = assembled(with_landmarks, marked)
    assert kind == second_order.Kind(False, True, True, True)
    assert problem.starts == with_landmarks.config.map.starts + with_landmarks.config.map.lifted + 1
    assert problem.landmarks is not None
    assert problem.landmarks.known.tolist() == [1, 1] + [0] * (LENGTH - 2)
    assert (problem.landmarks.pose[..., 2:] == 0).all()
    usual = assembled(fitter, standing)
    for other in (assembled(with_landmarks, standing), assembled(fitter, marked)):  # the same program, the same numbers
        assert other[0] == usual[0]
        assert jax.tree.structure(other[1]) == jax.tree.structure(usual[1])
        jax.tree.map(np.testing.assert_array_equal, other[1], usual[1])


def test_a_start_from_landmarks_takes_the_last_place(searched):
    found = searched[0]
    known = np.array([1.0, 0.0] * (LENGTH // 2))
    root, pose = np.full((3, LENGTH), 0.5), np.full((3, found.variables.pose.shape[2], LENGTH), 0.25)
    merged = hypotheses.with_landmarks(jax.tree.map(jnp.asarray, found), known, root, pose)
    for before, after in zip(jax.tree.leaves(found.variables), jax.tree.leaves(merged.variables), strict=True):
        np.testing.assert_array_equal(before[:-1], after[:-1])
        np.testing.assert_array_equal(before[-1, ..., 1::2], after[-1, ..., 1::2])
    assert (merged.variables.root_rotvec[-1, :, ::2] == 0.5).all()
    assert (merged.variables.pose[-1, ..., ::2] == 0.25).all()
    np.testing.assert_array_equal(merged.variables.transl[-1, :, ::2], found.variables.transl[0, :, ::2])
    assert (merged.reading[-1, ::2] == 0).all()


@pytest.mark.slow
def test_people_with_landmarks_are_fitted(with_landmarks, marked):
    (fit,) = with_landmarks.fit([marked])
    assert (fit.status == "ok").all()
    off = Rotation.from_rotvec(fit.root_rotvec) * Rotation.from_rotvec(marked.extra["root"]).inv()
    assert np.degrees(off.magnitude())[:2].max() < 25.0
    assert fit.reprojection_px.max() < 5.0


# ------------------------------------------------------------------------------------------------ other platforms


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("kind", [second_order.Kind(False, True, True), second_order.Kind(True, False, True)])
def test_every_fit_program_lowers(fitter, standing, kind, platform):
    """Without calls of a library that belongs to one platform alone."""
    ready = prepare(standing, fitter.config, fitter.starter)
    if not kind.search:
        ready = dataclasses.replace(ready, origin="cue")
    problem, variables = second_order.assemble([ready], fitter.config, packing.capacity(LENGTH))
    solve = jax.jit(functools.partial(second_order.solve, fitter.config))
    exported = jax.export.export(solve, platforms=[platform])(fitter.solver_body(kind), problem, variables)
    assert "lapack" not in exported.mlir_module()


# ------------------------------------------------------------------------------------------------ a real person


@pytest.fixture(scope="module")
def real(fitter) -> dict[str, SceneFit]:
    """Some views of a real man, each cropped, halved, turned, mirrored, and alone."""
    source = open_input(
        str(require_shared("data/pose2sim/pose2sim.json")), images=str(require_shared("data/pose2sim/photos"))
    )
    chosen = [source.load(i) for i in range(0, len(source), 8)]
    scenes = {
        f"{way} {s.name}": dataclasses.replace(change(s), name=f"{way} {s.name}")
        for way, change in WAYS.items()
        for s in chosen
    }
    return dict(zip(scenes, fitter.fit(scenes.values()), strict=True))


def cropped(scene: Scene) -> Scene:
    shift = np.array([37.0, 21.0])
    keypoints, k = np.array(scene.keypoints), np.array(scene.intrinsics)
    keypoints[..., :2] -= shift
    k[:2, 2] -= shift
    return dataclasses.replace(scene, keypoints=keypoints, intrinsics=k)


def halved(scene: Scene) -> Scene:
    keypoints, k = np.array(scene.keypoints), np.array(scene.intrinsics)
    keypoints[..., :2] *= 0.5
    k[:2] *= 0.5
    size = (scene.image_size[0] // 2, scene.image_size[1] // 2)
    return dataclasses.replace(scene, keypoints=keypoints, intrinsics=k, image_size=size)


def mirrored(scene: Scene) -> Scene:
    keypoints, k = np.array(scene.keypoints[:, hypotheses.READINGS[1]]), np.array(scene.intrinsics)
    keypoints[..., 0] = scene.image_size[0] - keypoints[..., 0]
    k[0, 2] = scene.image_size[0] - k[0, 2]
    return dataclasses.replace(scene, keypoints=keypoints, intrinsics=k)


WAYS = {"as it is": lambda s: s, "cropped": cropped, "halved": halved, "turned": half_turned, "mirrored": mirrored}


_NOT_YET = pytest.mark.xfail(
    reason="median 5 mm (90 % 9): Anny's own neck02 and neck03 are not symmetric at rest, so that mirrored poses of it differ",
    strict=True,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    ["cropped", "halved", "turned", pytest.param("mirrored", marks=_NOT_YET)],
)
def test_the_same_people_however_the_picture_is_cut(real, way):
    moved = []
    for name, fit in real.items():
        if not name.startswith(way):
            continue
        before = real["as it is" + name.removeprefix(way)].fitted_keypoints_3d
        after = np.array(fit.fitted_keypoints_3d)
        if way == "turned":
            after *= [-1.0, -1.0, 1.0]
        if way == "mirrored":
            after = after[:, hypotheses.READINGS[1]] * [-1.0, 1.0, 1.0]
        moved.append(np.linalg.norm(after - before, axis=-1).ravel())
    moved = 1000 * np.concatenate(moved)
    assert len(moved) >= 8 * 17
    assert np.median(moved) < 1.0 and np.percentile(moved, 90) < 10.0, (way, np.percentile(moved, [50, 90, 100]))
