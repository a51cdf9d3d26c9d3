"""What a protocol does with the predicted and the labelled people of one image, and what its figures must say.

| protocol | Anny fits | SMPL-X fits | SMPL-X meshes | AGORA's upload format |
|---|---|---|---|---|
| `relative_human`, `panoptic` | everything | refused: joints are not those of the protocol | refused | refused |
| `agora` | limbs: matched and judged by the 12 joints that both bodies name alike; no vertex figures | everything | refused | everything, of SMPL-X and of SMPL |
| `ehf`, `ubody`, `arctic`, `egobody` | `mpjpe_body`, `pa_mpjpe_body`; no vertex figures | everything | everything | refused |

Parameters of SMPL-X fits hold no expression, so faces are judged without one, unless the fits store their vertices. AiOS judges the
best-scoring person of an image (`experiments.predict --single_person`); of several fits, the one nearest in 2D is judged here. A figure
that cannot be computed is NaN and is printed as n.a.; `settings` says why.
"""  # noqa: E501 (table rows)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from annyfit_jax.metrics import agora_scores, panoptic_scores, relative_human_scores, smplx_sets
from annyfit_jax.metrics.people_of_image import PredictedPeople, TruthPeople, check_people
from annyfit_jax.metrics.skeletons import HIPS, LIMBS12, pick
from annyfit_jax.people.scene import SceneError

Errors = dict[str, np.ndarray]
KINDS = ("fits", "meshes", "agora")
"""What predictions are: fits of this project, `.npz` of SMPL-X meshes, AGORA's upload format."""
BODIES = {"fits": ("anny", "smplx"), "meshes": ("smplx",), "agora": ("smplx", "smpl")}
"""Bodies that predictions of a kind may be of."""
_NO_MESH = "n.a.: an Anny mesh has no vertex correspondence with SMPL-X; joints are compared"


@dataclass(frozen=True)
class ImageProtocol:
    """A protocol over images, ready to use."""

    name: str
    errors: Callable[[PredictedPeople, TruthPeople], Errors]
    """Errors of one image. Raises ValueError naming what does not fit."""
    pool: Callable[[Sequence[Errors]], dict[str, float]]
    settings: dict[str, str]
    """What a figure must say: matching, joints, root, units, misses."""


def image_protocol(
    name: str,
    kind: str = "fits",
    body: str | None = None,
    *,
    parts: Mapping[str, Int[np.ndarray, "m"]] | None = None,
    regressor: Float[np.ndarray, "55 10475"] | None = None,
) -> ImageProtocol:
    """The protocol `name` for predictions of a kind.

    Args:
      body: what the predictions are of, one of `BODIES[kind]`; default the first.
      parts: vertex numbers by part (`smplx_parts.read_parts`), for SMPL-X and SMPL predictions.
      regressor: SMPL-X joint regressor, for meshes of the data sets with one person per image.

    Raises SceneError where the protocol cannot judge that kind.
    """
    parts = parts or {}
    body = body or BODIES[kind][0]
    allowed = {"relative_human": ("fits",), "panoptic": ("fits",), "agora": ("fits", "agora")}
    if kind not in allowed.get(name, ("fits", "meshes")):
        raise SceneError(f"protocol {name}: predictions of kind {kind} cannot be judged")
    if name in ("relative_human", "panoptic") and body != "anny":
        raise SceneError(f"protocol {name}: fits of {body} cannot be judged, it has other joints")
    if name == "relative_human":
        return ImageProtocol(name, relative_human_scores.image_errors, relative_human_scores.pool, {
            "matching": "greedy 2D, 14 joints, IoU 0.05",
            "depth": "camera z of the root bone",
            "age": "cuts of the age phenotype at 0.33, 0.5, 0.66",
            "misses": "0.3 of a wrong pair in PCRD; not in mPCKh, F1 of age and gender",
            "units": "shares",
        })  # fmt: skip
    if name == "panoptic":
        return ImageProtocol(name, panoptic_scores.image_errors, panoptic_scores.pool, {
            "matching": "BEV: greedy 2D, 14 joints, IoU 0.05; other figures: mean distance of COCO-17 joints, IoU 0.05",
            "joints": "BEV: 14, root = pelvis; others: COCO-17 of confidence >= 0.2, root = middle of the hips",
            "misses": "150 mm in BEV's figures; not in the others",
            "units": "mm; depth_abs_err m",
        })  # fmt: skip
    if name == "agora":
        return _agora_limbs() if body == "anny" else _agora_body(body, parts)
    return _smplx_set(name, kind, body, parts, regressor)


def _agora_limbs() -> ImageProtocol:
    hips = [LIMBS12.index(joint) for joint in HIPS]

    def errors(predicted: PredictedPeople, truth: TruthPeople) -> Errors:
        assert truth.joints_3d is not None
        return agora_scores.image_errors(
            pick(predicted.joints_2d, predicted.names, LIMBS12),
            truth,
            pick(predicted.joints_3d, predicted.names, LIMBS12),
            truth_2d=pick(truth.joints_2d, truth.names, LIMBS12),
            truth_joints=pick(truth.joints_3d, truth.names, LIMBS12),
            root=hips,
        )

    settings = {
        "matching": "greedy 2D, IoU 0.1; 12 limb joints instead of AGORA's 24, which Anny has no counterpart of",
        "joints": "12 limb joints, root = middle of the hips",
        "MVE, NMVE": _NO_MESH,
        "units": "mm",
    }
    return ImageProtocol("agora", errors, agora_scores.pool, settings)


def _agora_body(body: str, parts: Mapping[str, np.ndarray]) -> ImageProtocol:
    judged = agora_scores.smplx_parts(parts) if body == "smplx" else ()
    joints, key = agora_scores.BODY_JOINTS[body], {"smplx": "body", "smpl": "smpl_body"}[body]

    def errors(predicted: PredictedPeople, truth: TruthPeople) -> Errors:
        target, ours = truth.joints_smplx, predicted.joints_smplx
        assert ours is not None and target is not None
        if len(truth) and len(predicted) and predicted.names != truth.names:
            other = "smplx" if body == "smpl" else "smpl"
            raise SceneError(f"{truth.name}: gt_joints_3d: predictions are of {body}, the truth of {other}")
        if len(truth) and target.shape[1] < ours.shape[1]:
            raise SceneError(
                f"{truth.name}: gt_joints_3d: expected {body} joints {ours.shape[1:]}, got {target.shape[1:]}"
            )
        return agora_scores.image_errors(
            predicted.joints_2d,
            truth,
            ours,
            predicted.vertices,
            truth_joints=target[:, : ours.shape[1]],
            body_joints=joints,
            body_vertices=parts.get(key),
            parts=judged,
        )

    vertices = "AGORA's body vertices" if key in parts else f"all vertices: body_verts_{body}.npy was not given"
    settings = {
        "matching": "greedy 2D, 24 joints, IoU 0.1, 3840 x 2160 pixels",
        "joints": f"{joints} of {body}, root = middle of joints 1 and 2"
        + ("; hands at the wrists, face at the neck" if judged else ""),
        "MVE": vertices,
        "misses": "in F1" + ("; as 0 in LH, RH, F" if judged else ""),
        "units": "mm",
    }
    return ImageProtocol("agora", errors, agora_scores.pool, settings)


def _smplx_set(
    name: str, kind: str, body: str, parts: Mapping[str, np.ndarray], regressor: Float[np.ndarray, "55 10475"] | None
) -> ImageProtocol:
    hands_and_face = {part: parts[part] for part in ("left_hand", "right_hand", "face") if part in parts}

    def errors(predicted: PredictedPeople, truth: TruthPeople) -> Errors:
        if not len(predicted):
            return smplx_sets.nobody()
        assert truth.joints_3d is not None and truth.vertices is not None
        limbs_2d, limbs_3d = (pick(x, predicted.names, LIMBS12) for x in (predicted.joints_2d, predicted.joints_3d))
        target = pick(truth.joints_3d, truth.names, LIMBS12)[0]
        # Meshes come best first; of fitted people the one at the truth's place is meant.
        labelled = pick(truth.labelled[0, :, None], truth.names, LIMBS12)[:, 0]
        place = pick(truth.joints_2d, truth.names, LIMBS12)[0]
        chosen = 0 if kind == "meshes" else smplx_sets.nearest(limbs_2d[:, labelled], place[labelled])
        out = {"people": np.array([1]), "missed": np.array([0]), **smplx_sets.joint_errors(limbs_3d[chosen], target)}
        if predicted.vertices is not None and regressor is not None:
            inside = None if truth.inside is None else truth.inside[0]
            mesh = predicted.vertices[chosen], truth.vertices[0]
            out |= smplx_sets.mesh_errors(*mesh, regressor, hands_and_face, inside)
        return out

    settings = {
        "people": "best score" if kind == "meshes" else "nearest in 2D",
        "joints": "12 limb joints, root = middle of the hips",
        "PVE": "regressed joints 0 (all), 20 and 21 (hands), 12 (face)" if body == "smplx" else _NO_MESH,
        "hands, face": "n.a.: vertex numbers were not given" if not hands_and_face else "MANO and FLAME vertex numbers",
        "vertices": "inside the picture only" if name == "ubody" else "all",
        "misses": "not in the errors",
        "units": "mm",
    } | ({"expression": "zero, unless fits store vertices"} if kind == "fits" and body == "smplx" else {})
    return ImageProtocol(name, errors, smplx_sets.pool, settings)


def checked(protocol: ImageProtocol) -> Callable[[PredictedPeople, TruthPeople], Errors]:
    """`protocol.errors` whose errors name the image."""

    def errors(predicted: PredictedPeople, truth: TruthPeople) -> Errors:
        check_people(predicted, truth.name)
        try:
            return protocol.errors(predicted, truth)
        except SceneError:
            raise
        except ValueError as error:
            raise SceneError(f"{truth.name}: {error}") from error

    return errors
