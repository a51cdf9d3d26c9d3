"""Anny against the live `anny` package (CPU torch, float64) on people that are in no golden: `make test-parity`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REPO, max_abs, max_relative
from scipy.spatial.transform import Rotation

from body_models import anny as ours

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
theirs = pytest.importorskip("anny")

PEOPLE = 6
CONFIGURATIONS = {"six": {}, "eleven_local": {"phenotypes": "all", "local_changes": "default"}}


@pytest.fixture(scope="module", params=list(CONFIGURATIONS))
def peer(request: pytest.FixtureRequest):
    """(name, official model): MakeHuman rig, free topology, original blend-shape rows, linear blend skinning, float64."""
    theirs.paths.set_anny_cache_path(REPO / ".cache" / "anny")  # its derived files: minutes to make, kept between runs
    model = theirs.Anny(
        rig="makehuman",
        topology="anny",
        pose_parameterization="local-bone",
        phenotype_blendshapes="original",
        skinning_method="lbs",
        **CONFIGURATIONS[request.param],
    )
    return request.param, model.to(dtype=torch.float64)


def people(name: str) -> dict[str, np.ndarray]:
    """Random people off the anchors, where one-sided slopes would have to agree; two beyond the range."""
    rng = np.random.default_rng(20_260_101)
    count = 6 if name == "six" else 11
    phenotypes = rng.uniform(0.02, 0.98, (PEOPLE, count))
    phenotypes[:, 1] = rng.uniform(-0.3, 0.98, PEOPLE)
    phenotypes[0, :3] = [1.2, -0.5, -0.1]
    phenotypes[1, 1] = -0.2  # between newborn and baby
    rotvec = rng.normal(0, 0.25, (PEOPLE, 163, 3))
    rotvec[:, 0] = rng.normal(0, 1.2, (PEOPLE, 3))
    rotvec[2, 1:] = 0.0
    rotvec[3, 1:] *= 4
    return {
        "phenotypes": phenotypes,
        "rotvec": rotvec,
        "translation": rng.normal((0, 0, 4), 1.0, (PEOPLE, 3)),
        "local": rng.uniform(-1, 1, (PEOPLE, 254)) * (name != "six"),
        "target": rng.normal((0, 0, 4), 1.0, (PEOPLE, 23, 3)),
        "vertex_weights": rng.normal(0, 1, (PEOPLE, 13718, 3)) / 13718,
    }


def rotation_matrices(rotvec):
    """Rodrigues in torch for the gradient with respect to the vectors; exactly zero vectors take the linear branch."""
    zero = torch.zeros_like(rotvec[..., 0])
    x, y, z = rotvec.unbind(-1)
    rows = [torch.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    cross = torch.stack(rows, -2)
    squared = (rotvec * rotvec).sum(-1)[..., None, None]
    small = squared < 1e-12
    angle = torch.sqrt(torch.where(small, torch.ones_like(squared), squared))
    eye = torch.eye(3, dtype=rotvec.dtype)
    full = eye + torch.sin(angle) / angle * cross + (1 - torch.cos(angle)) / angle**2 * (cross @ cross)
    return torch.where(small, eye + cross, full)


def official(peer, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs, and gradients of a scalar of keypoints and vertices, by torch."""
    name, model = peer
    leaves = {k: torch.tensor(inputs[k], requires_grad=True) for k in ("phenotypes", "rotvec", "translation", "local")}
    pose = torch.zeros(PEOPLE, 163, 4, 4, dtype=torch.float64)
    pose[..., :3, :3] = rotation_matrices(leaves["rotvec"])
    pose[:, 0, :3, 3] = leaves["translation"]
    pose[..., 3, 3] = 1.0
    labels = list(model.phenotype_labels)
    assert labels == list(ours.PHENOTYPE_LABELS if name == "six" else ours.ALL_PHENOTYPE_LABELS)
    shape = {label: leaves["phenotypes"][:, k] for k, label in enumerate(labels)}
    local = (
        {label: leaves["local"][:, k] for k, label in enumerate(model.local_change_labels)} if name != "six" else None
    )
    out = model(pose_parameters=pose, phenotype_kwargs=shape, local_changes_kwargs=local)
    keypoints = theirs.KeypointsRegressor.coco(model).to(dtype=torch.float64)(out)
    scalar = ((keypoints - torch.tensor(inputs["target"])) ** 2).sum()
    scalar = scalar + (out["vertices"] * torch.tensor(inputs["vertex_weights"])).sum()
    scalar.backward()
    gradients = {f"grad_{k}": leaf.grad.numpy() for k, leaf in leaves.items() if leaf.grad is not None}
    outputs = {"vertices": out["vertices"], "bone_poses": out["bone_poses"], "keypoints": keypoints}
    return {k: v.detach().numpy() for k, v in outputs.items()} | gradients | {"scalar": np.array(scalar.item())}


@pytest.fixture(scope="module")
def expected(peer):
    return official(peer, people(peer[0]))


def mine(name: str, inputs: dict[str, np.ndarray], model: ours.AnnyModel):
    """The same outputs and gradients by our model in its own precision."""
    dtype = model.dtype
    target, weights = jnp.asarray(inputs["target"], dtype), jnp.asarray(inputs["vertex_weights"], dtype)
    params = ours.Params(
        jnp.asarray(inputs["phenotypes"], dtype),
        jnp.asarray(inputs["rotvec"][:, 0], dtype),
        jnp.asarray(inputs["rotvec"][:, 1:], dtype),
        jnp.asarray(inputs["translation"], dtype),
        None if name == "six" else jnp.asarray(inputs["local"], dtype),
    )

    @jax.jit
    def run(model, params):
        def scalar(p):
            out = ours.forward(model, p)
            return jnp.sum((out.keypoints - target) ** 2) + jnp.sum(out.vertices * weights), out

        return jax.value_and_grad(scalar, has_aux=True)(params)

    (value, out), gradient = run(model, params)
    return value, out, gradient


def test_live_float64(peer, expected, load_anny, x64, record_property):
    name, inputs = peer[0], people(peer[0])
    value, out, gradient = mine(name, inputs, load_anny("float64", extended=name != "six"))
    errors = {k: max_abs(getattr(out, k), expected[k]) for k in ("vertices", "bone_poses", "keypoints")}
    errors["scalar"] = abs(float(value) - float(expected["scalar"])) / abs(float(expected["scalar"]))
    gradients = {
        "phenotypes": max_relative(gradient.phenotypes, expected["grad_phenotypes"]),
        "root_rotvec": max_relative(gradient.root_rotvec, expected["grad_rotvec"][:, 0]),
        "pose_rotvec": max_relative(gradient.pose_rotvec, expected["grad_rotvec"][:, 1:]),
        "translation": max_relative(gradient.translation, expected["grad_translation"]),
    }
    if name != "six":
        gradients["local_changes"] = max_relative(gradient.local_changes, expected["grad_local"])
    for key, error in {**errors, **gradients}.items():
        record_property(key, error)
        print(f"{name} float64 {key}: {error:.2e}")
    assert max(errors.values()) <= 1e-9
    assert max(gradients.values()) <= 1e-8


def test_live_float32(peer, expected, load_anny):
    name, inputs = peer[0], people(peer[0])
    _, out, _ = mine(name, inputs, load_anny("float32", extended=name != "six"))
    errors = {k: max_abs(getattr(out, k), expected[k]) for k in ("vertices", "keypoints")}
    errors["bone_heads"] = max_abs(out.bone_poses[..., :3, 3], expected["bone_poses"][..., :3, 3])
    print(name, "float32", errors)
    assert max(errors.values()) <= 1e-5


def test_live_contracted_points(peer, expected, load_anny, x64):
    name, inputs = peer[0], people(peer[0])
    model = load_anny("float64", extended=name != "six")
    local = None if name == "six" else jnp.asarray(inputs["local"])
    params = ours.Params(
        jnp.asarray(inputs["phenotypes"]),
        jnp.asarray(inputs["rotvec"][:, 0]),
        jnp.asarray(inputs["rotvec"][:, 1:]),
        jnp.asarray(inputs["translation"]),
        local,
    )
    got = jax.jit(ours.points)(ours.contract(model, model.keypoint_regressor), params)
    assert max_abs(got, expected["keypoints"]) <= 1e-9


@pytest.mark.parametrize("peer", ["six"], indirect=True)  # the modes do not depend on the shape parameters
@pytest.mark.parametrize("pose_mode", ours.POSE_MODES)
def test_live_pose_modes(peer, load_anny, x64, pose_mode):
    """All five modes, with translations on every bone."""
    name, official_model = peer
    inputs, rng = people(name), np.random.default_rng(3)
    deltas = np.tile(np.eye(4), (PEOPLE, 163, 1, 1))
    turns = Rotation.from_rotvec(inputs["rotvec"].reshape(-1, 3)).as_matrix()
    deltas[..., :3, :3] = turns.reshape(PEOPLE, 163, 3, 3)
    deltas[..., :3, 3] = rng.normal(0, 0.02, (PEOPLE, 163, 3))
    deltas[:, 0, :3, 3] = inputs["translation"]
    shape = {label: torch.tensor(inputs["phenotypes"][:, k]) for k, label in enumerate(official_model.phenotype_labels)}
    with torch.no_grad():
        out = official_model(
            pose_parameters=torch.tensor(deltas), phenotype_kwargs=shape, pose_parameterization=pose_mode
        )
    got = jax.jit(ours.forward_transforms, static_argnames="pose_mode")(
        load_anny("float64"), jnp.asarray(inputs["phenotypes"]), jnp.asarray(deltas), pose_mode=pose_mode
    )
    assert max_abs(got.bone_poses, out["bone_poses"].numpy()) <= 1e-9
    assert max_abs(got.vertices, out["vertices"].numpy()) <= 1e-9
