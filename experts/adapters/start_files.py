"""Initial bodies from files that the official programs wrote: Multi-HMR's predictions, CameraHMR's SMPL parameters.

Predictions and people come from different detectors and are matched in the image: by the box around the projected joints.
Whoever has no prediction gets NaN and starts from the keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.inputs.npz import PLAIN_PICKLES, open_npz
from annyfit_jax.inputs.official import _body as hmr_body
from annyfit_jax.inputs.validate import NUM_PHENOTYPES, NUM_POSED_BONES, checked_array
from annyfit_jax.scene import BodyParameters, SceneError
from experts.interfaces import Card, ExpertError, People, Photo
from experts.people import match_boxes

_LEAST_OVERLAP = 0.3
"""Joints lie inside the body's outline: their box is smaller than a detector's."""


@dataclass
class _StartFiles:
    path: str = ""
    """Folder with a `<stem>.npz` per photo."""

    def load(self) -> None:
        """Raises ExpertError where there is no such folder."""
        if not Path(self.path).is_dir():
            raise ExpertError(f"start: no folder {self.path or '(none given)'}; give --set=start.path=FOLDER")

    def close(self) -> None:
        """Nothing to do."""

    def file(self, photo: Photo) -> str:
        return str(Path(self.path) / f"{photo.stem}.npz")


@dataclass
class MultiHmrFiles(_StartFiles):
    """`multihmr_<model>/<stem>.npz` of the official Anny-Fit preprocessing: dictionaries in Anny's own parameters."""

    licence: str = "cc-by-nc-sa-4.0"
    """Of the checkpoint that made the files."""
    commercial: bool = False
    translation: str = "pelvis"
    """`pelvis`: the root bone stands at `transl_pelvis`; `head`: at `transl`, as the release reads it."""

    @property
    def card(self) -> Card:
        return Card("multihmr_files", Path(self.path).name, "", self.licence, self.commercial)

    def start(self, photos: Sequence[Photo], people: Sequence[People]) -> list[BodyParameters]:
        result = []
        for photo, crowd in zip(photos, people, strict=True):
            file = self.file(photo)
            with open_npz(file, PLAIN_PICKLES) as npz:
                where = npz.where("multihmr_pred")
                stored = np.atleast_1d(np.asarray(npz.read("multihmr_pred"), object)).ravel().tolist()
            if not all(isinstance(prediction, dict) for prediction in stored):
                raise SceneError(f"{where}: expected dictionaries, one per person")
            boxes = [_joint_box(p.get("j2d"), f"{where}: `j2d`") for p in stored]
            bodies = unknown_bodies(len(crowd))
            for i, k in enumerate(match_boxes(crowd.boxes, np.array(boxes).reshape(-1, 4), _LEAST_OVERLAP)):
                if k is not None:
                    root, transl, pose, shape = hmr_body(stored[k], f"{where}, prediction {k}", self.translation, [])
                    bodies.root_rotvec[i], bodies.transl[i], bodies.pose[i], bodies.shape[i] = root, transl, pose, shape
            result.append(bodies)
        return result


def unknown_bodies(n: int) -> BodyParameters:
    """NaN for everybody."""
    shapes = ((n, 3), (n, 3), (n, NUM_POSED_BONES, 3), (n, NUM_PHENOTYPES))
    return BodyParameters(*(np.full(shape, np.nan) for shape in shapes))


def _joint_box(joints: Any, where: str) -> np.ndarray:
    points = checked_array(joints, where, ("j", 2))
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        raise SceneError(f"{where}: no finite joint")
    return np.concatenate([points.min(0), points.max(0)])
