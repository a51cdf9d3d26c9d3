"""Choose and weigh the vertices that stand for Anny's whole mesh in the mesh regulariser (needs SciPy: the `test` extra).

    python -m experiments.builders.build_mesh_sample --output=annyfit_jax/data/anny_mesh_sample.npz

The regulariser is a sum of squares over 13 718 vertices. Near any body it is a quadratic form in the parameters a fit moves,
H = sum_v J_v^T J_v. Non-negative least squares finds sparse vertex weights w with sum_v w_v J_v^T J_v = H over several bodies,
among well-spread vertices, extra ones at hands, feet and breasts, and the default dense points (formed anyway).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Float

from annyfit_jax.fit import config, fit_body
from annyfit_jax.people import anatomy, dense_points
from annyfit_jax.records import files
from body_models import anny

_OUTPUT = flags.DEFINE_string("output", "annyfit_jax/data/anny_mesh_sample.npz", "File to write.")
_CANDIDATES = flags.DEFINE_integer("candidates", 150, "Well-spread vertices to choose from, beside the dense points.")
_CONFIG = flags.DEFINE_string("config", "experiments/configs/annyfit.py", "Config that says which bones move.")

_TIPS = ("wrist", "foot", "breast", "lowerarm02")
"""Ends of limbs: few vertices of a uniform sample, but their rotations hang on them."""
_TIP_VERTICES = 8
# Bodies at which the quadratic form is matched: age and the spread of the free bones' rotations (radians).
_BODIES = ((0.66, 0.0), (0.66, 0.4), (0.2, 0.3), (0.05, 0.3))
_SHAPE_SCALE = 0.3
"""A phenotype step that counts like one radian or one metre."""
_LEAST_CORRELATION = 0.02
"""Entries of the normalised Hessian smaller than this are not matched."""
_STEP = 1e-2
_CHUNK = 32


def main(_: list[str]) -> None:
    from scipy.optimize import nnls

    model = anny.load()
    moving = fit_body.free_bones(model.labels.bones[1:], config.load_config(_CONFIG.value).frozen_bones)
    candidates = choose_candidates(model, _CANDIDATES.value)
    rng = np.random.default_rng(0)
    forward = jax.jit(anny.forward)
    rows, targets = [], []
    for age, spread in _BODIES:
        row, target = hessian_rows(model, forward, np.array(moving), candidates, age, spread, rng)
        rows.append(row)
        targets.append(target)
    matrix, target = np.concatenate(rows), np.concatenate(targets)
    weights, residual = nnls(matrix, target, maxiter=20000)
    keep = weights > 1e-3
    dense = np.isin(candidates[keep], dense_points.dense_vertex_indices())
    print(
        f"{keep.sum()} vertices ({(~dense).sum()} besides dense points), relative residual "
        f"{residual / np.linalg.norm(target):.1e}, weights sum to {weights.sum():.1f} of {model.skin.shape[1]} vertices"
    )
    files.write_npz(
        _OUTPUT.value,
        {
            "index": candidates[keep].astype(np.int32),
            "weights": weights[keep],
            "asset_version": np.array(model.labels.asset_version),
        },
    )


def choose_candidates(model: anny.AnnyModel, count: int) -> np.ndarray:
    """Vertex indices to choose from: spread over the mesh, the default dense points, and the ends of limbs."""
    template = np.asarray(model.vertices.mean, np.float64).T
    chosen = [fit_body.sample_mesh(template, count)[0], dense_points.dense_vertex_indices()]
    skin = np.asarray(model.skin)
    for stem in _TIPS:
        for side in (".L", ".R"):
            bones = [i for i, name in enumerate(model.labels.bones) if name.startswith(stem) and name.endswith(side)]
            vertices = np.flatnonzero(skin[bones].sum(0) > 0.5)
            if len(vertices) > _TIP_VERTICES:
                chosen.append(vertices[fit_body.farthest_points(template[vertices], _TIP_VERTICES)])
    return np.unique(np.concatenate(chosen))


def hessian_rows(
    model: anny.AnnyModel, forward, moving: np.ndarray, candidates: np.ndarray, age: float, spread: float, rng
) -> tuple[Float[np.ndarray, "entry candidate"], Float[np.ndarray, "entry"]]:
    """Entries of the normalised Hessian at one body: per candidate vertex, and of the whole mesh."""
    pose = anatomy.relaxed_pose(model)
    pose[moving] += spread * rng.normal(size=(len(moving), 3))
    base = np.concatenate([[0.5, age, 0.5, 0.5, 0.4, 0.5], np.zeros(3), pose.ravel(), np.zeros(3)])
    dims = np.concatenate(
        [np.arange(9), (9 + 3 * moving[:, None] + np.arange(3)).ravel(), np.arange(3) + len(base) - 3]
    )
    steps = np.zeros((len(dims), 2, len(base)))
    steps[np.arange(len(dims)), 0, dims], steps[np.arange(len(dims)), 1, dims] = _STEP, -_STEP
    vertices = _vertices(model, forward, (base + steps).reshape(-1, len(base)))
    jacobian = (vertices[0::2] - vertices[1::2]) / (2 * _STEP)
    jacobian *= np.where(np.arange(len(dims)) < 6, _SHAPE_SCALE, 1.0)[:, None, None]
    hessian = np.einsum("avi,bvi->ab", jacobian, jacobian, optimize=True)
    scale = 1.0 / np.sqrt(np.diag(hessian))
    hessian = hessian * scale[:, None] * scale
    a, b = np.triu_indices(len(dims))
    matched = np.abs(hessian[a, b]) > _LEAST_CORRELATION
    a, b = a[matched], b[matched]
    importance = np.where(a == b, 3.0, 1.0)
    part = jacobian[:, candidates] * scale[:, None, None]
    return (part[a] * part[b]).sum(-1) * importance[:, None], hessian[a, b] * importance


def _vertices(model: anny.AnnyModel, forward, flat: np.ndarray) -> np.ndarray:
    out = []
    for start in range(0, len(flat), _CHUNK):
        rows = flat[np.minimum(np.arange(start, start + _CHUNK), len(flat) - 1)].astype(np.float32)
        parts = (rows[:, :6], rows[:, 6:9], rows[:, 9:-3].reshape(_CHUNK, -1, 3), rows[:, -3:])
        params = anny.Params(*(jnp.asarray(part) for part in parts))
        out.append(np.asarray(forward(model, params).vertices)[: len(flat) - start])
    return np.concatenate(out).astype(np.float64)


if __name__ == "__main__":
    app.run(main)
