"""Derivatives of the Anny body where formulas are most fragile: at anchors, at zero pose, at singular bone directions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anny_cases import GRADIENT, golden_params
from helpers import anny_golden, max_abs, max_relative
from scipy.spatial.transform import Rotation

from body_models import anny

pytestmark = pytest.mark.unoptimised
ANCHOR_CASES = [(name, i) for name in anny.ANCHORS for i in range(len(anny.ANCHORS[name]))]
SEGMENTED = [case for case in ANCHOR_CASES if case[0] in anny.PHENOTYPE_LABELS]


def params_at(phenotypes: np.ndarray, dtype, local_changes: int = 0, angle: float = 0.2, seed: int = 0) -> anny.Params:
    rng = np.random.default_rng(seed)
    people = len(phenotypes)
    return anny.Params(
        jnp.asarray(phenotypes, dtype),
        jnp.asarray(rng.normal(0, angle, (people, 3)), dtype),
        jnp.asarray(rng.normal(0, angle, (people, 162, 3)), dtype),
        jnp.asarray(rng.normal((0, 0, 3), 0.1, (people, 3)), dtype),
        jnp.zeros((people, local_changes), dtype) if local_changes else None,
    )


@jax.jit
def mesh_gradient(model, params):
    """Gradient of the mean squared distance of all vertices and bone poses to a fixed place."""

    def loss(p):
        out = anny.forward(model, p)
        return jnp.mean((out.vertices - 0.3) ** 2) + jnp.mean((out.bone_poses[..., :3, :] - 0.1) ** 2)

    return jax.grad(loss)(params)


def assert_finite_and_alive(gradient: anny.Params) -> None:
    for name, leaf in zip(anny.Params._fields, gradient):
        if leaf is not None:
            assert np.isfinite(leaf).all(), f"{name} has a non-finite gradient"
            assert np.abs(leaf).max() > 0, f"{name} has no gradient"


# ------------------------------------------------------------------------------------------------ goldens


@jax.jit
def gradients(model, params, target_keypoints, target_point):
    """(2,) losses of keypoints and of vertices, and their gradients with a leading axis of two."""

    def losses(p):
        out = anny.forward(model, p)
        of_vertices = ((out.vertices - target_point[:, None]) ** 2).sum(-1).mean(-1)
        return jnp.stack([jnp.sum((out.keypoints - target_keypoints) ** 2), jnp.sum(of_vertices)])

    values, pull = jax.vjp(losses, params)
    return values, jax.vmap(pull)(jnp.eye(2))[0]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return anny_golden()


@pytest.mark.parametrize("block", ["a", "b"])
@pytest.mark.parametrize("scalar", ["keypoints", "vertices"])
def test_golden_gradients(golden, load_anny, x64, block, scalar):
    model = load_anny("float64", extended=block == "b")
    params = golden_params(golden, block, jnp.float64)
    targets = (jnp.asarray(golden[f"{block}_target_{kind}"]) for kind in ("keypoints", "point"))
    losses, both = gradients(model, params, *targets)
    of = ("keypoints", "vertices").index(scalar)
    loss, gradient = losses[of], jax.tree.map(lambda x: x[of], both)
    np.testing.assert_allclose(loss, golden[f"{block}_loss_{scalar}"].sum(), rtol=1e-12)
    name = f"{block}_grad_{scalar}_"
    assert max_relative(gradient.root_rotvec, golden[name + "rotvec"][:, 0]) <= GRADIENT
    assert max_relative(gradient.pose_rotvec, golden[name + "rotvec"][:, 1:]) <= GRADIENT
    assert max_relative(gradient.translation, golden[name + "translation"]) <= GRADIENT
    official = golden[name + "phenotypes"]
    # The release divides 0 by 0 where all three races are 0; we define that gradient as 0.
    undefined = np.isnan(official)
    assert undefined.sum() == (3 if block == "b" else 0)
    np.testing.assert_array_equal(np.asarray(gradient.phenotypes)[undefined], 0.0)
    assert max_relative(gradient.phenotypes, np.where(undefined, 0.0, official)) <= GRADIENT
    if block == "b":
        assert max_relative(gradient.local_changes, golden[name + "local"]) <= GRADIENT


# ------------------------------------------------------------------------------------------------ finite everywhere


def test_gradient_is_finite_at_zero_pose(load_anny, dtype):
    params = params_at(np.full((2, 6), 0.5), dtype)._replace(
        root_rotvec=jnp.zeros((2, 3), dtype), pose_rotvec=jnp.zeros((2, 162, 3), dtype)
    )
    assert_finite_and_alive(mesh_gradient(load_anny(dtype), params))


def test_gradient_at_zero_pose_is_the_limit_of_small_poses(load_anny, x64):
    """A derivative that is finite but wrong at zero (say 0) would keep an unposed body from ever bending."""
    model, params = load_anny("float64"), params_at(np.full((2, 6), 0.4), jnp.float64)
    at_zero = mesh_gradient(model, params._replace(pose_rotvec=jnp.zeros((2, 162, 3))))
    near = mesh_gradient(model, params._replace(pose_rotvec=jnp.full((2, 162, 3), 1e-5, jnp.float64)))
    scale = np.abs(near.pose_rotvec).max()
    assert max_abs(at_zero.pose_rotvec, near.pose_rotvec) <= 1e-3 * scale


def test_gradient_is_finite_at_every_anchor(load_anny, dtype):
    """All anchors of all features in one batch, and the all-lowest and all-highest corners."""
    model = load_anny(dtype, extended=True)
    rows = np.full((len(ANCHOR_CASES) + 2, 11), 0.4)
    for row, (name, i) in zip(rows, ANCHOR_CASES):
        row[anny.ALL_PHENOTYPE_LABELS.index(name)] = anny.ANCHORS[name][i]
    for k, name in enumerate(anny.ALL_PHENOTYPE_LABELS[:8]):
        rows[-2, k], rows[-1, k] = anny.ANCHORS[name][0], anny.ANCHORS[name][-1]
    assert_finite_and_alive(mesh_gradient(model, params_at(rows, dtype, local_changes=254)))


def test_race_gradient(load_anny, dtype):
    """0 where all three weights are 0; elsewhere it is orthogonal to scaling all three, which changes nothing."""
    rows = np.full((len(ANCHOR_CASES) + 2, 11), 0.4)  # as many as above: one program
    rows[:4, 8:] = [[0, 0, 0], [1, 0, 0], [0.2, 0.5, 0.9], [0, 0.3, 0]]
    gradient = mesh_gradient(load_anny(dtype, extended=True), params_at(rows, dtype, local_changes=254)).phenotypes
    races = np.asarray(gradient)[:4, 8:]
    assert np.isfinite(races).all()
    np.testing.assert_array_equal(races[0], 0.0)
    assert (np.abs(races[1:]).max(1) > 0).all()
    along = (races * rows[:4, 8:]).sum(1)
    assert np.abs(along).max() <= (1e-14 if dtype == jnp.float64 else 1e-6) * max(1.0, np.abs(races).max())


# ------------------------------------------------------------------------------------------------ slopes at the kinks


@jax.jit
def coefficients(rest, rows):
    return anny.coefficients(rest, rows.T, None).T


@jax.jit
def slopes(rest, row):
    """(coefficients, phenotypes)."""
    return jax.jacrev(lambda p: anny.coefficients(rest, p[:, None], None)[:, 0])(row)


def shape_of(model: anny.AnnyModel, rows: np.ndarray) -> np.ndarray:
    """Coefficients of the rest state, exactly linear between neighbouring anchors of one phenotype."""
    return np.asarray(coefficients(model.rest, jnp.asarray(rows)))


def shape_slope(model: anny.AnnyModel, row: np.ndarray, feature: int) -> np.ndarray:
    return np.asarray(slopes(model.rest, jnp.asarray(row)))[:, feature]


@pytest.mark.parametrize(("name", "index"), SEGMENTED)
def test_slope_at_an_anchor_is_the_left_one_at_the_first_the_right_one(load_anny, x64, name, index):
    model, feature, anchors = load_anny("float64"), anny.PHENOTYPE_LABELS.index(name), anny.ANCHORS[name]
    row = np.array([0.3, 0.4, 0.6, 0.7, 0.2, 0.8])
    row[feature] = anchors[index]
    other = row.copy()
    other[feature] = anchors[1 if index == 0 else index - 1]
    ends = shape_of(model, np.stack([row, other]))
    expected = (ends[1] - ends[0]) / (other[feature] - row[feature])
    assert np.abs(expected).max() > 1e-3
    assert max_abs(shape_slope(model, row, feature), expected) <= 1e-12 * np.abs(expected).max()


@pytest.mark.parametrize("name", anny.PHENOTYPE_LABELS)
def test_outside_the_anchors_the_shape_is_constant(load_anny, x64, name):
    model, feature, anchors = load_anny("float64"), anny.PHENOTYPE_LABELS.index(name), anny.ANCHORS[name]
    for outside, edge in ((anchors[0] - 0.01, anchors[0]), (anchors[-1] + 0.01, anchors[-1])):
        row = np.array([0.3, 0.4, 0.6, 0.7, 0.2, 0.8])
        row[feature] = edge
        clamped = shape_of(model, row[None])
        row[feature] = outside
        np.testing.assert_array_equal(shape_of(model, row[None]), clamped)
        np.testing.assert_array_equal(shape_slope(model, row, feature), 0.0)


def test_hat_weights_against_linear_interpolation(x64):
    """Each weight is the interpolant of a unit vector; together they reproduce the anchors and sum to 1."""
    value = np.linspace(-0.6, 1.3, 400)
    for anchors in anny.ANCHORS.values():
        weights = np.stack([np.asarray(w) for w in anny.hat_weights(jnp.asarray(value), anchors)])
        expected = np.stack([np.interp(value, anchors, row) for row in np.eye(len(anchors))])
        assert max_abs(weights, expected) <= 1e-14


def test_both_slopes_of_a_local_change_are_on_at_zero(load_anny, x64):
    """Row of the positive end: slope 1, of the negative end: slope -1, so a zero parameter is not stuck."""
    rest = load_anny("float64", extended=True).rest
    function = lambda u: anny.coefficients(rest, jnp.full((11, 1), 0.4), u[:, None])[-508:, 0]  # noqa: E731
    for value, positive, negative in ((0.0, 1.0, -1.0), (0.3, 1.0, 0.0), (-0.3, 0.0, -1.0)):
        u = jnp.full(254, value)
        slopes = np.asarray(jax.jacrev(function)(u)).sum(1).reshape(254, 2)
        np.testing.assert_array_equal(slopes, np.tile([positive, negative], (254, 1)))
        rows = np.asarray(function(u)).reshape(254, 2)
        np.testing.assert_array_equal(rows, np.tile([max(value, 0.0), max(-value, 0.0)], (254, 1)))


# ------------------------------------------------------------------------------------------------ bone orientations

rest_orientations = jax.jit(anny.rest_orientations)
TINY = [0.0, 1e-30, 1e-20, 1e-12, 1e-7, 1e-4, 1e-2]


def shortest_arc(direction: np.ndarray, roll: float) -> np.ndarray:
    axis = np.cross([0.0, 1.0, 0.0], direction)
    axis *= np.arccos(np.clip(direction[1], -1, 1)) / np.linalg.norm(axis)
    return (Rotation.from_rotvec(axis) * Rotation.from_rotvec([0.0, roll, 0.0])).as_matrix()


def orientations(axes: np.ndarray, roll: np.ndarray, dtype) -> np.ndarray:
    """axes (n, 3) of n bones of one person -> (n, 3, 3)."""
    out = rest_orientations(
        jnp.asarray(axes.T[:, :, None], dtype), jnp.asarray(np.stack([np.cos(roll), np.sin(roll)]), dtype)
    )
    assert out.dtype == dtype
    return np.asarray(out[..., 0], np.float64).transpose(2, 0, 1)


def test_rest_orientation_is_the_shortest_arc_after_the_roll(dtype):
    rng = np.random.default_rng(2)
    axes, roll = rng.normal(0, 0.05, (200, 3)), rng.uniform(-np.pi, np.pi, 200)
    directions = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    expected = np.stack([shortest_arc(d, r) for d, r in zip(directions, roll)])
    assert max_abs(orientations(axes, roll, dtype), expected) <= (1e-12 if dtype == jnp.float64 else 1e-5)


@pytest.mark.parametrize("sense", [-1.0, 1.0])
@pytest.mark.parametrize("length", [1.0, 2.4e-3])
def test_rest_orientation_near_the_y_axis(dtype, sense, length):
    """Along +Y and -Y exactly, and off by every size down to what underflows: a rotation, with finite derivatives."""
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    axes = (
        np.concatenate([np.stack([t * np.cos(angle), np.full(12, sense), t * np.sin(angle)], 1) for t in TINY]) * length
    )
    roll = np.random.default_rng(0).uniform(-3, 3, len(axes))
    got = orientations(axes, roll, dtype)
    rounding = 1e-13 if dtype == jnp.float64 else 2e-6
    assert max_abs(got @ got.swapaxes(1, 2), np.broadcast_to(np.eye(3), got.shape)) <= rounding
    np.testing.assert_allclose(np.linalg.det(got), 1.0, rtol=0, atol=rounding)
    # The bone is the second column.
    assert max_abs(got[:, :, 1], axes / np.linalg.norm(axes, axis=1, keepdims=True)) <= rounding

    weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, len(axes), 1)), dtype)
    cos_sin = jnp.asarray(np.stack([np.cos(roll), np.sin(roll)]), dtype)
    gradient = jax.jit(jax.grad(lambda e: jnp.sum(weights * anny.rest_orientations(e, cos_sin))))
    assert np.isfinite(gradient(jnp.asarray(axes.T[:, :, None], dtype))).all()


def test_a_bone_of_no_length_has_a_rotation_and_finite_gradient(dtype):
    roll = jnp.asarray([[1.0], [0.0]], dtype)
    value, gradient = jax.value_and_grad(lambda e: jnp.sum(anny.rest_orientations(e, roll)))(
        jnp.zeros((3, 1, 1), dtype)
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.fixture(scope="module")
def singular(load_anny):
    """Phenotypes (2, 6) at which tongue02, then special03, points along -Y as well as random search and Newton can find."""
    with jax.enable_x64(True):
        model = load_anny("float64")
        bones = [model.labels.bones.index(name) for name in ("tongue02", "special03")]
        direction = jax.jit(lambda m, p: anny.rest(m, p)[1][..., 1])  # (..., 163, 3)
        sample = np.random.default_rng(4).uniform((0, -1 / 3, 0, 0, 0, 0), 1.0, (4096, 6))
        directions = np.asarray(direction(model, jnp.asarray(sample)))
        found = []
        for bone in bones:
            y = directions[:, bone]
            radial = np.where(y[:, 1] < 0, np.hypot(y[:, 0], y[:, 2]), np.inf)
            found.append(sample[radial.argmin()])
            assert radial.min() < 0.02, f"the search found no direction near -Y for bone {bone}"

        @jax.jit
        def step(m, p, bone):
            off = lambda q: anny.rest(m, q)[1][bone, :, 1][jnp.array([0, 2])]  # noqa: E731
            return jnp.clip(p - jnp.linalg.pinv(jax.jacrev(off)(p)) @ off(p), 1e-3, 1 - 1e-3), jnp.linalg.norm(off(p))

        refined = []
        for bone, start in zip(bones, found):
            p, best = jnp.asarray(start), (np.inf, start)
            for _ in range(12):
                following, radial = step(model, p, bone)
                best = min(best, (float(radial), np.asarray(p)), key=lambda pair: pair[0])
                p = following
            assert best[0] < 1e-9, "the search does not end at a singular direction"
            refined.append(best)
    return {"found": np.stack(found), "refined": np.stack([p for _, p in refined])}


def test_float32_body_at_nearly_singular_bones(load_anny, singular):
    """The random-search phenotypes, everything bent: float32 keeps its 1e-5 m (the plain formula loses centimetres)."""
    forward = jax.jit(anny.forward)
    with jax.enable_x64(True):
        expected = np.asarray(forward(load_anny("float64"), params_at(singular["found"], jnp.float64)).vertices)
    got = forward(load_anny("float32"), params_at(singular["found"], jnp.float32)).vertices
    assert max_abs(got, expected) <= 1e-5


@pytest.mark.parametrize("state", ["found", "refined"])
def test_body_at_singular_bones_is_rigid_per_bone_with_finite_gradient(load_anny, singular, dtype, state):
    model, params = load_anny(dtype), params_at(singular[state], dtype)
    poses = np.asarray(jax.jit(anny.forward)(model, params).bone_poses, np.float64)[..., :3, :3]
    rounding = 1e-12 if dtype == jnp.float64 else 2e-5
    assert max_abs(poses @ poses.swapaxes(-1, -2), np.broadcast_to(np.eye(3), poses.shape)) <= rounding
    np.testing.assert_allclose(np.linalg.det(poses), 1.0, rtol=0, atol=rounding)
    assert_finite_and_alive(mesh_gradient(model, params))
