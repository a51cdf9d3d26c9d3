"""EHF, UBody, ARCTIC, EgoBody: one SMPL-X person per image, meshes compared as a whole and by parts (AiOS's protocol).

| name | what, mm |
|---|---|
| `pve_all`, `pve_hands`, `pve_face` | mean vertex distance after aligning the joint that the SMPL-X regressor gives on each mesh: 0 (all), 20 and 21 (hands, mean of left and right), 12 (face) |
| `pa_pve_all`, `pa_pve_hands`, `pa_pve_face` | after a similarity over the part itself |
| `mpjpe_body`, `pa_mpjpe_body` | limbs that both skeletons name alike, aligned at the middle of the hips; a similarity: also for Anny fits, whose mesh cannot be compared |
| `matched`, `missed` | people with and without a prediction; an error is over matched people |

UBody counts only vertices whose projection lies inside the picture; they are all in the alignment. Only the best-scoring
prediction of an image is judged; of several fits the person nearest in 2D. AiOS's program gives no figure of EgoBody's faces, and
in UBody projects the truth with the predicted camera; here faces have a figure everywhere, and the truth's camera is used.
"""  # noqa: E501 (table rows)

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from annyfit_jax.metrics.joint_errors import distances, pa_mpjpe, rooted_errors
from annyfit_jax.metrics.skeletons import HIPS, LIMBS12
from annyfit_jax.metrics.vertex_errors import part_pa_pve, part_pve, same_topology

Errors = dict[str, np.ndarray]
ORIGIN = {"all": 0, "left_hand": 20, "right_hand": 21, "face": 12}
"""Regressed joint that a part is aligned at."""
_FIGURES = ("all", "hands", "face")
_MM = 1000.0


def mesh_errors(
    vertices: Float[np.ndarray, "V 3"],
    truth: Float[np.ndarray, "V 3"],
    regressor: Float[np.ndarray, "J V"],
    parts: Mapping[str, Int[np.ndarray, "m"]],
    inside: Bool[np.ndarray, "V"] | None = None,
) -> Errors:
    """Vertex errors of one person. Raises TopologyError.

    Args:
      regressor: joints of the SMPL-X file, (55, 10475) or its leading rows.
      parts: vertex numbers of `left_hand`, `right_hand`, `face`; a part that is absent has no figure.
      inside: vertices that count (UBody).
    """
    same_topology(vertices, truth)
    ours, theirs = regressor @ np.asarray(vertices, np.float64), regressor @ np.asarray(truth, np.float64)
    numbers = {"all": np.arange(len(truth)), **parts}
    plain, pa = {}, {}
    for name, at in ORIGIN.items():
        if name in numbers:
            plain[name] = part_pve(vertices, truth, numbers[name], ours[at], theirs[at], inside) * _MM
            pa[name] = part_pa_pve(vertices, truth, numbers[name], inside) * _MM
    out = {}
    for prefix, values in (("pve", plain), ("pa_pve", pa)):
        # One hand outside the picture: the other one alone.
        hands = [values[name] for name in ("left_hand", "right_hand") if np.isfinite(values.get(name, np.nan))]
        figures = {
            "all": values["all"],
            "hands": np.mean(hands) if hands else np.nan,
            "face": values.get("face", np.nan),
        }
        out |= {f"{prefix}_{name}": np.array([value]) for name, value in figures.items()}
    return out


def joint_errors(joints: Float[np.ndarray, "12 3"], truth: Float[np.ndarray, "12 3"]) -> Errors:
    """Errors of the limbs (`skeletons.LIMBS12`) of one person, root = middle of the hips."""
    hips = [LIMBS12.index(name) for name in HIPS]
    return {
        "mpjpe_body": rooted_errors(joints, truth, hips).mean(keepdims=True) * _MM,
        "pa_mpjpe_body": np.atleast_1d(pa_mpjpe(joints, truth)) * _MM,
    }


def nobody() -> Errors:
    """An image whose person was missed."""
    return {"people": np.array([1]), "missed": np.array([1])}


def nearest(predicted: Float[np.ndarray, "p J 2"], truth: Float[np.ndarray, "J 2"]) -> int:
    """The prediction with the smallest mean 2D distance to a person; the first if no joint is given; p >= 1."""
    if not truth.shape[0]:
        return 0
    return int(np.nan_to_num(distances(predicted, truth[None]).mean(1), nan=np.inf).argmin())


def pool(images: Sequence[Errors]) -> dict[str, float]:
    """Means over the people of all images; NaN for figures nobody has."""
    if not images:
        raise ValueError("smplx_sets.pool: expected the errors of at least one image")
    people, missed = (int(sum(int(image[key].sum()) for image in images)) for key in ("people", "missed"))
    keys = [*(f"{kind}_{name}" for kind in ("pve", "pa_pve") for name in _FIGURES), "mpjpe_body", "pa_mpjpe_body"]
    out: dict[str, float] = {"scenes": len(images), "people": people, "matched": people - missed, "missed": missed}
    for key in keys:
        values = np.concatenate([image.get(key, np.zeros(0)) for image in images])
        values = values[np.isfinite(values)]
        out[key] = float(values.mean()) if len(values) else float("nan")
    return out
