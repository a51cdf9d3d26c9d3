"""People of one body as people of another: the nearest in surface, turns of bones and named points."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial.transform import Rotation

from annyfit_jax.conversion import matching, pairing
from annyfit_jax.conversion.closest_points import closest_points, on_surface
from annyfit_jax.conversion.convertible import Convertible, faces, posed, rest_frames
from annyfit_jax.conversion.matching import BATCH
from annyfit_jax.people.scene import BodyParameters

_TIMES = 2
"""How often the iterations of `matching` are made."""


@dataclass(frozen=True)
class Converted:
    """n people of the target body, and how near they are to the source's."""

    people: BodyParameters
    surface_m: Float[np.ndarray, "n"]
    """Mean distance of the target's vertices from the source's surface, metres."""
    surface_p95_m: Float[np.ndarray, "n"]
    """The 95th percentile of the same."""
    turn_rad: Float[np.ndarray, "n"]
    """Root mean square angle between the bones with a counterpart, radians."""
    keypoints: Float[np.ndarray, "n 17 3"]
    """COCO-17 of the target body, metres."""

    def select(self, index: np.ndarray) -> Converted:
        """The people named by an index."""
        return Converted(self.people.select(index), *(getattr(self, name)[index] for name in _FIGURES))


@dataclass(frozen=True)
class Cues:
    """What was seen of n people in one image or several: SMPL-X bodies are moved to it after the conversion."""

    keypoints: Float[np.ndarray, "n 17 3"]
    """COCO-17 in pixels, and confidence."""
    intrinsics: Float[np.ndarray, "n 3 3"]

    def select(self, index: np.ndarray) -> Cues:
        """The people named by an index."""
        return Cues(self.keypoints[index], self.intrinsics[index])


class Converter:
    """From a source body to a target body, Anny and SMPL-X in either order; pairs the bodies when it is made."""

    def __init__(self, source: Convertible, target: Convertible) -> None:
        kinds = (source.facts.name, target.facts.name)
        if set(kinds) != {"anny", "smplx"}:
            raise ValueError(f"a conversion is from anny to smplx or back, got {kinds[0]} to {kinds[1]}")
        self.source, self.target = source, target
        forth, back = pairing.pair(*((source, target) if kinds[0] == "anny" else (target, source)))
        self._pairing = forth if kinds[0] == "anny" else back
        self._frames = rest_frames(target)

    def convert(self, people: BodyParameters, cues: Cues | None = None) -> Converted:
        """The people given, all with finite parameters, in the same frame.

        Args:
          cues: for a target of SMPL-X, in camera axes: its own keypoints are then fitted to these as well, with the source's
            surface and turns as a prior that gives way. What a body calls a hip or a shoulder is its own, so that a converted
            body's keypoints are off by a little where the source's were right.

        Raises ValueError for cues and a target without such keypoints.
        """
        if cues is not None and not self.target.facts.seen_heads:
            raise ValueError("cues are for bodies of SMPL-X")
        rows = [np.arange(i, min(i + BATCH, len(people))) for i in range(0, len(people), BATCH)]
        parts = [self._convert(people.select(part), None if cues is None else cues.select(part)) for part in rows]
        if not parts:
            facts = self.target.facts
            empty = np.zeros((0, 3))
            pose = np.zeros((0, len(facts.bones) - 1, 3))
            none = BodyParameters(empty, empty, pose, np.zeros((0, len(facts.shape_labels))))
            return Converted(none, np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, 17, 3)))
        return Converted(
            BodyParameters(*(np.concatenate([getattr(p.people, name) for p in parts]) for name in _FIELDS)),
            *(np.concatenate([getattr(p, name) for p in parts]) for name in _FIGURES),
        )

    def _convert(self, people: BodyParameters, cues: Cues | None) -> Converted:
        n = len(people)
        full = people.select(np.minimum(np.arange(BATCH), n - 1))
        here = posed(self.source, full)
        wanted = here.turns @ np.swapaxes(self._pairing.turns, 1, 2)  # of the target's bones
        turned, origin = wanted[:, 0], here.heads[:, pairing.HIPS].mean(1)
        places = on_surface(self._pairing.places, here.vertices)
        into = lambda points: np.einsum("nij,nki->nkj", turned, points - origin[:, None])  # noqa: E731
        dtype = self.target.dtype
        last = lambda a: jnp.asarray(a.transpose(2, 1, 0), dtype)  # noqa: E731
        weight = np.tile(self._pairing.weight[:, None], (1, BATCH))
        evidence = matching.blank(self.target, BATCH)._replace(
            surface=last(into(places)),
            surface_weight=jnp.asarray(weight, dtype),
            heads=last(into(here.heads)),
            head_weight=jnp.ones(BATCH, dtype),
            turns=jnp.asarray((np.swapaxes(turned, 1, 2)[:, None] @ wanted).transpose(2, 3, 1, 0), dtype),
            turn_weight=jnp.ones(BATCH, dtype),
        )
        x = jnp.asarray(self._start(wanted), dtype)
        for _ in range(_TIMES):
            x, _ = matching.fitted(self.target, evidence, x)
        if cues is not None:
            x = self._moved_to(cues.select(np.minimum(np.arange(BATCH), n - 1)), evidence, x, turned, origin)
        found = pairing.people_of(self.target, x, turned, origin).select(np.arange(n))
        own = posed(self.target, found)
        distance = np.stack(
            [
                closest_points(mine, other, faces(self.source)).distance
                for mine, other in zip(own.vertices, here.vertices[:n], strict=True)
            ]
        )
        trace = np.einsum("npij,npij->np", own.turns, wanted[:n])
        angle = np.arccos(((trace - 1) / 2).clip(-1, 1))
        return Converted(
            found, distance.mean(1), np.quantile(distance, 0.95, axis=1), (angle**2).mean(1) ** 0.5, own.keypoints
        )

    def _moved_to(
        self, cues: Cues, evidence: matching.Evidence, x: Array, turned: np.ndarray, origin: np.ndarray
    ) -> Array:
        """Variables after the keypoints have been given a say; those that no body explains count less (Geman-McClure)."""
        pixels, confidence = cues.keypoints[..., :2], np.nan_to_num(cues.keypoints[..., 2]).clip(0.0, 1.0)
        known = (confidence > 0) & np.isfinite(pixels).all(-1)
        pixels = np.where(known[..., None], pixels, 0.0)
        extent = np.array([np.ptp(p[k], axis=0).max() if k.sum() > 1 else 1.0 for p, k in zip(pixels, known)])
        sd = np.maximum(_PIXEL_SHARE * extent, _LEAST_PIXEL_SD)[:, None]
        camera = cues.intrinsics @ np.concatenate([turned, origin[:, :, None]], axis=2)
        dtype = self.target.dtype
        evidence = evidence._replace(
            surface_weight=_SURFACE_GIVES_WAY * evidence.surface_weight,
            head_weight=_GIVES_WAY * evidence.head_weight,
            turn_weight=_GIVES_WAY * evidence.turn_weight,
            pixels=jnp.asarray(pixels.transpose(2, 1, 0), dtype),
            camera=jnp.asarray(camera.transpose(1, 2, 0), dtype),
        )
        for _ in range(_TIMES):
            seen = matching.projected_of(self.target, x, evidence.camera)
            off = np.asarray(seen, np.float64).transpose(2, 1, 0) - pixels
            squared = (off**2).sum(-1) / (_OUTLIER_SD * sd) ** 2
            weight = np.where(known, confidence / sd / (1.0 + squared), 0.0)
            x, _ = matching.fitted(self.target, evidence._replace(pixel_weight=jnp.asarray(weight.T, dtype)), x)
        return x

    def _start(self, wanted: Float[np.ndarray, "n 55 3 3"]) -> Float[np.ndarray, "D n"]:
        """Average bodies whose bones are turned as their counterparts are; the others follow their parents."""
        facts = self.target.facts
        n, rows = len(wanted), dict(zip(facts.paired, range(len(facts.paired))))
        space = np.zeros((n, len(facts.bones), 3, 3))
        pose = np.zeros((n, len(facts.bones) - 1, 3))
        frames = self._frames
        for bone, parent in enumerate(facts.parents):
            above = space[:, parent] if parent >= 0 else wanted[:, 0]
            space[:, bone] = wanted[:, rows[bone]] if bone in rows else above
            if bone:
                local = frames[bone].T @ np.swapaxes(above, 1, 2) @ space[:, bone] @ frames[bone]
                pose[:, bone - 1] = Rotation.from_matrix(local).as_rotvec()
        shape = np.tile(np.asarray(self.target.shape_mean, np.float64), (n, 1))
        return np.concatenate([np.zeros((n, 6)), shape, pose[:, list(facts.free)].reshape(n, -1)], axis=1).T


_SURFACE_GIVES_WAY, _GIVES_WAY = 1 / 40, 1 / 4
"""What the source's evidence counts for beside keypoints, as factors of its weights. Errors of a fit are those of whole limbs,
not of single points: 60 points of a limb that are known to 200 mm each hold the limb to 26 mm."""
_PIXEL_SHARE, _LEAST_PIXEL_SD, _OUTLIER_SD = 0.01, 1.0, 4.0
"""Spread of a keypoint as a share of the person's extent, at least so many pixels; from how many spreads on it is doubted."""
_FIELDS = ("root_rotvec", "transl", "pose", "shape")
_FIGURES = ("surface_m", "surface_p95_m", "turn_rad", "keypoints")
