"""What a protocol does with the predicted and the labelled people of one image, and what its figures must say.

| protocol | Anny fits | SMPL-X meshes |
|---|---|---|
| `relative_human` | everything | joints are not those of Relative Human: refused |
| `panoptic` | everything | refused likewise |
| `agora` | limbs: matched and judged by the 12 joints that both bodies name alike; no vertex figures | AGORA's upload format: everything |
| `ehf`, `ubody` | `mpjpe_body`, `pa_mpjpe_body`; no vertex figures | everything |

A figure that cannot be had is NaN, printed as n.a.; `settings` says why.
"""  # noqa: E501 (table rows)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from annyfit_jax.metrics import agora, panoptic, relative_human, smplx_sets
from annyfit_jax.metrics.people import PredictedPeople, TruthPeople, check_people
from annyfit_jax.metrics.skeletons import HIPS, LIMBS12, pick
from annyfit_jax.scene import SceneError

Errors = dict[str, np.ndarray]
KINDS = ("fits", "meshes", "agora")
"""What predictions are: fits of this project, `.npz` of SMPL-X meshes, AGORA's upload format."""
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
    *,
    parts: Mapping[str, Int[np.ndarray, "m"]] | None = None,
    regressor: Float[np.ndarray, "55 10475"] | None = None,
) -> ImageProtocol:
    """The protocol `name` for predictions of a kind.

    Args:
      parts: vertex numbers by part (`truth.parts.read_parts`), for SMPL-X predictions.
      regressor: SMPL-X joint regressor, for `meshes`.

    Raises SceneError where the protocol cannot judge that kind.
    """
    parts = parts or {}
    allowed = {"relative_human": ("fits",), "panoptic": ("fits",), "agora": ("fits", "agora")}
    if kind not in allowed.get(name, ("fits", "meshes")):
        raise SceneError(f"protocol {name}: predictions of kind {kind} cannot be judged")
    if name == "relative_human":
        return ImageProtocol(name, relative_human.image_errors, relative_human.pool, {
            "matching": "greedy 2D, 14 joints, IoU 0.05",
            "depth": "camera z of the root bone",
            "age": "cuts of the age phenotype at 0.33, 0.5, 0.66",
            "misses": "0.3 of a wrong pair in PCRD; not in mPCKh, F1 of age and gender",
            "units": "shares",
        })  # fmt: skip
    if name == "panoptic":
        return ImageProtocol(name, panoptic.image_errors, panoptic.pool, {
            "matching": "BEV: greedy 2D, 14 joints, IoU 0.05; other figures: mean distance of COCO-17 joints, IoU 0.05",
            "joints": "BEV: 14, root = pelvis; others: COCO-17 of confidence >= 0.2, root = middle of the hips",
            "misses": "150 mm in BEV's figures; not in the others",
            "units": "mm; depth_abs_err m",
        })  # fmt: skip
    if name == "agora":
        return _agora_limbs() if kind == "fits" else _agora_smplx(parts)
    return _smplx_set(name, kind, parts, regressor)


def _agora_limbs() -> ImageProtocol:
    hips = [LIMBS12.index(joint) for joint in HIPS]

    def errors(predicted: PredictedPeople, truth: TruthPeople) -> Errors:
        assert truth.joints_3d is not None
        return agora.image_errors(
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
    return ImageProtocol("agora", errors, agora.pool, settings)


def _agora_smplx(parts: Mapping[str, np.ndarray]) -> ImageProtocol:
    judged = agora.smplx_parts(parts)

    def errors(predicted: PredictedPeople, truth: TruthPeople) -> Errors:
        target, ours = truth.joints_smplx, predicted.joints_smplx
        assert ours is not None and target is not None
        if len(truth) and target.shape[1] < ours.shape[1]:
            raise SceneError(
                f"{truth.name}: gt_joints_3d: expected SMPL-X joints {ours.shape[1:]}, got {target.shape[1:]}"
            )
        return agora.image_errors(
            predicted.joints_2d,
            truth,
            ours,
            predicted.vertices,
            truth_joints=target[:, : ours.shape[1]],
            body_joints=agora.BODY_JOINTS["smplx"],
            body_vertices=parts.get("body"),
            parts=judged,
        )

    settings = {
        "matching": "greedy 2D, 24 joints, IoU 0.1, 3840 x 2160 pixels",
        "joints": "22 of SMPL-X, root = middle of joints 1 and 2; hands at the wrists, face at the neck",
        "MVE": "AGORA's body vertices" if "body" in parts else "all vertices: body_verts_smplx.npy was not given",
        "misses": "in F1; as 0 in LH, RH, F",
        "units": "mm",
    }
    return ImageProtocol("agora", errors, agora.pool, settings)


def _smplx_set(
    name: str, kind: str, parts: Mapping[str, np.ndarray], regressor: Float[np.ndarray, "55 10475"] | None
) -> ImageProtocol:
    hands_and_face = {part: numbers for part, numbers in parts.items() if part != "body"}

    def errors(predicted: PredictedPeople, truth: TruthPeople) -> Errors:
        if not len(predicted):
            return smplx_sets.nobody()
        assert truth.joints_3d is not None and truth.vertices is not None
        limbs_2d, limbs_3d = (pick(x, predicted.names, LIMBS12) for x in (predicted.joints_2d, predicted.joints_3d))
        target = pick(truth.joints_3d, truth.names, LIMBS12)[0]
        # Meshes come best first; of fitted people the one at the truth's place is meant.
        chosen = 0 if kind == "meshes" else smplx_sets.nearest(limbs_2d, pick(truth.joints_2d, truth.names, LIMBS12)[0])
        out = {"people": np.array([1]), "missed": np.array([0]), **smplx_sets.joint_errors(limbs_3d[chosen], target)}
        if predicted.vertices is not None and regressor is not None:
            inside = None if truth.inside is None else truth.inside[0]
            mesh = predicted.vertices[chosen], truth.vertices[0]
            out |= smplx_sets.mesh_errors(*mesh, regressor, hands_and_face, inside)
        return out

    settings = {
        "people": "best score" if kind == "meshes" else "nearest in 2D",
        "joints": "12 limb joints, root = middle of the hips",
        "PVE": "regressed joints 0 (all), 20 and 21 (hands), 12 (face)" if kind == "meshes" else _NO_MESH,
        "hands, face": "n.a.: vertex numbers were not given" if not hands_and_face else "MANO and FLAME vertex numbers",
        "vertices": "inside the picture only" if name == "ubody" else "all",
        "misses": "not in the errors",
        "units": "mm",
    }
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
