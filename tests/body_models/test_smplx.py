"""SMPL-X: mesh against an independent float64 reference, contracted points, gradients, official parameters."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smplx_synthetic

from body_models import smplx, smplx_file

PEOPLE = 3


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return smplx_synthetic.arrays()


@pytest.fixture(scope="module")
def path(data: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smplx_synthetic.save(tmp_path_factory.mktemp("smplx"), data)


@pytest.fixture(scope="module")
def model(path: Path) -> smplx.SmplxModel:
    return smplx.load(path)


@pytest.fixture(scope="module")
def model64(path: Path) -> smplx.SmplxModel:
    with jax.enable_x64(True):
        return smplx.load(path, dtype=jnp.float64)


@pytest.fixture(scope="module")
def expected(data: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    batch = smplx_synthetic.parameters(PEOPLE)
    return [smplx_synthetic.reference(data, {k: v[i] for k, v in batch.items()}) for i in range(PEOPLE)]


forward = jax.jit(smplx.forward)
points = jax.jit(smplx.points)


def params(dtype=jnp.float32, people: int = PEOPLE, **changes: np.ndarray) -> smplx.Params:
    batch = smplx_synthetic.parameters(people) | changes
    return smplx.Params(**{k: jnp.asarray(v, dtype) for k, v in batch.items()})


def some_regressor(rows: int = 24, seed: int = 3) -> np.ndarray:
    """Rows over three vertices each, and some over one; sums are 1 but for the first row."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((rows, smplx.NUM_VERTICES))
    for row in weights:
        chosen = rng.choice(smplx.NUM_VERTICES, rng.integers(1, 4), replace=False)
        row[chosen] = rng.dirichlet(np.ones(len(chosen)))
    weights[0] *= 0.75
    return weights


def check_output(out: smplx.Output, expected: list[dict[str, np.ndarray]], tolerance: float) -> None:
    for i, want in enumerate(expected):
        assert np.abs(out.vertices[i] - want["vertices"]).max() < tolerance
        assert np.abs(out.joints[i] - want["joints"]).max() < tolerance
        assert np.abs(out.keypoints[i] - want["keypoints"]).max() < tolerance
        assert np.abs(out.bone_poses[i, :, :3, :3] - want["orientations"]).max() < tolerance
        assert np.abs(out.bone_poses[i, :, :3, 3] - want["joints"]).max() < tolerance
    np.testing.assert_array_equal(out.bone_poses[:, :, 3], np.broadcast_to([0.0, 0, 0, 1], (PEOPLE, 55, 4)))


def test_forward_float64_is_the_reference(model64, expected):
    with jax.enable_x64(True):
        check_output(forward(model64, params(jnp.float64)), expected, 1e-9)


def test_forward_float32_is_the_reference(model, expected):
    out = forward(model, params())
    assert out.vertices.dtype == jnp.float32
    check_output(out, expected, 1e-5)


def test_wide_file_takes_expressions_from_column_300(tmp_path):
    data = smplx_synthetic.arrays(seed=5, columns=400)
    np.savez(tmp_path / "SMPLX_MALE.npz", **data)  # pyright: ignore[reportArgumentType]
    model = smplx.load(tmp_path / "SMPLX_MALE.npz", num_betas=12, num_expression=7)
    batch = smplx_synthetic.parameters(1, num_betas=12, num_expression=7)
    out = forward(model, smplx.Params(**{k: jnp.asarray(v, jnp.float32) for k, v in batch.items()}))
    want = smplx_synthetic.reference(data, {k: v[0] for k, v in batch.items()})
    assert np.abs(out.vertices[0] - want["vertices"]).max() < 1e-5


def test_leading_dimensions_broadcast_and_expression_defaults_to_zero(model):
    whole = params(expression=np.zeros((PEOPLE, 10)))
    whole = whole._replace(betas=jnp.broadcast_to(whole.betas[0], (PEOPLE, 10)))
    same = forward(model, whole)
    shared = forward(model, whole._replace(betas=whole.betas[0], expression=None))
    np.testing.assert_allclose(shared.vertices, same.vertices, atol=1e-6)
    nested = forward(model, smplx.Params(*(x[None] for x in whole if x is not None)))
    assert nested.vertices.shape == (1, PEOPLE, 10475, 3)
    assert nested.bone_poses.shape == (1, PEOPLE, 55, 4, 4)
    np.testing.assert_allclose(nested.keypoints[0], same.keypoints, atol=1e-6)


def test_one_person_without_leading_dimensions(model):
    one = smplx.Params(*(x[0] for x in params() if x is not None))
    shapes = jax.eval_shape(smplx.forward, model, one)
    assert shapes.vertices.shape == (10475, 3)
    assert shapes.keypoints.shape == (17, 3)
    mp = smplx.contract(model, np.asarray(model.keypoint_regressor))
    np.testing.assert_allclose(points(mp, one), forward(model, params()).keypoints[0], rtol=0, atol=2e-6)


def test_contracted_points_are_regressed_vertices(model):
    chosen = np.array([17, 9120, 3])
    regressor = np.concatenate(
        [np.pad(some_regressor(), ((0, 0), (0, 55))), model.keypoint_regressor, smplx.vertex_regressor(chosen)]
    )
    out = forward(model, params())
    got = points(smplx.contract(model, regressor), params())
    sources = np.concatenate([out.vertices, out.joints], axis=1).astype(np.float64)
    np.testing.assert_allclose(got, regressor @ sources, rtol=0, atol=2e-6)
    np.testing.assert_allclose(got[:, 24:41], out.keypoints, rtol=0, atol=2e-6)
    np.testing.assert_allclose(got[:, 41:], out.vertices[:, chosen], rtol=0, atol=2e-6)


def test_contracted_points_float64_are_the_reference(model64, expected):
    with jax.enable_x64(True):
        got = points(smplx.contract(model64, some_regressor()), params(jnp.float64))  # vertices only: 10475 columns
        want = some_regressor() @ np.stack([e["vertices"] for e in expected])
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


def test_contraction_keeps_only_the_bones_it_needs(model):
    hips = smplx.contract(model, np.asarray(model.keypoint_regressor)[11:13])
    assert hips.layout.tree.order == (0,)  # hips are moved by the pelvis alone
    p = params()
    np.testing.assert_allclose(points(hips, p), forward(model, p).keypoints[:, 11:13], rtol=0, atol=2e-6)
    wrist = smplx.contract(model, np.asarray(model.keypoint_regressor)[9:10])
    assert {smplx.JOINTS[b] for b in wrist.layout.tree.order} == {
        "pelvis", "spine1", "spine2", "spine3", "left_collar", "left_shoulder", "left_elbow"
    }  # fmt: skip


def test_gradients_match_finite_differences_and_are_finite_at_zero_pose(model64):
    with jax.enable_x64(True):
        mp = smplx.contract(model64, some_regressor(6))
        target = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 3)))

        @jax.jit
        def loss(p: smplx.Params, mp: smplx.SmplxPoints) -> jax.Array:
            return jnp.sum((smplx.points(mp, p) - target) ** 2)

        p = params(jnp.float64, people=2)
        slope = jax.jit(jax.grad(loss))
        gradient = slope(p, mp)
        direction = jax.tree.map(lambda x: jnp.asarray(np.random.default_rng(1).standard_normal(x.shape)), p)
        along = sum(jnp.vdot(g, d) for g, d in zip(gradient, direction))
        step = 1e-6
        shift = lambda s: jax.tree.map(lambda x, d: x + s * d, p, direction)  # noqa: E731
        numeric = (loss(shift(step), mp) - loss(shift(-step), mp)) / (2 * step)
        assert abs(along - numeric) < 1e-7 * abs(numeric)
        at_zero = slope(jax.tree.map(jnp.zeros_like, p), mp)
        assert all(np.isfinite(x).all() for x in at_zero)
        assert np.abs(np.asarray(at_zero.pose_rotvec)).max() > 1e-3  # zero pose is not a stuck point


def test_translation_is_the_pelvis_and_converts_to_official_transl(model, expected):
    p = params()
    np.testing.assert_allclose(forward(model, p).joints[:, 0], p.translation, atol=1e-6)
    transl = smplx.transl_from_translation(model, p.betas, p.translation, p.expression)
    np.testing.assert_allclose(transl, np.stack([e["transl"] for e in expected]), atol=1e-6)
    back = smplx.translation_from_transl(model, p.betas, transl, p.expression)
    np.testing.assert_allclose(back, p.translation, atol=1e-6)


def test_hands_from_pca_add_the_mean(data, path, model):
    rng = np.random.default_rng(2)
    left, right = rng.standard_normal((2, 4, 6))
    got_left, got_right = smplx.hands_from_pca(model, jnp.asarray(left), jnp.asarray(right))
    want = (data["hands_meanl"] + left @ data["hands_componentsl"][:6]).reshape(4, 15, 3)
    np.testing.assert_allclose(got_left, want, atol=1e-6)
    want = (data["hands_meanr"] + right @ data["hands_componentsr"][:6]).reshape(4, 15, 3)
    np.testing.assert_allclose(got_right, want, atol=1e-6)
    flat = smplx.load(path, flat_hand_mean=True)
    zero = jnp.zeros(12)
    assert not np.any(np.asarray(smplx.hands_from_pca(flat, zero, zero)))
    with pytest.raises(ValueError, match=r"hand coefficients must be \(\.\.\., k <= 45\)"):
        smplx.hands_from_pca(flat, jnp.zeros(46), zero)


@pytest.mark.parametrize("use_pca", [False, True])
def test_pose_from_official_assembles_the_joints_in_order(data, path, use_pca):
    model = smplx.load(path, use_pca=use_pca, num_pca=12)
    rng = np.random.default_rng(4)
    body, jaw, left = rng.standard_normal((2, 63)), rng.standard_normal(3), rng.standard_normal(12 if use_pca else 45)
    pose = smplx.pose_from_official(
        model, jnp.asarray(body), jaw_pose=jnp.asarray(jaw), left_hand_pose=jnp.asarray(left)
    )
    assert pose.shape == (2, 54, 3)
    np.testing.assert_allclose(pose[:, :21].reshape(2, 63), body, atol=1e-6)
    np.testing.assert_allclose(pose[1, 21], jaw, atol=1e-6)
    np.testing.assert_array_equal(pose[:, 22:24], 0.0)
    offset = left @ data["hands_componentsl"][:12] if use_pca else left
    np.testing.assert_allclose(pose[1, 24:39].reshape(45), data["hands_meanl"] + offset, atol=1e-6)
    np.testing.assert_allclose(pose[1, 39:].reshape(45), data["hands_meanr"], atol=1e-6)


def test_wrong_shapes_name_the_field(model):
    p = params()
    with pytest.raises(ValueError, match=r"smplx\.Params: betas must be \(\.\.\., 10\), got \(3, 9\)"):
        forward(model, p._replace(betas=p.betas[:, :9]))
    with pytest.raises(ValueError, match=r"pose_rotvec must be \(\.\.\., 54, 3\), got \(3, 55, 3\)"):
        forward(model, p._replace(pose_rotvec=jnp.zeros((3, 55, 3))))
    with pytest.raises(ValueError, match=r"do not broadcast.*betas \(2,\)"):
        forward(model, p._replace(betas=p.betas[:2]))
    with pytest.raises(ValueError, match=r"regressor must be \(K, 10475\) or \(K, 10530\), got \(2, 7\)"):
        smplx.contract(model, np.ones((2, 7)))
    with pytest.raises(ValueError, match="regressor row 1 has no non-zero weight"):
        smplx.contract(model, np.eye(2, 10475) * [[1.0], [0.0]])


def test_no_people_is_no_people(model):
    p = params(people=0)
    assert jax.eval_shape(smplx.forward, model, p).vertices.shape == (0, 10475, 3)
    assert points(smplx.contract(model, some_regressor(2)), p).shape == (0, 2, 3)


def test_the_last_beta_blends_with_a_child(path, data, tmp_path):
    """As AGORA's parameters are defined: at 1 the rest mesh is the child about its own mean."""
    child = 0.6 * data["v_template"] + 0.1
    np.save(tmp_path / "kid.npy", child)
    model = smplx.load(path, kid_template=tmp_path / "kid.npy")
    assert (model.labels.num_betas, model.labels.kid) == (11, True)
    rest = np.asarray(model.vertices.mean, np.float64) + np.asarray(model.vertices.basis[10], np.float64)
    np.testing.assert_allclose(rest.T, child - child.mean(0), atol=1e-6)
    # Expressions and pose correctives come after it, as without it.
    plain = smplx.load(path)
    np.testing.assert_array_equal(model.vertices.basis[11:], plain.vertices.basis[10:])
    np.testing.assert_array_equal(model.joints.basis[:10], plain.joints.basis[:10])


@pytest.mark.parametrize(
    ("content", "message"),
    [(np.zeros((10475, 2)), "must be finite numbers"), (np.full((10475, 3), np.nan), "must be finite numbers")],
)
def test_a_wrong_kid_template_is_named(path, tmp_path, content, message):
    np.save(tmp_path / "kid.npy", content)
    with pytest.raises(smplx_file.SmplxFileError, match=message):
        smplx.load(path, kid_template=tmp_path / "kid.npy")
    np.savez(tmp_path / "kid.npz", content)  # NumPy opens it as an archive, which has no dtype.
    with pytest.raises(smplx_file.SmplxFileError, match=r"kid\.npz is not a readable \.npy file"):
        smplx.load(path, kid_template=tmp_path / "kid.npz")
    with pytest.raises(FileNotFoundError, match="kid template not found"):
        smplx.load(path, kid_template=tmp_path / "other.npy")
