"""A made SMPL-X file whose numbers mean something: Anny's surface with SMPL-X's sizes, joints and conventions.

The template is Anny's average adult in SMPL-X's resting pose, reduced to 10 475 vertices; shape directions are the principal
components of Anny's adults in that pose; weights are Anny's, summed over the bones of each part; joints are regressed to the
heads of Anny's bones; points of the face, tips of fingers and toes are Anny's. What the licensed file would have otherwise:
another topology, another surface (also of its average),
principal components of scans, correctives that follow muscles, and joints that were learned. So errors of conversions on this
body say how well the method works where the bodies can agree, and less of how far the two families of shapes are apart.
"""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import smplx_synthetic

from annyfit_jax.conversion.closest_points import closest_points
from annyfit_jax.exports.rigs import FROM_ANNY
from annyfit_jax.fit.keypoint_start import calibrated_phenotypes
from annyfit_jax.inputs.point_sets import FACE
from annyfit_jax.people.named_points import named_points
from annyfit_jax.smplx_fit.smplx_points import VERTICES
from annyfit_jax.synthetic.decimate import decimate
from annyfit_jax.synthetic.plain_people import draw_phenotypes
from body_models import anny, body_pairs, smplx
from experts.retarget import SmplToAnny

_FACE_VERTICES = {0: 9120, 1: 9448, 2: 9929, 3: 6, 4: 616}
"""COCO's points of the face -> the vertex of SMPL-X's template that stands for it."""
_ADULT = (0.5, 1.0)
"""Range of the age phenotype."""


def arrays() -> dict[str, np.ndarray]:
    """The keys of an official file with 20 shape directions."""
    return _made()[0]


def vertices_of_anny() -> np.ndarray:
    """(10475,) the vertex of Anny that each vertex is."""
    return _made()[1]


@functools.cache
def _made() -> tuple[dict[str, np.ndarray], np.ndarray]:
    model = anny.load()
    labels = model.labels
    rng = np.random.default_rng(0)
    drawn = draw_phenotypes(rng, 400).shape
    adults = drawn[(drawn[:, 1] >= _ADULT[0]) & (drawn[:, 1] <= _ADULT[1])][:120]
    average = calibrated_phenotypes(np.array([0.66]), np.array([0.5]))
    bodies, heads, points = _in_rest_pose(model, np.concatenate([average, adults]))
    # The tongue is a part of its own, and nobody sees it.
    tongue = np.array([labels.bones[b].startswith("tongue") for b in np.asarray(model.skin).argmax(0)])
    faces = np.asarray(model.faces)
    faces = faces[~tongue[faces].any(1)]
    kept, faces = decimate(bodies[:3], faces, smplx_synthetic.V, np.ones(bodies.shape[1]))
    assert len(kept) == smplx_synthetic.V
    order = np.arange(len(kept))
    named = named_points(labels)
    places = named.of(bodies[0], _as_poses(heads[0]))
    wanted_at = [(wanted, points[0, keypoint]) for keypoint, wanted in _FACE_VERTICES.items()]
    wanted_at += [(vertex, places[named.names.index(name)]) for name, vertex in VERTICES.items()]
    for wanted, place in wanted_at:
        near = int(((bodies[0, kept[order]] - place) ** 2).sum(1).argmin())
        order[[near, wanted]] = order[[wanted, near]]
    kept, slot = kept[order], np.argsort(order)
    faces = slot[faces]
    bodies = bodies[:, kept]
    joints = _joints(labels, heads)
    template = bodies[0]
    deviations = (bodies[1:] - template).reshape(len(adults), -1)
    _, singular, directions = np.linalg.svd(deviations, full_matrices=False)
    face = closest_points(places[[named.names.index(name) for name in FACE]], template, faces)
    corners = {tuple(sorted(triangle)): row for row, triangle in enumerate(faces.tolist())}
    triangles = np.array([corners[tuple(sorted(triangle))] for triangle in face.corners.tolist()])
    shares = np.array(
        [[share[c.index(v)] for v in faces[t].tolist()]
         for t, c, share in zip(triangles, face.corners.tolist(), face.shares, strict=True)]
    )  # fmt: skip
    betas = (directions[:10] * singular[:10, None] / len(adults) ** 0.5).reshape(10, -1, 3)
    made = smplx_synthetic.arrays()
    near_mouth = np.exp(-((template - template[9120]) ** 2).sum(1) / 0.04**2)
    waves = np.sin(template @ rng.normal(0, 20, (3, 30)) + rng.uniform(0, 6, 30)).reshape(-1, 10, 3)
    expression = 0.002 * near_mouth[:, None, None] * waves
    part = [smplx.JOINTS.index(joint) for joint in body_pairs.parts(labels.bones, labels.parents)]
    weights = np.zeros((len(kept), smplx_synthetic.J))
    np.add.at(weights.T, part, np.asarray(model.skin, np.float64)[:, kept])
    slow = np.sin(template @ rng.normal(0, 4, (3, 12)) + rng.uniform(0, 6, 12))
    correctives = 2e-4 * (slow @ rng.standard_normal((12, 3 * 486))).reshape(len(kept), 3, 486)
    shape = np.concatenate([betas, expression.transpose(1, 0, 2)]).transpose(1, 2, 0)
    whole = {
        **made,
        "v_template": template,
        "shapedirs": shape.astype(np.float32),
        "posedirs": correctives.astype(np.float32),
        "J_regressor": _regressor(bodies[:40], joints[:40]),
        "weights": weights / weights.sum(1, keepdims=True),
        "f": faces.astype(np.uint32),
        "lmk_faces_idx": triangles[17:],
        "lmk_bary_coords": shares[17:],
        "dynamic_lmk_faces_idx": np.tile(triangles[:17], (79, 1)),
        "dynamic_lmk_bary_coords": np.tile(shares[:17], (79, 1, 1)),
        "hands_meanl": 0.2 * made["hands_meanl"],
        "hands_meanr": 0.2 * made["hands_meanr"],
    }
    return whole, kept


def save(path: Path) -> Path:
    """Writes the file."""
    np.savez(path, **arrays())  # pyright: ignore[reportArgumentType]
    return path


def kid_template() -> np.ndarray:
    """(10475, 3) a child of the same topology, as the file that AGORA's kid template is."""
    model = anny.load()
    child, _, _ = _in_rest_pose(model, calibrated_phenotypes(np.array([0.2]), np.array([0.5])))
    template = arrays()["v_template"]
    average, _, _ = _in_rest_pose(model, calibrated_phenotypes(np.array([0.66]), np.array([0.5])))
    kept = [int(((average[0] - point) ** 2).sum(1).argmin()) for point in template]
    return child[0, kept]


def _in_rest_pose(model: anny.AnnyModel, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Anny's bodies with arms out and legs straight, in SMPL-X's axes: vertices, heads of bones, COCO's points."""
    _, _, pose = SmplToAnny(model)(np.tile(np.eye(3), (24, 1, 1)), np.zeros(3))
    forward = jax.jit(anny.forward)
    found = []
    for shape in shapes:
        zero = jnp.zeros(3, model.dtype)
        out = forward(model, anny.Params(jnp.asarray(shape, model.dtype), zero, jnp.asarray(pose, model.dtype), zero))
        found.append((out.vertices, out.bone_poses[:, :3, 3], out.keypoints))
    vertices, heads, points = (np.stack([np.asarray(x, np.float64) for x in part]) for part in zip(*found))
    return vertices @ FROM_ANNY.T, heads @ FROM_ANNY.T, points @ FROM_ANNY.T


def _as_poses(heads: np.ndarray) -> np.ndarray:
    poses = np.tile(np.eye(4), (len(heads), 1, 1))
    poses[:, :3, 3] = heads
    return poses


def _joints(labels: anny.Labels, heads: np.ndarray) -> np.ndarray:
    """(n, 55, 3): heads of the bones with the same name; the pelvis lies above the middle of the hips."""
    joints = heads[:, [labels.bones.index(body_pairs.ANNY_BONES[joint]) for joint in smplx.JOINTS]]
    joints[:, 0] = joints[:, [1, 2]].mean(1) + np.array([0.0, 0.06, 0.0])
    return joints


def _regressor(bodies: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """(55, 10475): weights of the nearest vertices that sum to 1 and give the joints of all bodies, by least squares."""
    regressor = np.zeros((joints.shape[1], bodies.shape[1]))
    for j in range(joints.shape[1]):
        near = np.argsort(((bodies[0] - joints[0, j]) ** 2).sum(1))[:60]
        points = bodies[:, near].transpose(0, 2, 1).reshape(-1, len(near))
        ones = 10.0 * np.ones((1, len(near)))
        ridge = 1e-3 * np.eye(len(near))
        wanted = np.concatenate([joints[:, j].ravel(), [10.0], np.full(len(near), 1e-3 / len(near))])
        weights = np.linalg.lstsq(np.concatenate([points, ones, ridge]), wanted, rcond=None)[0]
        regressor[j, near] = weights / weights.sum()
    return regressor
