"""Hands, faces and feet for synthetic people: motions of fingers and face, and noisy detections of COCO-WholeBody's points.

Works on any scene with truth: the people get fingers and faces of their own, and the 116 points beyond COCO's 17 are
projected. A point is seen where the surface that the camera sees at its pixel is not nearer than the point by more than the
thickness of the part; the hand's own back hides fingers, and other people hide too. Motions are drawn otherwise than the
fit's prior says: fingers bend by one common share of their whole range with individual differences, faces move evenly over
most of their ranges.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from annyfit_jax.inputs.point_sets import WHOLE_BODY
from annyfit_jax.people import part_motion
from annyfit_jax.people.body_meshes import rest_height
from annyfit_jax.people.camera import project
from annyfit_jax.people.fitted import PARTS
from annyfit_jax.people.named_points import named_points
from annyfit_jax.people.scene import COCO17, BodyParameters, Scene
from annyfit_jax.viz import raster
from body_models import anny

_THICKNESS_M = {"hand": 0.014, "head": 0.008, "foot": 0.03}
"""How far under the visible surface a point may lie and still count as seen."""
_SIZE_OF_PERSON = {"hand": 0.108, "head": 0.13, "foot": 0.152}
_HIDDEN_FACTOR = 2.5

SceneKind = TypeVar("SceneKind", bound=Scene)


@dataclass(frozen=True)
class PartNoise:
    """Errors of the detections."""

    share: float = 0.03
    """Standard deviation of a seen point per axis, as a share of the part's size in the picture."""
    floor_px: float = 0.5
    missed: float = 0.03
    missed_hidden: float = 0.5
    """Of points that are hidden; the others are 2.5 times as wrong."""
    wild: float = 0.01
    """Share of points that lie anywhere within half a part."""
    smallest_px: float = 12.0
    """Parts smaller than this are not detected at all."""


class WholeBodies:
    """Draws motions of hands and faces, and their detections, for one body model."""

    def __init__(self, model: anny.AnnyModel) -> None:
        self._model, self._points = model, named_points(model.labels).select(WHOLE_BODY[17:])
        self._forward, self._rest_height = jax.jit(anny.forward), jax.jit(rest_height)
        anatomy = part_motion.Anatomy(model)
        rows = {name: i - 1 for i, name in enumerate(model.labels.bones)}
        self._motions = {part: anatomy.motions(part) for part in PARTS}
        self._rows = {bone: rows[bone] for motions in self._motions.values() for m in motions for bone, _ in m.turns}
        self._kinds = np.array([next(k for p, k in _KINDS if name.startswith(p)) for name in self._points.names])

    def draw(self, rng: np.random.Generator, n: int) -> Float[np.ndarray, "n 162 3"]:
        """Rotation vectors of the bones of fingers and face, zeros elsewhere."""
        pose = np.zeros((n, len(self._model.labels.bones) - 1, 3))
        for part in ("left_hand", "right_hand", "head"):
            bent = rng.beta(0.9, 1.2, (n, 1))
            for motion in self._motions[part]:
                if motion.read is not None:
                    continue
                if part == "head":
                    size = np.where(rng.random(n) < 0.5, rng.uniform(0.8 * motion.low, 0.8 * motion.high, n), 0.0)
                elif motion.name.endswith(("_1 bend", "_2 bend")) and not motion.name.startswith("thumb"):
                    share = (bent + rng.normal(0.0, 0.15, (n, 1))).clip(0.0, 1.0)[:, 0]
                    size = motion.low + (0.2 + 0.75 * share) * (motion.high - motion.low)
                else:
                    size = rng.normal(0.0, 0.15, n).clip(motion.low, motion.high)
                for bone, vector in motion.turns:
                    pose[:, self._rows[bone]] += size[:, None] * np.array(vector)
        return pose

    def add(self, scene: SceneKind, rng: np.random.Generator, noise: PartNoise = PartNoise()) -> SceneKind:
        """The scene with fingers and faces in its truth, and `keypoints_133`, the first 17 being its own keypoints.

        In `extra`: `gt_parts3d` (n, 116, 3), metres in camera axes, and `gt_parts_seen` (n, 116). Raises ValueError for a scene
        without truth.
        """
        if scene.truth is None:
            raise ValueError(f"{scene.name}: hands and faces are for scenes with truth")
        moved = self.moved(scene.truth.pose, rng).astype(np.float32)
        return self.observe(dataclasses.replace(scene, truth=dataclasses.replace(scene.truth, pose=moved)), rng, noise)

    def moved(self, pose: Float[np.ndarray, "n 162 3"], rng: np.random.Generator) -> Float[np.ndarray, "n 162 3"]:
        """Poses with fingers and faces as they are drawn."""
        drawn = self.draw(rng, len(pose))
        own = np.zeros(pose.shape[1], bool)
        for part in ("left_hand", "right_hand", "head"):
            own[[self._rows[bone] for m in self._motions[part] if m.read is None for bone, _ in m.turns]] = True
        return np.where(own[:, None], drawn, pose)

    def observe(self, scene: SceneKind, rng: np.random.Generator, noise: PartNoise = PartNoise()) -> SceneKind:
        """The scene with detections of its truth as it is, as `add` makes them."""
        if scene.truth is None:
            raise ValueError(f"{scene.name}: hands and faces are for scenes with truth")
        truth = scene.truth
        vertices, at = self.place(truth)
        pixels = project(at, scene.intrinsics)
        seen, inside = self.visible(scene, vertices, at, pixels)
        focal = 0.5 * (scene.intrinsics[0, 0] + scene.intrinsics[1, 1])
        height = np.asarray(self._rest_height(self._model, truth.shape.astype(self._model.dtype)))
        share = np.array([_SIZE_OF_PERSON[k] for k in self._kinds])
        size = focal * height[:, None] * share / at[..., 2]
        sigma = np.maximum(noise.share * size, noise.floor_px) * np.where(seen, 1.0, _HIDDEN_FACTOR)
        error = rng.normal(size=pixels.shape) * sigma[..., None]
        wild = rng.random(seen.shape) < noise.wild
        error = np.where(wild[..., None], error + rng.uniform(-0.5, 0.5, pixels.shape) * size[..., None], error)
        missed = rng.random(seen.shape) < np.where(seen, noise.missed, noise.missed_hidden)
        confidence = np.where(seen, rng.uniform(0.6, 0.95, seen.shape), rng.uniform(0.25, 0.6, seen.shape))
        confidence = np.where(missed | ~inside | (size < noise.smallest_px), 0.0, confidence)
        detections = np.concatenate([pixels + error, confidence[..., None]], axis=-1)
        detections[confidence == 0] = 0.0
        extra = {
            "keypoints_133": np.concatenate([scene.keypoints, detections], axis=1),
            "gt_parts3d": at,
            "gt_parts_seen": seen,
        }
        return dataclasses.replace(scene, extra=scene.extra | extra)

    def place(self, people: BodyParameters) -> tuple[Float[np.ndarray, "n V 3"], Float[np.ndarray, "n 116 3"]]:
        """Vertices and the points beyond COCO's 17, in the frame of the parameters."""
        params = (people.shape, people.root_rotvec, people.pose, people.transl)
        body = self._forward(self._model, anny.Params(*(jnp.asarray(p, self._model.dtype) for p in params)))
        vertices = np.asarray(body.vertices, np.float64)
        return vertices, self._points.of(vertices, np.asarray(body.bone_poses, np.float64))

    def visible(
        self, scene: Scene, vertices: np.ndarray, at: np.ndarray, pixels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which points are seen, and which lie within the picture."""
        width, height = scene.image_size
        seen_depth = raster.rasterise(vertices, np.asarray(self._model.faces), scene.intrinsics, (width, height)).depth
        inside = ((pixels >= 0) & (pixels < (width, height))).all(-1) & (at[..., 2] > 0)
        cell = np.floor(np.where(inside[..., None], pixels, 0)).astype(int)
        thick = np.array([_THICKNESS_M[k] for k in self._kinds])
        return inside & (seen_depth[cell[..., 1], cell[..., 0]] >= at[..., 2] - thick), inside


_KINDS = tuple((prefix, kind) for kind, prefixes in (
    ("head", ("face",)), ("foot", ("left_big", "left_small", "left_heel", "right_big", "right_small", "right_heel")),
    ("hand", ("left", "right"))) for prefix in prefixes)  # fmt: skip
"""Beginnings of the points' names, and the kind of part they are of; the first that fits counts."""
assert WHOLE_BODY[: len(COCO17)] == COCO17
