"""Initial bodies from files that the official programs wrote: Multi-HMR's predictions, CameraHMR's SMPL parameters.

Predictions and people come from different detectors and are matched in the image: by the box around the projected joints.
Whoever has no prediction gets NaN and starts from the keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.inputs.official import _body as hmr_body
from annyfit_jax.inputs.validate import NUM_PHENOTYPES, NUM_POSED_BONES, checked_array
from annyfit_jax.people.scene import UNKNOWN_WORD, BodyParameters, SceneError
from annyfit_jax.records.npz import PLAIN_PICKLES, open_npz
from annyfit_jax.store.locations import place
from annyfit_jax.store.mirrors import local
from experts.adapters.folders import folder_fingerprint
from experts.interfaces import Card, ExpertError, People, Photo
from experts.people_rules import match_boxes

_LEAST_OVERLAP = 0.3
"""Joints lie inside the body's outline: their box is smaller than a detector's."""


@dataclass
class _StartFiles:
    path: str = field(default="", metadata={"decides": False})
    """Folder with a `<stem>.npz` per photo."""
    _local: str = field(default="", init=False, repr=False)

    needs_pixels = False

    def load(self) -> None:
        """Raises ExpertError where there is no such folder."""
        if not self.path or not place(self.path).is_dir():
            raise ExpertError(f"start: no folder {self.path or '(none given)'}; give --set=start.path=FOLDER")
        self._local = local(self.path)

    def close(self) -> None:
        """Nothing to do."""

    def fingerprint(self) -> str:
        """The folder may move, but files that are added or changed are read anew."""
        return folder_fingerprint(self.path)

    def file(self, photo: Photo) -> str:
        return str(Path(self._local or self.path) / f"{photo.stem}.npz")


@dataclass
class MultiHmrFiles(_StartFiles):
    """`multihmr_<model>/<stem>.npz` of the official Anny-Fit preprocessing: dictionaries in Anny's own parameters."""

    licence: str = "naver-non-commercial"
    """Of the checkpoint that made the files."""
    commercial: bool = False
    translation: str = "pelvis"
    """`pelvis`: the root bone stands at `transl_pelvis`; `head`: at `transl`, as the release reads it."""

    @property
    def card(self) -> Card:
        """The folder's name and the licence stated for what made the files."""
        return Card("multihmr_files", Path(self.path).name, "", self.licence, self.commercial)

    def start(self, photos: Sequence[Photo], people: Sequence[People]) -> list[BodyParameters]:
        """Bodies per photo, in camera axes and metres; NaN rows for people whose box no prediction has."""
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


@dataclass
class CameraHmrFiles(_StartFiles):
    """SMPL parameters as CameraHMR (like HMR 2.0) predicts them, one `<stem>.npz` per photo.

    Its program draws pictures and saves no parameters; these entries hold what it computes:

        boxes (m, 4)                            x0, y0, x1, y1 of each person, pixels
        global_orient (m, 3) or (m, 3, 3)       `pred_smpl_params["global_orient"]`
        body_pose (m, 23, 3) or (m, 23, 3, 3)   `pred_smpl_params["body_pose"]`
        pelvis (m, 3)                           first joint plus `pred_cam_t`: camera space, metres

    Pose and place are carried over to Anny's bones (`experts.retarget`); the shape stays the average adult's until the words
    say otherwise.
    """

    licence: str = "CameraHMR and SMPL model licences (non-commercial)"
    commercial: bool = False

    @property
    def card(self) -> Card:
        """The folder's name and the licence stated for what made the files."""
        return Card("camerahmr_files", Path(self.path).name, "", self.licence, self.commercial)

    def load(self) -> None:
        """Reads Anny's body, which poses are carried over to. Raises ExpertError where there is no such folder."""
        super().load()
        from body_models import anny
        from experts.retarget import SmplToAnny

        self._to_anny = SmplToAnny(anny.load())

    def start(self, photos: Sequence[Photo], people: Sequence[People]) -> list[BodyParameters]:
        """Bodies per photo, in camera axes and metres; NaN rows for people whose box is not in the file."""
        from annyfit_jax.fit.keypoint_start import calibrated_phenotypes

        result = []
        for photo, crowd in zip(photos, people, strict=True):
            with open_npz(self.file(photo)) as npz:
                boxes = checked_array(npz.read("boxes"), npz.where("boxes"), ("m", 4))
                m = len(boxes)
                pelvis = checked_array(npz.read("pelvis"), npz.where("pelvis"), (m, 3))
                root = _rotations(npz.read("global_orient"), npz.where("global_orient"), m, 1)
                joints = _rotations(npz.read("body_pose"), npz.where("body_pose"), m, 23)
            bodies = unknown_bodies(len(crowd))
            average = calibrated_phenotypes(np.array([UNKNOWN_WORD]), np.array([UNKNOWN_WORD]))[0]
            for i, k in enumerate(match_boxes(crowd.boxes, boxes, _LEAST_OVERLAP)):
                if k is not None:
                    made = self._to_anny(np.concatenate([root[k], joints[k]]), pelvis[k])
                    bodies.root_rotvec[i], bodies.transl[i], bodies.pose[i] = made
                    bodies.shape[i] = average
            result.append(bodies)
        return result


def _rotations(value: Any, where: str, m: int, joints: int) -> np.ndarray:
    """(m, joints, 3, 3) rotation matrices from matrices or rotation vectors, with or without an axis of one joint."""
    from scipy.spatial.transform import Rotation

    array = np.asarray(value)
    matrices = array.size == m * joints * 9
    wanted = (m, joints, 3, 3) if matrices else (m, joints, 3)
    if array.size != np.prod(wanted):
        raise SceneError(f"{where}: expected shape {(m, joints, 3)} or {(m, joints, 3, 3)}, got {array.shape}")
    rotations = checked_array(array.reshape(wanted), where, wanted)
    if not np.isfinite(rotations).all():
        raise SceneError(f"{where}: expected finite rotations, got NaN or infinity")
    return rotations if matrices else Rotation.from_rotvec(rotations).as_matrix()


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
