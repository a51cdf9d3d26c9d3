"""Errors of meshes of one topology, and of their parts. Pure numpy; results in the unit of the input.

Two meshes are compared vertex by vertex, so both must have the same topology; `same_topology` says so in words. An Anny
mesh (13 718 vertices) has no correspondence with SMPL (6 890) or SMPL-X (10 475): there only joints are compared.

| name | alignment |
|---|---|
| `pve` (MVE, MPVPE) | each mesh relative to its own pelvis. Which pelvis: Multi-HMR the model's joint, AiOS the SMPL-X joint regressor applied to each mesh, AGORA the middle of joints 1 and 2 |
| `pa_pve` (PA-MPVPE) | similarity over all vertices |
| `part_pve`, `part_pa_pve` | vertices of a part, at the part's own joint (hands: wrists, face: neck), or a similarity over the part |
"""  # noqa: E501 (table rows)

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from annyfit_jax.metrics.joint_errors import distances, similarity_align

TOPOLOGIES = {13718: "anny", 6890: "smpl", 10475: "smplx"}
"""Known meshes by their number of vertices."""


class TopologyError(ValueError):
    """Two meshes that cannot be compared vertex by vertex."""


def topology(vertices: Float[np.ndarray, "*batch V 3"]) -> str:
    """Name of a mesh's topology, `<V> vertices` for an unknown one."""
    count = np.shape(vertices)[-2]
    return TOPOLOGIES.get(count, f"{count} vertices")


def same_topology(vertices: Float[np.ndarray, "*batch V 3"], truth: Float[np.ndarray, "*other W 3"]) -> None:
    """Raises TopologyError unless both meshes have the same number of vertices."""
    ours, theirs = topology(vertices), topology(truth)
    if ours != theirs:
        raise TopologyError(
            f"vertex errors need one mesh topology: the prediction is {ours} {np.shape(vertices)}, the truth {theirs} "
            f"{np.shape(truth)}; compare joints, or name a mapping between the two"
        )


def pve(
    vertices: Float[np.ndarray, "*batch V 3"],
    truth: Float[np.ndarray, "*batch V 3"],
    pelvis: Float[np.ndarray, "*batch 3"],
    truth_pelvis: Float[np.ndarray, "*batch 3"],
) -> Float[np.ndarray, "*batch"]:
    """Mean vertex distance, each mesh relative to its own pelvis. Raises TopologyError."""
    return _centred(vertices, truth, pelvis, truth_pelvis).mean(-1)


def pa_pve(
    vertices: Float[np.ndarray, "*batch V 3"], truth: Float[np.ndarray, "*batch V 3"]
) -> Float[np.ndarray, "*batch"]:
    """Mean vertex distance after a similarity over all vertices. Raises TopologyError."""
    same_topology(vertices, truth)
    return distances(similarity_align(vertices, truth), truth).mean(-1)


def part_pve(
    vertices: Float[np.ndarray, "V 3"],
    truth: Float[np.ndarray, "V 3"],
    part: Int[np.ndarray, "m"],
    joint: Float[np.ndarray, "3"],
    truth_joint: Float[np.ndarray, "3"],
    use: Bool[np.ndarray, "V"] | None = None,
) -> float:
    """Mean distance of one person's part, aligned at a joint; over the vertices in use (UBody: inside the picture)."""
    error = _centred(vertices, truth, joint, truth_joint)
    return _mean(error[part], use, part)


def part_pa_pve(
    vertices: Float[np.ndarray, "V 3"],
    truth: Float[np.ndarray, "V 3"],
    part: Int[np.ndarray, "m"],
    use: Bool[np.ndarray, "V"] | None = None,
) -> float:
    """Mean distance of one person's part after a similarity over the **whole** part; averaged over the vertices in use."""
    same_topology(vertices, truth)
    target = np.asarray(truth, np.float64)[part]
    return _mean(distances(similarity_align(np.asarray(vertices)[part], target), target), use, part)


def _centred(vertices: np.ndarray, truth: np.ndarray, origin: np.ndarray, truth_origin: np.ndarray) -> np.ndarray:
    same_topology(vertices, truth)
    a = np.asarray(vertices, np.float64) - np.asarray(origin, np.float64)[..., None, :]
    return distances(a, np.asarray(truth, np.float64) - np.asarray(truth_origin, np.float64)[..., None, :])


def _mean(error: np.ndarray, use: np.ndarray | None, part: np.ndarray) -> float:
    kept = error if use is None else error[np.asarray(use, bool)[part]]
    return float(kept.mean()) if len(kept) else float("nan")
