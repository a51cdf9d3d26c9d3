"""Root orientation and pose from 33 metric landmarks (BlazePose's order): one more start of the search from keypoints.

Only directions are read. Pelvis and chest take the lines of hips, shoulders and trunk, the spine turns between them, the head
follows ears and nose. Upper limbs point as the landmarks do and are turned about themselves until the hinge of elbow or knee
stands across the limb; lower limbs and feet follow by shortest arcs. Sizes and places are the fit's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from annyfit_jax.fit.keypoint_start import calibrated_phenotypes
from annyfit_jax.people import anatomy
from annyfit_jax.people.scene import COCO17, LANDMARKS_M, LANDMARKS_PX, UNKNOWN_WORD, Scene, SceneError
from body_models import anny

NUM_LANDMARKS = 33
COCO_OF_LANDMARKS = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
"""Which landmark is each of COCO's 17 keypoints."""
_TOES = {"L": 31, "R": 32}
_J = {name: i for i, name in enumerate(COCO17)}
_SIDES = {"L": "left", "R": "right"}
_LIMBS = (("arm", "shoulder", "elbow", "wrist"), ("leg", "hip", "knee", "ankle"))
_HINGE_AT_REST = 0.25
"""Sine of the bend from which a limb's own bend says more about its twist than the body it hangs on."""
_SHORTEST_M = 0.01
"""Landmarks nearer to each other than this have no direction."""


@dataclass(frozen=True)
class LandmarkStart:
    """Bodies of n people as their landmarks hold them; NaN for people without usable landmarks."""

    root_rotvec: Float[np.ndarray, "n 3"]
    """Camera axes, radians."""
    pose: Float[np.ndarray, "n 162 3"]
    """Rotation vectors of the bones in their own rest frames, radians."""

    @property
    def known(self) -> np.ndarray:
        """(n,) bool."""
        return np.asarray(np.isfinite(self.root_rotvec).all(-1))


class LandmarkStarter:
    """Holds the resting skeleton and keypoints of the average adult."""

    def __init__(self, model: anny.AnnyModel) -> None:
        average = calibrated_phenotypes(np.array([UNKNOWN_WORD]), np.array([UNKNOWN_WORD]))[0]
        shape = jnp.asarray(average, model.heads.mean.dtype)
        rest = np.asarray(jax.jit(anny.rest)(model, shape)[1], np.float64)
        self._names, self._parents = list(model.labels.bones), model.labels.parents
        self._frames, self._heads = rest[..., :3], dict(zip(self._names, rest[..., 3], strict=True))
        points = anny.contract(model, np.asarray(model.keypoint_regressor)[: len(COCO17)])
        zero = jnp.zeros(3, shape.dtype)
        still = anny.Params(shape, zero, jnp.zeros((len(self._names) - 1, 3), shape.dtype), zero)
        self._rest = np.asarray(jax.jit(anny.points)(points, still), np.float64)
        bones, axes, _ = anatomy.joint_axes(model)
        self._flexion = {self._names[b]: self._frames[b] @ turn[0] for b, turn in zip(bones, axes, strict=True)}

    def __call__(self, scene: Scene) -> LandmarkStart | None:
        """Starts of all people of a scene, or None where it has no landmarks. Raises SceneError for arrays of another shape."""
        if scene.extra.get(LANDMARKS_M) is None or scene.extra.get(LANDMARKS_PX) is None:
            return None
        metres, pixels = (np.asarray(scene.extra[name], np.float64) for name in (LANDMARKS_M, LANDMARKS_PX))
        expected = (len(scene), NUM_LANDMARKS, 3)
        for name, array in ((LANDMARKS_M, metres), (LANDMARKS_PX, pixels)):
            if array.shape != expected:
                raise SceneError(f"{scene.name}: extra.{name}: expected {expected}, got {array.shape}")
        root = np.full((len(scene), 3), np.nan)
        pose = np.full((len(scene), len(self._names) - 1, 3), np.nan)
        known = usable(metres)
        if known.any():
            turned = self._turned(metres[known])
            sight = line_of_sight(pixels[known], scene.intrinsics)
            root[known] = Rotation.from_matrix(sight @ turned[0]).as_rotvec()
            pose[known] = self._local(turned)
        return LandmarkStart(root, pose)

    def _turned(self, metres: Float[np.ndarray, "n 33 3"]) -> list[Float[np.ndarray, "n 3 3"]]:
        """Of every bone the rotation from rest to the landmarks' axes."""
        seen, rest = metres[:, list(COCO_OF_LANDMARKS)], self._rest
        pelvis = _turn(_trunk(rest, "hip"), _trunk(seen, "hip"))
        chest = _turn(_trunk(rest, "shoulder"), _trunk(seen, "shoulder"))
        head = _turn(_face(rest), _face(seen))
        of = {"root": pelvis, "head": head}
        for i, bone in enumerate(("spine05", "spine04", "spine03", "spine02", "spine01")):
            of[bone] = _between(pelvis, chest, (i + 1) / 5)
        for i, bone in enumerate(("neck01", "neck02", "neck03")):
            of[bone] = _between(chest, head, (i + 1) / 4)
        for side, word in _SIDES.items():
            for limb, start, middle, end in _LIMBS:
                at = [_J[f"{word}_{part}"] for part in (start, middle, end)]
                upper, lower = self._limb(
                    seen[:, at], rest[at], self._flexion[f"lower{limb}01.{side}"], chest if limb == "arm" else pelvis
                )
                of[f"upper{limb}01.{side}"], of[f"lower{limb}01.{side}"] = upper, lower
            foot = self._heads[f"toe3-2.{side}"] - rest[_J[f"{word}_ankle"]]
            shin = of[f"lowerleg01.{side}"]
            toes = metres[:, _TOES[side]] - seen[:, _J[f"{word}_ankle"]]
            of[f"foot.{side}"] = _arc(shin @ foot, toes) @ shin
        turned: list[np.ndarray] = []
        for bone, parent in zip(self._names, self._parents, strict=True):
            turned.append(of[bone] if bone in of else turned[parent])
        return turned

    def _limb(
        self,
        seen: Float[np.ndarray, "n 3 3"],
        rest: Float[np.ndarray, "3 3"],
        flexion: Float[np.ndarray, "3"],
        body: Float[np.ndarray, "n 3 3"],
    ) -> tuple[Float[np.ndarray, "n 3 3"], Float[np.ndarray, "n 3 3"]]:
        """Rotations of the upper and the lower part of a limb of three points that hangs on `body`."""
        (upper_rest, lower_rest), (upper, lower) = np.diff(rest, axis=0), np.moveaxis(np.diff(seen, axis=1), 1, 0)
        hanging = _arc(body @ upper_rest, upper) @ body
        hinge = np.cross(_unit(upper), _unit(lower)) + _HINGE_AT_REST * (hanging @ flexion)
        mine = _turn(_axes(upper_rest, flexion), _axes(upper, hinge))
        return mine, _arc(mine @ lower_rest, lower) @ mine

    def _local(self, turned: list[Float[np.ndarray, "n 3 3"]]) -> Float[np.ndarray, "n 162 3"]:
        every = np.stack(turned, 1)
        above = np.swapaxes(every[:, list(self._parents[1:])], -1, -2)
        frame = self._frames[1:]
        local = np.swapaxes(frame, -1, -2) @ above @ every[:, 1:] @ frame
        return Rotation.from_matrix(local.reshape(-1, 3, 3)).as_rotvec().reshape(len(every), -1, 3)


def usable(metres: Float[np.ndarray, "n 33 3"]) -> np.ndarray:
    """(n,) bool: people all of whose landmarks are finite and lie apart where a direction is read."""
    joints = metres[:, list(COCO_OF_LANDMARKS)]
    pairs = [
        ("left_hip", "right_hip"),
        ("left_shoulder", "right_shoulder"),
        ("left_ear", "right_ear"),
        ("nose", "left_ear"),
    ]
    for word in _SIDES.values():
        for _, *parts in _LIMBS:
            pairs += [(f"{word}_{a}", f"{word}_{b}") for a, b in pairwise(parts)]
    lengths = [np.linalg.norm(joints[:, _J[a]] - joints[:, _J[b]], axis=-1) for a, b in pairs]
    trunk = joints[:, [_J["left_shoulder"], _J["right_shoulder"]]].mean(1) - joints[
        :, [_J["left_hip"], _J["right_hip"]]
    ].mean(1)
    lengths.append(np.linalg.norm(trunk, axis=-1))
    return np.asarray(np.isfinite(metres).all((1, 2)) & (np.stack(lengths) > _SHORTEST_M).all(0))


def line_of_sight(
    pixels: Float[np.ndarray, "n 33 3"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "n 3 3"]:
    """Shortest turns of the optical axis to the people: landmarks are told for a camera that looks straight at them."""
    weight = np.clip(np.nan_to_num(pixels[..., 2]), 1e-6, 1.0)[..., None]
    middle = (np.nan_to_num(pixels[..., :2]) * weight).sum(1) / weight.sum(1)
    rays = np.concatenate([middle, np.ones((len(middle), 1))], 1) @ np.linalg.inv(intrinsics).T
    return _arc(np.broadcast_to([0.0, 0.0, 1.0], rays.shape), rays)


def _unit(v: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)


def _axes(first: Float[np.ndarray, "*n 3"], second: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3 3"]:
    """Right-handed axes as columns: along the first direction, and towards the second as far as that is square to it."""
    a = _unit(first)
    b = _unit(second - (second * a).sum(-1, keepdims=True) * a)
    return np.stack([a, b, np.cross(a, b)], -1)


def _turn(before: Float[np.ndarray, "*m 3 3"], after: Float[np.ndarray, "*n 3 3"]) -> Float[np.ndarray, "*n 3 3"]:
    return after @ np.swapaxes(before, -1, -2)


def _trunk(points: Float[np.ndarray, "*n 17 3"], part: str) -> Float[np.ndarray, "*n 3 3"]:
    """Axes of the pelvis (`hip`) or the chest (`shoulder`): the line from right to left, and up the trunk."""
    pair = {
        name: (points[..., _J[f"left_{name}"], :], points[..., _J[f"right_{name}"], :]) for name in ("hip", "shoulder")
    }
    left, right = pair[part]
    return _axes(left - right, np.add(*pair["shoulder"]) - np.add(*pair["hip"]))


def _face(points: Float[np.ndarray, "*n 17 3"]) -> Float[np.ndarray, "*n 3 3"]:
    """Axes of the head: from the right ear to the left, and from the ears to the nose."""
    left, right = points[..., _J["left_ear"], :], points[..., _J["right_ear"], :]
    return _axes(left - right, points[..., _J["nose"], :] - 0.5 * (left + right))


def _arc(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3 3"]:
    """Rotations of least angle that take the directions of a to those of b; half turns go about an axis square to a."""
    a, b = _unit(a), _unit(b)
    axis = np.cross(a, b)
    sine, cosine = np.linalg.norm(axis, axis=-1, keepdims=True), (a * b).sum(-1, keepdims=True)
    across = _unit(np.cross(a, np.eye(3)[np.abs(a).argmin(-1)]))
    axis = np.where(sine > 1e-9, axis / np.maximum(sine, 1e-12), across)
    return Rotation.from_rotvec(axis * np.arctan2(sine, cosine)).as_matrix()


def _between(a: Float[np.ndarray, "n 3 3"], b: Float[np.ndarray, "n 3 3"], share: float) -> Float[np.ndarray, "n 3 3"]:
    way = Rotation.from_matrix(np.swapaxes(a, -1, -2) @ b).as_rotvec()
    return a @ Rotation.from_rotvec(share * way).as_matrix()
